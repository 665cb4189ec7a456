"""Keeps a graph's kernels within a byte budget: chooses the values that the forward saves.

A value is a result of an op of the joint graph. The backward recomputes values that it needs and
the forward does not save.

    try the graph as without a budget, and with values recomputed that are cheap to recompute
         │
         v          Problem of the kernels ── choose (solvers/budget) ── values to save
    within the limit? done       ^                                          │ try them
                                 └─────────── above the limit ◄─────────────┘

To try is to let Inductor fuse kernels and to plan them, without generating code (`trial`). Inductor
fuses recomputed ops with other ops of the backward, so the peak of a trial differs from the
predicted peak of the choice. If the peak of a trial is above the limit, the next choice is made on
the Problem of this trial, and saves less. If no such choice is predicted to fit, the next choice is
made on the Problem of one of the first trials (the top of the picture), the one with the lowest
peak, for a lower limit. It is lowered by the bytes by which the trials of all earlier choices were
above it. After ROUNDS choices, the search tries the choices with the lowest predicted peaks,
however long their recomputation takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from roam.capture.free_memory import free_bytes
from roam.core.budget import Budget, Of
from roam.core.errors import BudgetError
from roam.core.machine import Bytes, Seconds
from roam.core.sizes import show_size
from roam.inspect.recomputed import Recomputed
from roam.lowering.budget_error import CompileBudgetError, ways_out
from roam.lowering.inductor.saved_choice import SavedChoice, by_module
from roam.lowering.inductor.trial import Trials, Tried
from roam.planner import Chosen, choose, smallest_peak

ROUNDS = 4  # choices tried at most, before the search tries those with the lowest predicted peaks


@dataclass(frozen=True)
class Fitted:
    """The values that a graph saves to keep a budget.

    Attributes:
        recompute: the value of the option "recompute" with which the graph is compiled.
        saved: names of the values that the forward saves; None to let `recompute` decide.
        limit: the most transient bytes that the plan may take.
        peak: the peak of the plan in the trial of these values, in transient bytes.
        recomputed: what the recomputed ops cost and save, for reports.
    """

    recompute: str | bool | None
    saved: tuple[str, ...] | None
    limit: Bytes
    peak: Bytes
    recomputed: Recomputed


@dataclass(frozen=True)
class _Candidate:
    """A choice of kernels to recompute that may be tried next.

    Attributes:
        graph: the trial for whose kernels the choice was made, and which of them may run again.
        chosen: the kernels to recompute, the predicted peak, and whether it is within the target.
    """

    graph: SavedChoice
    chosen: Chosen

    def saved(self) -> tuple[str, ...]:
        return self.graph.saved(self.chosen.copies)


# by graph (`_Search.key`): the choices with which it kept some budget earlier in this process
_FOUND: dict[object, list[Fitted]] = {}


def fit(trials: Trials, budget: Budget, device: torch.device) -> Fitted:
    """Returns the values that a graph saves to keep the budget, with the least recomputation found.

    If the graph is above the budget, also considers what was found earlier in this process for the
    same graph and other budgets.

    Args:
        trials: tries choices of saved values.
        budget: the user's budget.
        device: the device whose free bytes limit the peak if the budget is "auto".

    Raises:
        BudgetError: no choice was found whose plan is within the budget, or the persistent bytes
            alone are above it.
        UnplannableError: the graph has no plan, or Inductor cannot compile its backward.
        InductorError: Inductor cannot compile the forward.
    """
    stock = trials.of(None)
    problem, peak = stock.problem, stock.plan.peak
    if stock.joint is None and budget.of is Of.SHARE:
        # a budget such as "80%" of the peak is no limit: without a backward nothing is recomputed
        limit = peak
    else:
        try:
            limit = budget.transient(problem.persistent, peak, free_bytes(device))
        except BudgetError as error:
            raise CompileBudgetError.of(error) from None
    search = _Search(trials, stock, limit)
    known = _FOUND.setdefault(search.key, [])
    if peak <= limit:
        return _fitted(search, stock, budget)
    found = search.cheapest()
    if found is not None:
        known.append(_fitted(search, found, budget))
    within = [f for f in known if f.peak <= limit]  # also choices found for an earlier budget
    if not within:
        raise _refusal(search, budget)
    best = min(within, key=lambda f: f.recomputed.seconds)
    told = replace(best.recomputed, budget=budget.text, limit=limit)
    return replace(best, limit=limit, recomputed=told)


def _fitted(search: _Search, found: Tried, budget: Budget) -> Fitted:
    stock = search.stock
    seconds = sum(op.cost for op in stock.problem.ops)
    modules = by_module(stock, found)
    told = Recomputed(budget.text, search.limit, stock.plan.peak, seconds, modules=modules)
    return Fitted(found.recompute, found.saved, search.limit, found.plan.peak, told)


class _Search:
    """A search for the cheapest choice of values to save with which a plan is within a limit.

    Attributes:
        trials: tries choices of saved values.
        stock: the trial of the graph without a budget.
        limit: the limit on the peak, in transient bytes.
        lowest: the trial with the lowest peak so far.
        best: of the trials so far whose peak is within the limit, the one that recomputes for the
            fewest seconds; None if no trial was within the limit.
    """

    def __init__(self, trials: Trials, stock: Tried, limit: Bytes) -> None:
        self.trials, self.stock, self.limit = trials, stock, limit
        self.lowest = stock
        self.best: Tried | None = None

    @property
    def key(self) -> object:
        """A key for the graph: its Problem, and the names of the nodes of its joint graph."""
        joint = self.stock.joint
        names = () if joint is None else tuple(n.name for n in joint.graph.nodes)
        return self.stock.problem.fingerprint, names

    def cheapest(self) -> Tried | None:
        """Returns the trial of the cheapest choice found; None if none is within the limit.

        Tries values of the option "recompute" first. If no trial of these is within the limit,
        tries choices of saved values, and returns the first trial that is within the limit.
        """
        cheap = self.tried("cheap", None)
        bases = [cheap, self.stock]
        if cheap.plan.peak >= self.stock.plan.peak:
            # recomputing cheap values did not lower the peak: one kernel may recompute for many
            # layers at once. So also try to recompute nothing
            bases.append(self.tried(False, None))
        if self.best is not None:
            return self.best
        first = min(bases, key=lambda t: t.plan.peak)
        upcoming, target = self.candidate(first, self.limit), self.limit
        for _ in range(ROUNDS):
            if upcoming is None:
                break
            found = self.tried(first.recompute, upcoming.saved())
            if found.plan.peak <= self.limit:
                return self.best
            target -= found.plan.peak - self.limit
            upcoming = self.candidate(found, self.limit)
            if upcoming is not None and not upcoming.chosen.fits:
                upcoming = self.candidate(first, target)
        self.descend(bases)
        return self.best

    def descend(self, bases: Sequence[Tried]) -> None:
        """Tries choices with the lowest predicted peaks until one is within the limit.

        Does not limit the seconds of recomputation. Makes one choice from each of these trials: the
        one with the lowest peak so far, and those in `bases`. Leaves out a choice whose predicted
        peak is not below the lowest peak so far.
        """
        for base in dict.fromkeys((self.lowest, *bases)):
            if base.joint is not None and self.best is None:
                graph = SavedChoice(base, base.joint)
                low = smallest_peak(graph.step)
                if low.peak < self.lowest.plan.peak:
                    self.tried(base.recompute, graph.saved(low.copies))

    def candidate(self, base: Tried, target: Bytes) -> _Candidate | None:
        """Returns the next choice to try: some values that `base` saves are recomputed instead.

        Returns None if `base` has no backward.

        Args:
            base: the trial on whose Problem the choice is made.
            target: the limit on the predicted peak, in bytes. If no choice found keeps it, the
                choice with the lowest predicted peak is returned, and `chosen.fits` is False.
        """
        if base.joint is None:
            return None
        graph = SavedChoice(base, base.joint)
        return _Candidate(graph, choose(graph.step, target))

    def tried(self, recompute: str | bool | None, saved: tuple[str, ...] | None) -> Tried:
        """Returns the trial of a choice, and notes it in `lowest` and `best` if it is better.

        Args:
            recompute: the value of the option "recompute".
            saved: names of the values that the forward saves; None to let `recompute` decide.
        """
        found = self.trials.of(recompute, saved)
        self.lowest = min(self.lowest, found, key=lambda t: t.plan.peak)
        within = found.plan.peak <= self.limit
        if within and (self.best is None or self.seconds(found) < self.seconds(self.best)):
            self.best = found
        return found

    def seconds(self, tried: Tried) -> Seconds:
        """Returns the seconds of the kernels that, in a trial, run again because of the budget."""
        return sum(m.seconds for m in by_module(self.stock, tried))


def _refusal(search: _Search, budget: Budget) -> BudgetError:
    """Returns the error for a budget that no choice found keeps.

    Its message tells the smallest total bytes found, and the bytes that are needed in any case.
    """
    problem = search.stock.problem
    persistent = problem.persistent
    smallest = search.lowest.plan.peak + persistent
    kept = sum(b.transient for b in problem.buffers if b.kept)
    text = (
        f"{search.trials.graph.name} does not fit into a budget of {budget.text} "
        f"({show_size(search.limit)} transient): the smallest total found with Inductor's kernels "
        f"is {show_size(smallest)}, {show_size(persistent)} of it persistent; outputs and kept "
        f"gradients alone make {show_size(kept + persistent)}. {ways_out(problem)} ATen's own "
        "kernels (lowering='aten') may take less: they run again in more ways."
    )
    figures = {"found": smallest, "least": kept + persistent}
    return CompileBudgetError(text, budget=search.limit + persistent, **figures)
