"""`param_groups` edited by hand, as pruning, growing and 3D Gaussian splatting do."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from roam.core.errors import HyperparameterError, LateChangeWarning, MicroBatchError
from roam.optim import AdamA, Muon, SlimAdamA
from tests.helpers import unfused
from tests.optim.reference import backward, batches, both_modes, mlp, same_parameters, twin

Edit = Callable[[nn.Sequential, Optimizer], None]
eager_and_compiled = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])


def swap(
    optimizer: Optimizer, old: Tensor, new: nn.Parameter, moved: Callable[..., Tensor]
) -> None:
    """Puts `new` in the place of `old`, with its state: what 3D Gaussian splatting does."""
    for group in optimizer.param_groups:
        for i, param in enumerate(group["params"]):
            if param is old:
                state = optimizer.state.pop(old, None)
                group["params"][i] = new
                if state is not None:
                    for name in ("exp_avg", "exp_avg_sq"):
                        state[name] = moved(state[name])
                    optimizer.state[new] = state


def resize(model: nn.Sequential, optimizer: Optimizer, rows: list[int]) -> None:
    """The hidden units become those of `rows`, moments and all."""
    first, last = model[0], model[2]
    for layer, name, dim in ((first, "weight", 0), (first, "bias", 0), (last, "weight", 1)):
        old = getattr(layer, name)
        new = nn.Parameter(old.detach().index_select(dim, torch.tensor(rows)))
        setattr(layer, name, new)
        swap(optimizer, old, new, lambda t, dim=dim: t.index_select(dim, torch.tensor(rows)))


def prune(model: nn.Sequential, optimizer: Optimizer) -> None:
    resize(model, optimizer, [0, 2, 3, 7])


def grow(model: nn.Sequential, optimizer: Optimizer) -> None:
    resize(model, optimizer, [*range(10), 3, 4])


def replace_list(model: nn.Sequential, optimizer: Optimizer) -> None:
    old, new = model[2].bias, nn.Parameter(torch.ones(4))
    model[2].bias = new
    optimizer.state.pop(old, None)
    optimizer.param_groups[1]["params"] = [model[2].weight, new]


def append(model: nn.Sequential, optimizer: Optimizer) -> None:
    model[1] = nn.Linear(10, 10, bias=False)
    nn.init.eye_(model[1].weight)
    optimizer.param_groups[1]["params"].append(model[1].weight)


def remove(model: nn.Sequential, optimizer: Optimizer) -> None:
    del optimizer.param_groups[0]["params"][0]


def remove_and_come_back(model: nn.Sequential, optimizer: Optimizer) -> None:
    remove(model, optimizer)
    backward(model, batches(1)[0])
    optimizer.step()
    model.zero_grad()
    optimizer.param_groups[1]["params"].insert(0, model[0].weight)


def delete_group(model: nn.Sequential, optimizer: Optimizer) -> None:
    del optimizer.param_groups[0]


def reverse_groups(model: nn.Sequential, optimizer: Optimizer) -> None:
    optimizer.param_groups.reverse()


def insert_group(model: nn.Sequential, optimizer: Optimizer) -> None:
    model[1] = nn.Linear(10, 10, bias=False)
    group = {**optimizer.param_groups[0], "params": [model[1].weight], "lr": 0.5}
    optimizer.param_groups.insert(0, group)


def move(model: nn.Sequential, optimizer: Optimizer) -> None:
    first, last = optimizer.param_groups
    last["params"].append(first["params"].pop())


def start_over(model: nn.Sequential, optimizer: Optimizer) -> None:
    optimizer.param_groups.clear()
    optimizer.state.clear()
    optimizer.add_param_group({"params": [*model[2].parameters()], "lr": 0.2})


EDITS = [prune, grow, replace_list, append, remove, remove_and_come_back, delete_group,
         reverse_groups, insert_group, move, start_over]  # fmt: skip


def groups(model: nn.Sequential) -> list[dict[str, Any]]:
    return [
        {"params": [*model[0].parameters()], "lr": 1e-2},
        {"params": [*model[2].parameters()], "lr": 1e-1, "weight_decay": 0.3},
    ]


def steps(model: nn.Module, optimizer: Optimizer, run: Any, seed: int) -> None:
    for x in batches(2, seed=seed):
        backward(run, x)
        optimizer.step()
        model.zero_grad()


@eager_and_compiled
@pytest.mark.parametrize("edit", EDITS)
def test_what_is_in_the_groups_now_is_trained(edit: Edit, compiled: bool) -> None:
    """By AdamW's bits, whatever it was before; once trained it is folded in the backward again."""
    torch._dynamo.reset()
    models = [mlp(), mlp()]
    mine, theirs = AdamA(groups(models[0])), torch.optim.AdamW(groups(models[1]), fused=True)
    for model, optimizer in zip(models, (mine, theirs), strict=True):
        torch.manual_seed(0)
        run = unfused(model, optimizer=mine) if compiled and optimizer is mine else model
        steps(model, optimizer, run, seed=1)
        edit(model, optimizer)
        steps(model, optimizer, run, seed=2)
    same_parameters(*models)
    inside = {p for group in mine.param_groups for p in group["params"]}
    assert {p for _, p in mine.named()} == inside
    backward(models[0], batches(1)[0])
    for p in models[0].parameters():
        assert (p.grad is None) == (p in inside)
    mine.step()
    assert len(mine.state_dict()["state"]) == len(inside)


