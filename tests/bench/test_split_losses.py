"""The losses of `roam bench split`, and their errors against float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from roam.bench.split_losses import LOSSES, Sizes, errors, exact, inputs, results
from roam.bench.split_losses_worker import arguments, measure

SMALL = Sizes(batch=2, seq=13, width=8, vocab=50)


@pytest.mark.parametrize("name", list(LOSSES))
def test_errors_are_of_the_loss_and_of_every_gradient(name: str) -> None:
    given = inputs(LOSSES[name], SMALL, seed=0)
    found = results(LOSSES[name], given)
    truth = exact(LOSSES[name], given)
    needed = {n for n, value in given.items() if value.requires_grad}
    assert truth.keys() == found.keys() == {"loss", *needed}
    assert all(value.dtype == torch.float64 for value in truth.values())
    largest = max(errors(found, truth).values())
    assert 0 < largest < (2e-2 if name == "upcast" else 2e-6)
    assert all(value.grad is None for value in given.values())


def test_every_loss_differs_from_the_plain_one() -> None:
    plain = exact(LOSSES["mean"], inputs(LOSSES["mean"], SMALL, seed=0))["loss"]
    values = {name: float(exact(f, inputs(f, SMALL, seed=0))["loss"]) for name, f in LOSSES.items()}
    same = {name for name, value in values.items() if value == float(plain)}
    assert same == {"mean"}


def test_float64_is_float64s() -> None:
    given = inputs(LOSSES["bias"], SMALL, seed=3)
    hidden, weight, bias, labels = (v.detach() for v in given.values())
    logits = linear(hidden.double(), weight.double(), bias.double())
    expected = cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert exact(LOSSES["bias"], given)["loss"] == expected


def test_an_error_is_relative_to_the_norm() -> None:
    truth = {"loss": torch.tensor(2.0).double(), "hidden": torch.tensor([3.0, 4.0]).double()}
    found = {"loss": torch.tensor(2.5), "hidden": torch.tensor([3.0, 5.0])}
    assert errors(found, truth) == {"loss": 0.25, "hidden": 0.2}
    with pytest.raises(ValueError, match="hidden"):
        errors({"loss": truth["loss"]}, truth)


def test_a_worker_averages_over_draws() -> None:
    one, several = (measure("mean", "eager", SMALL, draws) for draws in (1, 4))
    assert one["errors"].keys() == several["errors"].keys() == {"loss", "hidden", "weight"}
    assert one["errors"] != several["errors"]
    assert several["blocks"] is None
    assert "--vocab" in arguments(SMALL, 4)
