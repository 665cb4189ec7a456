"""The seconds that ops would take on a machine that is not at hand: estimated, nothing is run.

What is decided without being asked for must not depend on where it is decided: it goes by a usual
machine (core/machine.py). A plan for another machine goes by its description. An op's work is
estimated as in `roofline`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx

from roam.capture.op_costs import Cost, OpCosts, calls_and_folds
from roam.capture.rates import dtype_name
from roam.capture.roofline import OpWork
from roam.capture.symbolic_sizes import Numbers
from roam.core.machine import Rates, usual_rates
from roam.runtime.isolation import aside


@dataclass(frozen=True)
class UsualCosts:
    """Costs of ops on a usual machine, or one that is described. Serves in place of `OpCosts`.

    Attributes:
        rates: returns those of a type of device.
    """

    rates: Callable[[str], Rates] = usual_rates

    def of(self, graphs: Iterable[fx.Graph], numbers: Numbers) -> dict[fx.Node, Cost]:
        """Returns the costs of the ops that are calls or folds."""
        calls, folds = calls_and_folds(graphs, numbers)
        works = aside(partial(_works, calls))
        return self.estimated({**works, **folds})

    def estimated(self, works: Mapping[Any, OpWork]) -> dict[Any, Cost]:
        """Returns estimates of ops, by whatever names them."""
        return {
            key: Cost(self.rates(w.device).seconds(w.nbytes, w.flops, dtype_name(w.dtype)), True)
            for key, w in works.items()
        }


Costs = OpCosts | UsualCosts


def _works(calls: Mapping[fx.Node, Any]) -> dict[fx.Node, OpWork]:
    return {node: OpWork.of(call) for node, call in calls.items()}
