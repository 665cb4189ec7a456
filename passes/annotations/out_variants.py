"""Finds the form of each op that writes its results into given memory, its out variant.

Many `out=` overloads are generated: they call the functional op and copy its result, which doubles
the memory. Those are skipped (`torch.Tag.generated`). Some ops without a real `out=` overload have
an equivalent that writes in place with the same arithmetic: these are listed in BY_HAND.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from roam.passes.geometry import fills_its_storage, is_equal, same_shape, tensors, value

aten = torch.ops.aten
META = "roam_out_variant"


@dataclass(frozen=True)
class OutVariant:
    """`target(*args, **kwargs, **{name: tensor})` computes the op into the given tensors.

    Attributes:
        target: the function.
        names: the keyword of each result, in the order of the results.
    """

    target: Callable[..., Any]
    names: tuple[str, ...]


def _assumed(node: fx.Node, variant: OutVariant) -> bool:
    return True


@dataclass(frozen=True)
class OutVariants:
    """Sets `node.meta["roam_out_variant"]` if all results of the node can be written in place.

    Attributes:
        writes: whether the variant writes the op's results into memory with the fake values'
            strides. The default assumes that it does.
    """

    writes: Callable[[fx.Node, OutVariant], bool] = _assumed
    name: str = "out_variants"

    def __call__(self, module: fx.GraphModule) -> int:
        found = 0
        for node in module.graph.nodes:
            node.meta.pop(META, None)
            variant = find(node)
            if variant is not None and self.writes(node, variant):
                node.meta[META] = variant
                found += 1
        return found


def find(node: fx.Node) -> OutVariant | None:
    """Returns the op's out variant, None if it has no real one."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    results = tensors(node)
    if not results or not all(_can_be_placed(t) for t in results):
        return None
    if node.target in BY_HAND:
        applies, by_hand = BY_HAND[node.target]
        return by_hand if applies(node) else None
    variant = overload(node.target)
    return variant if variant is not None and len(variant.names) == len(results) else None


def is_provable(node: fx.Node, variant: OutVariant) -> bool:
    """Returns whether a variant is known to write correctly into any strides, without a trial.

    Those of roam do: they are made of copies and of pointwise ops, which work on any strides.
    """
    op = node.target
    assert isinstance(op, torch._ops.OpOverload)
    ours = op in BY_HAND or op.namespace == "roam"
    return ours or (torch.Tag.pointwise in op.tags and op not in RESIZING)


