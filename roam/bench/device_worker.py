"""A process of `roam bench device`: measures rows of one model on one device.

    python -m roam.bench.device_worker --entry "tiny gpt2 fp32" --contender memory:inductor \\
        --contender "memory:roam aten" --device cpu

Each line that it reads is the number of a row, counted from 0. It prints a JSON object for each,
after one that says that it is ready. A row that fails ends the process: after an error of an
accelerator nothing that it says is worth anything.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

import roam
from roam.bench.children import Result, answering
from roam.bench.compiled_worker import Trainer
from roam.bench.compilers import find
from roam.bench.contender import planned
from roam.bench.device_rows import SUBJECTS, Subject
from roam.core.errors import BudgetError
from roam.core.machine import MIB, Bytes
from roam.inspect.measure import measure_peak
from roam.inspect.report import report
from roam.solvers.simulate.caching_allocator import requests, reserved

WARM = 2  # iterations before the timed ones, beside the one that compiles
TIMED = 15  # iterations, or as many as fit into
LONGEST = 5.0  # seconds of them
TRIED = 4  # batches beside the estimated one
COPIED: Bytes = 256 * MIB  # of a copy between host and device
COPIES = 5  # of which the median counts

# what is measured of a model by a contender on a device
Part = Callable[[Subject, str, torch.device], Result]


def memory(subject: Subject, contender: str, device: torch.device) -> Result:
    """Measures the memory of a step and the time of an iteration, which is a step and its update.

    Returns:
        transient: bytes that the step allocates at its worst moment.
        seconds: the median iteration.
        compile_seconds: by which the first iteration is longer.
        On CUDA:
        allocated, reserved: bytes at the worst moment of the step, with all that stays.
        And for roam what `contender.planned` returns, and
        simulated: bytes that a simulated CUDA allocator reserves for the largest graph.
    """
    trainer, first = _compiled(subject, contender, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    transient = measure_peak(trainer.step, device, warm_up=trainer.step).peak
    found: Result = {"transient": transient}
    if device.type == "cuda":
        found["allocated"] = torch.cuda.max_memory_allocated(device)
        found["reserved"] = torch.cuda.max_memory_reserved(device)
    found["seconds"] = statistics.median(_iterations(trainer, device))
    found["compile_seconds"] = first - found["seconds"]
    return found | _planned(trainer, contender)


def bits(subject: Subject, contender: str, device: torch.device) -> Result:
    """Compares the gradients of a step with aot_eager's, of the same random numbers.

    Returns:
        different: parameters whose gradients differ.
        parameters: all of them.
    """
    expected, found = (_gradients(subject, c, device) for c in ("aot_eager", contender))
    pairs = zip(expected, found, strict=True)
    return {"different": sum(not torch.equal(*pair) for pair in pairs), "parameters": len(found)}


def budget(subject: Subject, contender: str, device: torch.device) -> Result:
    """Measures the memory of a step within a budget: `transient` and what `planned` returns.

    If the budget is refused, returns the total bytes that were `found` and the `least` proven.
    """
    try:
        trainer, _ = _compiled(subject, contender, device)
    except BudgetError as refused:
        return {"found": refused.found, "least": refused.least}
    found = {"transient": measure_peak(trainer.step, device, warm_up=trainer.step).peak}
    return found | _planned(trainer, contender)


def links(subject: Subject, contender: str, device: torch.device) -> Result:
    """Returns the bytes a second of copies from host to device, `up`, and back, `down`.

    On an accelerator the host's memory is pinned.
    """
    pinned = device.type != "cpu"
    host = torch.ones(COPIED, dtype=torch.uint8, pin_memory=pinned)
    there = torch.ones_like(host, device=device)

    def rate(to: Tensor, source: Tensor) -> float:
        to.copy_(source)
        taken = [_seconds(lambda: to.copy_(source), device) for _ in range(COPIES)]
        return COPIED / statistics.median(taken)

    return {"up": rate(there, host), "down": rate(host, there)}


def batch(subject: Subject, contender: str, device: torch.device) -> Result:
    """Searches for the largest batch that trains in `subject.memory`, from an estimate.

    CUDA refuses what is above the limit. On the CPU, bytes are counted.

    Returns:
        batch: the largest one that trained; 0 if none did.
        refused: the smallest one that did not; 0 if none was found.
    """

    def total(rows: int) -> Bytes:
        trainer, _ = _compiled(subject, contender, device, rows)
        trainer.iteration()
        return measure_peak(trainer.iteration, device).peak + trainer.persistent()

    def trains(rows: int) -> bool:
        with _limited(subject.memory, device):
            try:
                return total(rows) <= subject.memory
            except torch.OutOfMemoryError:
                return False

    one, two = total(1), total(2)
    rows = max(1, 1 + int((subject.memory - one) / max(1, two - one)))
    most, refused = 0, 0
    for _ in range(TRIED):
        if trains(rows):
            most, rows = rows, rows + 1
        else:
            refused, rows = rows, rows - 1
        if rows in (most, refused, 0):
            break
    return {"batch": most, "refused": refused, "limit": subject.memory}


PARTS: dict[str, Part] = {
    "memory": memory,
    "bits": bits,
    "budget": budget,
    "links": links,
    "batch": batch,
}


def _compiled(
    subject: Subject, contender: str, device: torch.device, rows: int | None = None
) -> tuple[Trainer, float]:
    """Returns a trainer after its first iteration, and the seconds of that."""
    _start_afresh(device)
    trainer = Trainer(*subject.build(device, rows), find(contender))
    with trainer.settings:
        return trainer, _seconds(trainer.iteration, device)


def _start_afresh(device: torch.device) -> None:
    """Drops what the rows before have compiled and allocated."""
    torch.compiler.reset()
    roam.reset_report()
    roam.release()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _iterations(trainer: Trainer, device: torch.device) -> list[float]:
    for _ in range(WARM):
        trainer.iteration()
    taken = [_seconds(trainer.iteration, device)]
    while len(taken) < TIMED and sum(taken) < LONGEST:
        taken.append(_seconds(trainer.iteration, device))
    return taken


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Returns how long some work takes, by the device's own clock if it has one."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def _planned(trainer: Trainer, contender: str) -> Result:
    """Returns what roam planned, and what a simulated allocator reserves for it."""
    if find(contender).backend != "roam":
        return {}
    found = planned()
    if (largest := report().step.largest) is not None:
        problem, plan = largest
        spans = requests(problem, plan.order, plan.reuse, plan.offsets, plan.blocks)
        found["simulated"] = reserved(spans, [t.nbytes for t in trainer.persistent_tensors()])
    return found


def _gradients(subject: Subject, contender: str, device: torch.device) -> list[Tensor]:
    _start_afresh(device)
    model, made = subject.build(device)
    loss = find(contender).compiled()
    torch.manual_seed(0)
    loss(model, made).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


@contextmanager
def _limited(limit: Bytes, device: torch.device) -> Iterator[None]:
    """Limits what the process may take of a CUDA device, for the length of the context."""
    if device.type != "cuda":
        yield
        return
    there = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / there), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _answers(rows: list[tuple[str, str]], model: str, device: torch.device) -> Iterator[Result]:
    yield {"ready": True}
    for line in sys.stdin:
        part, contender = rows[int(line)]
        yield PARTS[part](SUBJECTS[model], contender, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entry", required=True, choices=SUBJECTS)
    parser.add_argument("--contender", required=True, action="append", help="PART:CONTENDER")
    parser.add_argument("--device", required=True)
    args = parser.parse_args()
    say = answering()
    rows = [(part, name) for part, _, name in (row.partition(":") for row in args.contender)]
    for answer in _answers(rows, args.entry, torch.device(args.device)):
        say(answer)


if __name__ == "__main__":
    main()
