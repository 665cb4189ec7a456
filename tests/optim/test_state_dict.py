"""State dicts: round trips, AdamW's, other models', and resuming in a new process."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from roam.core.errors import StateMismatchError
from roam.optim import AdamA
from tests.optim.reference import (
    ACCUMULATE,
    backward,
    batches,
    both_modes,
    loss,
    mlp,
    same_parameters,
    schedule,
    train,
    twin,
)

ROOT = Path(__file__).parents[2]


def test_spec_sizes_the_state_before_it_is_there() -> None:
    with torch.device("meta"):
        model = mlp()
    optimizer = AdamA(model.parameters())
    weight = model[0].weight
    assert [s.name for s in optimizer.spec(weight)] == ["exp_avg", "exp_avg_sq", "step"]
    sizes = [spec.bytes for spec in optimizer.spec(weight)]
    assert sizes == [weight.nbytes, weight.nbytes, 4]
    for spec in optimizer.spec(weight):
        made = optimizer.state_of(weight)[spec.name]
        assert (tuple(made.shape), made.dtype) == (spec.shape, spec.dtype)


def test_the_model_can_be_saved_whole_beside_its_optimizer() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    same_parameters(torch.load(file, weights_only=False), model)
    train(model, optimizer, 1)


@both_modes
def test_state_dict_and_back(how: dict[str, Any]) -> None:
    model = mlp()
    optimizer = AdamA(model.parameters(), lr=1e-2, **how)
    train(model, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    copied = twin(model)
    resumed = AdamA(copied.parameters(), **how)
    resumed.load_state_dict(torch.load(file))
    for m, o in ((model, optimizer), (copied, resumed)):
        train(m, o, 3, seed=2)
    same_parameters(model, copied)


def test_state_dicts_are_adamws() -> None:
    """A run of torch's can be taken up here, and the other way."""
    a = mlp()
    mine = AdamA(a.parameters(), lr=1e-2)
    train(a, mine, 2)
    b, c = twin(a), twin(a)
    theirs = torch.optim.AdamW(b.parameters(), fused=True)
    theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
    theirs.param_groups[0]["fused"] = True  # the one option that is not in our groups
    again = AdamA(c.parameters())
    again.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for x in batches(2, seed=5):
        for model, optimizer in ((a, mine), (b, theirs), (c, again)):
            backward(model, x)
            optimizer.step()
            optimizer.zero_grad()
    same_parameters(a, b)
    same_parameters(a, c)


def test_a_run_of_adamws_is_taken_up() -> None:
    """Its groups lack what is ours alone."""
    a = mlp()
    theirs = torch.optim.AdamW(a.parameters(), lr=1e-2, fused=True)
    backward(a, batches(1)[0])
    theirs.step()
    b = twin(a)
    mine = AdamA(b.parameters(), update_clip=0.5)
    mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert mine.param_groups[0]["update_clip"] == 0.5
    assert mine.param_groups[0]["lr"] == 1e-2
    mine.param_groups[0]["update_clip"] = None
    for model, optimizer in ((a, theirs), (b, mine)):
        model.zero_grad()
        backward(model, batches(1)[0])
        optimizer.step()
    same_parameters(a, b)


def test_loaded_state_lies_as_the_parameter_does() -> None:
    a = nn.Conv2d(3, 8, 3)
    b = twin(a)
    b.weight.data = b.weight.data.contiguous(memory_format=torch.channels_last)
    optimizers = AdamA(a.parameters()), AdamA(b.parameters())
    x = torch.randn(2, 3, 5, 5)
    backward(a, x)
    optimizers[0].step()
    b.load_state_dict(a.state_dict())
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for model, optimizer in ((a, optimizers[0]), (b, optimizers[1])):
        optimizer.absorb(model.weight, torch.ones_like(model.weight))
    assert torch.equal(a.weight, b.weight)


def test_loading_forgets_an_unfinished_mini_batch() -> None:
    model = mlp()
    optimizer = AdamA(model.parameters(), **ACCUMULATE)
    train(model, optimizer, 1)
    saved = {**optimizer.state_dict()}
    backward(model, batches(1)[0])
    optimizer.load_state_dict(saved)
    train(model, optimizer, 1)


@pytest.mark.parametrize("wrong", ["shape", "missing", "amsgrad"])
def test_state_of_something_else_is_refused(wrong: str) -> None:
    other = nn.Linear(3, 3) if wrong == "shape" else nn.Linear(2, 2)
    make: dict[str, Any] = {
        "shape": lambda p: AdamA(p),
        "missing": lambda p: torch.optim.SGD(p, momentum=0.9),
        "amsgrad": lambda p: torch.optim.AdamW(p, amsgrad=True),
    }
    theirs = make[wrong](other.parameters())
    backward(other, torch.ones(1, other.in_features))
    theirs.step()
    model = nn.Linear(2, 2)
    optimizer = AdamA(model.named_parameters())
    with pytest.raises(StateMismatchError, match="amsgrad" if wrong == "amsgrad" else "weight"):
        optimizer.load_state_dict(theirs.state_dict())
    assert not optimizer.state


def resume(file: str, *parts: str) -> None:
    """Trains the whole of a run or its parts, the second of them from a file; prints the losses."""
    for how in ({}, ACCUMULATE):
        for part in parts:
            model = mlp(seed=9 if part == "second" else 0)
            optimizer = AdamA(model.parameters(), lr=1e-2, **how)
            rate, n = schedule(optimizer), optimizer.micro_batches
            first, last = {"whole": (0, 12), "first": (0, 6), "second": (6, 12)}[part]
            there = f"{file}-{len(how)}"
            if part == "second":
                states = torch.load(there)
                for target, state in zip((model, optimizer, rate), states, strict=True):
                    target.load_state_dict(state)
            for i, x in enumerate(batches(12 * n)[first * n : last * n], 1):
                found = loss(model, x)
                found.backward()
                print(
                    len(how), "whole" if part == "whole" else "parts", float(found.detach()).hex()
                )
                if i % n == 0:
                    optimizer.step()
                    rate.step()
            if part == "first":
                kept = (model.state_dict(), optimizer.state_dict(), rate.state_dict())
                torch.save(kept, there)


RESUME = "import sys; from tests.optim.test_state_dict import resume; resume(*sys.argv[1:])"


def test_resuming_in_a_new_process_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new process goes on in both modes: starting it takes the longest."""
    file = str(tmp_path / "checkpoint")
    resume(file, "whole", "first")
    done = subprocess.run(
        [sys.executable, "-c", RESUME, file, "second"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[tuple[str, str], list[str]] = {}
    for line in (capsys.readouterr().out + done.stdout).splitlines():
        mode, part, number = line.split()
        found.setdefault((mode, part), []).append(number)
    for how in ({}, ACCUMULATE):
        whole = found[str(len(how)), "whole"]
        assert found[str(len(how)), "parts"] == whole
        assert len(set(whole)) == 12 * how.get("micro_batches", 1)
