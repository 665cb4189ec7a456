"""The process of a contender of `roam bench adama` or `offload --states`: folds gradients or not.

    python -m roam.bench.folding_worker --entry gpt2-small --contender "adama roam"

prints JSON objects: {"ready": ...} after two mini-batches, then one for every line it reads:
seconds and loss of a mini-batch for "step", bytes for "measure". --limit limits its memory.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roam.bench.children import Result, answering, resident_peak
from roam.bench.fold_ways import FOLDING
from roam.bench.zoo import find, loss
from roam.inspect.measure import measure_peak
from roam.inspect.report import report
from roam.runtime.file_tier import traffic

CONTENDERS = (
    "adamw eager",
    "adamw inductor",
    "hooks eager",
    "hooks inductor",
    "adama eager",
    *(f"{way} roam" for way in FOLDING),
    *(f"{way} split" for way in FOLDING),  # large gradients are folded by rows
    "adama states",
    "slim states",
    "adama both",
)
AWAY = {"states": ("states",), "both": ("states", "activations")}  # backend -> what is in a file


class Training:
    """A model, an optimizer, and the loop over the micro-batches of a mini-batch."""

    def __init__(self, entry: str, contender: str, micro_batches: int) -> None:
        way, backend = contender.split()
        found = find(entry)
        self.model = found.build_in(FOLDING[way].dtype if way in FOLDING else torch.float32)
        self.batch = found.batch()
        self.micro_batches = micro_batches
        self.scale = 1 / micro_batches if way == "adamw" else 1.0
        self.optimizer = OPTIMIZERS[way](self.model, micro_batches)
        self.loss = _compiled(backend, self.optimizer)

    def mini_batch(self) -> float:
        value = 0.0
        for _ in range(self.micro_batches):
            micro = self.loss(self.model, self.batch) * self.scale
            micro.backward()
            value = micro.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value

    def persistent(self) -> int:
        """Bytes of weights, buffers and the optimizer's state."""
        tensors = [*self.model.parameters(), *self.model.buffers(), *self.batch.values()]
        return sum(t.nbytes for t in tensors) + _state_bytes(self.optimizer)


class Hooks:
    """The optimizer in a hook of PyTorch's tutorial.

    Each parameter has its own optimizer, which steps as soon as the gradient is complete.
    """

    def __init__(self, model: nn.Module) -> None:
        self.each: dict[Tensor, torch.optim.Optimizer] = {
            p: torch.optim.AdamW([p], fused=True) for p in model.parameters()
        }
        for p in self.each:
            p.register_post_accumulate_grad_hook(self.step_one)

    def step_one(self, p: Tensor) -> None:
        if p.grad is not None:
            self.each[p].step()
            self.each[p].zero_grad()

    def step(self) -> None: ...

    def zero_grad(self) -> None: ...


def _hooks(model: nn.Module, micro_batches: int) -> Hooks:
    if micro_batches > 1:
        raise ValueError("an optimizer in a hook cannot accumulate: micro_batches is 1")
    return Hooks(model)


OPTIMIZERS: dict[str, Callable[[nn.Module, int], Any]] = {
    "adamw": lambda model, _: torch.optim.AdamW(model.parameters(), fused=True),
    "hooks": _hooks,
    **{name: way.optimizer for name, way in FOLDING.items()},
}


def _compiled(backend: str, optimizer: Any) -> Callable[..., Any]:
    if backend == "eager":
        return loss
    if backend in ("roam", "split", *AWAY):  # with eager's kernels, so that only the fold differs
        how = {"lowering": "aten", "optimizer": optimizer}
        if backend == "split":
            how["split"] = True
        if backend in AWAY:
            folder = Path(tempfile.gettempdir(), "roam-bench-states")
            folder.mkdir(exist_ok=True)
            how["offload"] = dict.fromkeys(AWAY[backend], str(folder))
        return torch.compile(loss, backend="roam", options=how)
    return torch.compile(loss, backend=backend)


def _state_bytes(optimizer: Any) -> int:
    several = optimizer.each.values() if isinstance(optimizer, Hooks) else [optimizer]
    states = (state for each in several for state in each.state.values())
    return sum(t.nbytes for state in states for t in state.values() if isinstance(t, Tensor))


def measured(training: Training) -> Result:
    """Returns bytes: transient (the peak of a mini-batch), persistent and, for roam, planned."""
    result: Result = {"transient": measure_peak(training.mini_batch).peak}
    result["persistent"] = training.persistent()
    plans = [g.plan for g in report().graphs if g.plan is not None]
    if plans:
        result["planned"] = max(p.peak for p in plans)
        result["detours"] = report().detours
    if stored := [g.stored for g in report().graphs if g.stored is not None]:
        result["planned_stall"] = sum(s.stalled for s in stored)
        result["planned_step"] = sum(s.step for s in stored)
    return result


def timed(training: Training) -> Result:
    """Returns what a mini-batch takes: seconds, those that waited for a file, and bytes moved."""
    before, start = traffic(), time.perf_counter()
    loss = training.mini_batch()
    seconds = time.perf_counter() - start
    out, back = (now.since(then) for now, then in zip(traffic(), before, strict=True))
    return {
        "seconds": seconds,
        "loss": loss,
        "resident": resident_peak(),
        "written": out.nbytes,
        "read": back.nbytes,
        "stalled": out.stalled + back.stalled,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roam.bench.folding_worker")
    parser.add_argument("--entry", required=True)
    parser.add_argument("--contender", required=True, choices=CONTENDERS)
    parser.add_argument("--micro-batches", type=int, default=1)
    parser.add_argument("--limit", type=int, help="bytes of data this process may have")
    args = parser.parse_args()
    say = answering()

    if args.limit:
        resource.setrlimit(resource.RLIMIT_DATA, (args.limit, args.limit))
    training = Training(args.entry, args.contender, args.micro_batches)
    losses = [training.mini_batch() for _ in range(2)]
    say({"ready": True, "losses": losses, "resident": resident_peak()})
    for line in sys.stdin:
        if line.strip() == "measure":
            say(measured(training))
        else:
            say(timed(training))


if __name__ == "__main__":
    main()
