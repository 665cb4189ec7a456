"""Carries out the rules of parameters: releases, folds and updates.

A release updates a parameter by a gradient at once (mode "release"). In mode "accumulate", folds
absorb gradients into the state, and an update of the parameter follows at the end of a mini-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from roam.optim import refusals
from roam.optim.early_sends import EarlySends, Owner
from roam.optim.fold import STEP, AccumulatingRule, FoldRule, State, Turn, Update
from roam.optim.formula import BoundFormula
from roam.optim.max_norm import MaxNorm
from roam.optim.ranks import Alone, Part, Ranks
from roam.optim.stored_states import arrived, fetch, in_memory, is_stored

ONE = torch.ones((), dtype=STEP.dtype)


class Release(NamedTuple):
    """A gradient to absorb, with its parameter, the parameter's rule and its state."""

    rule: FoldRule
    state: dict[str, Tensor]
    param: Tensor
    grad: Tensor


def release(updates: Sequence[Release], *, counted: bool = False) -> None:
    """Updates parameters by their gradients, with one call of each rule for all its parameters.

    counted: whether the step counts ("step" in the states) include these updates already. If not,
        counts them first. A gradient that is folded in several blocks of rows counts once, with its
        first block.
    """
    if not counted:
        count([update.state for update in updates])
    by_rule: dict[int, tuple[FoldRule, list[Update]]] = {}
    for update in updates:
        by_rule.setdefault(id(update.rule), (update.rule, []))[1].append(_update(update))
    for rule, together in by_rule.values():
        rule.release(together)


def count(states: Sequence[State]) -> None:
    """Adds 1 to the step count of each parameter, "step" in its state."""
    # adds the tensor ONE: a Python number would become a new tensor for each step count
    torch._foreach_add_([state["step"] for state in states], ONE, alpha=1.0)


def bound(
    rule: FoldRule, state: dict[str, Tensor], param: Tensor, seen: int, scale: float | None
) -> BoundFormula | None:
    """Returns the formula by which a graph folds the next gradient of a parameter.

    Args:
        rule, state, param: the parameter, its rule and its state.
        seen: how many gradients of the mini-batch were folded before.
        scale: 1 / N, if the mini-batch has N micro-batches; None to update the parameter at once.

    Returns:
        None if the fold can only be carried out by Python: the rule has no formula, states lie in a
        file, or the parameter is complex or a subclass such as DTensor.

    Raises:
        HyperparameterError: `scale` is given, and the rule cannot accumulate.
    """
    if is_stored(state) or param.is_complex() or type(param) not in (Tensor, Parameter):
        return None
    step = int(state["step"]) + 1
    if scale is None:
        found = rule.update_in_graph(param, step)
    else:
        found = accumulating(rule).fold_in_graph(param, Turn(step, seen, scale))
    if found is None:
        return None
    change, names, numbers = found
    return BoundFormula(change, numbers, param, names, tuple(state[name] for name in names))


def fold(
    update: Release, name: Callable[[Tensor], str], seen: int, scale: float, ranks: Alone | Ranks
) -> None:
    """Folds one of the N gradients that a rank has of a parameter in a mini-batch.

    Before the first of the N gradients, decays the state, and lets the rule set states by this
    gradient (`AccumulatingRule.look`); several ranks take these states from rank 0. Does not count
    the update: `apply_all` does so at the end of the mini-batch.

    Args:
        update: the gradient.
        name: returns the name of a parameter.
        seen: how many of the N gradients were folded before.
        scale: 1 / N; 1 for a gradient that is the mean of all N.
        ranks: the processes that fold gradients of the mini-batch.

    Raises:
        HyperparameterError: the rule cannot accumulate.
        RanksDifferError: rank 0 does not send a state that all ranks take from it.
    """
    rule = accumulating(update.rule)
    found = _update(update)
    if seen == 0:
        _decay(rule, found, ranks)
        for state in rule.look(found.state, found.param, found.grad, found.step + 1):
            ranks.take(found.state[state], f"{name(update.param)}/{state}/{found.step}")
    rule.fold(found.state, found.param, found.grad, Turn(found.step + 1, seen, scale))


def of_rows(update: Release, start: int) -> Release:
    """Returns an update of some rows of a parameter, as if they were a parameter of their own.

    Rows are slices of dimension 0. The parameter and the states returned are views; a state that
    has no rows, such as the step count, is returned whole.

    Args:
        update: the whole parameter and its whole state, but the gradient of these rows only.
        start: the first of the rows.
    """
    rule, state, param, grad = update
    here = slice(start, start + len(grad))
    return Release(rule, dict(rule.states_of_rows(state, here)), param[here], grad)


