"""`roam bench convergence`: compares the validation losses of folding optimizers with AdamW's.

All train a small GPT-2 on real text. For each seed, all have the same mini-batches, schedule and
first weights. They differ in how many micro-batches make a mini-batch, and in whether gradients are
folded or, with AdamW, accumulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from roam.bench.convergence_run import BASE, Run
from roam.bench.fold_ways import FOLDING
from roam.bench.tables import write_rows
from roam.bench.text_corpus import prose, text
from roam.core.atomic_write import check_writable
from roam.core.errors import MissingExtraError, OptionError
from roam.optim import AdamA, SlimAdamA, SlimRules, SnrMeasurement, static_rules

TEXT = 2**22  # bytes, of which the last eighth is for validation
TEXTS = {"sources": text, "prose": prose}
VALIDATION = 64  # sequences that each validation uses


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The model, the data and the loop. A byte is a token; batch is in sequences.

    warm_up: share of the steps over which the learning rate rises; a cosine to a tenth follows.
    AdamA needs a long one: at first all gradients agree, and its steps are up to √N times AdamW's.
    With 0.1, AdamW's loss is 0.02 nats a byte worse, and AdamA's 0.28 (N = 4, mean of 3 seeds).
    text: what is learned, a key of TEXTS.
    """

    layers: int = 2
    heads: int = 4
    width: int = 128
    seq: int = 128
    batch: int = 16
    steps: int = 300
    rate: float = 1e-3
    warm_up: float = 0.3
    seeds: int = 3
    evaluations: int = 10
    text: str = "sources"


@dataclass(frozen=True)
class Contender:
    """An optimizer, and the number of micro-batches in its mini-batch.

    make: makes the optimizer from the model, the number of micro-batches and the measured rules.
    rate: its learning rate, as a multiple of AdamW's.
    dtype: of the weights.
    """

    make: Callable[[nn.Module, int, SlimRules | None], torch.optim.Optimizer]
    micro_batches: int = 1
    rate: float = 1.0
    dtype: torch.dtype = torch.float32


def _folding(way: str, rate: float = 1.0) -> Contender:
    """Returns a contender of `roam bench adama`, in mode "release"."""
    found = FOLDING[way]
    return Contender(
        lambda model, n, _: found.optimizer(model, n), 1, rate, found.dtype or torch.float32
    )


def _adama(invariant: bool = False) -> Callable[..., torch.optim.Optimizer]:
    return lambda model, n, _: AdamA(
        model.parameters(), mode="accumulate", micro_batches=n, batch_invariant=invariant
    )


CONTENDERS = {
    BASE: Contender(lambda model, *_: torch.optim.AdamW(model.parameters()), 4),
    "AdamA, N = 4": Contender(_adama(), 4),
    "AdamA, N = 8": Contender(_adama(), 8),
    "AdamA, N = 8, batch-invariant": Contender(_adama(invariant=True), 8),
    "SlimAdamA, static rules": Contender(
        lambda model, *_: SlimAdamA(model.named_parameters(), static_rules(model))
    ),
    "SlimAdamA, measured rules": Contender(
        lambda model, _, rules: SlimAdamA(model.named_parameters(), rules or {})
    ),
}
# the other optimizers, at rates that their authors advise beside AdamW's
MORE = {
    "AdamA, 8 bits": _folding("adama8"),
    "SlimAdamA, 8 bits": _folding("slim8"),
    "SGD": _folding("sgd", 100.0),
    "Lion": _folding("lion", 0.2),
    "Adafactor": _folding("adafactor", 10.0),
    "AdaLomo": _folding("adalomo", 10.0),
    "CAME": _folding("came", 0.2),
    "Muon": _folding("muon", 2.0),
}
EVERY = CONTENDERS | MORE


def convergence_bench(
    settings: Settings,
    json_file: Path | None = None,
    picture: Path | None = None,
    *,
    names: Sequence[str] = tuple(CONTENDERS),
    console: Console | None = None,
) -> list[Run]:
    """Trains every contender with every seed, and prints final losses, verdicts and rules.

    Args:
        settings: of the model, the data and the loop.
        json_file: overwritten with one JSON object a run, each as soon as it is done.
        picture: a .svg or .png file for the curves.
        names: of the contenders, of EVERY. AdamW is always the first.
        console: prints the tables.

    Raises:
        OptionError: the settings do not fit together, or the picture has another suffix.
        MissingExtraError: transformers or matplotlib is not installed.
    """
    from roam.bench.convergence_report import check_picture, draw, rules_table, table, verdicts

    check_settings(settings)
    if picture is not None:
        check_picture(picture)
    console = console or Console()
    if json_file is not None:
        check_writable(json_file)
    runs: list[Run] = []
    measured: SlimRules | None = None
    with _progress(console) as progress:
        chosen = [BASE, *(name for name in names if name != BASE)]
        task = progress.add_task("", total=len(chosen) * settings.seeds)
        for name in chosen:
            for seed in range(settings.seeds):
                progress.update(task, description=f"{name}, seed {seed}")
                run, rules = train(settings, name, seed, measured)
                measured = measured or rules
                runs.append(run)
                if json_file is not None:
                    write_rows(runs, json_file)
                progress.advance(task)
    console.print(table(runs))
    for line in verdicts(runs):
        console.print(line)
    if measured is not None:
        console.print(rules_table(static_rules(gpt2(settings)), measured))
    if picture is not None:
        draw(runs, picture)
    return runs


