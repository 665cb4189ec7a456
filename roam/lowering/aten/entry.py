"""Defines the `aten` lowering: it runs ATen's own operators in a planned order and memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

from roam.capture.graph_names import DynamoGraph
from roam.lowering.aten.decompositions import parts
from roam.lowering.aten.kernels import AtenKernels
from roam.lowering.protocol import Kernels, Lowering, OfflineKernels, Reports
from roam.options import Options
from roam.passes.rewrites.split import SplitComposites
from roam.passes.rewrites.table import SPLITS

if TYPE_CHECKING:
    from roam.capture.usual_costs import Costs


class AtenLowering:
    name = "aten"
    refusals: tuple[type[Exception], ...] = ()

    def lacks(self, devices: Collection[torch.device], *, asked: bool) -> str | None:
        return None

    def kernels(self, graph: DynamoGraph, options: Options, reports: Reports) -> Kernels:
        return AtenKernels(graph, options, reports)

    def offline_kernels(
        self,
        graph: DynamoGraph,
        options: Options,
        reports: Reports,
        stands_for: torch.device | None,
        costs: Costs | None,
    ) -> OfflineKernels:
        split = SplitComposites(SPLITS[self.name, True], parts)
        noting = options.offering(self.name, split)
        return AtenKernels(graph, noting, reports, stands_for, costs)


LOWERING: Lowering = AtenLowering()