def _can_be_placed(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_quantized
    as_written = not tensor.is_conj() and not tensor.is_neg()
    return (
        strided
        and as_written
        and is_equal(tensor.storage_offset(), 0)
        and fills_its_storage(tensor)
    )


# Their kernels first resize `out` to their input's shape, and overwrite the bytes behind it.
RESIZING: frozenset[Any] = frozenset(
    {
        aten.binary_cross_entropy.default,
        aten.huber_loss.default,
        aten.mse_loss.default,
        aten.smooth_l1_loss.default,
        aten.soft_margin_loss.default,
    }
)


# Their kernels assume that two results in one storage overlap. In a block all share one storage.
BY_STORAGE: frozenset[Any] = frozenset({aten.linalg_qr.default})


@cache
def overload(op: torch._ops.OpOverload) -> OutVariant | None:
    """Returns the `out=` overload of the same op and arguments, None if there is no real one."""
    schema = op._schema
    if op in RESIZING | BY_STORAGE or any(
        a.alias_info for a in (*schema.arguments, *schema.returns)
    ):
        return None
    if any(str(r.type) != "Tensor" for r in schema.returns):
        return None  # a list of tensors, of any length
    wanted = [(a.name, str(a.type)) for a in schema.arguments]
    for name in op.overloadpacket.overloads():
        candidate = getattr(op.overloadpacket, name)
        outs = [a for a in candidate._schema.arguments if a.is_out]
        rest = [(a.name, str(a.type)) for a in candidate._schema.arguments if not a.is_out]
        fits = len(outs) == len(schema.returns) and rest == wanted
        if outs and fits and torch.Tag.generated not in candidate.tags:
            return OutVariant(candidate, tuple(a.name for a in outs))
    return None


def clone_out(x: Tensor, *, memory_format: Any = None, out: Tensor) -> Tensor:
    return out.copy_(x)


def to_copy_out(x: Tensor, *, out: Tensor, **_: Any) -> Tensor:
    return out.copy_(x)


def relu_out(x: Tensor, *, out: Tensor) -> Tensor:
    return torch.clamp_min(x, 0, out=out)


def masked_fill_out(x: Tensor, mask: Tensor, fill: Any, *, out: Tensor) -> Tensor:
    return out.copy_(x).masked_fill_(mask, fill)


def embedding_out(weight: Tensor, indices: Tensor, *_: Any, out: Tensor, **__: Any) -> Tensor:
    rows = out.view(-1, weight.shape[1])
    torch.index_select(weight, 0, indices.reshape(-1), out=rows)
    return out


def slice_backward_out(
    grad: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int, *, out: Tensor
) -> Tensor:
    aten.slice(out.zero_(), dim, start, end, step).copy_(grad)
    return out


def select_backward_out(
    grad: Tensor, sizes: Sequence[int], dim: int, index: int, *, out: Tensor
) -> Tensor:
    out.zero_().select(dim, index).copy_(grad)
    return out


def copy_out(x: Tensor, source: Tensor, *_: Any, out: Tensor) -> Tensor:
    return out.copy_(source)


def slice_scatter_out(
    x: Tensor,
    source: Tensor,
    dim: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
    *,
    out: Tensor,
) -> Tensor:
    aten.slice(out.copy_(x), dim, start, end, step).copy_(source)
    return out


def select_scatter_out(x: Tensor, source: Tensor, dim: int, index: int, *, out: Tensor) -> Tensor:
    out.copy_(x).select(dim, index).copy_(source)
    return out


def index_put_out(
    x: Tensor, indices: Any, values: Tensor, accumulate: bool = False, *, out: Tensor
) -> Tensor:
    return aten.index_put_(out.copy_(x), indices, values, accumulate)


def pad_out(x: Tensor, pad: Sequence[int], value: float = 0, *, out: Tensor) -> Tensor:
    inner = out.fill_(value)
    for i in range(len(pad) // 2):
        dim = x.dim() - 1 - i
        inner = inner.narrow(dim, pad[2 * i], x.shape[dim])
    inner.copy_(x)
    return out


def zeros_out(x: Tensor, *_: Any, out: Tensor, **__: Any) -> Tensor:
    return out.zero_()


def ones_out(x: Tensor, *_: Any, out: Tensor, **__: Any) -> Tensor:
    return out.fill_(1)


def full_like_out(x: Tensor, fill: Any, *, out: Tensor, **_: Any) -> Tensor:
    return out.fill_(fill)


def native_dropout_out(x: Tensor, p: float, train: Any, *, out: Tensor, mask: Tensor) -> Any:
    """Repeats the CPU kernel's arithmetic and its use of the generator, step by step.

    Like the kernel it rounds the scale to the input's type, which matters for half types.
    """
    mask.bernoulli_(1 - p)
    scale = torch.tensor(1 / (1 - p), dtype=x.dtype).item()
    torch.mul(x, mask, out=out).mul_(scale)
    return out, mask


def native_dropout_backward_out(g: Tensor, mask: Tensor, scale: float, *, out: Tensor) -> Tensor:
    return torch.mul(g, mask, out=out).mul_(scale)


def _always(node: fx.Node) -> bool:
    return True


def _same_device(node: fx.Node) -> bool:
    source = value(node.all_input_nodes[0]) if node.all_input_nodes else None
    return isinstance(source, Tensor) and source.device == tensors(node)[0].device


def _plain_dropout(node: fx.Node) -> bool:
    """Returns whether `native_dropout_out` repeats this call's arithmetic.

    Other devices draw random numbers inside their kernel; p = 0 and p = 1 take other paths.
    """
    x, p, train = node.args[:3]
    plain = all(t.device.type == "cpu" and t.is_contiguous() for t in (value(x), *tensors(node)))  # type: ignore[arg-type]
    return plain and train is True and isinstance(p, float) and 0 < p < 1


def _on_cpu(node: fx.Node) -> bool:
    return tensors(node)[0].device.type == "cpu"


def _two_arguments(node: fx.Node) -> bool:
    return len(node.args) == 2 and not node.kwargs


def _pads_outward(node: fx.Node) -> bool:
    pads = node.args[1]
    return isinstance(pads, (list, tuple)) and all(isinstance(p, int) and p >= 0 for p in pads)


def _same_shape(node: fx.Node) -> bool:
    first, out = value(node.all_input_nodes[0]), tensors(node)[0]
    return isinstance(first, Tensor) and first.dtype == out.dtype and same_shape(first, out)


_ONE = ("out",)
BY_HAND: dict[Any, tuple[Callable[[fx.Node], bool], OutVariant]] = {
    aten.clone.default: (_same_device, OutVariant(clone_out, _ONE)),
    aten._to_copy.default: (_same_device, OutVariant(to_copy_out, _ONE)),
    aten.relu.default: (_always, OutVariant(relu_out, _ONE)),
    aten.masked_fill.Scalar: (_same_shape, OutVariant(masked_fill_out, _ONE)),
    aten.masked_fill.Tensor: (_same_shape, OutVariant(masked_fill_out, _ONE)),
    aten.embedding.default: (_always, OutVariant(embedding_out, _ONE)),
    aten.slice_backward.default: (_always, OutVariant(slice_backward_out, _ONE)),
    aten.select_backward.default: (_always, OutVariant(select_backward_out, _ONE)),
    aten.copy.default: (_always, OutVariant(copy_out, _ONE)),
    aten.slice_scatter.default: (_always, OutVariant(slice_scatter_out, _ONE)),
    aten.select_scatter.default: (_always, OutVariant(select_scatter_out, _ONE)),
    aten.index_put.default: (_always, OutVariant(index_put_out, _ONE)),
    aten.constant_pad_nd.default: (_pads_outward, OutVariant(pad_out, _ONE)),
    aten.zeros_like.default: (_always, OutVariant(zeros_out, _ONE)),
    aten.new_zeros.default: (_always, OutVariant(zeros_out, _ONE)),
    aten.ones_like.default: (_always, OutVariant(ones_out, _ONE)),
    aten.full_like.default: (_always, OutVariant(full_like_out, _ONE)),
    aten.native_dropout_backward.default: (_on_cpu, OutVariant(native_dropout_backward_out, _ONE)),
    aten.add.Scalar: (_two_arguments, OutVariant(aten.add.out, _ONE)),
    aten.sub.Scalar: (_two_arguments, OutVariant(aten.sub.out, _ONE)),
    aten.mul.Scalar: (_two_arguments, OutVariant(aten.mul.out, _ONE)),
    aten.div.Scalar: (_two_arguments, OutVariant(aten.div.out, _ONE)),
    aten.native_dropout.default: (_plain_dropout, OutVariant(native_dropout_out, ("out", "mask"))),
}
