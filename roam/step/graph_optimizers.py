"""The optimizers of a graph's parameters, looked up when it runs.

A graph is compiled once, and may run with the parameters of another model, or of another optimizer,
each time. So neither the backend's options nor a plan say whose state a gradient is folded into: a
plan depends on what the folds take, and on nothing else of the optimizers.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import Parameter

from roam.core.folds import Folds
from roam.optim.folding import FoldingOptimizer
from roam.optim.hooks import epoch, owner_of, owners


@dataclass(frozen=True)
class Used:
    """One optimizer's parameters among the inputs of a graph that it has gradients of.

    It keeps neither them nor the optimizer alive, and holds for one epoch. ids: of the parameters,
    by input. twice: those that are several inputs at once. read: the ids of all parameters among
    the inputs. folds: what folding their gradients takes.
    """

    epoch: object
    optimizer: weakref.ref[FoldingOptimizer]
    ids: dict[int, int]
    all_ids: frozenset[int]
    twice: frozenset[int]
    read: frozenset[int]
    folds: Folds

    @staticmethod
    def of(args: Sequence[Any], gradients: Mapping[int, Any]) -> tuple[Used, ...]:
        """Returns one for each optimizer. gradients: the backward's, fake, by input."""
        for owner in owners():  # one may have parameters by an edit of its groups
            owner.look_at_groups()
        now = epoch()
        found: dict[FoldingOptimizer, dict[int, Parameter]] = {}
        for i, a in enumerate(args):
            if i in gradients and isinstance(a, Parameter) and a.requires_grad:
                optimizer = owner_of(a)
                if isinstance(optimizer, FoldingOptimizer):
                    found.setdefault(optimizer, {})[i] = a
        read = frozenset(id(a) for a in args if isinstance(a, Parameter))
        return tuple(
            Used(
                now,
                weakref.ref(optimizer),
                {i: id(p) for i, p in at.items()},
                frozenset(map(id, at.values())),
                _twice(map(id, at.values())),
                read,
                tuple((i, optimizer.needs(p, gradients[i])) for i, p in at.items()),
            )
            for optimizer, at in found.items()
        )


def _twice(ids: Iterable[int]) -> frozenset[int]:
    return frozenset(i for i, n in Counter(ids).items() if n > 1)
