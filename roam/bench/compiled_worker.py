"""Contenders of `roam bench compiled` on one model: one in a process of its own, or several.

    python -m roam.bench.compiled_worker --entry gpt2 --contender inductor --cache FOLDER

prints a JSON object for each: what compiling took and, without `--seconds`, what a step and a loop
allocate. Then one of them takes a turn of timed steps, updates included, for every line it reads:
the contender's number.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
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
        self.settings = _settings(contender)

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

    from roam.bench import zoo

    # code of its own: dynamo looks at all that was compiled of one code object, one after the other
    loss = FunctionType(zoo.loss.__code__.replace(), zoo.loss.__globals__)
    if contender == "eager":
        return loss
    if contender.startswith("roam"):
        options: dict[str, Any] = {"lowering": contender.split()[1]}
        if contender.endswith("adama"):
            options["optimizer"] = optimizer
        return torch.compile(loss, backend="roam", options=options)
    return torch.compile(loss, backend="inductor")


def _settings(contender: str) -> AbstractContextManager[None]:
    """Within, its first step compiles as it should: other contenders may be in the process."""
    from roam.bench import inductor_stock as stock  # takes a second to import

    if contender == "inductor budget 0.5":
        return stock.recomputing_down_to(0.5)
    if contender == "inductor pools":
        return stock.pooling()
    return nullcontext()


def compile_seconds(trainer: Trainer) -> Result:
    """What the first step takes longer than the next ones."""
    start = time.perf_counter()
    with trainer.settings:
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
    parser.add_argument("--contender", required=True, action="append", choices=CONTENDERS)
    parser.add_argument(
        "--cache",
        required=True,
        action="append",
        help="Inductor's folder, for each contender: empty, to be fair",
    )
    parser.add_argument("--seconds", action="store_true", help="measure no memory")
    args = parser.parse_args()

    # what libraries print must not come between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Result) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    trainers: list[Trainer] = []
    for contender, cache in zip(args.contender, args.cache, strict=True):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        trainer = Trainer(args.entry, contender)
        trainers.append(trainer)
        result = {"entry": args.entry, "contender": contender} | compile_seconds(trainer)
        if not args.seconds:
            result |= memory(trainer)
        say(planned() | result if contender.startswith("roam") else result)
    for line in sys.stdin:
        say({"seconds": trainers[int(line)].turn()})


if __name__ == "__main__":
    main()
