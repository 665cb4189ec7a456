"""What the user sees who asks torch.compile for something that roam does not have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import roam
from roam.core.errors import OptionError
from roam.options import Options
from tests.helpers import assert_counts, mlp, random, unfused

WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"options": {"arenas": "keep"}},
        "'arenas': the options are arena, planning_seconds",
    ),
    ({"options": {"arena": "keep", "x": 1, "b": 2}}, "no option 'b'"),
    ({"options": {"arena": "kept"}}, "arena is 'step' or 'keep', not 'kept'"),
    ({"options": {"arena": "keep", "lowering": "inductor"}}, "arena='keep' is for ATen's kernels"),
    ({"options": {"arena": None}}, "arena is 'step' or 'keep', not None"),
    ({"options": {"arena": ["keep"]}}, r"arena is 'step' or 'keep', not \['keep'\]"),
    ({"options": {"recompute": "all"}}, "recompute is 'cheap' or False, not 'all'"),
    ({"options": {"recompute": True}}, "recompute is 'cheap' or False, not True"),
    ({"options": {"planning_seconds": 0}}, "planning_seconds is a positive number, not 0"),
    ({"options": {"planning_seconds": -1.5}}, "planning_seconds is a positive number, not -1.5"),
    ({"options": {"planning_seconds": float("nan")}}, "positive number, not nan"),
    ({"options": {"planning_seconds": "10"}}, "planning_seconds is a positive number, not '10'"),
    ({"options": {"planning_seconds": True}}, "planning_seconds is a positive number, not True"),
    ({"options": ["keep"]}, r"options is a dict .*, not \['keep'\]"),
    ({"mode": "fast"}, "no mode 'fast': the modes are default, reduce-overhead, max-autotune"),
    ({"options": {"mode": "fast"}}, "no mode 'fast'"),
]


@pytest.mark.parametrize(("how", "complaint"), WRONG, ids=[str(how) for how, _ in WRONG])
def test_a_wrong_option_is_an_option_error(how: dict[str, Any], complaint: str) -> None:
    """Not one of dynamo's that wraps it: what the user catches is roam's."""
    model = torch.compile(mlp(), backend="roam", **how)
    for _ in range(2):  # and again: the first failure leaves nothing behind
        with pytest.raises(OptionError, match=complaint) as caught:
            model(random(5, 8))
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, roam.RoamError)
    assert str(caught.value).startswith(("roam has no", "option"))
    assert_counts(planned=0)


def test_the_traceback_ends_in_roam_and_shows_nothing_of_dynamos_tracing() -> None:
    with pytest.raises(OptionError) as caught:
        torch.compile(torch.sin, backend="roam", options={"x": 1})(random(5))
    files = [str(entry.path) for entry in caught.traceback]
    assert files[-1].endswith("roam/backend.py")
    assert [f for f in files if f.endswith("symbolic_convert.py")] == []


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"mode": "default"},
        {"options": {}},
        {"options": {"arena": "step"}},
        {"options": {"arena": "keep", "planning_seconds": 2}},
        {"options": {"planning_seconds": 0.5}},
        {"options": {"lowering": None}},
        {"options": {"lowering": "aten", "mode": "default"}},
        {"fullgraph": True, "dynamic": False},
    ],
    ids=str,
)
def test_options_that_there_are(how: dict[str, Any]) -> None:
    model = mlp()
    compiled = torch.compile(model, backend="roam", **how)
    result = compiled(random(5, 8))
    torch.testing.assert_close(result, model(random(5, 8)))
    result.sum().backward()
    assert_counts(planned=1)


def test_the_defaults() -> None:
    assert Options.parse(None, None) == Options(arena="step", planning_seconds=10.0)
    assert Options.parse({"arena": "keep"}, "default").arena == "keep"


def test_planning_may_be_given_no_work_at_all() -> None:
    model = mlp()
    compiled = unfused(model, planning_seconds=1e-9)
    torch.testing.assert_close(compiled(random(5, 8)), model(random(5, 8)))
    assert_counts(planned=1)


def test_two_models_with_different_options() -> None:
    x = random(5, 8)
    for arena in ("step", "keep"):
        model = mlp()
        compiled = unfused(model, arena=arena)
        loss = nn.functional.mse_loss(compiled(x), torch.zeros(5, 4))
        loss.backward()  # type: ignore[no-untyped-call]
    assert_counts(planned=2)


def test_the_backend_is_found_by_name() -> None:
    assert "roam" in torch._dynamo.list_backends()


@pytest.mark.parametrize(
    ("recompute", "smallest"), [(None, 2**20), ("cheap", 2**14), (False, None)]
)
def test_recompute_means_the_same_for_all_kernels(
    recompute: str | bool | None, smallest: int | None
) -> None:
    for lowering in ("aten", "inductor"):
        chosen = Options.parse({"recompute": recompute, "lowering": lowering}, None)
        assert chosen.smallest_recomputed == smallest
        assert (chosen.recomputes is None) == (smallest is None)
