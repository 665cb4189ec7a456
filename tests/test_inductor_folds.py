"""Folds in the code that Inductor generates."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

import roam
from roam.bench.zoo import TINY, loss_of
from roam.optim import AdamA
from roam.optim.adama import AdamARule
from roam.optim.fold import Update
from tests.helpers import assert_equal


@pytest.mark.usefixtures("shared_kernels")
def test_small_folds_share_calls_of_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    release_all = AdamARule.release_all

    def counted(rule: AdamARule, updates: Sequence[Update]) -> None:
        calls.append(len(updates))
        release_all(rule, updates)

    monkeypatch.setattr(AdamARule, "release_all", counted)
    entry = TINY["gpt2"]
    trained = []
    for backend in ("inductor", "roam"):
        torch.manual_seed(0)
        model, batch = entry.build(), entry.batch()
        weights = list(model.parameters())
        fold = backend == "roam"
        optimizer: torch.optim.Optimizer = (
            AdamA(weights) if fold else torch.optim.AdamW(weights, fused=True)
        )
        options = {"optimizer": optimizer} if fold else None
        run = torch.compile(model, backend=backend, options=options)
        for _ in range(2):
            loss_of(run(**batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.append([w.detach() for w in weights])
        torch._dynamo.reset()
    assert_equal(trained[1], trained[0])
    a_step = calls[: len(calls) // 2]
    assert calls == a_step + a_step
    assert sum(a_step) == len(trained[0])
    assert len(a_step) <= sum(a_step) / 3
    [graph] = roam.report().graphs
    assert graph.plan is not None
    assert graph.plan.peak == graph.plan.live_peak
