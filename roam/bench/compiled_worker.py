"""One contender of `roam bench compiled` on one model, in a process of its own.

    python -m roam.bench.compiled_worker --entry gpt2 --contender inductor --cache FOLDER

prints one JSON object: what compiling took and, without `--seconds`, what a step and a loop
allocate. Then it takes a turn of timed steps, updates included, for every line it reads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from roam.bench.children import Result
from roam.bench.contender import planned

CONTENDERS = (
    "eager",
    "inductor",
    "inductor budget 0.5",
    "inductor pools",
    "roam aten",
    "roam inductor",
    "roam aten adama",
    "roam inductor adama",
)
TURN = 0.3  # seconds of steps, and at least so many:
FEWEST = 3


class Trainer:
    """A model, a batch, an optimizer, and a loss compiled the contender's way."""

    def __init__(self, entry: str, contender: str) -> None:
        import torch

        from roam.bench.zoo import find
        from roam.optim import AdamA

        found = find(entry)
        torch.manual_seed(0)
        self.model = found.build()
        self.batch = found.batch()
        self.folds = contender.endswith("adama")
        weights = self.model.parameters()
        self.optimizer: Any = (
            AdamA(weights, lr=1e-5) if self.folds else torch.optim.AdamW(weights, 1e-5, fused=True)
        )
        self.loss = _compiled(contender, self.optimizer)

    def step(self) -> None:
        """Forward and backward, the gradients dropped; folds change the weights."""
        self.loss(self.model, self.batch).backward()
        if self.folds:
            self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def iteration(self) -> float:
        """A step with its update; returns its seconds."""
        start = time.perf_counter()
        self.loss(self.model, self.batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start

    def turn(self) -> float:
        """The median seconds of steps that follow one another, after one that ends the wait.

        That one finds caches cold, and memory that it had given back taken by others: with GPT-2
        small it took up to three times the system time of those that follow.
        """
        self.iteration()
        taken: list[float] = []
        while sum(taken) < TURN or len(taken) < FEWEST:
            taken.append(self.iteration())
        return statistics.median(taken)

    def persistent(self) -> int:
        """Bytes of weights, buffers, the optimizer's state and the batch."""
        states = (t for s in self.optimizer.state.values() for t in s.values())
        held = (*self.model.parameters(), *self.model.buffers(), *states, *self.batch.values())
        return sum(t.nbytes for t in held)


def _compiled(contender: str, optimizer: Any) -> Callable[..., Any]:
    import torch

    from roam.bench.zoo import loss
    from roam.lowering import inductor_stock

    if contender == "eager":
        return loss
    if contender.startswith("roam"):
        options: dict[str, Any] = {"lowering": contender.split()[1]}
        if contender.endswith("adama"):
            options["optimizer"] = optimizer
        return torch.compile(loss, backend="roam", options=options)
    if contender == "inductor budget 0.5":
        inductor_stock.recompute_down_to(0.5)
    elif contender == "inductor pools":
        inductor_stock.pool()
    return torch.compile(loss, backend="inductor")


def compile_seconds(trainer: Trainer) -> Result:
    """What the first step takes longer than the next ones."""
    start = time.perf_counter()
    trainer.iteration()
    first = time.perf_counter() - start
    return {"compile_seconds": first - min(trainer.iteration() for _ in range(2))}


def memory(trainer: Trainer) -> Result:
    """Transient bytes of a step; bytes of the loop, and those of them that stay."""
    from roam.inspect.measure import measure_peak

    transient = measure_peak(trainer.step, warm_up=trainer.step).peak
    loop = measure_peak(trainer.iteration, warm_up=trainer.iteration).peak
    stays = trainer.persistent()
    return {"transient": transient, "persistent": stays, "total": loop + stays}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--contender", required=True, choices=CONTENDERS)
    parser.add_argument("--cache", required=True, help="Inductor's folder: empty, to be fair")
    parser.add_argument("--seconds", action="store_true", help="measure no memory")
    args = parser.parse_args()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = args.cache

    # what libraries print must not come between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Result) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    trainer = Trainer(args.entry, args.contender)
    result = {"entry": args.entry, "contender": args.contender} | compile_seconds(trainer)
    if not args.seconds:
        result |= memory(trainer)
    say(planned() | result if args.contender.startswith("roam") else result)
    for _ in sys.stdin:
        say({"seconds": trainer.turn()})


if __name__ == "__main__":
    main()
