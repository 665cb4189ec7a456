"""Training loops of other libraries, each with AdamA and with AdamW: the same weights, bit for bit.

    pip install lightning accelerate peft skorch trl

A test whose library is not installed is skipped. Gradients are not clipped in any of them, since
AdamA has none to clip.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

import roam
from roam.bench.zoo import TINY
from roam.optim import AdamA
from tests.helpers import compiler

STEPS = 4
LR = 1e-2
Weights = dict[str, Tensor]
MakeOptimizer = Callable[[Any], torch.optim.Optimizer]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


def data() -> TensorDataset:
    random = torch.Generator().manual_seed(1)
    return TensorDataset(*(torch.randn(STEPS * 6, n, generator=random) for n in (8, 4)))


def loader() -> DataLoader:
    return DataLoader(data(), batch_size=6, shuffle=False)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=LR, fused=True)


def adama(parameters: Any) -> torch.optim.Optimizer:
    return AdamA(parameters, lr=LR)


def compiled(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """By roam where it folds; by aot_eager, whose kernels are the same, where it does not."""
    if not isinstance(optimizer, AdamA):
        return torch.compile(model, backend="aot_eager")
    options = {"lowering": "aten", "optimizer": optimizer}
    return torch.compile(model, backend="roam", options=options)


def same_weights(train: Callable[[MakeOptimizer], nn.Module], *, planned: int = 1) -> None:
    """Trains with both optimizers. With AdamA no gradient is left, and roam has planned."""
    roam.reset_report()
    mine = train(adama)
    assert (roam.report().planned, roam.report().unplanned) == (planned, 0), str(roam.report())
    assert [n for n, p in mine.named_parameters() if p.grad is not None] == []
    torch._dynamo.reset()
    start, theirs = dict(net().named_parameters()), dict(train(adamw).named_parameters())
    for name, p in mine.named_parameters():
        assert torch.equal(p, theirs[name]), name
        assert name not in start or not torch.equal(p, start[name]), name


@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
def test_lightning(automatic: bool, tmp_path: Path) -> None:
    """Its optimizers' step always passes a closure, which under automatic optimization trains."""
    lightning = pytest.importorskip("lightning")

    def train(make: MakeOptimizer) -> nn.Module:
        class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = automatic
                self.net = net()
                self.optimizer = make(self.net.parameters())
                self.run = [compiled(self.net, self.optimizer)]  # in a list, it is no submodule

            def training_step(self, batch: list[Tensor]) -> Tensor | None:
                loss = mse_loss(self.run[0](batch[0]), batch[1])
                if automatic:
                    return loss
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                return None

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return self.optimizer

        module = Module()
        lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        ).fit(module, loader())  # fmt: skip
        return module.net

    same_weights(train)


def test_a_compiled_lightning_module(tmp_path: Path) -> None:
    """`trainer.fit(torch.compile(module))` is Lightning's own way, here with torch's optimizer."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(self.parameters())

    def train(backend: str) -> nn.Module:
        torch._dynamo.reset()
        module = Module()
        lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        ).fit(compiler(backend)(module), loader())  # fmt: skip
        return module.net

    mine, theirs = train("step"), train("aot_eager")
    assert roam.report().planned >= 1
    assert all(map(torch.equal, mine.parameters(), theirs.parameters()))


def test_fabric() -> None:
    """It takes the compiled module apart and compiles it again, with a copy of the options."""
    fabric_module = pytest.importorskip("lightning.fabric")

    def train(make: MakeOptimizer) -> nn.Module:
        fabric = fabric_module.Fabric(accelerator="cpu", devices=1)
        model = net()
        optimizer = make(model.parameters())
        run, stepper = fabric.setup(compiled(model, optimizer), optimizer)
        for x, y in fabric.setup_dataloaders(loader()):
            stepper.zero_grad()
            fabric.backward(mse_loss(run(x), y))
            stepper.step()
        return model

    same_weights(train)


def test_skorch() -> None:
    """Its training loop calls `optimizer.step(closure)` too."""
    skorch = pytest.importorskip("skorch")

    def train(make: MakeOptimizer) -> nn.Module:
        model = net()
        runs: list[Any] = []  # outside: skorch takes what is set on it for a part of its own

        class Net(skorch.NeuralNetRegressor):  # type: ignore[misc, name-defined]
            def infer(self, x: Any, **fit_params: Any) -> Any:
                if not runs:
                    runs.append(compiled(self.module_, self.optimizer_))
                return runs[0](x)

        x, y = data().tensors
        Net(
            model, optimizer=lambda params, **_: make(params), max_epochs=1,
            batch_size=6, train_split=None, iterator_train__shuffle=False, verbose=0,
        ).fit(x, y)  # fmt: skip
        return model

    same_weights(train)


def closure_loop(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    run = compiled(model, optimizer)
    for x, y in loader():

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = mse_loss(run(x), y)
            loss.backward()
            return loss

        value: Any = optimizer.step(closure)
        assert isinstance(value, Tensor)


def test_a_closure() -> None:
    """What these libraries do, without any of them."""

    def train(make: MakeOptimizer) -> nn.Module:
        model = net()
        closure_loop(model, make(model.parameters()))
        return model

    same_weights(train)


def accelerator(**how: Any) -> Any:
    """A new one: accelerate keeps the settings of the first for the whole process."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    return accelerate.Accelerator(cpu=True, **how)


