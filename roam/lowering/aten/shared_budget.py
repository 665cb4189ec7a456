"""Keeps the runs of a graph within the user's budget, together with all that other runs hold.

A plan keeps the budget together with what was held when the graph was compiled. But a program may
run two forwards before a backward, keep a graph for a second backward, or not free gradients. So
each run first looks at what is held now, and raises BudgetError if a sum is above the budget:

    forward    its peak + what others hold                      <= budget
               its backward's peak + what others hold           <= budget
    backward   its peak + what others hold                      <= budget
               what its forward took, with all beside it        <= budget
               (its peak is that of a backward without the plan if retain_graph=True or saved
               tensor hooks forbid the plan)

The fourth sum matters if the budget is a share and other graphs follow (`SharedBudget.deferred`):
then the limit is not known before the backward, and a forward raises nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from roam.capture.graph_names import DynamoGraph
from roam.core.budget import Beside, Budget, Following, Of
from roam.core.errors import BudgetError
from roam.core.machine import Bytes
from roam.core.sizes import show_size
from roam.lowering.aten.footprint import Share
from roam.lowering.aten.lowered import Lowered
from roam.lowering.protocol import Boxed
from roam.runtime.held_memory import Held, Run, What, hold, persistent, run_of

WAYS_OUT = (
    "What would lower it: the backward of each forward before the next forward; one backward of a "
    "sum of losses in place of retain_graph=True; no saved tensor hooks; "
    "zero_grad(set_to_none=True) before the forward; one graph in place of several; a larger budget"
)


@dataclass(frozen=True)
class _Sums:
    """The bytes of a run and of all memory held beside it, and their limit.

    Attributes:
        held: the memory held beside the run.
        beside: what a budget needs of it.
        taken: transient bytes of the run and of all held beside it.
        most: the limit on `taken`.
        persistent: persistent bytes of the run and of those beside it; 0 unless the budget is a
            total.
    """

    held: Held
    beside: Beside
    taken: Bytes
    most: Bytes
    persistent: Bytes


@dataclass(frozen=True)
class SharedBudget:
    """Runs the forwards and backwards of one graph, each only if it keeps the budget.

    Attributes:
        graph: what dynamo tells of the graph: its name, and whether other graphs follow.
        budget: the user's budget.
        trains: whether the graph has a backward. A budget that is a share does not limit a graph
            without one: it is a share of what a training step takes.
        note: takes what other graphs took between a forward and its backward, None if this graph
            was one of them, and the bytes that were left of the budget meanwhile. Called when the
            backward begins, if the budget is a total.
    """

    graph: DynamoGraph
    budget: Budget
    trains: bool
    note: Callable[[Following | None, float], None]

    @property
    def limits(self) -> bool:
        """Whether forwards are checked: not if the budget is a share and there is no backward."""
        return self.trains or self.budget.of is not Of.SHARE

    @property
    def deferred(self) -> bool:
        """Whether only the backward raises BudgetError, also for what its forward took.

        True if the budget is a share ("60%") and other graphs follow: the share is one of the whole
        step's bytes, which are not known while the forward runs.
        """
        return self.budget.of is Of.SHARE and self.graph.others_follow

    def forward(self, planned: Lowered, args: list[Any]) -> Sequence[Any]:
        """Runs the forward as planned. Marks the tensors that it leaves alive as held by this run.

        Raises:
            BudgetError: together with what is held now, the forward, or later its backward, would
                take more than the budget. Not raised if the budget is a share ("60%") and other
                graphs follow, or the graph has no backward.
        """
        share, footprint = _share(planned), _share(planned).footprint
        run = Run(self.graph.name, share, without=share.unlimited.left, most=share.most or 0)
        if self.budget.of is Of.TOTAL:
            run.persistent = persistent(args, footprint.persistent)
        if self.limits:
            without = share.unlimited.peak
            run.taken = self._checked(run, args, footprint.forward, without, "a forward").taken
            if self.trains:
                doing = "the backward of a forward"
                self._checked(run, args, footprint.backward, without, doing, earlier=False)
        results = planned.forward(args)
        hold(run, What.SAVED, (results[i] for i in footprint.saved))
        hold(run, What.OUTPUT, (results[i] for i in footprint.outputs))
        return results

    def backward(self, planned: Lowered, args: list[Any]) -> Sequence[Any]:
        """Runs the backward as planned. Marks the gradients that it leaves as held by its run.

        Raises:
            BudgetError: together with what is held now, the backward would take more than the
                budget, or its forward took more.
        """
        share = _share(planned)
        assert planned.backward is not None
        run = self._run_of(share, args) or Run(self.graph.name, share, most=share.most or 0)
        without, need = share.unlimited.peak, share.footprint.backward
        sums = self._checked(run, args, need, without, "a backward", late=True)
        self._note_following(run, args, sums)
        results = planned.backward(args)
        run.done = True
        hold(run, What.GRADIENT, (results[i] for i in share.footprint.gradients))
        return results

    def plain_backward(
        self, plans: Sequence[Lowered], args: list[Any], why: str, backward: Boxed
    ) -> Sequence[Any]:
        """Runs the backward without a plan, so that every op allocates its results.

        Marks the gradients that it leaves alive as held by its run.

        Args:
            plans: the plans by which the forward may have run, at least one. If the forward's run
                is not found, the plan whose backward takes most without a plan is assumed.
            args: the inputs of the backward.
            why: the reason why the backward cannot run as planned.
            backward: runs the backward without a plan.

        Raises:
            BudgetError: together with what is held now, the backward without a plan would take
                more than the budget, or its forward took more.
        """
        share = max(map(_share, plans), key=lambda s: s.footprint.unplanned)
        run = self._run_of(share, args)
        if run is None:  # saved tensor hooks have moved the marked tensors
            run = Run(self.graph.name, share, most=share.most or 0)
        footprint, without = run.share.footprint, run.share.unlimited.unplanned
        doing = f"a backward without its plan ({why})"
        self._checked(run, args, footprint.unplanned, without, doing, late=True)
        results = backward(args)
        hold(run, What.GRADIENT, (results[i] for i in footprint.gradients))
        return results

    def _run_of(self, share: Share, args: Sequence[Any]) -> Run | None:
        """Returns the run whose forward saved the tensors in `args`, the backward's inputs.

        A mark on these tensors names the run. If no mark is left, returns the graph's latest run
        that waits for its backward; None if there is none. `share` tells which inputs the forward
        made.
        """
        return run_of(self.graph.name, (args[i] for i in share.footprint.given))

    def _checked(
        self,
        run: Run,
        args: Sequence[Any],
        need: Bytes,
        without: Bytes,
        doing: str,
        *,
        earlier: bool = True,
        late: bool = False,
    ) -> _Sums:
        """Returns the bytes that a run takes together with what is held beside it.

        The transient ones are no less than what the run's forward took (`Run.taken`). Unless the
        budget is a total, also raises the limits of the run and of all pending runs (`Run.most`) to
        the largest of them. If it is one, notes in all pending runs what is taken between their
        forward and their backward (`Run.between`).

        Args:
            run: the run: a forward, and the backward that follows it.
            args: the inputs of the forward or backward that is about to run.
            need: transient bytes of this forward or backward alone.
            without: transient bytes that it would take alone if the graph had no budget.
            doing: names what runs, for the error.
            earlier: whether to count outputs and gradients left from earlier steps. They never
                count unless the budget is a total.
            late: whether the backward runs, so that all graphs of the step are known.

        Raises:
            BudgetError: the budget allows fewer bytes. Not raised for a forward if only backwards
                raise (`deferred`).
        """
        look = partial(self._sums, run, args, need, without, earlier=earlier, late=late)
        sums, raises = look(), late or not self.deferred
        if raises and sums.taken > sums.most:
            # some of what is held may be garbage: tensors in reference cycles. Their marks are
            # counted until nothing refers to them, and `sums` does.
            del sums
            gc.collect()
            sums = look()
        if raises and sums.taken > sums.most:
            raise BudgetError(
                f"{self.graph.name}: {doing} takes {show_size(sums.taken)} together with what is "
                f"held beside it ({sums.held}), and the budget of {self.budget.text} allows "
                f"{show_size(sums.most)}. {WAYS_OUT}",
                budget=sums.most + sums.persistent,
                found=sums.taken + sums.persistent,
            )
        if self.budget.of is Of.TOTAL:
            self._note_between(run, sums)
        return sums

    @staticmethod
    def _note_between(run: Run, sums: _Sums) -> None:
        """Notes in each pending run how much this run and all held beside it add to what it left.

        The arguments are those of `_note_following`.
        """
        for other in sums.held.pending:
            then = sums.held.until(other).to_budget(other)
            before = then.now + then.persistent + sum(other.persistent.values())
            added = sums.taken + sums.persistent - before
            other.between = max(other.between, inf if other.graph == run.graph else added)
            other.spare = min(other.spare, sums.most - sums.taken)

    def _note_following(self, run: Run, args: Sequence[Any], sums: _Sums) -> None:
        """Notes what other graphs took since a run's forward. Its backward is about to begin.

        Notes nothing if the budget is no total.

        Args:
            run: the run.
            args: the inputs of the backward.
            sums: the bytes that it takes together with what is held beside it.
        """
        if self.budget.of is not Of.TOTAL:
            return
        following = None
        if run.between < inf:
            tangents = (args[i] for i in run.share.footprint.tangents)
            then = sums.held.until(run).to_budget(run, args, tangents)
            now = sums.beside
            left = now.now + now.persistent - then.now - then.persistent
            following = Following(int(run.between), left)
        self.note(following, run.spare)

    def _sums(
        self,
        run: Run,
        args: Sequence[Any],
        need: Bytes,
        without: Bytes,
        *,
        earlier: bool,
        late: bool,
    ) -> _Sums:
        """Adds up what a run takes and what is held beside it. The arguments: as of `_checked`.

        Unless the budget is a total, raises limits (`Run.most`) as `_checked` says.
        """
        held = Held.beside(run, earlier=earlier and self.budget.of is Of.TOTAL)
        tangents = run.share.footprint.tangents if late else ()
        beside = held.to_budget(run, args, (args[i] for i in tangents))
        most = self._most(run, beside, without)
        # pending runs have one limit, the largest: a share grows with each graph that runs
        if self.budget.of is not Of.TOTAL:
            most = max([most, *(other.most for other in held.pending)])
            for each in (run, *held.pending):
                each.most = most
        there = 0
        if self.budget.of is Of.TOTAL:
            there = run.share.footprint.persistent + beside.persistent
        return _Sums(held, beside, max(need + beside.now, run.taken), most, there)

    def _most(self, run: Run, beside: Beside, without: Bytes) -> Bytes:
        """Returns the transient bytes that the run and all held beside it may take together.

        For the budget "auto", returns the limit known so far (`Run.most`); for a share ("60%"), no
        less than that limit.

        without: transient bytes of the run alone, if the graph had no budget.
        """
        if self.budget.of is not Of.FREE:
            there = run.share.footprint.persistent
            most = self.budget.transient(there, without, 0, beside) + beside.now
            return max(run.most, most) if self.budget.of is Of.SHARE else most
        return run.most


def _share(planned: Lowered) -> Share:
    assert planned.share is not None, "a plan for a budget says what it takes"
    return planned.share
