"""The contenders of `roam bench compiled` and `roam bench split`: ways to compile and to train.

    contender = find("roam inductor")
    loss = contender.compiled(optimizer)
    with contender.settings():      # the first call compiles
        loss(model, batch).backward()

To add one, add a line to CONTENDERS. Those with a number in their names are made by `find`:

    "roam inductor adama 60%"     a budget: a share of what a step allocates without one
    "roam aten 1073741824B"       a budget in bytes, of all that there is
    "inductor 60%"                the partitioner's own: saved bytes, with our costs of ops
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from roam.core.offload_to import OffloadTo
from roam.core.sizes import parse_share

if TYPE_CHECKING:
    from torch import Tensor, nn

    from roam.bench.batches import Batch

BUDGETS = (75, 50, 35, 25)  # percent of what a step allocates without a budget
PACES = (25, 50, 100, 200, 400)  # MB/s of a disk that is slowed down

LossOf = Callable[["nn.Module", "Batch"], "Tensor"]


@dataclass(frozen=True)
class Contender:
    """A way to compile a loss and to train with it.

    Attributes:
        backend: of torch.compile; None: the loss runs in eager mode.
        options: of the backend "roam".
        mode: of Inductor.
        folds: whether AdamA takes each gradient inside the backward. Otherwise AdamW updates the
            weights after it.
        settings: returns a context with the compiler's settings, for the first step.
        find_loss: returns the function of model and batch to compile; by default the zoo's.
    """

    backend: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    mode: str | None = None
    folds: bool = False
    settings: Callable[[], AbstractContextManager[None]] = nullcontext
    find_loss: Callable[[], LossOf] | None = None

    def within(self, budget: str) -> Contender:
        """Returns the contender with a budget."""
        return replace(self, options={**self.options, "budget": budget})

    def compiled(self, optimizer: Any = None) -> LossOf:
        """Returns the loss as this contender runs it.

        optimizer: takes the gradients if the contender folds them.
        """
        from roam.bench import zoo

        return self.compile(self.find_loss() if self.find_loss else zoo.loss, optimizer)

    def compile(self, loss: Callable[..., Tensor], optimizer: Any = None) -> Callable[..., Tensor]:
        """Returns any loss as this contender runs it."""
        import torch

        if self.backend is None:
            return loss
        if self.backend != "roam":
            return torch.compile(_copied(loss), backend=self.backend, mode=self.mode)
        options = {**self.options, "optimizer": optimizer} if self.folds else dict(self.options)
        options["mode"] = self.mode
        return torch.compile(_copied(loss), backend="roam", options=options)


def _copied(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Copies the code object too, because dynamo checks all compiled variants of one."""
    assert isinstance(loss, FunctionType)
    return FunctionType(loss.__code__.replace(), loss.__globals__, closure=loss.__closure__)


# what follows imports torch's compilers only when a contender runs


def _recomputing(share: float, *, measured: bool = False) -> AbstractContextManager[None]:
    from roam.bench import inductor_stock

    return inductor_stock.recomputing_down_to(share, measured=measured)


def _pooling() -> AbstractContextManager[None]:
    from roam.bench import inductor_stock

    return inductor_stock.pooling()


def _chunking(chunks: int | None) -> AbstractContextManager[None]:
    from roam.bench import inductor_stock

    return inductor_stock.chunking(chunks)


def _by_torch(blocks: int | None) -> LossOf:
    from roam.bench import chunked_head

    return partial(chunked_head.by_torch, blocks=blocks)


def _by_hand(blocks: int) -> LossOf:
    from roam.bench import chunked_head

    return partial(chunked_head.by_hand, blocks=blocks)


def _roam(**options: Any) -> Contender:
    return Contender("roam", options)


def _folding(**options: Any) -> Contender:
    return Contender("roam", options, folds=True)


def _offloading(pace: int | None) -> Contender:
    """Moves tensors to a folder beside the other temporary ones, at most `pace` MB/s each way."""
    folder = os.path.join(tempfile.gettempdir(), f"roam-bench-{pace or 'disk'}")
    to = OffloadTo(folder, None if pace is None else pace * 1e6)
    return Contender("roam", {"offload": to}, settings=partial(_paced, folder, pace))


@contextmanager
def _paced(folder: str, pace: int | None) -> Iterator[None]:
    from roam.runtime.file_tier import file_tier
    from roam.runtime.tier_settings import Settings

    os.makedirs(folder, exist_ok=True)
    if pace is not None:
        file_tier(folder, Settings(write_pace=pace * 1e6, read_pace=pace * 1e6))
    yield


CONTENDERS: dict[str, Contender] = {
    "eager": Contender(),
    "inductor": Contender("inductor"),
    "inductor budget 0.5": Contender("inductor", settings=partial(_recomputing, 0.5)),
    "inductor pools": Contender("inductor", settings=_pooling),
    "roam aten": _roam(lowering="aten"),
    "roam inductor": _roam(lowering="inductor"),
    "roam aten adama": _folding(lowering="aten"),
    "roam inductor adama": _folding(lowering="inductor"),
    "aot_eager": Contender("aot_eager"),
    "inductor reduce-overhead": Contender("inductor", mode="reduce-overhead"),
    "roam reduce-overhead": Contender("roam", mode="reduce-overhead"),
    "roam reduce-overhead adama": Contender("roam", mode="reduce-overhead", folds=True),
    "roam aten offload": _offloading(None),
    **{f"roam aten offload {pace}MB/s": _offloading(pace) for pace in PACES},
    # what follows differs where a group of ops can be split
    "inductor chunked": Contender("inductor", settings=partial(_chunking, None)),
    "inductor chunked 16": Contender("inductor", settings=partial(_chunking, 16)),
    "torch chunked": Contender(find_loss=partial(_by_torch, None)),
    "torch chunked 8": Contender(find_loss=partial(_by_torch, 8)),
    "eager chunked 8": Contender(find_loss=partial(_by_hand, 8)),
    "eager chunked 16": Contender(find_loss=partial(_by_hand, 16)),
    "roam unsplit": _roam(lowering="inductor", split=False),
    "roam split": _roam(lowering="inductor", split=True),
    "roam unsplit adama": _folding(lowering="inductor", split=False),
    "roam split adama": _folding(lowering="inductor", split=True),
    "roam split recompute": _roam(lowering="inductor", split=True, recompute="cheap"),
    "roam split recompute adama": _folding(lowering="inductor", split=True, recompute="cheap"),
}


def find(name: str) -> Contender:
    """Returns a contender by its name. Raises ValueError."""
    base, _, number = name.rpartition(" ")
    if re.fullmatch(r"\d+(\.\d+)?%|\d+B", number):
        if base in CONTENDERS and CONTENDERS[base].backend == "roam":
            return CONTENDERS[base].within(number)
        if base == "inductor" and number.endswith("%"):
            share = parse_share(number)
            return Contender("inductor", settings=partial(_recomputing, share, measured=True))
    if name not in CONTENDERS:
        raise ValueError(f"no contender {name!r}, only: {', '.join(CONTENDERS)}, or with a budget")
    return CONTENDERS[name]
