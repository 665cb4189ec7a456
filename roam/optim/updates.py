"""Carries out releases, folds and updates by the rules of the parameters."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roam.optim import refusals
from roam.optim.fold import STEP, AccumulatingRule, FoldRule, Turn, Update
from roam.optim.max_norm import MaxNorm
from roam.optim.ranks import Alone, Ranks
from roam.optim.stored_states import in_memory

ONE = torch.ones((), dtype=STEP.dtype)


class Release(NamedTuple):
    """A gradient to be absorbed, by the rule of its parameter and into its state."""

    rule: FoldRule
    state: dict[str, Tensor]
    param: Tensor
    grad: Tensor


def release(updates: Sequence[Release]) -> None:
    """Counts updates and carries them out, those with the same rule together."""
    # adds the tensor ONE: a Python number would become a new tensor for each step count
    torch._foreach_add_([update.state["step"] for update in updates], ONE, alpha=1.0)
    by_rule: dict[int, tuple[FoldRule, list[Update]]] = {}
    for update in updates:
        by_rule.setdefault(id(update.rule), (update.rule, []))[1].append(_update(update))
    for rule, together in by_rule.values():
        rule.release(together)


def fold(update: Release, seen: int, scale: float, ranks: Alone | Ranks) -> None:
    """Folds one of `1 / scale` gradients of a rank.

    The update is counted at the end of the mini-batch.

    Args:
        update: the gradient.
        seen: how many of them were folded before.
        scale: 1 / N.
        ranks: the processes that fold gradients of the mini-batch.
    """
    rule = accumulating(update.rule)
    state, param, grad, done = _update(update)
    if seen == 0:
        rule.decay(state, param, done + 1)
        ranks.begin(state, rule.over_ranks)
    rule.fold(state, param, grad, Turn(done + 1, seen, scale))


def combine(ranks: Ranks, updates: Sequence[Release], folded: Container[Tensor]) -> list[Tensor]:
    """Combines the states of a mini-batch over the ranks. Returns the parameters to update.

    These are those with a gradient on any rank.

    Args:
        ranks: the ranks.
        updates: all parameters, each as its own gradient, in an order that all ranks have.
        folded: the parameters that have a gradient on this rank.
    """
    if not updates:
        return []
    here = [update.param in folded for update in updates]
    anywhere = ranks.any_folded(here, updates[0].param.device)
    chosen = [
        pair
        for pair, on_any in zip(zip(updates, here, strict=True), anywhere, strict=True)
        if on_any
    ]
    states = []
    for update, on_this_rank in chosen:
        rule = accumulating(update.rule)
        state, param, _, done = _update(update)
        if not on_this_rank:
            rule.decay(state, param, done + 1)
            ranks.begin(state, rule.over_ranks)
        states.append((state, rule.over_ranks))
    ranks.combine(states)
    return [update.param for update, _ in chosen]


def apply(rule: FoldRule, state: dict[str, Any], param: Tensor, factor: float) -> None:
    """Counts an update and carries it out, at the end of a mini-batch.

    Args:
        rule: the parameter's rule.
        state: its state, in memory.
        param: the parameter.
        factor: of the way along the momentum.
    """
    found = accumulating(rule)
    state["step"] += 1
    if param.is_complex():
        param, state = torch.view_as_real(param), _real(state)
    found = found.shortened(factor) if 0 < factor < 1 else found
    found.apply(state, param, int(state["step"]))


def shortening(
    max_norm: MaxNorm, rules: Sequence[FoldRule], states: Sequence[Mapping[str, Any]]
) -> float:
    """Returns the factor of all updates of a mini-batch, by the norm of their momentum."""
    if max_norm.limit is None:
        return 1.0
    squares = 0.0
    for rule, state in zip(rules, states, strict=True):
        here = _real(in_memory(state))
        squares += float(accumulating(rule).squared_momentum(here, int(here["step"]) + 1))
    return float(max_norm.factor(torch.tensor(squares).sqrt()))


def accumulating(rule: FoldRule) -> AccumulatingRule:
    """Returns the rule. Raises HyperparameterError if it only releases."""
    if not isinstance(rule, AccumulatingRule):
        raise refusals.release_only(type(rule).__name__, rule.release_only)
    return rule


def _update(release: Release) -> Update:
    """Returns the update of a parameter, with real views of complex tensors."""
    _, state, param, grad = release
    step = int(state["step"])
    if param.is_complex():
        grad = torch.view_as_real(grad.resolve_conj())
        param, state = torch.view_as_real(param), _real(state)
    return Update(state, param, grad, step)


def _real(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.view_as_real(t) if t.is_complex() else t for k, t in state.items()}
