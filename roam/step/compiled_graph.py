"""A captured graph as the user's program calls it, compiled anew if its steps ask for that.

call ── have its steps shown that the plan is wrong? ── no ──────────────┬── run
              └ yes: compile with the successor of the kernels ──────────┘
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx
from torch._dynamo.utils import preserve_rng_state
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode

from roam.lowering.protocol import Kernels
from roam.step.driver import Step
from roam.step.graph_optimizers import Needs

log = logging.getLogger("roam")


@dataclass
class CompiledGraph:
    """A captured graph with static sizes, and the kernels that run it now.

    A forward that ran before the graph was compiled anew keeps its own kernels for its backward.

    Attributes:
        gm: the graph as dynamo captured it.
        name: of the graph.
        needs: returns what a plan has to know of a fold.
        kernels: what it is compiled with.
        run: the compiled graph.
        is_final: whether compiling it anew has failed, so that it is not tried again.
    """

    gm: fx.GraphModule
    name: str
    needs: Needs
    kernels: Kernels
    run: Callable[..., Any]
    is_final: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(
        gm: fx.GraphModule,
        example_inputs: Sequence[Any],
        name: str,
        kernels: Kernels,
        needs: Needs,
    ) -> Callable[..., Any]:
        """Compiles a graph, within dynamo's call of the backend."""
        run = kernels.compile(gm, example_inputs, Step(name, kernels, needs))
        return CompiledGraph(gm, name, needs, kernels, run) if kernels.may_be_replaced else run

    def __call__(self, *args: Any) -> Any:
        if not self.is_final:
            with self._lock:
                if (following := self.kernels.successor()) is not None:
                    self._replace(following, args)
        return self.run(*args)

    def _replace(self, kernels: Kernels, args: Sequence[Any]) -> None:
        """Compiles the graph outside of dynamo, for these inputs and others of their sizes.

        If that fails, the graph stays as it is for good, with a warning in the log: it can run.
        """
        fakes = FakeTensorMode()  # given a ShapeEnv, AOTAutograd would make all sizes symbols
        try:
            with tracing(TracingContext(fakes)), preserve_rng_state():
                step = Step(self.name, kernels, self.needs)
                self.run = kernels.compile(self.gm, args, step)
        except Exception as error:
            self.is_final = True
            log.warning("%s could not be planned anew: %r", self.name, error)
        else:
            self.kernels = kernels
