"""The seconds that each op of a step takes on this machine: measured, or else estimated.

    distinct calls ── known from before? ── yes ─────────────── measured
                              │ no
                        run it on zeros, ── enough time left ── measured, and kept
                        large and frequent    │ no
                        ones first            └──────────────── estimated by a roofline

Nothing is run unless that is asked for: then for no longer than CAP in all, with no more than
LARGEST bytes of a call real at a time. Calls that draw from an accelerator's random numbers, or
that are the user's own operators, are not run.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import fx

from roam.capture.cost_table import CostTable
from roam.capture.node_facts import is_op
from roam.capture.op_calls import Call, Operand, may_run_alone
from roam.capture.rates import Clock, dtype_name, is_here, rates_of, shortest
from roam.capture.roofline import OpWork, fold_work
from roam.capture.symbolic_sizes import Numbers
from roam.core.errors import UnplannableError
from roam.core.machine import Bytes, Rates, Seconds
from roam.passes.geometry import tensor_inputs, tensors
from roam.passes.gradient_release import META, STORED
from roam.passes.transfer_ops import TRANSFERS
from roam.runtime.isolation import aside, settings

log = logging.getLogger("roam")

CAP: Seconds = 2.0  # limit on all measurements of a plan together
LARGEST: Bytes = 2**30  # limit on the operands and results of a call that is run
NAMESPACES = frozenset({"aten", "prims", "roam"})


@dataclass(frozen=True)
class Cost:
    """Seconds that an op takes; estimated if it was not run."""

    seconds: Seconds
    estimated: bool = False


@dataclass
class OpCosts:
    """Costs of the ops of one plan's graphs.

    Attributes:
        measure: whether calls that are not known are run.
        left: seconds for that, for all graphs together.
        clock: tells the seconds.
        table: what was measured before.
        largest: limit on the bytes of operands and results of a call that is run.
    """

    measure: bool = False
    left: Seconds = CAP
    clock: Clock = time.perf_counter
    table: CostTable = field(default_factory=CostTable.here)
    largest: Bytes = LARGEST

    def of(self, graphs: Iterable[fx.Graph], numbers: Numbers) -> dict[fx.Node, Cost]:
        """Returns the costs of the ops that are calls or folds, but for those on absent devices."""
        calls, folds = calls_and_folds(graphs, numbers)
        found = aside(partial(self._of_calls, calls))
        return found | self.estimated(folds)

    def estimated(self, works: Mapping[Any, OpWork]) -> dict[Any, Cost]:
        """Returns estimates of ops, by whatever names them, but for those on absent devices."""
        return aside(partial(self._estimated, works))

    def _estimated(self, works: Mapping[Any, OpWork]) -> dict[Any, Cost]:
        dtypes: dict[str, set[torch.dtype]] = {}
        for work in works.values():
            dtypes.setdefault(work.device, set()).update([work.dtype] if work.flops else [])
        known = len(self.table.rates)
        rates: dict[str, Rates] = {
            device: rates_of(device, sorted(found, key=str), self.table, self.clock)
            for device, found in dtypes.items()
            if is_here(device)
        }
        if len(self.table.rates) > known:
            self.table.save()
        return {
            key: Cost(rates[w.device].seconds(w.nbytes, w.flops, dtype_name(w.dtype)), True)
            for key, w in works.items()
            if w.device in rates
        }

    def _of_calls(self, calls: Mapping[fx.Node, Call]) -> dict[fx.Node, Cost]:
        end = self.clock() + self.left  # the probes of the estimates count, too
        text_of = {node: call_text(call) for node, call in calls.items()}
        distinct = {text_of[node]: call for node, call in calls.items()}
        guesses = self._estimated({text: OpWork.of(call) for text, call in distinct.items()})
        if self.measure:
            times = Counter(text_of.values())
            unknown = [t for t in guesses if t not in self.table.seconds]
            unknown = [t for t in unknown if _may_run(distinct[t], self.largest)]
            unknown.sort(key=lambda t: times[t] * guesses[t].seconds, reverse=True)
            self._measure({t: distinct[t] for t in unknown}, guesses, end)
        known = self.table.seconds
        return {
            node: Cost(known[text]) if text in known else guesses[text]
            for node, text in text_of.items()
            if text in known or text in guesses
        }

    def _measure(
        self, calls: Mapping[str, Call], guesses: Mapping[str, Cost], end: Seconds
    ) -> None:
        """Runs calls in this order, but for those that time would not be enough for."""
        known = len(self.table.seconds)
        for text, call in calls.items():
            now = self.clock()
            if now >= end:
                break
            if now + 2 * guesses[text].seconds > end:
                continue  # a shorter one may fit
            try:
                found = _measured(call, self.clock, end)
            except Exception as error:
                log.debug("%s cannot be measured on zeros: %r", call.target, error)
            else:
                self.table.seconds |= {} if found is None else {text: found}
        self.left = max(0.0, end - self.clock())
        if len(self.table.seconds) > known:
            self.table.save()


def calls_and_folds(
    graphs: Iterable[fx.Graph], numbers: Numbers
) -> tuple[dict[fx.Node, Call], dict[fx.Node, OpWork]]:
    """Returns the calls that nodes make, and the work of those that are folds."""
    nodes = [n for graph in graphs for n in graph.nodes]
    calls = {n: call for n in nodes if (call := _call(n, numbers)) is not None}
    return calls, {n: fold_work(n.meta[META], numbers) for n in nodes if META in n.meta}


def _call(node: fx.Node, numbers: Numbers) -> Call | None:
    """The call that a node makes. None for a view, a fold, and what the capture will refuse.

    None for a transfer, too, beside which other ops run.
    """
    if node.op != "call_function" or META in node.meta or not is_op(node):
        return None
    if node.target in TRANSFERS or STORED in node.meta:
        return None
    everything = [*tensors(node), *(t for _, t in tensor_inputs(node))]
    if any(t.layout is not torch.strided for t in everything):
        return None
    try:
        return Call.of(node, numbers)
    except UnplannableError:
        return None


def _may_run(call: Call, largest: Bytes) -> bool:
    target = call.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in NAMESPACES:
        return False
    draws = torch.Tag.nondeterministic_seeded in target.tags
    on_cpu = all(x.device.type == "cpu" for x in (*call.operands, *call.results))
    pure = bool(call.results) and may_run_alone(target)  # an assertion on zeros would fail
    return pure and call.nbytes <= largest and (on_cpu or not draws)


def _measured(call: Call, clock: Clock, end: Seconds) -> Seconds | None:
    """Seconds of a call on zeros, None if time was too short. Raises what the operator raises."""
    made = call.made(_zeros)
    run = partial(call.target, *made.args, **made.kwargs)
    return shortest(run, OpWork.of(call).device, clock, end)


def _zeros(x: Operand) -> torch.Tensor:
    return torch.empty_strided(x.shape, x.stride, dtype=x.dtype, device=x.device).zero_()


def call_text(call: Call) -> str:
    """Names a call: equal for equal calls under equal settings, in every process."""
    _, *how = settings()  # the number of threads is the table's
    given = [_text(a) for a in call.args] + [f"{k}={_text(a)}" for k, a in call.kwargs.items()]
    results = ", ".join(map(_text, call.results))
    return f"{call.target}({', '.join(given)}) -> {results}; {', '.join(map(str, how))}"


def _text(arg: Any) -> str:
    if isinstance(arg, tuple):
        return f"[{', '.join(map(_text, arg))}]"
    if isinstance(arg, Operand):
        shape = ", ".join(map(str, arg.shape))
        stride = ", ".join(map(str, arg.stride))
        return f"{dtype_name(arg.dtype)}[{shape}] by ({stride}) on {arg.device} #{arg.memory}"
    return repr(arg)
