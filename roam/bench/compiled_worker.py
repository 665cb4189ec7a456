"""A process of `roam bench compiled`, with one contender or several on one model.

    python -m roam.bench.compiled_worker --entry gpt2 --contender inductor --cache FOLDER

prints a JSON object for each contender: the compile seconds and, without `--seconds`, the bytes
that a step and a loop allocate. Each line that it reads is the number of a contender, which then
takes a turn of timed steps, updates included.
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
TURN = 0.3  # seconds of steps in a turn
FEWEST = 3  # steps in a turn


class Trainer:
    """A model, a batch, an optimizer, and a loss that is compiled as the contender does it."""

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
        """Runs forward and backward and drops the gradients. Folds change the weights."""
        self.loss(self.model, self.batch).backward()
        if self.folds:
            self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def iteration(self) -> float:
        """Runs a step with its update; returns its seconds."""
        start = time.perf_counter()
        self.loss(self.model, self.batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start

    def turn(self) -> float:
        """Returns the median seconds of consecutive steps, after one untimed step.

        The untimed step finds cold caches, and memory that it had freed taken by others. With
        GPT-2 small it took up to three times the system time of the steps that follow.
        """
        self.iteration()
        taken: list[float] = []
        while sum(taken) < TURN or len(taken) < FEWEST:
            taken.append(self.iteration())
        return statistics.median(taken)

    def persistent(self) -> int:
        """Returns the bytes of weights, buffers, the optimizer's state and the batch."""
        states = (t for s in self.optimizer.state.values() for t in s.values())
        held = (*self.model.parameters(), *self.model.buffers(), *states, *self.batch.values())
        return sum(t.nbytes for t in held)


def _compiled(contender: str, optimizer: Any) -> Callable[..., Any]:
    import torch

    from roam.bench import zoo

    # a copy of the code object, because dynamo checks all compiled variants of one code object
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
    """A context with the contender's compiler settings, for its first step.

    Other contenders in the same process may need other settings.
    """
    from roam.bench import inductor_stock as stock  # takes a second to import

    if contender == "inductor budget 0.5":
        return stock.recomputing_down_to(0.5)
    if contender == "inductor pools":
        return stock.pooling()
    return nullcontext()


def compile_seconds(trainer: Trainer) -> Result:
    """Returns the seconds by which the first step is longer than the next ones."""
    start = time.perf_counter()
    with trainer.settings:
        trainer.iteration()
    first = time.perf_counter() - start
    return {"compile_seconds": first - min(trainer.iteration() for _ in range(2))}


def memory(trainer: Trainer) -> Result:
    """Returns transient bytes of a step, bytes of the loop, and bytes that stay after it."""
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

    # libraries print to stderr, so that stdout has the answers only
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