def combine(
    early: EarlySends, owner: Owner, updates: Sequence[Release], folded: Container[Tensor]
) -> list[Tensor]:
    """Combines the states of a mini-batch over the ranks. Returns the parameters to update.

    The parameters to update are those with a gradient on any rank. If such a parameter has no
    gradient on this rank, decays its state, as the first fold would have done. All ranks must call
    this function.

    Args:
        early: the states that this rank has sent already.
        owner: the optimizer.
        updates: all parameters, in the same order on all ranks. Their gradients are not read.
        folded: the parameters that have a gradient on this rank.
    """
    if not updates:
        return []
    ranks = early.ranks
    here = [update.param in folded for update in updates]
    anywhere, most = ranks.agree(here, early.sent, updates[0].param.device)
    used: list[tuple[Release, AccumulatingRule, Update]] = []
    for release, on_this_rank, on_any in zip(updates, here, anywhere, strict=True):
        if on_any:
            used.append((release, accumulating(release.rule), _update(release)))
            if not on_this_rank:
                _decay(*used[-1][1:], ranks)
    sent = early.catch_up(owner, most)

    def parts() -> Iterator[Part]:
        for release, rule, update in used:
            for name, over in rule.over_ranks.items():
                if (release.param, name) not in sent:
                    store = partial(_store, rule, update, name)
                    yield Part(rule.decoded(update.state, name), over, store)

    ranks.combine(parts())
    early.finish()
    return [release.param for release, *_ in used]


def _store(rule: AccumulatingRule, update: Update, name: str, numbers: Tensor) -> None:
    rule.encode(update.state, name, numbers, update.step + 1)


def _decay(rule: AccumulatingRule, update: Update, ranks: Alone | Ranks) -> None:
    """Decays a state at the start of a mini-batch, and prepares sums of squares for `combine`.

    On M ranks, multiplies the sums of squares by M, because M ranks sum them and divide by M².
    """
    rule.decay(update.state, update.param, update.step + 1)
    if ranks.before_squares != 1:
        for name, over in rule.over_ranks.items():
            if over == "squares":
                rule.multiply(update.state, name, ranks.before_squares)


def apply_all(
    clipping: MaxNorm,
    rules: Sequence[FoldRule],
    states: Sequence[dict[str, Any]],
    params: Sequence[Tensor],
) -> None:
    """Updates parameters at the end of a mini-batch, in mode "accumulate".

    Counts the updates in the states' "step". If states lie in a file, reads those of a parameter
    while the one before it in `params` is updated, and stores the states that the update has
    changed (`AccumulatingRule.applied`).

    Args:
        clipping: may limit the momentum, and so the updates.
        rules, states, params: for each parameter to update, its rule, its state, and itself.

    Raises:
        HyperparameterError: a rule cannot accumulate.
        TransferError: a state does not come back as it was sent, or could not be written.
    """
    factor = _shortening(clipping, rules, states)
    fetched = fetch(states[0]) if states else {}
    for i, (rule, state, param) in enumerate(zip(rules, states, params, strict=True)):
        here, found = fetched, arrived(state, fetched)
        fetched = fetch(states[i + 1]) if i + 1 < len(states) else {}
        _apply(rule, found, param, factor)
        for name in sorted(accumulating(rule).applied & here.keys()):
            state[name].store(here[name])


def _apply(rule: FoldRule, state: dict[str, Any], param: Tensor, factor: float) -> None:
    """Counts an update and carries it out, at the end of a mini-batch.

    Args:
        rule: the parameter's rule.
        state: the parameter's state, in memory.
        param: the parameter.
        factor: multiplies the move that the momentum makes, from 0 to 1. If it is 0, for a momentum
            of infinite norm, the parameter stays as it is, without weight decay too.
    """
    found = accumulating(rule)
    state["step"] += 1
    if factor == 0:
        return
    if param.is_complex():
        param, state = torch.view_as_real(param), _real(state)
    found = found.shortened(factor) if factor < 1 else found
    found.apply(state, param, int(state["step"]))


def _shortening(
    max_norm: MaxNorm, rules: Sequence[FoldRule], states: Sequence[Mapping[str, Any]]
) -> float:
    """Returns the factor on all updates of a mini-batch that keeps the momentum within max_norm.

    The norm is that of the momentum of all parameters to update. The factor is at most 1, and is 1
    without a limit.
    """
    if max_norm.limit is None:
        return 1.0
    squares = 0.0
    for rule, state in zip(rules, states, strict=True):
        here = _real(in_memory(state))
        squares += float(accumulating(rule).squared_momentum(here, int(here["step"]) + 1))
    return float(max_norm.factor(torch.tensor(squares).sqrt()))


def accumulating(rule: FoldRule) -> AccumulatingRule:
    """Returns the rule. Raises HyperparameterError if it is no AccumulatingRule."""
    if not isinstance(rule, AccumulatingRule):
        raise refusals.release_only(type(rule).__name__, rule.release_only)
    return rule


def _update(release: Release) -> Update:
    """Returns the arguments of `FoldRule.update`, with real views of complex tensors.

    `Update.step` is the step count as the state has it now.
    """
    _, state, param, grad = release
    step = int(state["step"])
    if param.is_complex():
        grad = torch.view_as_real(grad.resolve_conj())
        param, state = torch.view_as_real(param), _real(state)
    return Update(state, param, grad, step)


def _real(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.view_as_real(t) if t.is_complex() else t for k, t in state.items()}
