"""The zoo is the same zoo every time, and every animal in it can take a training step."""

import math

import pytest
import torch

from roam.bench.zoo import FULL, TINY, Entry, find, gpt2, loss

entries = pytest.mark.parametrize("entry", TINY.values(), ids=TINY.keys())


def test_the_tiny_zoo_is_large_enough() -> None:
    assert len({e.model for e in TINY.values()}) >= 18
    assert not TINY.keys() & FULL.keys()


@entries
def test_builds_the_same_twice(entry: Entry) -> None:
    torch.manual_seed(7)  # whatever ran before must not matter
    first, first_batch = entry.build().state_dict(), entry.batch()
    torch.manual_seed(8)
    second, second_batch = entry.build().state_dict(), entry.batch()
    for a, b in ((first, second), (first_batch, second_batch)):
        assert a.keys() == b.keys()
        assert [k for k in a if not torch.equal(a[k], b[k])] == []


@entries
def test_takes_a_training_step(entry: Entry) -> None:
    model, batch = entry.build(), entry.batch()
    assert model.training
    value = loss(model, batch)
    torch.autograd.backward(value)
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert value.shape == ()
    assert math.isfinite(value.item())
    assert [n for n, g in grads.items() if not g.isfinite().all()] == []
    assert any(g.any() for g in grads.values())
    assert len(grads) >= 0.9 * len(list(model.parameters()))


@pytest.mark.slow
@entries
def test_compiles_once_with_the_graph_breaks_it_states(entry: Entry) -> None:
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    model, batch = entry.build(), entry.batch()
    compiled = torch.compile(loss, backend="aot_eager")
    for _ in range(2):
        torch.autograd.backward(compiled(model, batch))
        model.zero_grad()
    assert sum(counters["graph_break"].values()) == entry.breaks
    assert counters["stats"]["unique_graphs"] == entry.breaks + 1


def test_gpt2_small_at_another_length() -> None:
    assert gpt2("gpt2-96", seq=96, batch=2).batch()["input_ids"].shape == (2, 96)
    assert FULL["gpt2-small"].batch()["input_ids"].shape == (1, 1024)


def test_an_unknown_name_names_the_known_ones() -> None:
    assert find("bert-base") is FULL["bert-base"]
    with pytest.raises(ValueError, match=r"'elephant'.*gpt2, .*bert-base"):
        find("elephant")
