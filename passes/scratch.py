"""What operators allocate for themselves while they run, in bytes, beyond their results.

Read off the CPU kernels' behaviour (the profiler's memory events), so for the CPU only. Where
nothing is known, and on other devices, it is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from roam.passes import cross_entropy_backward
from roam.passes.geometry import tensor_inputs, tensors, value

aten = torch.ops.aten


def scratch(node: fx.Node) -> Any:
    """Bytes of scratch space, symbolic where the sizes are."""
    if not isinstance(node.target, torch._ops.OpOverload) or not tensors(node):
        return 0
    if node.target is cross_entropy_backward.OP:
        return cross_entropy_backward.block_bytes(value(node.args[1]))  # type: ignore[arg-type]
    if tensors(node)[0].device.type != "cpu":
        return 0
    rule = RULES.get(node.target)
    if rule is not None:
        return rule(node)
    return _casts(node) if torch.Tag.pointwise in node.target.tags else 0


def _casts(node: fx.Node) -> Any:
    """A pointwise op copies operands of another type before it computes."""
    operands = [t for _, t in tensor_inputs(node)]
    if len({t.dtype for t in operands}) < 2:
        return 0
    common = operands[0].dtype
    for t in operands:
        if t.dim() > 0:
            common = torch.promote_types(common, t.dtype)
    return sum(t.numel() * common.itemsize for t in operands if t.dim() and t.dtype != common)


def _mask_cast(node: fx.Node) -> Any:
    """Dropout multiplies by its mask of bools, cast to the type of the input."""
    return tensors(node)[0].nbytes


def _safe_softmax(node: fx.Node) -> Any:
    """Which elements, and which rows, are all minus infinity."""
    out = tensors(node)[0]
    return out.numel() + out.numel() // out.shape[node.args[1]]  # type: ignore[index]


def _layer_norm_backward(node: fx.Node) -> Any:
    """Partial sums of the gradients of weight and bias, a row a thread."""
    width = value(node.args[5]).numel() if node.args[5] is not None else 0  # type: ignore[arg-type]
    grad = value(node.args[0])  # type: ignore[arg-type]
    return 2 * torch.get_num_threads() * width * grad.element_size()


_KEYS = 512  # rows of a block of keys in the flash attention kernel


def _blocks(node: fx.Node, at: int) -> tuple[Any, Any, Any]:
    """(rows of a query block, rows of a key block, width of a head)."""
    query, key = value(node.args[at]), value(node.args[at + 1])  # type: ignore[arg-type]
    length, keys = query.shape[2], key.shape[2]
    rows = 256 if length >= 768 else 64 if length >= 192 else 32
    return min(rows, length), min(_KEYS, keys), query.shape[3]


def _flash_attention(node: fx.Node) -> Any:
    """Scores, row statistics and the output of one block, for every thread."""
    rows, keys, width = _blocks(node, 0)
    return torch.get_num_threads() * 4 * (rows * keys + 2 * rows + rows * width)


def _flash_attention_backward(node: fx.Node) -> Any:
    """A contiguous gradient where it is not, and two blocks of scores for every thread."""
    rows, keys, _ = _blocks(node, 1)
    grad = value(node.args[0])  # type: ignore[arg-type]
    copy = 0 if grad.transpose(1, 2).is_contiguous() else grad.nbytes
    return copy + torch.get_num_threads() * 4 * 2 * rows * keys


RULES: dict[Any, Callable[[fx.Node], Any]] = {
    aten.native_dropout.default: _mask_cast,
    aten.native_dropout_backward.default: _mask_cast,
    aten._safe_softmax.default: _safe_softmax,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _flash_attention_backward,
}
