"""torch.distributed.checkpoint of a folding optimizer: goes on as if nobody had stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn

from roam.optim import AdamA, SlimAdamA
from tests.optim.reference import backward, batches, mlp, same_parameters

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
KINDS: dict[str, Callable[..., Any]] = {
    "released": lambda p: AdamA(p, 1e-2),
    "accumulated": lambda p: AdamA(p, 1e-2, mode="accumulate"),
    "in 8 bits": lambda p: SlimAdamA(p, {"0.weight": (1,)}, lr=1e-2, state_dtype="int8"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on(kind: str, tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def made() -> tuple[nn.Module, Any]:
        model = mlp()
        return model, KINDS[kind](model.named_parameters())

    def train(model: nn.Module, optimizer: Any, first: int, last: int) -> None:
        for x in list(batches(last))[first:]:
            backward(model, x)
            optimizer.step()

    whole, optimizer = made()
    train(whole, optimizer, 0, 4)
    model, optimizer = made()
    train(model, optimizer, 0, 2)
    weights, states = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": states}, checkpoint_id=tmp_path, no_dist=True)

    model, optimizer = made()
    weights, states = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": states}, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=states)
    train(model, optimizer, 2, 4)
    same_parameters(model, whole)