def train(
    settings: Settings, name: str, seed: int, measured: SlimRules | None
) -> tuple[Run, SlimRules | None]:
    """Trains once. Returns the run and, for AdamW, the rules by its second moments' noise.

    measured: the rules for the contender "SlimAdamA, measured rules".
    """
    contender = EVERY[name]
    torch.manual_seed(seed)
    model = gpt2(settings).to(contender.dtype)
    optimizer = contender.make(model, contender.micro_batches, measured)
    for group in optimizer.param_groups:
        group["lr"] = settings.rate * contender.rate
    measurement = SnrMeasurement(model, optimizer) if name == BASE else None
    n = contender.micro_batches
    share = 1 / n if name == BASE else 1.0  # a folding optimizer divides the gradients itself

    def backward(batch: Tensor) -> None:
        for part in batch.chunk(n):
            (share * loss_of(model, part)).backward()

    steps, losses = curve(settings, seed, model, optimizer, backward)
    run = Run(contender=name, seed=seed, steps=steps, losses=losses)
    return run, measurement.rules() if measurement is not None else None


def curve(
    settings: Settings,
    seed: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[Tensor], None],
) -> tuple[list[int], list[float]]:
    """Trains a model. Returns steps, and the losses of validation text after them.

    backward: makes the gradients of a batch.
    """
    schedule = LambdaLR(
        optimizer, lambda step: rate_factor(step / settings.steps, settings.warm_up)
    )
    every = max(1, settings.steps // settings.evaluations)
    steps, losses = [], []
    for step, batch in enumerate(batches(settings, seed), 1):
        backward(batch)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % every == 0 or step == settings.steps:
            steps.append(step)
            losses.append(validate(model, settings))
    return steps, losses


def check_settings(settings: Settings) -> None:
    """Raises OptionError if the settings do not fit together."""
    if settings.width % settings.heads:
        raise OptionError(
            f"{settings.heads} heads do not share a width of {settings.width}: "
            "take a width that is a multiple of the heads"
        )
    for name, contender in CONTENDERS.items():
        if settings.batch % contender.micro_batches:
            raise OptionError(
                f"a batch of {settings.batch} sequences cannot be cut into "
                f"{contender.micro_batches} equal micro-batches for {name}"
            )


def rate_factor(done: float, warm_up: float) -> float:
    """Returns the factor of the learning rate when this share of the steps is done."""
    if done < warm_up:
        return (done + 1e-3) / (warm_up + 1e-3)
    return 0.55 + 0.45 * math.cos(math.pi * (done - warm_up) / (1 - warm_up))


def gpt2(settings: Settings, activation: str = "gelu_new") -> nn.Module:
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ModuleNotFoundError:
        raise MissingExtraError(
            "the benchmark needs transformers: pip install roam-planner[demo]"
        ) from None
    model: nn.Module = GPT2LMHeadModel(
        GPT2Config(
            n_layer=settings.layers,
            n_head=settings.heads,
            n_embd=settings.width,
            n_positions=settings.seq,
            vocab_size=256,
            activation_function=activation,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    model.loss_type = "ForCausalLM"  # type: ignore[assignment]
    return model


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    found: Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    return found


@torch.no_grad()
def validate(model: nn.Module, settings: Settings) -> float:
    """Returns the mean loss of fixed sequences, evenly spread over the validation text."""
    _, data = _corpus(settings.text)
    starts = torch.linspace(0, len(data) - settings.seq, VALIDATION).long()
    tokens = data[starts[:, None] + torch.arange(settings.seq)].long()
    parts = tokens.split(settings.batch)
    weighted = [loss_of(model, part).item() * len(part) for part in parts]
    return sum(weighted) / len(tokens)


def batches(settings: Settings, seed: int) -> Iterator[Tensor]:
    """Yields one mini-batch a step, [batch, seq], int64, which the seed decides."""
    data, _ = _corpus(settings.text)
    chance = torch.Generator().manual_seed(seed)
    for _ in range(settings.steps):
        starts = torch.randint(len(data) - settings.seq, (settings.batch, 1), generator=chance)
        yield data[starts + torch.arange(settings.seq)].long()


@cache
def _corpus(name: str) -> Sequence[Tensor]:
    """Returns the bytes of a text to train on, and the bytes to validate with."""
    data = torch.frombuffer(bytearray(TEXTS[name](TEXT)), dtype=torch.uint8)
    return data.tensor_split([len(data) * 7 // 8])


def _progress(console: Console) -> Progress:
    shown = TextColumn("{task.description}")
    return Progress(shown, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)
