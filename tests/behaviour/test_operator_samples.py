"""Samples of all of PyTorch's operators, their operands laid out in several ways: the same bits.

The samples are those that PyTorch tests its operators with (its OpInfo database). Every one is
computed and differentiated with a plan and without, the gradient being transposed as well, and
whatever may lie in the arena does. The bits are eager's, and else aot_eager's. An operator is
skipped, with the reason, where aot_eager raises too or does not repeat its own bits.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

from tests.helpers import assert_equal, compiler, flat, snapshot

pytest.importorskip("expecttest", reason="torch.testing needs it")
from torch.testing._internal.common_methods_invocations import op_db

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("everything_placed")]

LARGEST = 2000  # elements of an operand
OPS = {op.full_name: op for op in op_db if torch.float32 in op.dtypes}


def contiguous(x: Tensor) -> Tensor | None:
    return x.contiguous()


def transposed(x: Tensor) -> Tensor | None:
    return x.mT.contiguous().mT if x.dim() > 1 else None


def channels_last(x: Tensor) -> Tensor | None:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else None


def sliced(x: Tensor) -> Tensor | None:
    return torch.stack([x, x], -1)[..., 0] if x.dim() > 0 else None


def expanded(x: Tensor) -> Tensor | None:
    return x[:1].expand(x.shape) if x.dim() > 0 and len(x) > 1 else None


LAYOUTS: tuple[Callable[[Tensor], Tensor | None], ...] = (
    contiguous,
    transposed,
    channels_last,
    sliced,
    expanded,
)


class Sample:
    """One call of an operator, its tensors laid out in one way."""

    def __init__(self, op: Any, sample: Any, layout: Callable[[Tensor], Tensor | None]) -> None:
        self.op = op
        self.name = f"{op.full_name} {layout.__name__}"
        given = (sample.input, sample.args, sample.kwargs)
        leaves, self.tree = _pytree.tree_flatten(given)
        laid = [layout(x.detach()) if _is_strided(x) else None for x in leaves]
        self.applies = any(x is not None for x in laid)
        self.leaves = [old if new is None else new for old, new in zip(leaves, laid, strict=True)]
        self.own = layout in (contiguous, transposed, channels_last)

    def fresh(self) -> list[Any]:
        """The operands as leaves of their own, laid out alike."""
        return [_like(x) if _is_strided(x) else x for x in self.leaves]

    def __call__(self, leaves: list[Any]) -> tuple[list[Any], Tensor]:
        """The results, and a loss that reads them transposed: their gradients come so."""
        inside = [x * 1 if self.own and _trains(x) else x for x in leaves]  # dies at the op
        x, args, kwargs = _pytree.tree_unflatten(inside, self.tree)
        results = flat(self.op(x, *args, **kwargs))
        loss = torch.zeros(())
        for t in results:
            if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex()):
                real = torch.view_as_real(t) if t.is_complex() else t
                real = real.mT if real.dim() > 1 else real
                loss = loss + (real * _weights(real)).sum().float()
        return results, loss


def _is_strided(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout is torch.strided


def _like(x: Tensor) -> Tensor:
    base = x.as_strided((x.untyped_storage().nbytes() // x.itemsize,), (1,), 0).clone()
    return base.as_strided(x.shape, x.stride(), x.storage_offset()).requires_grad_(
        x.is_floating_point() or x.is_complex()
    )


def _trains(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _weights(t: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, max(t.numel(), 1), dtype=t.dtype)[: t.numel()].view(t.shape)


def samples(op: Any) -> list[Sample]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = itertools.islice(op.sample_inputs("cpu", torch.float32, requires_grad=False), 60)
        small = [s for s in made if all(n <= LARGEST for n in _sizes(s))]
    chosen = [*small[:1], *small[1:][-1:]]  # the plainest, and one with more arguments
    found = [Sample(op, s, layout) for s in chosen for layout in LAYOUTS]
    return [s for s in found if s.applies]


def _sizes(sample: Any) -> Iterator[int]:
    for x in _pytree.tree_leaves((sample.input, sample.args, sample.kwargs)):
        if isinstance(x, Tensor):
            yield x.numel()


def run(backend: str, chosen: list[Sample]) -> list[Any]:
    """Results, losses and gradients of several samples, compiled together."""
    torch._dynamo.reset()
    leaves = [s.fresh() for s in chosen]
    torch.manual_seed(0)

    def together(leaves: list[list[Any]]) -> tuple[list[list[Any]], Tensor]:
        found = [s(given) for s, given in zip(chosen, leaves, strict=True)]
        loss = torch.zeros(())
        for _, one in found:
            loss = loss + one
        return [results for results, _ in found], loss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results, loss = compiler(backend)(together)(leaves)
        if loss.requires_grad:
            loss.backward()
    grads = [x.grad for given in leaves for x in given if _trains(x)]
    return [_settled(x) for x in snapshot([results, loss, grads])]


def _settled(x: Any) -> Any:
    """The same tensor, where dims of one element have a stride that means nothing."""
    return x.squeeze() if _is_strided(x) else x


def compare(chosen: list[Sample]) -> str | None:
    """Compares a plan's bits with PyTorch's; returns why there is nothing to compare with."""
    try:
        assert_equal(run("step", chosen), run("eager", chosen))
    except Exception as error:
        try:
            expected, again = run("aot_eager", chosen), run("aot_eager", chosen)
        except Exception as theirs:
            return f"aot_eager raises {type(theirs).__name__}"
        try:
            assert_equal(again, expected)
        except AssertionError:
            return "aot_eager differs from itself"
        if not isinstance(error, AssertionError):
            raise
        assert_equal(run("step", chosen), expected)
    return None


@pytest.mark.parametrize("name", OPS)
def test_samples(name: str) -> None:
    """All samples of an operator in one graph; one by one where they cannot be compared so."""
    chosen = samples(OPS[name])
    if not chosen:
        pytest.skip("no small sample")
    if compare(chosen) is None:
        return
    reasons = [reason for s in chosen if (reason := compare([s])) is not None]
    if len(reasons) == len(chosen):
        pytest.skip(", ".join(dict.fromkeys(reasons)))
