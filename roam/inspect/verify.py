"""The bound of a plan, computed again apart from every solver, with networkx.

    ran ──∞── ancestors          `ran` and `later` are the two sides of the moment at which an op
     │            │ size         runs. A buffer node is cut off from its maker (its bytes are alive)
     └── maker ──[b]──∞── users  if the maker has run and a user has not. Every arc back to what an
                  later          op waits for is infinite: whoever has run, so has that.

The minimum cut is the least that may be alive then (Picard 1976). Nothing of `solvers/` or of
`core/bounds.py` is used, so that a mistake there is found here rather than repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import networkx as nx

from roam.core.errors import FigureError
from roam.core.lifetime import can_take, live_curve
from roam.core.plan import Plan
from roam.core.problem import BufferId, OpId, Problem
from roam.core.proof import Cut, Kept, MustLive, show_proof
from roam.core.sizes import show_size

Node = Any
RAN, LATER = "ran", "later"


@dataclass(frozen=True)
class Verified:
    """How the bound of a plan was proven again.

    claimed: bytes, the bound that the plan states, by `proof` in words. computed: bytes that
    networkx proves by the same reason, or, if that was a search, at the plan's worst moment.
    searched: bytes that roam's own proofs reach, done again when the plan was read.
    """

    claimed: int
    proof: str
    computed: int
    searched: int

    @property
    def independently(self) -> bool:
        """Whether networkx alone proves the bound."""
        return self.computed >= self.claimed

    @property
    def holds(self) -> bool:
        """Whether the bound is proven at all."""
        return max(self.computed, self.searched) >= self.claimed

    def __str__(self) -> str:
        bound = f"lower bound {show_size(self.claimed)} by {self.proof}"
        if self.independently:
            return f"{bound}: verified by networkx"
        alone = f"networkx alone proves {show_size(self.computed)}"
        if self.holds:
            return f"{bound}: proven again by roam's own search; {alone}"
        return f"{bound}: not proven again; {alone}"


def verify(problem: Problem, plan: Plan) -> Verified:
    """Computes the bound of a plan once more.

    What a search has proven is not searched again: the result says how far a cut reaches.

    Args:
        plan: a plan that `check` accepts and whose bound `prove` has proven as far as it can.

    Raises:
        FigureError: the reason that the plan names gives less than the plan's bound.
    """
    claimed, proof = plan.claimed_bound, show_proof(plan.proof, problem)
    searched = plan.lower_bound
    steps = Steps(problem)
    match plan.proof:
        case Kept():
            computed = steps.kept()
        case MustLive(op):
            computed = steps.alive_in_any_case(op)
        case Cut(op):
            computed = steps.least_alive(op)
        case _:
            computed = steps.least_alive(_worst(problem, plan)) if plan.order else steps.kept()
            return Verified(claimed, proof, computed, searched)
    found = Verified(claimed, proof, computed, searched)
    if not found.independently:
        raise FigureError(
            f"the plan states a lower bound of {claimed} bytes ({proof}), which is {computed} bytes"
        )
    return found


def _worst(problem: Problem, plan: Plan) -> OpId:
    curve = live_curve(problem, plan.order, plan.reuse)
    return plan.order[curve.index(max(curve))]


class Steps:
    """Who waits for whom in one problem, as a networkx graph of ops."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.waits = nx.DiGraph()
        self.waits.add_nodes_from(range(len(problem.ops)))
        for i, before in enumerate(problem.predecessors):
            self.waits.add_edges_from((p, i) for p in before)

    def kept(self) -> int:
        """Returns the bytes that the user keeps at the end."""
        buffers = self.problem.buffers
        return sum(b.transient for b in buffers if b.kept)

    def sides(self, op: OpId) -> dict[OpId, Node]:
        """Returns for every op whether it runs before `op` or not, or, if it may do both, itself.

        `op` counts as not having run.
        """
        before, after = nx.ancestors(self.waits, op), nx.descendants(self.waits, op)
        phase = self.problem.ops[op].phase
        sides: dict[OpId, Node] = {}
        for i, other in enumerate(self.problem.ops):
            if other.phase < phase or i in before:
                sides[i] = RAN
            elif other.phase > phase or i in after or i == op:
                sides[i] = LATER
            else:
                sides[i] = i
        return sides

    def alive_in_any_case(self, op: OpId) -> int:
        """Returns the bytes that are alive while `op` runs in every order."""
        sides = self.sides(op)
        alive = 0
        for makers, users, size in self.buffers(sides):
            if makers == RAN and LATER in users:
                alive += size
        return alive + self.own(op, sides)

    def least_alive(self, op: OpId) -> int:
        """Returns the fewest bytes alive while `op` runs, over all moments at which it may."""
        sides = self.sides(op)
        flow = nx.DiGraph()
        flow.add_nodes_from((RAN, LATER))
        for before, after in self.waits.edges:
            if sides[before] != sides[after]:
                flow.add_edge(sides[after], sides[before])  # no capacity: infinite
        for number, (maker, users, size) in enumerate(self.buffers(sides)):
            if maker != LATER and users:
                flow.add_edge(maker, ("buffer", number), capacity=size)
                flow.add_edges_from((("buffer", number), user) for user in users)
        least: int = nx.maximum_flow_value(flow, RAN, LATER)
        return least + self.own(op, sides)

    def buffers(self, sides: dict[OpId, Node]) -> list[tuple[Node, set[Node], int]]:
        """Returns the sides of the maker and of the users of every buffer that the step makes."""
        found = []
        for b, buffer in enumerate(self.problem.buffers):
            maker = self.problem.maker[b]
            if maker is not None and buffer.transient:
                users = {sides[u] for u in self.problem.users[b]}
                found.append(
                    (sides[maker], users | ({LATER} if buffer.kept else set()), buffer.transient)
                )
        return found

    def own(self, op: OpId, sides: dict[OpId, Node]) -> int:
        """Returns the bytes that `op` adds while it runs, written over all that may die there."""
        problem, pairs = self.problem, nx.Graph()
        for made, dying in problem.ops[op].over:
            if can_take(problem, made, dying) and not self.outlives(dying, op, sides):
                size = problem.buffers[made].size
                pairs.add_edge(("made", made), ("dying", dying), weight=size)
        shared = nx.max_weight_matching(pairs)
        saved = sum(pairs.edges[pair]["weight"] for pair in shared)
        made = sum(problem.buffers[b].transient for b in problem.ops[op].creates)
        return made + problem.ops[op].scratch - saved

    def outlives(self, b: BufferId, op: OpId, sides: dict[OpId, Node]) -> bool:
        """Whether a buffer that `op` uses is certainly used later as well."""
        return any(sides[u] == LATER and u != op for u in self.problem.users[b])
