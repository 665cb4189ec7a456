"""The code that Inductor generates for a GPU, on the CPU: Triton's kernels, which stand still here.

What is allocated and freed, and when, is the code's around them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.codecache import PyCodeCache
from torch.utils import _triton

import roam
from roam.bench import compilers
from roam.bench.compiled_worker import Trainer
from tests.behaviour.small_nets import Block, rows


class Net(nn.Module):
    """Two blocks, with their loss."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.blocks(x).square().mean()}


class StandsStill:
    def run(self, *_: Any, **__: Any) -> None: ...


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the Triton kernels that were generated: the package need not be there."""
    generated: list[str] = []
    triton, language = ModuleType("triton"), ModuleType("triton.language")
    triton.language = language  # type: ignore[attr-defined]
    stand_in = {"triton": triton, "triton.language": language}
    load = PyCodeCache.load_by_key_path

    def load_by_key_path(*args: Any, **how: Any) -> ModuleType:
        with patch.dict(sys.modules, stand_in):
            return load(*args, **how)

    def stand_still(_: AsyncCompile, name: str, *__: Any, **___: Any) -> StandsStill:
        generated.append(name)
        return StandsStill()

    monkeypatch.setattr(PyCodeCache, "load_by_key_path", load_by_key_path)
    monkeypatch.setattr(AsyncCompile, "triton", stand_still)
    monkeypatch.setattr(_triton, "triton_hash_with_backend", lambda: "none")
    with (
        config.patch(cpu_backend="triton", fx_graph_cache=False),
        functorch_config.patch(enable_autograd_cache=False),
    ):
        yield generated


@pytest.mark.parametrize(
    "contender", [pytest.param("roam inductor", marks=pytest.mark.slow), "roam inductor adama"]
)
def test_planned_is_measured(kernels: list[str], contender: str) -> None:
    """Inductor keeps freed buffers for later ones: only where the plan leaves room for it."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    trainer = Trainer(Net(), {"x": rows()}, compilers.find(contender))
    trainer.step()
    measured = roam.measure_peak(trainer.step).peak
    [(_, plan)] = roam.report().step.planned
    assert kernels
    assert abs(measured - plan.peak) <= 64  # what a kernel is given beside its buffers