def test_what_left_is_another_optimizers_or_nobodys() -> None:
    model = mlp()
    first, second = AdamA(model.parameters()), AdamA([nn.Parameter(torch.ones(1))])
    left = first.param_groups[0]["params"].pop()
    second.param_groups[0]["params"].append(left)
    for x in batches(2):
        backward(model, x)
        first.step()
        second.step()
    assert second.holds(left)
    assert not first.holds(left)
    assert left not in first.state
    assert left in second.state
    del second
    gc.collect()
    backward(model, batches(1)[0])
    assert left.grad is not None


def test_what_left_is_let_go() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    steps(model, optimizer, model, seed=1)
    old = weakref.ref(model[2].bias)
    swap(optimizer, model[2].bias, nn.Parameter(torch.zeros(4)), lambda t: t)
    model[2].bias = optimizer.param_groups[0]["params"][-1]
    steps(model, optimizer, model, seed=2)
    gc.collect()
    assert old() is None


def test_a_parameter_that_left_after_the_forward_keeps_its_gradient() -> None:
    """The compiled backward was planned to fold it, in memory that is used again."""
    torch._dynamo.reset()
    models = [mlp(), mlp()]
    mine = AdamA(models[0].parameters())
    theirs = torch.optim.AdamW(models[1].parameters(), fused=True)
    for model, optimizer in zip(models, (mine, theirs), strict=True):
        run = unfused(model, optimizer=mine) if optimizer is mine else model
        steps(model, optimizer, run, seed=1)
        for _ in range(2):
            loss = run(batches(1)[0]).square().mean()
            if len(optimizer.param_groups[0]["params"]) == 4:
                del optimizer.param_groups[0]["params"][0]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    same_parameters(*models)
    assert torch.equal(models[0][0].weight.grad, models[1][0].weight.grad)


