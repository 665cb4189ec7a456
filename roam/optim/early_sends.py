"""Sends states to the other ranks while the backward of the last micro-batch still runs.

    backward           fold c    fold b    fold a
    communication                c ─────── b ─────── a, small states, codes     step()

All ranks must start the same all_reduces in the same order, but a parameter may get a gradient on
some ranks only. So all ranks send large states in one fixed order. A state is sent as soon as the
state itself, and all states before it in this order, have had their last fold. step() finds the
largest number of states that any rank has sent, and every rank sends as many.

A large state has at least 1 MiB (`Ranks.small`). It is sent without a copy, if it is contiguous.
step() sends all other states: small ones, which are copied into one tensor, codes of 8 bits, which
are decoded, and those of complex parameters. Plans of the backward count no bytes for these copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from roam.optim.fold import AccumulatingRule, FoldRule, State
from roam.optim.ranks import Part, Ranks

Entry = tuple[Tensor, str]  # a parameter, and the name of one of its states


class Owner(Protocol):
    """The methods of an optimizer that this module calls."""

    def named(self) -> Iterator[tuple[str, Tensor]]: ...

    def rule_of(self, param: Tensor) -> FoldRule: ...

    def state_of(self, param: Tensor) -> State: ...


@dataclass
class EarlySends:
    """Sends large states while the backward runs, and counts those that this rank has sent.

    Attributes:
        ranks: the ranks that train one model; starts the communication with them.
        order: (parameter, name of its state) for each state that may be sent early, in the same
            order on all ranks; None until the order is first needed in a mini-batch.
        sent: how many states of `order` are sent, counted from its beginning.
    """

    ranks: Ranks
    order: list[Entry] | None = None
    sent: int = 0
    _waits: list[Callable[[], None]] = field(default_factory=list)

    def go_on(self, owner: Owner, complete: Callable[[Tensor], bool]) -> None:
        """Sends the next states of `order`, and stops before one that a gradient may still change.

        Args:
            owner: the optimizer.
            complete: returns whether all gradients of a parameter in this mini-batch are folded.
        """
        order = self.ordered(owner)
        while self.sent < len(order) and complete(order[self.sent][0]):
            self._send(owner)

    def catch_up(self, owner: Owner, most: int) -> set[Entry]:
        """Sends states of `order` until its first `most` states are sent. Returns these states."""
        order = self.ordered(owner)
        while self.sent < most:
            self._send(owner)
        return set(order[:most])

    def finish(self) -> None:
        """Waits until the states sent are combined over all ranks, and resets this object.

        The next mini-batch begins with no state sent.
        """
        for wait in self._waits:
            wait()
        self.order, self.sent = None, 0
        self._waits.clear()

    def ordered(self, owner: Owner) -> list[Entry]:
        if self.order is None:
            entries = (entry for _, param in owner.named() for entry in self._early(owner, param))
            # a backward folds the gradients about in the reverse order of the parameters
            self.order = [*entries][::-1]
        return self.order

    def _early(self, owner: Owner, param: Tensor) -> Iterator[Entry]:
        rule = owner.rule_of(param)
        if isinstance(rule, AccumulatingRule) and param.requires_grad and not param.is_complex():
            for spec in rule.state(param):
                large = spec.bytes >= self.ranks.small and spec.dtype.is_floating_point
                if spec.name in rule.over_ranks and large:
                    yield param, spec.name

    def _send(self, owner: Owner) -> None:
        assert self.order is not None
        param, name = self.order[self.sent]
        rule, state = owner.rule_of(param), owner.state_of(param)
        assert isinstance(rule, AccumulatingRule)
        self._waits.append(self.ranks.start([Part(state[name], rule.over_ranks[name], _nothing)]))
        self.sent += 1


def _nothing(numbers: Tensor) -> None:
    """Does nothing. It is called once a state is combined over the ranks, to store the result.

    A state that is sent early is no copy: the ranks have combined it in place.
    """
