"""`roam bench rewrites`: what the forward saves for the backward, with rewrites of saved tensors.

    bytes that the second of three blocks saves / 4 / tokens / width      = elements, in widths d

Counted on plans. GPT-2 saves 16 d in a block if nothing is recomputed, and 10 d if what costs next
to nothing is made again: the inputs of norms and activations, q, k, v and the result of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from roam.bench.tables import gather, names_of
from roam.core.atomic_write import check_writable
from roam.core.problem import Home, Kind
from roam.inspect.step_plan import StepPlan
from roam.offline import plan

WIDTH, TOKENS, BATCH, VOCABULARY = 128, 256, 4, 256
LAYERS, COUNTED = 3, 1  # of a model, and the number of the block that is counted, from 0
SEARCH = 0.5  # seconds of work to plan a graph: what is saved does not depend on the order
SAMPLED = "wta-crs:exact_in=()"  # what queries, keys and values are made of is sampled, too
CODED, UNBIASED = "wta-crs:bits=8,exact_in=()", "quantized:unbiased=True"

Make = Callable[[], tuple[nn.Module, dict[str, Any]]]


@dataclass(frozen=True)
class Contender:
    """rewrites: the user's. recompute: the option of that name."""

    rewrites: tuple[str, ...] = ()
    recompute: str | bool = "cheap"

    def options(self, lowering: str) -> dict[str, Any]:
        """Returns the options of a plan."""
        return {
            "rewrites": self.rewrites,
            "recompute": self.recompute,
            "planning_seconds": SEARCH,
            "lowering": lowering,
        }


CONTENDERS = {
    "all is saved": Contender(recompute=False),
    "wta-crs 0.3, no recompute": Contender((SAMPLED,), recompute=False),
    "rad 0.1, no recompute": Contender(("rad:exact_in=()",), recompute=False),
    "velora, no recompute": Contender(("velora:exact_in=()",), recompute=False),
    "quantized 8, no recompute": Contender(("quantized",), recompute=False),
    "exact recompute": Contender(),
    "wta-crs 0.3": Contender((SAMPLED,)),
    "approx-bp": Contender(("approx-bp",)),
    "approx-bp + wta-crs 0.3": Contender(("approx-bp", SAMPLED)),
    "quantized 8": Contender(("quantized",)),
    "quantized 4": Contender(("quantized:bits=4",)),
    "unbiased 8": Contender((UNBIASED,)),
    "unbiased 8 + wta-crs 0.3": Contender((CODED, UNBIASED)),
    "unbiased 4 + wta-crs 0.3": Contender(("wta-crs:bits=4,exact_in=()", f"{UNBIASED},bits=4")),
    "approx-bp + quantized 8": Contender(("approx-bp", SAMPLED, "quantized")),
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What a contender saves.

    Attributes:
        model, contender: their names.
        saved: elements of float32 a token and block, in widths of the model.
        peak: transient bytes of the step.
    """

    model: str
    contender: str
    saved: float
    peak: int


def gpt2() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=4,
        vocab_size=VOCABULARY,
        n_positions=TOKENS,
        activation_function="gelu",
        use_cache=False,
        **{f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")},
        **{f"{end}_token_id": 0 for end in ("bos", "eos")},
    )
    return GPT2LMHeadModel(config), _tokens()


def llama() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=LAYERS,
        hidden_size=WIDTH,
        intermediate_size=11 * WIDTH // 4,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        use_cache=False,
        max_position_embeddings=TOKENS,
    )
    return LlamaForCausalLM(config), _tokens()


def t5() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        num_layers=LAYERS,
        num_decoder_layers=1,  # a block of the encoder is counted
        d_model=WIDTH,
        d_kv=WIDTH // 4,
        d_ff=4 * WIDTH,
        num_heads=4,
        vocab_size=VOCABULARY,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        use_cache=False,
    )
    return T5ForConditionalGeneration(config), _tokens()


def vit() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        num_hidden_layers=LAYERS,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_attention_heads=4,
        image_size=16 * 15,  # 225 patches and the class
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    images = torch.zeros(BATCH, 3, 16 * 15, 16 * 15)
    labels = torch.zeros(BATCH, dtype=torch.long)
    return ViTForImageClassification(config), {"pixel_values": images, "labels": labels}


MODELS: dict[str, tuple[Make, int, str]] = {  # with the tokens of a batch, and the path of blocks
    "gpt2": (gpt2, BATCH * TOKENS, "transformer.h"),
    "llama": (llama, BATCH * TOKENS, "model.layers"),
    "t5": (t5, BATCH * TOKENS, "encoder.block"),
    "vit": (vit, BATCH * (15 * 15 + 1), "vit.layers"),
}


def rewrites_bench(
    only: Sequence[str] = (),
    json_file: Path | None = None,
    *,
    lowering: str = "aten",
    console: Console | None = None,
) -> list[Row]:
    """Plans every model with every contender, and prints what they save.

    Args:
        only: names of models; all by default.
        json_file: overwritten with one JSON object a row.
        lowering: whose kernels are planned.
        console: prints the table.

    Raises:
        ValueError: there is no such model.
    """
    names = names_of(only, MODELS)
    if json_file is not None:
        check_writable(json_file)
    each = ((name, *contender) for name in names for contender in CONTENDERS.items())
    rows = gather(([_row(*one, lowering)] for one in each), json_file)
    (console or Console()).print(table(rows))
    return rows


def table(rows: Sequence[Row]) -> Table:
    """Returns what is saved by model, and beside it the share of exact recompute alone."""
    base = {r.model: r.saved for r in rows if r.contender == "exact recompute"}
    found = Table(title="elements saved a token and block, in widths (of exact recompute)")
    found.add_column("")
    models = list(dict.fromkeys(r.model for r in rows))
    for model in models:
        found.add_column(model, justify="right")
    for contender in dict.fromkeys(r.contender for r in rows):
        cells = {r.model: r for r in rows if r.contender == contender}
        shown = (f"{cells[m].saved:.2f} ({cells[m].saved / base[m]:.0%})" for m in models)
        found.add_row(contender, *shown)
    return found


def _row(model: str, contender: str, how: Contender, lowering: str) -> Row:
    make, tokens, blocks = MODELS[model]
    step = _plan(make, how, lowering)
    elements = saved(step, f"{blocks}.{COUNTED}") / 4 / tokens / WIDTH
    return Row(model=model, contender=contender, saved=elements, peak=step.peak)


def saved(step: StepPlan, module: str) -> int:
    """Returns the bytes that a module makes in the forward and leaves to the backward."""
    return sum(
        b.size
        for problem, _ in step.planned
        for b in problem.buffers
        if b.kind is Kind.SAVED
        and b.home is not Home.USER
        and f"{b.where}.".startswith(f"{module}.")
    )


def _plan(make: Make, how: Contender, lowering: str) -> StepPlan:
    model, batch = make()
    options = how.options(lowering)
    return plan(model, loss=lambda output: output.loss, options=options, **batch)


def _tokens() -> dict[str, Any]:
    ids = torch.zeros(BATCH, TOKENS, dtype=torch.long)
    return {"input_ids": ids, "labels": ids}
