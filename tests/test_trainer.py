"""Hugging Face's Trainer with a model compiled by roam. Needs accelerate, as nothing else does.

`torch_compile_backend="roam"` does not get that far: accelerate checks the name against a list of
its own and raises ValueError. `model.compile(backend="roam")` is torch's own way, and in place.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import roam
from roam.bench.zoo import TINY


@pytest.mark.slow
def test_a_trainer_trains(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    def train(backend: str) -> list[float]:
        model, batch = TINY["gpt2"].build(), TINY["gpt2"].batch()
        model.compile(backend=backend)
        examples = [{name: x[i % len(x)] for name, x in batch.items()} for i in range(16)]
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=4, use_cpu=True,
            learning_rate=1e-2, logging_steps=1, report_to=[], save_strategy="no",
            disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=examples)
        trainer.train()
        return [h["loss"] for h in trainer.state.log_history if "loss" in h]

    compiled = train("roam")
    assert roam.report().planned >= 1
    assert roam.report().unplanned == 0, str(roam.report())
    assert len(compiled) == 6
    assert compiled[-1] < compiled[0]
    assert compiled == train("inductor")
