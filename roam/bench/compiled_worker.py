"""A process of `roam bench compiled` and `split`, with one contender or several on one model.

    python -m roam.bench.compiled_worker --entry gpt2 --contender inductor --cache FOLDER

prints a JSON object for each contender: the compile seconds and, without `--seconds`, the bytes
that a step and a loop allocate. Each line that it reads is the number of a contender, which then
takes a turn of timed steps, updates included.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from roam.bench import compilers
from roam.bench.children import Result, answering
from roam.bench.compilers import Contender
from roam.bench.contender import planned, split_blocks
from roam.core.errors import BudgetError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from roam.bench.batches import Batch

TURN = 0.3  # seconds of steps in a turn
FEWEST = 3  # steps in a turn
LONG = 5.0  # seconds of a step that is timed once where shorter ones are timed several times


class Trainer:
    """A model, a batch, an optimizer, and a loss that is compiled as the contender does it.

    Args:
        model, batch: on one device.
        how: the contender.
        update: whether an iteration ends with an update of the weights.
    """

    def __init__(
        self, model: nn.Module, batch: Batch, how: Contender, *, update: bool = True
    ) -> None:
        import torch

        from roam.optim import AdamA

        self.model = model
        self.batch = batch
        self.folds = how.folds
        self.update = update
        weights = self.model.parameters()
        self.optimizer: Any = (
            AdamA(weights, lr=1e-5) if self.folds else torch.optim.AdamW(weights, 1e-5, fused=True)
        )
        self.loss = how.compiled(self.optimizer)
        self.settings = how.settings()

    @classmethod
    def of(cls, entry: str, contender: str, *, update: bool = True) -> Trainer:
        """Returns what trains an entry of the zoo, with random weights, on the CPU."""
        import torch

        from roam.bench.split_zoo import find

        found = find(entry)
        torch.manual_seed(0)
        return cls(found.build(), found.batch(), compilers.find(contender), update=update)

    def step(self) -> None:
        """Runs forward and backward and drops the gradients. Folds change the weights."""
        self.loss(self.model, self.batch).backward()
        if self.folds:
            self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def iteration(self) -> float:
        """Runs a step with its update, if there are updates; returns its seconds."""
        start = time.perf_counter()
        self.loss(self.model, self.batch).backward()
        if self.update:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start

    def turn(self) -> Result:
        """Times consecutive steps, after one untimed step.

        The untimed step finds cold caches, and memory that it had freed taken by others. With
        GPT-2 small it took up to three times the system time of the steps that follow.

        Returns:
            seconds: of the median step.
            system: processor seconds of a step, in the mean, that the kernel took, above all to
                map new pages; of all threads.
        """
        fewest = FEWEST if self.iteration() < LONG else 1
        taken: list[float] = []
        before = resource.getrusage(resource.RUSAGE_SELF).ru_stime
        while sum(taken) < TURN or len(taken) < fewest:
            taken.append(self.iteration())
        system = resource.getrusage(resource.RUSAGE_SELF).ru_stime - before
        return {"seconds": statistics.median(taken), "system": system / len(taken)}

    def inputs(self) -> list[Tensor]:
        """Returns what a step reads: weights, buffers and the batch."""
        return [*self.model.parameters(), *self.model.buffers(), *self.batch.values()]

    def persistent_tensors(self) -> list[Tensor]:
        """Returns weights, buffers, the batch and the optimizer's state."""
        return [*self.inputs(), *(t for s in self.optimizer.state.values() for t in s.values())]

    def persistent(self) -> int:
        """Returns the bytes of `persistent_tensors`."""
        return sum(t.nbytes for t in self.persistent_tensors())


def compile_seconds(trainer: Trainer) -> Result:
    """Returns the seconds by which the first step is longer than the next ones."""
    start = time.perf_counter()
    with trainer.settings:
        trainer.iteration()
    first = time.perf_counter() - start
    next_ones = [trainer.iteration()]
    if next_ones[0] < LONG:
        next_ones.append(trainer.iteration())
    return {"compile_seconds": first - min(next_ones)}


def memory(trainer: Trainer) -> Result:
    """Returns bytes that a contender allocates.

    Returns:
        transient: of a step, at its worst moment.
        gradients: of all parameters' gradients.
        inputs: of weights, buffers and the batch.
        persistent: those that stay after the loop.
        total: of the loop, at its worst moment, with the persistent ones.
    """
    from roam.inspect.measure import measure_peak

    transient = loop = measure_peak(trainer.step, warm_up=trainer.step).peak
    if trainer.update:
        loop = measure_peak(trainer.iteration, warm_up=trainer.iteration).peak
    stays = trainer.persistent()
    gradients = sum(p.nbytes for p in trainer.model.parameters() if p.requires_grad)
    return {
        "transient": transient,
        "gradients": gradients,
        "inputs": sum(t.nbytes for t in trainer.inputs()),
        "persistent": stays,
        "total": loop + stays,
    }


def moved_in(trainer: Trainer) -> Result:
    """Returns what moves to tiers in an iteration: bytes, and seconds that the step waits for it.

    Nothing if nothing moves.
    """
    from roam.runtime.file_tier import traffic

    found = []
    for _ in range(FEWEST):
        before = traffic()
        trainer.iteration()
        found.append([now.since(then) for now, then in zip(traffic(), before, strict=True)])
    if not any(way.nbytes for way in found[-1]):
        return {}
    return {
        "moved": sum(way.nbytes for way in found[-1]),
        "stalled": statistics.median(sum(way.stalled for way in ways) for ways in found),
    }


def split_into(contender: Contender) -> Result:
    """Returns `blocks`, as `split_blocks`, of roam, and `chunked` of Inductor: whether it split."""
    if contender.backend == "roam":
        return {"blocks": split_blocks()}
    if contender.backend == "inductor":
        from roam.bench import inductor_stock

        return {"chunked": inductor_stock.has_chunked()}
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--contender", required=True, action="append")
    parser.add_argument(
        "--cache",
        required=True,
        action="append",
        help="Inductor's folder, for each contender: empty, to be fair",
    )
    parser.add_argument("--seconds", action="store_true", help="measure no memory")
    parser.add_argument("--no-update", action="store_true", help="forward and backward only")
    args = parser.parse_args()

    say = answering()

    trainers: list[Trainer] = []
    for contender, cache in zip(args.contender, args.cache, strict=True):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        how = compilers.find(contender)
        trainer = Trainer.of(args.entry, contender, update=not args.no_update)
        trainers.append(trainer)
        result: Result = {"entry": args.entry, "contender": contender}
        try:
            result |= compile_seconds(trainer)
        except BudgetError as refused:
            figures = {"found": refused.found, "least": refused.least}
            say(result | figures | {"error": f"BudgetError: {refused}"})
            return
        if not args.seconds:
            result |= memory(trainer) | split_into(how)
            result |= moved_in(trainer) if "offload" in how.options else {}
        if how.backend == "roam":
            result = planned() | result
        say(result)
    for line in sys.stdin:
        say(trainers[int(line)].turn())


if __name__ == "__main__":
    main()
