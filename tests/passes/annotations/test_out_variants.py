"""Writing into given memory: the same bits, the same random numbers, and nothing allocated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from roam.inspect.measure import measure_peak
from roam.passes.annotations.out_variants import BY_HAND, META, OutVariants, find, overload
from tests.passes.annotations.out_variant_cases import CASES, Args, Case, by_hand, random
from tests.passes.graphs import Carved, every_op, garbage, node_of, same_bits, trace

aten = torch.ops.aten


def named(cases: Sequence[Case]) -> list[Any]:
    """Every case in every type, with an id of its own."""
    return [
        pytest.param(case, dtype, id=f"{i}-{case.op}-{str(dtype)[6:]}")
        for i, case in enumerate(cases)
        for dtype in case.dtypes
    ]


def fresh(result: Any) -> Any:
    """What a fake value would say of a result: its layout, in a storage just large enough."""
    if isinstance(result, Tensor):
        return garbage(result)
    return type(result)(map(fresh, result))


@pytest.mark.parametrize(("case", "dtype"), named(CASES))
def test_same_bits(case: Case, dtype: torch.dtype) -> None:
    args, kwargs = case.arguments(dtype)
    torch.manual_seed(5)
    result = case.op(*args, **kwargs)
    drawn = torch.get_rng_state()
    results: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
    variant = find(node_of(case.op, args, kwargs, fresh(result)))
    assert variant is not None
    outs = [Carved(t) for t in results]
    torch.manual_seed(5)
    given = {name: out.tensor for name, out in zip(variant.names, outs, strict=True)}
    variant.target(*args, **kwargs, **given)
    assert torch.equal(torch.get_rng_state(), drawn)
    for out, wanted in zip(outs, results, strict=True):
        assert out.is_in_place()
        assert same_bits(out.tensor, wanted)


def test_every_entry_by_hand_has_a_case() -> None:
    assert {c.op for c in by_hand} == set(BY_HAND)


def test_random_cases_do_draw() -> None:
    """Or the test of the generator's state would prove nothing."""
    for case in (*random, by_hand[-1]):
        args, kwargs = case.arguments(torch.float32)
        before = torch.get_rng_state()
        case.op(*args, **kwargs)
        assert not torch.equal(torch.get_rng_state(), before)


def test_no_generated_overload_is_ever_chosen() -> None:
    chosen = {op: overload(op) for op in every_op()}
    found: list[Any] = [v.target for v in chosen.values() if v is not None]
    assert len(found) > 400
    assert not [target for target in found if torch.Tag.generated in target.tags]
    for op in (
        aten.convolution.default,
        aten.native_layer_norm.default,
        aten.native_dropout.default,
        aten.embedding.default,
        aten.relu.default,
        aten.clone.default,
    ):
        assert torch.Tag.generated in op.overloadpacket.out.tags
        assert chosen[op] is None


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize(
    "loss",
    [aten.mse_loss, aten.smooth_l1_loss, aten.huber_loss, aten.soft_margin_loss],
    ids=str,
)
def test_losses_that_write_beyond_their_result(loss: Any, reduction: int) -> None:
    """Reduced, they blow their result up to the shape of the input on the way."""
    x, y = torch.randn(4, 5), torch.randn(4, 5)
    result = loss.default(x, y, reduction)
    assert find(node_of(loss.default, (x, y, reduction), {}, fresh(result))) is None


def test_a_list_of_results_has_no_variant() -> None:
    """Its `out` would be a list; the graph knows the results one by one."""
    x = torch.randn(4, 3)
    for op, args in (
        (aten.unbind_copy.int, (x[:1],)),
        (aten.split_with_sizes_copy.default, (x, [4])),
    ):
        assert find(node_of(op, args, {}, op(*args))) is None


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (aten.native_dropout.default, (torch.ones(4), 0.0, True)),
        (aten.native_dropout.default, (torch.ones(4), 1.0, True)),
        (aten.native_dropout.default, (torch.ones(4), 0.5, False)),
        (aten.native_dropout.default, (torch.ones(4, 4)[:, ::2], 0.5, True)),
        (aten.constant_pad_nd.default, (torch.ones(4), [-1, 2])),
        (aten.masked_fill.Scalar, (torch.ones(4), torch.ones(2, 4).bool(), 1)),
        (aten.add.Scalar, (torch.ones(4), 1, 2)),
    ],
    ids=str,
)
def test_where_the_form_by_hand_does_not_apply(op: Any, args: Args) -> None:
    assert find(node_of(op, args, {}, op(*args))) is None


