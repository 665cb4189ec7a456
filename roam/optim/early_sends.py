"""Sends states over the ranks while the backward of the last micro-batch still runs.

    backward           fold c    fold b    fold a
    communication                c ─────── b ─────── a, and what is small or a code     step()

All ranks must start the same all_reduces in the same order, and a gradient may come on some ranks
only. So large states are sent in one order on all ranks, each as soon as it and all before it have
had their last fold. Then step() asks how far the ranks have come, and those behind send as much.

A state that is sent by itself needs no memory for that. Small ones, which are sent together, and
codes, which are decoded, wait for step(), since no plan of the backward counts the copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from roam.optim.fold import AccumulatingRule, FoldRule, State
from roam.optim.ranks import Part, Ranks

Entry = tuple[Tensor, str]  # a parameter, and the name of a state


class Owner(Protocol):
    """What is used of an optimizer."""

    def named(self) -> Iterator[tuple[str, Tensor]]: ...

    def rule_of(self, param: Tensor) -> FoldRule: ...

    def state_of(self, param: Tensor) -> State: ...


@dataclass
class EarlySends:
    """What a rank has sent of the states of a mini-batch.

    Attributes:
        ranks: the ranks.
        order: what may be sent early, alike on all ranks; None until a gradient is complete.
        sent: how much of it is sent.
    """

    ranks: Ranks
    order: list[Entry] | None = None
    sent: int = 0
    _waits: list[Callable[[], None]] = field(default_factory=list)

    def go_on(self, owner: Owner, complete: Callable[[Tensor], bool]) -> None:
        """Sends states up to the first one that is not complete.

        Args:
            owner: the optimizer.
            complete: returns whether all gradients of a parameter are folded.
        """
        order = self.ordered(owner)
        while self.sent < len(order) and complete(order[self.sent][0]):
            self._send(owner)

    def catch_up(self, owner: Owner, most: int) -> set[Entry]:
        """Sends as many states as the rank that has sent most. Returns them."""
        order = self.ordered(owner)
        while self.sent < most:
            self._send(owner)
        return set(order[:most])

    def finish(self) -> None:
        """Waits until all that was sent is combined. Ends the mini-batch."""
        for wait in self._waits:
            wait()
        self.order, self.sent = None, 0
        self._waits.clear()

    def ordered(self, owner: Owner) -> list[Entry]:
        if self.order is None:
            entries = (entry for _, param in owner.named() for entry in self._early(owner, param))
            self.order = [*entries][::-1]  # about the order of the backward
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
    """Stores nothing: what was sent is the state itself."""