@both_modes
def test_an_edit_between_a_backward_and_its_step(how: dict[str, Any]) -> None:
    """What was folded of a parameter that left cannot be taken back; what came has no gradient."""
    model = mlp()
    optimizer = AdamA(model.named_parameters(), **how)
    n = optimizer.micro_batches
    old, new = model[2].bias, nn.Parameter(torch.zeros(4))
    for x in batches(n):
        backward(model, x)
    before = old.detach().clone()
    model[2].bias = new
    swap(optimizer, old, new, lambda t: t)
    with pytest.warns(
        LateChangeWarning, match=r"2\.bias left the groups.*after step\(\)"
    ) as caught:
        optimizer.step()
    assert caught[0].filename == __file__
    assert torch.equal(old, before)
    assert torch.equal(new, torch.zeros(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for again in range(2):
            for x in batches(n):
                backward(model, x)
            optimizer.step()
            assert float(optimizer.state[new]["step"]) == again + (1 if how else 2)
            del optimizer.param_groups[0]["params"][0]


def test_a_compiled_backward_folds_what_came_at_once() -> None:
    """A plan for the one mini-batch until step() sees the edit would be made for nothing."""
    torch._dynamo.reset()
    model = mlp()
    optimizer = AdamA(model.parameters())
    run = unfused(model, optimizer=optimizer)
    steps(model, optimizer, run, seed=1)
    prune(model, optimizer)
    backward(run, batches(1)[0])
    assert all(p.grad is None for p in model.parameters())
    assert all(optimizer.state[p]["step"] == 3 for p in model.parameters())


def test_groups_that_are_edited_in_the_middle_of_a_mini_batch() -> None:
    """`step()` that refuses, too early, has seen the edit all the same."""
    model = mlp()
    optimizer = AdamA(model.named_parameters(), mode="accumulate", micro_batches=2)
    first, second = batches(2)
    backward(model, first)
    optimizer.param_groups.insert(0, {"params": [optimizer.param_groups[0]["params"].pop(0)]})
    del optimizer.param_groups[1]["params"][0]
    with pytest.raises(MicroBatchError):
        optimizer.step()
    backward(model, second)
    before = twin(model)
    with pytest.warns(LateChangeWarning, match=r"0\.bias left"):
        optimizer.step()
    assert torch.equal(model[0].bias, before[0].bias)
    assert not torch.equal(model[0].weight, before[0].weight)


def test_a_group_that_is_wrong_is_refused_by_step() -> None:
    model = mlp()
    optimizer = AdamA(model.named_parameters())
    optimizer.param_groups.append({"params": [model[0].weight]})
    with pytest.raises(HyperparameterError, match=r"0\.weight is in a second group"):
        optimizer.step()
    optimizer.param_groups[1] = {"params": [nn.Parameter(torch.ones(1))], "lr": -1.0}
    with pytest.raises(HyperparameterError, match="lr=-1"):
        optimizer.step()


def test_slim_rules_go_by_the_name_in_the_group() -> None:
    model = mlp()
    optimizer = SlimAdamA(model.named_parameters(), {"0.weight": (1,)})
    steps(model, optimizer, model, seed=1)
    old = model[0].weight
    model[0].weight = nn.Parameter(old.detach().clone())
    swap(optimizer, old, model[0].weight, lambda t: t)
    before = model[0].weight.detach().clone()
    steps(model, optimizer, model, seed=2)
    assert not torch.equal(model[0].weight, before)
    assert optimizer.state[model[0].weight]["exp_avg_sq"].shape == (10, 1)
    optimizer.param_groups[0]["params"].append(nn.Parameter(torch.ones(1)))
    with pytest.raises(HyperparameterError, match="by name"):
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("transformer.wte.weight", "AdamW"),
        ("model.embed_tokens.weight", "AdamW"),
        ("bert.embeddings.word_embeddings.weight", "AdamW"),
        ("shared.weight", "AdamW"),  # T5's tokens
        ("lm_head.weight", "AdamW"),
        ("heads.1.weight", "AdamW"),
        ("classifier.0.weight", "AdamW"),
        ("head", "AdamW"),
        ("blocks.0.attn.heads.0.q.weight", "Muon"),  # a head of the attention
        ("members.0.weight", "Muon"),
        ("classifier.dense.weight", "Muon"),
        ("h.0.attn.c_attn.weight", "Muon"),
    ],
)
def test_muon_takes_matrices_that_neither_look_up_nor_score_tokens(name: str, rule: str) -> None:
    made = Muon([(name, nn.Parameter(torch.zeros(4, 4)))])
    assert [group["rule"] for group in made.param_groups] == [rule]
