"""The `inductor` lowering: Inductor fuses nodes and generates kernels, roam orders the kernels.

Fusion, in-place reuse and the caches are Inductor's. So is partitioning, but roam may change which
tensors the forward saves. roam also places saved tensors in blocks (allocations for several
tensors) if a caching allocator would otherwise reserve more memory. Blocks do not raise the peak.
(Gaps between the tensors in a block, used on the CPU only, may raise the peak by a thousandth, but
never by more than the planned order lowers it.) Blocks are used from the second step on, because
the forward is compiled before its backward is known. Tensors that are not saved for the backward
are allocations of their own. Saved tensors are allocations of their own if shapes are dynamic, if a
graph has several devices, uses cpp_wrapper or runs as a CUDA graph, or if two backwards of one
forward were planned with different blocks.

At run time, only this package uses private names of Inductor. The package was tested with the
versions of torch in TESTED. With another version roam warns once and folds no gradients into the
optimizer inside the backward. A graph that roam cannot plan runs in Inductor's own order; with a
byte budget, it runs ATen's kernels instead. A graph that Inductor cannot compile runs ATen's
kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch._inductor.exc import InductorError

from roam.capture.graph_names import DynamoGraph
from roam.core.errors import UnplannableError, UnplannedWarning
from roam.lowering.inductor.needs import missing, unknown_names
from roam.lowering.protocol import Kernels, Lowering, OfflineKernels, Reports
from roam.options import Options
from roam.passes.rewrites.table import SPLITS

if TYPE_CHECKING:
    from roam.capture.usual_costs import Costs

TESTED = ("2.11", "2.12", "2.13", "2.14", "2.15")


class InductorLowering:
    name = "inductor"
    # UnplannableError is raised only with a budget: without one, a graph that cannot be planned
    # runs in Inductor's order
    refusals: tuple[type[Exception], ...] = (InductorError, UnplannableError)

    def lacks(self, devices: Collection[torch.device], *, asked: bool) -> str | None:
        return (None if asked else missing(devices)) or unknown_names()

    def kernels(self, graph: DynamoGraph, options: Options, reports: Reports) -> Kernels:
        from roam.lowering.inductor.kernels import InductorKernels  # takes a second to import

        if options.budget is not None:
            from roam.lowering.inductor.budget_kernels import BudgetKernels

            return BudgetKernels(graph, options, reports, may_fold(options))
        return InductorKernels(graph, options, reports, may_fold(options))

    def offline_kernels(
        self,
        graph: DynamoGraph,
        options: Options,
        reports: Reports,
        stands_for: torch.device | None,
        costs: Costs | None,
    ) -> OfflineKernels:
        from roam.lowering.inductor.offline import OfflineInductorKernels

        assert stands_for is None, "roam.plan refuses a device that this torch does not know"
        noting = options.offering(self.name, SPLITS[self.name, True])
        if options.budget is not None:
            from roam.lowering.inductor.budget_kernels import OfflineBudgetKernels

            return OfflineBudgetKernels(graph, noting, reports, may_fold(options), costs)
        return OfflineInductorKernels(graph, noting, reports, may_fold(options), costs)


LOWERING: Lowering = InductorLowering()


def may_fold(options: Options) -> bool:
    """Returns whether backwards may fold gradients (absorb them into an optimizer's state).

    They may if the options name an optimizer and this lowering was tested with this version of
    torch. Warns, once a process, if it was not tested, even if there is no optimizer.
    """
    known = is_tested(".".join(torch.__version__.split(".")[:2]))
    return known and options.optimizer is not None


@cache
def is_tested(version: str) -> bool:
    """Returns whether this lowering was tested with a version of torch, such as "2.13".

    If it was not, warns at the first call with this version.
    """
    if version not in TESTED:
        known = ", ".join(TESTED)
        text = f"the inductor lowering is tested with torch {known}, not {version}"
        warnings.warn(text, UnplannedWarning, stacklevel=3)
    return version in TESTED