def test_accelerate_with_adama() -> None:
    def train(make: MakeOptimizer) -> nn.Module:
        library = accelerator()
        model = net()
        optimizer = make(model.parameters())
        run, stepper, batches = library.prepare(compiled(model, optimizer), optimizer, loader())
        for x, y in batches:
            library.backward(mse_loss(run(x), y))
            stepper.step()
            stepper.zero_grad()
        return model

    same_weights(train)


def losses(
    tmp_path: Path, compile_: Callable[[nn.Module, Any], None], make: MakeOptimizer | None = None
) -> list[float]:
    """What Hugging Face's Trainer logs while it trains GPT-2."""
    from transformers import Trainer, TrainingArguments

    torch._dynamo.reset()
    model, batch = TINY["gpt2"].build(), TINY["gpt2"].batch()
    optimizer = make(model.parameters()) if make else None
    compile_(model, optimizer)
    examples = [{name: x[i % len(x)] for name, x in batch.items()} for i in range(16)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=4, use_cpu=True,
        learning_rate=1e-2, logging_steps=1, report_to=[], save_strategy="no",
        disable_tqdm=True, seed=0, max_grad_norm=1.0 if make is None else 0.0,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=examples, optimizers=(optimizer, None)
    )
    trainer.train()
    return [h["loss"] for h in trainer.state.log_history if "loss" in h]


@pytest.mark.slow
def test_trainer(tmp_path: Path) -> None:
    """`torch_compile_backend="roam"` does not get that far: accelerate checks the name against a
    list of its own and raises ValueError. `model.compile(backend="roam")` is torch's own way."""
    pytest.importorskip("accelerate")
    mine = losses(tmp_path, lambda model, _: model.compile(backend="roam"))
    assert roam.report().planned >= 1
    assert roam.report().unplanned == 0, str(roam.report())
    assert len(mine) == 6
    assert mine[-1] < mine[0]
    assert mine == losses(tmp_path, lambda model, _: model.compile(backend="inductor"))


@pytest.mark.slow
def test_trainer_with_adama(tmp_path: Path) -> None:
    """`max_grad_norm=0` is how Trainer leaves the gradients as they are."""
    pytest.importorskip("accelerate")

    def by_roam(model: nn.Module, optimizer: Any) -> None:
        options = {"lowering": "aten", "optimizer": optimizer}
        model.compile(backend="roam", options=options)

    mine = losses(tmp_path, by_roam, adama)
    assert roam.report().planned >= 1
    assert mine == losses(tmp_path, lambda model, _: model.compile(backend="aot_eager"), adamw)


@pytest.mark.slow
def test_trl(tmp_path: Path) -> None:
    """Its trainer of supervised fine-tuning, on tokens, with the line of the README."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<eos>": 0}, unk_token="<eos>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")

    def train(backend: str) -> list[float]:
        torch._dynamo.reset()
        model, batch = TINY["gpt2"].build(), TINY["gpt2"].batch()
        model.compile(backend=backend)
        rows = [{"input_ids": batch["input_ids"][i % 2].tolist()} for i in range(8)]
        trainer = trl.SFTTrainer(
            model=model,
            args=trl.SFTConfig(
                output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, use_cpu=True,
                bf16=False, gradient_checkpointing=False, learning_rate=1e-2, logging_steps=1,
                report_to=[], save_strategy="no", disable_tqdm=True, seed=0,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
        return [h["loss"] for h in trainer.state.log_history if "loss" in h]

    mine = train("roam")
    assert roam.report().planned >= 1
    assert roam.report().unplanned == 0, str(roam.report())
    assert mine[-1] < mine[0]
    assert mine == pytest.approx(train("inductor"), rel=1e-5)  # tied weights sum in another order


def steps(run: Any, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> Iterator[Tensor]:
    for i in range(3):
        torch.manual_seed(i)
        loss = run(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.detach()


def test_accelerate_with_a_stock_optimizer() -> None:
    def train(backend: str) -> list[Tensor]:
        torch._dynamo.reset()
        library = accelerator(mixed_precision="bf16")
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
        run, stepper, batches = library.prepare(compiler(backend)(model), optimizer, loader())
        found = []
        for x, y in batches:
            loss = mse_loss(run(x), y)
            library.backward(loss)
            library.clip_grad_norm_(run.parameters(), 0.1)
            stepper.step()
            stepper.zero_grad()
            found += [loss.detach(), *(p.detach().clone() for p in model.parameters())]
        return found

    assert all(map(torch.equal, train("step"), train("aot_eager")))
    assert roam.report().unplanned == 0


@pytest.mark.parametrize("folds", [False, True], ids=["stock", "AdamA"])
def test_lora(folds: bool) -> None:
    """Of peft: adapters of GPT-2 are trained, the weights are not."""
    peft = pytest.importorskip("peft")
    base, batch = TINY["gpt2"].build(), TINY["gpt2"].batch()

    def train(make: MakeOptimizer, backend: str) -> tuple[list[Tensor], Weights]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        how = peft.LoraConfig(r=4, target_modules=["c_attn"], lora_dropout=0.1, fan_in_fan_out=True)
        model = peft.get_peft_model(copy.deepcopy(base), how)
        trained = [p for p in model.parameters() if p.requires_grad]
        assert len(trained) == 4
        optimizer = make(trained)
        run = compiled(model, optimizer) if folds else compiler(backend)(model)
        return list(steps(run, optimizer, batch)), model.state_dict()

    found, weights = train(adama if folds else adamw, "step")
    assert roam.report().planned >= 1
    assert roam.report().unplanned == 0
    expected, their_weights = train(adamw, "aot_eager")
    assert all(map(torch.equal, found, expected))
    assert [n for n in weights if not torch.equal(weights[n], their_weights[n])] == []
