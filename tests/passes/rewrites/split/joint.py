"""Runs a function with its joint graph rewritten, decomposed and cut in two as Inductor does it.

The graphs run as they are, without generated code: a case takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import canonicalize_aten_ir_passes

from roam.passes.pipeline import Pass, run
from roam.passes.rewrites.split import META, Split
from roam.passes.rewrites.split.group import Group
from roam.passes.rewrites.split.worth import Moment


@dataclass(frozen=True)
class Always(Split):
    """Splits all that can be split into blocks of `fewest_rows`, worth it or not."""

    smallest: int = 256
    amplifies: float = 2.0

    def counts(self, group: Group, moment: Moment, *, both: bool) -> list[int]:
        step = -(-self.fewest_rows // group.per_row)
        whole, rest = divmod(group.rows, step)
        return [step] * whole + [rest] * (rest > 0)


Loss = Callable[[Mapping[str, Tensor]], Tensor]


class Joint:
    """A backend that rewrites joint graphs.

    Attributes:
        graphs: the joint graphs after the rewrites.
    """

    def __init__(self, passes: Sequence[Pass] = ()) -> None:
        self.passes = passes
        self.graphs: list[fx.GraphModule] = []

    def __call__(self, gm: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        def partition(joint: fx.GraphModule, given: Any, **how: Any) -> Any:
            canonicalize_aten_ir_passes(joint)
            run(self.passes, joint)
            self.graphs.append(joint)
            return min_cut_rematerialization_partition(joint, given, **how)

        def as_it_is(gm: fx.GraphModule, _: Any) -> Any:
            return make_boxed_func(gm.forward)

        compiler = aot_autograd(
            fw_compiler=as_it_is,
            bw_compiler=as_it_is,
            partition_fn=partition,
            decompositions=select_decomp_table,
        )
        with functorch_config.patch(enable_autograd_cache=False):
            return compiler(gm, inputs)

    def blocks(self) -> list[int]:
        """Returns the number of blocks of each split group, in the order of the groups."""
        labels = [n.meta[META] for gm in self.graphs for n in gm.graph.nodes if META in n.meta]
        groups = sorted({group for group, _ in labels})
        return [1 + max(block for group, block in labels if group == g) for g in groups]


def gradients(
    loss: Loss, given: Mapping[str, Tensor], passes: Sequence[Pass] | None, scale: float = 2.5
) -> tuple[list[Tensor], list[int]]:
    """Returns the loss, the gradients of all floating-point inputs, and the number of blocks.

    Args:
        loss: a function of the inputs.
        given: the inputs.
        passes: rewrites of the joint graph; None runs the function in eager.
        scale: the gradient of the loss: no power of two, so that a factor too many shows.
    """
    torch._dynamo.reset()
    joint = Joint(passes or ())
    inputs = {
        name: t.detach().clone().requires_grad_(t.is_floating_point()) for name, t in given.items()
    }
    run = loss if passes is None else torch.compile(loss, backend=joint)
    found = run(inputs)
    (scale * found).backward()
    grads = [t.grad for t in inputs.values() if t.grad is not None]
    return [found.detach(), *grads], joint.blocks()
