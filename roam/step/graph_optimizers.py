"""Looks up the optimizers of a graph's parameters, each time the graph runs.

A graph is compiled once, and may run with the parameters of another model, or of another optimizer,
each time. So neither the backend's options nor a plan name the optimizer that folds a gradient: a
plan depends only on the bytes that the folds need.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import Parameter

from roam.core.folds import FoldNeeds, Folds
from roam.optim.folding import FoldingOptimizer
from roam.optim.formula import BoundFormula
from roam.optim.hooks import epoch, owner_of, owners
from roam.options import Options

# what a plan has to know of folding an optimizer's gradient of a parameter
Needs = Callable[[FoldingOptimizer, Parameter, Any], FoldNeeds]


def needs_of(options: Options) -> Needs:
    """Returns `FoldingOptimizer.needs`; with states in a tier, it first moves them there."""
    to = options.states
    if to is None:
        return FoldingOptimizer.needs

    def needs(optimizer: FoldingOptimizer, parameter: Parameter, gradient: Any) -> FoldNeeds:
        optimizer.keep_states_in(to)
        return optimizer.needs(parameter, gradient)

    return needs


def offline_needs_of(options: Options) -> Needs:
    """Returns `FoldingOptimizer.needs` with states where they would be, wherever they are."""
    to = options.states

    def needs(optimizer: FoldingOptimizer, parameter: Parameter, gradient: Any) -> FoldNeeds:
        return optimizer.needs(parameter, gradient, to)

    return needs


@dataclass(frozen=True)
class Used:
    """The graph inputs that are parameters of one optimizer and receive a gradient.

    Keeps neither parameters nor optimizer alive. Valid for one epoch (`optim.hooks.epoch`).

    Attributes:
        ids: by index of a graph input, the id() of the parameter.
        twice: ids of parameters that are several inputs at once.
        read: ids of all parameters among the inputs, also of those without an optimizer.
        folds: the inputs, each with the bytes that folding its gradient needs.
    """

    epoch: object
    optimizer: weakref.ref[FoldingOptimizer]
    ids: dict[int, int]
    all_ids: frozenset[int]
    twice: frozenset[int]
    read: frozenset[int]
    folds: Folds

    @staticmethod
    def of(
        args: Sequence[Any],
        gradients: Mapping[int, Any],
        needs: Needs = FoldingOptimizer.needs,
    ) -> tuple[Used, ...]:
        """Returns one `Used` for each optimizer that owns parameters among the inputs.

        Args:
            args: the inputs of the graph.
            gradients: by index of an input, its gradient in the backward, as a fake tensor.
            needs: returns what a plan has to know of a fold.
        """
        for owner in owners():  # the user may have added parameters to an optimizer
            owner.look_at_groups()
        found: dict[FoldingOptimizer, dict[int, Parameter]] = {}
        for i, a in enumerate(args):
            if i in gradients and isinstance(a, Parameter) and a.requires_grad:
                optimizer = owner_of(a)
                if isinstance(optimizer, FoldingOptimizer):
                    found.setdefault(optimizer, {})[i] = a
        folds = {
            optimizer: tuple((i, needs(optimizer, p, gradients[i])) for i, p in at.items())
            for optimizer, at in found.items()
        }
        now = epoch()
        read = frozenset(id(a) for a in args if isinstance(a, Parameter))
        return tuple(
            Used(
                now,
                weakref.ref(optimizer),
                {i: id(p) for i, p in at.items()},
                frozenset(map(id, at.values())),
                _twice(map(id, at.values())),
                read,
                folds[optimizer],
            )
            for optimizer, at in found.items()
        )


class FoldsOfOptimizers(ABC):
    """The folds of one run of a graph, for those that its own kernels carry out.

    A subclass knows which optimizer folds which gradients.
    """

    @abstractmethod
    def by_optimizer(self) -> Iterator[tuple[FoldingOptimizer, Mapping[int, Parameter]]]:
        """Yields each optimizer that folds gradients and, by input of the graph, its parameters."""

    def formulas(self) -> dict[int, BoundFormula] | None:
        """Returns, by input of the graph, the formulas by which it folds gradients itself.

        Returns None if Python has to carry out one of the folds.
        """
        found: dict[int, BoundFormula] = {}
        for optimizer, own in self.by_optimizer():
            formulas = optimizer.formulas([*own.values()])
            if formulas is None:
                return None
            found |= zip(own, formulas, strict=True)
        return found

    def count_folds(self) -> None:
        """Counts all folds. To be called once the graph has carried them out by `formulas`."""
        for optimizer, own in self.by_optimizer():
            optimizer.count_folds([*own.values()])


def _twice(ids: Iterable[int]) -> frozenset[int]:
    return frozenset(i for i, n in Counter(ids).items() if n > 1)
