"""The searches that `leaf_search.py` tries, one after another, on a leaf: a segment of a phase.

    minimum cuts and a short exact search     a better order, a higher bound
    a first descent of local search           a better order
    wider and wider beams                     a better order, a higher bound
    all of local search                       a better order
    CP-SAT, if the leaf is small enough       a better order, a higher bound
    a long exact search                       a better order, a higher bound

A descent is a series of annealings (`local_search.py`). A beam searches sets of ops
(`beam_search.py`). The descent comes before the beams, since it takes little work and often finds
the best order. A beam then has only to prove that there is no better one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from roam.core.problem import OpId
from roam.core.proof import UNKNOWN, Bound
from roam.solvers.answer import Answer
from roam.solvers.bound.min_cut import cut_bound
from roam.solvers.order import leaf_cpsat
from roam.solvers.order.bisection import HASTY, settle
from roam.solvers.order.leaf import INSIDE, Leaf
from roam.solvers.order.local_search import Effort, local_search
from roam.solvers.order.widening import widen
from roam.solvers.work import Work

CUTS_SHARE = 0.1  # share of the remaining work that one series of minimum cuts may spend
# the effort of the first descent: it ends after more annealings in vain than the descents of a
# whole local search, and no further descents follow it
FIRST_DESCENT = Effort(in_vain=16, kicks=0)


@dataclass(frozen=True)
class Searches:
    """Which searches may be used if the first, short exact search does not find the best order.

    A phase is cut into leaves, which are segments that are ordered one by one. Minimum cuts and
    exact searches of leaves are always used.

    Attributes:
        tree: whether the phase is cut at moments at which a cut does not lose the best order (safe
            key points); if not, the whole phase is one leaf.
        beams: whether to search sets of ops with wider and wider beams.
        local_search: whether to use simulated annealing.
        cp_sat: whether to ask CP-SAT about leaves that are small enough.
    """

    tree: bool = True
    beams: bool = True
    local_search: bool = True
    cp_sat: bool = True


@dataclass
class Placed:
    """A leaf and the best order found for it so far.

    Attributes:
        leaf: a segment as a Problem of its own.
        order: the best order of the segment's ops, by their ids in the leaf.
        peak: the peak of that order, in bytes.
    """

    leaf: Leaf
    order: list[OpId]
    peak: int = field(init=False)

    def __post_init__(self) -> None:
        self.peak = self.leaf.peak(self.order)

    @property
    def ops(self) -> list[OpId]:
        return self.leaf.to_step(self.order)


class Stage(NamedTuple):
    """A search of one leaf, which is a segment as a Problem of its own.

    Attributes:
        name: the name by which a plan mentions the search if it found the order.
        search: called with the leaf and its best known order, a target in bytes, and a limit on the
            work. Searches for an order whose peak is at most the target. Returns the best order,
            and the lower bound proven on the leaf's peak if that is above the target; else the
            target, which need not be a bound.
        share: the share of the remaining work that the search may spend.
        wanted: returns whether the given `Searches` allow this search.
    """

    name: str
    search: Callable[[Placed, int, Work], Answer[list[OpId]]]
    share: float = 1.0
    wanted: Callable[[Searches], bool] = lambda _: True


def search_briefly(top: Placed, target: int, work: Work) -> Answer[list[OpId]]:
    return bisect(top, cut_leaf(top, target, work), work, HASTY)


def cut_leaf(top: Placed, known: int, work: Work) -> int:
    """Returns the highest lower bound that minimum cuts prove on the peak of a leaf, in bytes.

    A leaf is a segment as a Problem of its own. Returns `known` if no cut proves more. The cuts of
    a leaf can prove more than cuts at the same ops of the step: only the sets of ops count that
    contain all ops before the leaf and none after the leaf.
    """
    order, curve = top.leaf.whole(top.order)
    with work.share(CUTS_SHARE):
        return cut_bound(top.leaf.problem, order, curve, Bound(known, UNKNOWN), work).bound


def bisect(top: Placed, target: int, work: Work, effort: float = 1.0) -> Answer[list[OpId]]:
    """Searches exactly for an order of a leaf that keeps within a limit, one limit after another.

    Args:
        top: the leaf (a segment as a Problem of its own) and its best known order.
        target: the peak at which the search ends, in bytes.
        work: limits the work and the time of the search.
        effort: the share of the usual limit on ops run that the search may use for each limit on
            live bytes.

    Returns:
        The best order, its peak, and the lower bound proven on the leaf's peak if that is above
        `target`; else `target`, which need not be a bound.
    """
    return settle(top.leaf.problem, INSIDE, top.order, top.leaf.peak, target, work, effort)


def search_beams(top: Placed, target: int, work: Work) -> Answer[list[OpId]]:
    return widen(top.leaf.problem, INSIDE, top.order, top.leaf.peak, target, work)


def descend(top: Placed, target: int, work: Work) -> Answer[list[OpId]]:
    return local_search(top.leaf.problem, INSIDE, top.order, target, FIRST_DESCENT, work)


def search_locally(top: Placed, target: int, work: Work) -> Answer[list[OpId]]:
    return local_search(top.leaf.problem, INSIDE, top.order, target, work=work)


def ask_cp_sat(top: Placed, target: int, work: Work) -> Answer[list[OpId]]:
    leaf = top.leaf

    def ask(most: int) -> Answer[list[OpId] | None]:
        return leaf_cpsat.keeps_within(leaf.problem, INSIDE, most, top.order, work)

    return settle(leaf.problem, INSIDE, top.order, leaf.peak, target, work, ask=ask)


STAGES = (
    Stage("valleys", search_briefly),
    Stage("local search", descend, share=0.3, wanted=lambda searches: searches.local_search),
    Stage("beams", search_beams, share=0.4, wanted=lambda searches: searches.beams),
    # may spend most of the work left, as the searches after this one seldom find better orders
    Stage("local search", search_locally, share=0.8, wanted=lambda searches: searches.local_search),
    Stage("CP-SAT", ask_cp_sat, wanted=lambda searches: searches.cp_sat),
    Stage("valleys", bisect),
)


def wanted_stages(searches: Searches) -> list[Stage]:
    """Returns the stages that `searches` allows, in the order in which they are tried on a leaf.

    A stage is a search of one leaf, with its share of the work.
    """
    return [stage for stage in STAGES if stage.wanted(searches)]