def test_results_that_cannot_be_placed() -> None:
    x = torch.randn(4, 6)
    for result in (x[:, :3], x[1:], x[::2], x[:1].expand(4, 6), x.to_sparse()):
        assert find(node_of(aten.exp.default, (x,), {}, result)) is None
    assert find(node_of(aten.exp.default, (x,), {}, x.t().contiguous().t())) is not None
    lazy = torch._neg_view(x), (x * 1j).conj()
    assert not any(find(node_of(aten.exp.default, (x,), {}, result)) for result in lazy)


def test_another_device_is_not_copied_to_within_the_arena() -> None:
    x, elsewhere = torch.ones(4), torch.ones(4, device="meta")
    assert find(node_of(aten._to_copy.default, (x,), {"device": "meta"}, elsewhere)) is None
    assert find(node_of(aten._to_copy.default, (x,), {}, x.clone())) is not None


def test_ops_that_change_their_arguments_have_no_variant() -> None:
    x = torch.ones(4)
    assert find(node_of(aten.add_.Tensor, (x, x), {}, x)) is None
    assert find(node_of(aten.view.default, (x, [2, 2]), {}, x.view(2, 2))) is None


def test_annotates_and_counts() -> None:
    def fn(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm((x @ w).relu(), (6,)).t()

    module = trace(fn, torch.randn(4, 5), torch.randn(5, 6))
    assert OutVariants()(module) == 2
    assert [n.name for n in module.graph.nodes if META in n.meta] == ["mm", "relu"]


def scratch(case: Case) -> int:
    """Bytes that the variant allocates, in float32."""
    args, kwargs = case.arguments(torch.float32)
    result = case.op(*args, **kwargs)
    variant = find(node_of(case.op, args, kwargs, result))
    assert variant is not None
    out = {variant.names[0]: garbage(result)}
    return measure_peak(lambda: variant.target(*args, **kwargs, **out)).peak


N = 256
KEYS = torch.arange(N)
NUMBER = 8 + 4  # a Python number becomes a tensor of one element, then another of the right type


@pytest.mark.parametrize(
    ("case", "most"),
    [
        (Case(aten.mm.default, lambda r: (r(N, N), r(N, N).t())), 0),
        (Case(aten.bmm.default, lambda r: (r(4, N, N), r(4, N, N).mT)), 0),
        (Case(aten.addmm.default, lambda r: (r(N), r(N, N), r(N, N).t())), 0),
        (Case(aten.add.Tensor, lambda r: (r(N, N), r(N))), 0),
        (Case(aten.add.Scalar, lambda r: (r(N, N), 2)), NUMBER),
        (Case(aten.mul.Tensor, lambda r: (r(N, N), r(N, N).t())), 0),
        (Case(aten._softmax.default, lambda r: (r(N, N), -1, False)), 0),
        (Case(aten._log_softmax.default, lambda r: (r(N, N), -1, False)), 0),
        (Case(aten._softmax_backward_data.default, lambda r: (r(N, N), r(N, N), -1, r.dtype)), 0),
        (Case(aten.embedding.default, lambda r: (r(N, N), KEYS)), 0),
        (Case(aten.clone.default, lambda r: (r(N, N).t(),)), 0),
        (Case(aten.relu.default, lambda r: (r(N, N),)), NUMBER),
        (Case(aten.gelu.default, lambda r: (r(N, N),)), 0),
        (Case(aten.index_put.default, lambda r: (r(N, N), [KEYS], r(N, N), True)), 0),
        (Case(aten.masked_fill.Scalar, lambda r: (r(N, N), r.mask(N, N), 1.0)), 0),
        (Case(aten.cat.default, lambda r: ([r(N, N), r(N, N)],)), 0),
        (Case(aten.sum.dim_IntList, lambda r: (r(N, N), [0])), 0),
        (Case(aten.constant_pad_nd.default, lambda r: (r(N, N), [1, 1])), 0),
        (Case(aten.slice_backward.default, lambda r: (r(N, N), [N, 2 * N], 1, 0, N, 1)), 0),
        (Case(aten.select_backward.default, lambda r: (r(N, N), [N, 4, N], 1, 1)), 0),
    ],
    ids=lambda x: str(x.op) if isinstance(x, Case) else None,
)
def test_allocates_nothing(case: Case, most: int) -> None:
    assert scratch(case) <= most
