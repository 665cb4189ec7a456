"""`roam bench rewrites --t5`: T5 at the sizes of the paper of WTA-CRS, planned beside its table 2.

    total = weights + AdamW's states + the worst moment of a step, fp32, dropout 0.1

The paper (arXiv 2305.15265) fine-tunes on sentences of 128 tokens and reports the peak on a GPU.
Here nothing runs, and the labels are LABELS tokens long, as those of a classification are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from roam.bench import rewrites
from roam.bench.tables import gather, names_of
from roam.core.atomic_write import check_writable
from roam.offline import plan
from roam.optim import AdamA

TOKENS, LABELS, VOCABULARY = 128, 2, 32_128
RANK = 32  # of LoRA, the paper's
GB = 10**9


@dataclass(frozen=True)
class Shape:
    """A T5: its widths, the layers of encoder and decoder each, heads, and sentences of a batch."""

    width: int
    inner: int
    layers: int
    heads: int
    batch: int


@dataclass(frozen=True)
class Contender(rewrites.Contender):
    """How a T5 is trained.

    Attributes:
        folds: whether AdamA absorbs gradients in the backward, in place of AdamW after it.
        lora: whether only LoRA's matrices of queries, keys and values are trained.
        paper: by model, what the paper's table 2 states in GB.
    """

    recompute: str | bool = False
    folds: bool = False
    lora: bool = False
    paper: dict[str, float] | None = None


SHAPES = {
    "t5-base": Shape(768, 3072, 12, 12, 100),
    "t5-large": Shape(1024, 4096, 24, 16, 64),
}
SAMPLED, TENTH = ("relu-bits", "wta-crs"), ("relu-bits", "wta-crs:keep=0.1")
CODED = ("relu-bits", "wta-crs:bits=8", "quantized:unbiased=True")
CONTENDERS = {
    "full": Contender(paper={"t5-base": 17.66, "t5-large": 45.85}),
    "wta-crs 0.3": Contender(SAMPLED, paper={"t5-base": 8.44, "t5-large": 21.58}),
    "wta-crs 0.1": Contender(TENTH, paper={"t5-base": 7.30, "t5-large": 18.46}),
    "LoRA": Contender(lora=True, paper={"t5-base": 13.84, "t5-large": 36.83}),
    "LoRA, wta-crs 0.3": Contender(SAMPLED, lora=True, paper={"t5-base": 6.50, "t5-large": 17.44}),
    "exact recompute": Contender(recompute="cheap"),
    "unbiased codes": Contender(CODED, recompute="cheap"),
    "8-bit codes": Contender(("quantized",), recompute="cheap"),
    "full, folded": Contender(folds=True),
    "wta-crs 0.3, folded": Contender(SAMPLED, folds=True),
    "unbiased codes, folded": Contender(CODED, recompute="cheap", folds=True),
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What a contender takes, in bytes; `paper` in GB.

    persistent: weights, AdamW's states and the batch. peak: the worst moment of the step.
    """

    model: str
    contender: str
    persistent: int
    peak: int
    paper: float | None


class Lora(nn.Module):
    """A frozen linear with a trained product of two thin ones beside it."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.lora_a = nn.Linear(frozen.in_features, RANK, bias=False)
        self.lora_b = nn.Linear(RANK, frozen.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        """The frozen weight, whose type transformers' T5 looks at."""
        return self.frozen.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.frozen(x) + self.lora_b(self.lora_a(x))
        return found


def t5_bench(
    only: Sequence[str] = (),
    json_file: Path | None = None,
    *,
    contenders: Sequence[str] = (),
    console: Console | None = None,
) -> list[Row]:
    """Plans T5-base and T5-large with every contender, and prints the totals.

    Args:
        only: names of SHAPES; all by default.
        json_file: overwritten with one JSON object a row.
        contenders: names of CONTENDERS; all by default.
        console: prints the table.

    Raises:
        ValueError: there is no such model.
    """
    names = names_of(only, SHAPES)
    if json_file is not None:
        check_writable(json_file)
    each = ((model, name) for model in names for name in contenders or CONTENDERS)
    rows = gather(([_row(*one)] for one in each), json_file)
    (console or Console()).print(table(rows))
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Returns the totals in GB, and as shares of the first row's, beside the paper's."""
    found = Table(title="weights, AdamW's states and the worst moment of a step, GB")
    for column in ("", "", "planned", "", "paper", "", "of it the step's"):
        found.add_column(column, justify="right")
    for row in rows:
        base = next(r for r in rows if r.model == row.model)
        total, all_of_it = row.persistent + row.peak, base.persistent + base.peak
        paper = ("", "")
        if row.paper is not None and base.paper is not None:
            paper = f"{row.paper:.2f}", f"{row.paper / base.paper:.0%}"
        shown = f"{total / GB:.2f}", f"{total / all_of_it:.0%}"
        found.add_row(row.model, row.contender, *shown, *paper, f"{row.peak / GB:.2f}")
    return found


def _row(model: str, name: str) -> Row:
    how, shape = CONTENDERS[name], SHAPES[model]
    with torch.device("meta"):
        net = t5(shape)
        if how.lora:
            with_lora(net)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = AdamA(trained) if how.folds else None
    with torch.device("meta"):
        batch: dict[str, Any] = {
            "input_ids": torch.zeros(shape.batch, TOKENS, dtype=torch.long),
            "labels": torch.zeros(shape.batch, LABELS, dtype=torch.long),
        }
    step = plan(
        net,
        loss=lambda output: output.loss,
        options=how.options("aten"),
        optimizer=optimizer,
        device="cpu",
        **batch,
    )
    states = 0 if how.folds else sum(2 * p.numel() * p.element_size() for p in trained)
    paper = None if how.paper is None else how.paper[model]
    return Row(
        model=model,
        contender=name,
        persistent=step.persistent + states,
        peak=step.peak,
        paper=paper,
    )


def t5(shape: Shape) -> nn.Module:
    """Returns a T5 of this shape, in training mode."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        num_layers=shape.layers,
        d_model=shape.width,
        d_kv=shape.width // shape.heads,
        d_ff=shape.inner,
        num_heads=shape.heads,
        vocab_size=VOCABULARY,
        decoder_start_token_id=0,
        pad_token_id=0,
        use_cache=False,
    )
    return T5ForConditionalGeneration(config).train()


def with_lora(model: nn.Module) -> None:
    """Freezes a T5, and puts LoRA beside its queries, keys and values."""
    model.requires_grad_(False)
    for block in [m for m in model.modules() if hasattr(m, "q") and hasattr(m, "k")]:
        for name in ("q", "k", "v"):
            setattr(block, name, Lora(getattr(block, name)))
