"""How an op runs again to the same bits, if not by the same call.

    dropout       makes its result from its input and the mask, which is saved: nothing is drawn
    batch norm    normalizes without the running statistics: those are written once
    other ops     the same call

A dropout's mask is one byte an element, so saving it costs a quarter of saving the result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from roam.passes.geometry import value
from roam.passes.graph_ops import add_op

aten = torch.ops.aten

Nodes = Mapping[fx.Node, fx.Node]  # what stands for an input of the op


@dataclass(frozen=True)
class Replay:
    """Another way to some results of an op.

    Attributes:
        reads: the nodes that it reads.
        outputs: which results of the op it makes, by index.
        run: adds its ops to the graph, given what stands for each of `reads`. Returns for each of
            `outputs` its node.
        ops: how many ops it runs.
    """

    reads: tuple[fx.Node, ...]
    outputs: tuple[int, ...]
    run: Callable[[Nodes], tuple[fx.Node, ...]]
    ops: int = 1


def replay_of(node: fx.Node) -> Replay | None:
    """Returns another way to the results of an op; None if it must run again as it is."""
    known = _REPLAYS.get(node.target)
    return None if known is None else known(node)


def _dropout(node: fx.Node) -> Replay | None:
    source, p, *train = node.args
    masks = [u for u in node.users if u.target is operator.getitem and u.args[1] == 1]
    if not masks or not isinstance(source, fx.Node) or train == [False]:
        return None
    mask = masks[0]
    scale = _scale(value(source), float(p))  # type: ignore[arg-type]

    def run(given: Nodes) -> tuple[fx.Node, ...]:
        masked = add_op(mask, aten.mul.Tensor, given[source], given[mask])
        return (add_op(mask, aten.mul.Tensor, masked, scale),)

    return Replay((source, mask), (0,), run, ops=2)


def _scale(dropped: torch.Tensor, p: float) -> float:
    """Returns what a dropout multiplies by: on the CPU it is of the tensor's type, rounded to it.

    On CUDA it is of the type in which the kernel computes: for half precision, float32.
    """
    scale = 0.0 if p == 1 else 1.0 / (1.0 - p)
    if dropped.device.type != "cpu":
        return scale
    return float(torch.tensor(scale, dtype=dropped.dtype).item())


def _batch_norm(node: fx.Node) -> Replay | None:
    x, weight, bias, _, _, training, momentum, eps = node.args
    reads = tuple(n for n in (x, weight, bias) if isinstance(n, fx.Node))
    if training is not True or not isinstance(x, fx.Node):
        return None

    def run(given: Nodes) -> tuple[fx.Node, ...]:
        now = [given[n] if isinstance(n, fx.Node) else n for n in (x, weight, bias)]
        made = add_op(node, aten._native_batch_norm_legit.no_stats, *now, True, momentum, eps)
        return tuple(add_op(made, operator.getitem, made, i) for i in range(3))

    return Replay(reads, (0, 1, 2), run)


_REPLAYS: Mapping[Any, Callable[[fx.Node], Replay | None]] = {
    aten.native_dropout.default: _dropout,
    aten._native_batch_norm_legit_functional.default: _batch_norm,
}
