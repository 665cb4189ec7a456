"""The models and rows of `roam bench device`: those for an accelerator, and tiny ones for a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from roam.core.machine import MIB, Bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from roam.bench.batches import Batch
    from roam.bench.zoo import Entry

GIB: Bytes = 1024 * MIB
PARTS = ("memory", "bits", "budget", "links", "batch")
KEPT = ("eager", "inductor", "roam inductor", "roam aten")
FOLDED = ("roam inductor adama", "roam aten adama")
GRAPHED = ("inductor reduce-overhead", "roam reduce-overhead", "roam reduce-overhead adama")
WITHIN = tuple(f"roam {kernels} {share}%" for kernels in ("aten", "inductor") for share in (75, 50))
TIGHT = ("roam aten 35%",)


class Row(NamedTuple):
    """One row of the table.

    Attributes:
        part: one of PARTS: what is measured.
        model: the name of a `Subject`.
        contender: as `compilers.find` takes it; "copies" in part "links".
    """

    part: str
    model: str
    contender: str


@dataclass(frozen=True)
class Subject:
    """A model and a batch as they are trained on a device.

    Attributes:
        entry: returns the model's entry in a zoo.
        dtype: of weights and batch: "float32" or "bfloat16".
        channels_last: whether images and the weights of convolutions lie channels last.
        memory: bytes that its largest batch has to fit into, weights and states included.
    """

    entry: Callable[[], Entry]
    dtype: str = "float32"
    channels_last: bool = False
    memory: Bytes = 0

    def build(self, device: torch.device, rows: int | None = None) -> tuple[nn.Module, Batch]:
        """Returns the model and a batch on a device.

        rows: of the batch, all of which are the first one; None for the batch of the entry.
        """
        import torch

        found = self.entry()
        torch.manual_seed(0)
        model, batch = found.build(), found.batch()
        if rows is not None:
            batch = {k: v[:1].expand(rows, *v.shape[1:]).clone() for k, v in batch.items()}
        dtype = getattr(torch, self.dtype)
        model.to(device, dtype)
        for name, value in batch.items():
            batch[name] = value.to(device, dtype if value.is_floating_point() else value.dtype)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for name, value in batch.items():
                if value.dim() == 4:
                    batch[name] = value.to(memory_format=torch.channels_last)
        return model, batch


def _zoo(name: str) -> Subject:
    def entry() -> Entry:
        from roam.bench.zoo import find

        return find(name)

    return Subject(entry)


def _gpt2(name: str, batch: int, *, dropout: float = 0.0, medium: bool = False) -> Subject:
    def entry() -> Entry:
        from roam.bench.zoo import gpt2

        wider = {"n_embd": 1024, "n_layer": 24, "n_head": 16} if medium else {}
        return gpt2(name, batch=batch, dropout=dropout, **wider)

    return Subject(entry)


def _photos(name: str, count: int) -> Subject:
    def entry() -> Entry:
        from roam.bench import batches
        from roam.bench.zoo import find

        return replace(find(name), make_batch=batches.image(batch=count, size=224, classes=1000))

    return Subject(entry)


def _bf16(subject: Subject) -> Subject:
    return replace(subject, dtype="bfloat16")


SMALL, MEDIUM = _gpt2("gpt2-small", 8), _gpt2("gpt2-medium", 4, medium=True)
VIT, RESNET = _photos("vit-b-16", 32), replace(_photos("resnet-50", 32), channels_last=True)
TINY, TINY_RESNET = _zoo("gpt2"), replace(_zoo("resnet"), channels_last=True)

SUBJECTS: dict[str, Subject] = {
    "gpt2-small bf16": _bf16(SMALL),
    "gpt2-small fp32": SMALL,
    "gpt2-medium bf16": _bf16(MEDIUM),
    "gpt2-medium fp32": replace(MEDIUM, memory=20 * GIB),
    "vit-b-16 bf16": _bf16(VIT),
    "vit-b-16 fp32": VIT,
    "resnet-50 bf16": _bf16(RESNET),
    "resnet-50 fp32": RESNET,
    "gpt2-small dropout": _gpt2("gpt2-small", 2, dropout=0.1),
    # for a CPU
    "tiny gpt2 bf16": _bf16(TINY),
    "tiny gpt2 fp32": replace(TINY, memory=16 * MIB),
    "tiny vit": _zoo("vit"),
    "tiny resnet": TINY_RESNET,
}


def usual_rows(device: str) -> list[Row]:
    """Returns the rows for a type of device, those that say most first."""
    return [*(_tiny_rows() if device == "cpu" else _rows())]


def _rows() -> Iterator[Row]:
    yield from _of("memory", "gpt2-small bf16", (*KEPT, *FOLDED, *GRAPHED))
    yield Row("bits", "gpt2-small dropout", "roam aten")
    yield from _of("budget", "gpt2-small bf16", (*WITHIN, *TIGHT))
    yield from _of("memory", "resnet-50 bf16", KEPT)
    yield Row("links", "gpt2-small bf16", "copies")
    yield from _of("memory", "vit-b-16 bf16", KEPT)
    yield from _of("memory", "gpt2-medium bf16", (*KEPT[1:3], *FOLDED[:1]))
    yield from _of("memory", "gpt2-small fp32", (*KEPT, *FOLDED))
    yield from _of("batch", "gpt2-medium fp32", ("inductor", "roam inductor", *FOLDED[:1]))
    yield from _of("memory", "resnet-50 fp32", KEPT)
    yield from _of("memory", "vit-b-16 fp32", KEPT)
    yield from _of("memory", "gpt2-medium fp32", (*KEPT[1:3], *FOLDED[:1]))


def _tiny_rows() -> Iterator[Row]:
    yield from _of("memory", "tiny gpt2 fp32", (*KEPT, *FOLDED, GRAPHED[-1]))
    yield Row("bits", "tiny gpt2 fp32", "roam aten")
    yield from _of("budget", "tiny gpt2 fp32", (*WITHIN[:2], *TIGHT))
    yield Row("links", "tiny gpt2 fp32", "copies")
    yield from _of("batch", "tiny gpt2 fp32", ("roam aten", *FOLDED[1:]))
    yield from _of("memory", "tiny resnet", KEPT[1:])
    yield from _of("memory", "tiny vit", KEPT[2:])
    yield from _of("memory", "tiny gpt2 bf16", KEPT[2:])


def _of(part: str, model: str, contenders: Sequence[str]) -> list[Row]:
    return [Row(part, model, contender) for contender in contenders]
