"""`roam bench sharded`: what one of several ranks takes that share a large model (fully_shard).

Planned offline: the model has no weights, and no rank runs. Parameters, reduced gradients and
states are shards in float32; layers are gathered, and computed, in bfloat16.

Beside it stand figures that were published for the same model on as many devices. They are of other
settings (batch, what runs again), and of a device's allocator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from roam.bench.children import Result
from roam.bench.compiled import mib
from roam.bench.tables import gather
from roam.core.atomic_write import check_writable
from roam.core.problem import Kind
from roam.core.sharded import Sharding
from roam.offline import plan
from roam.optim import AdamA, SlimAdamA
from roam.optim.slim_rules import static_rules

LLAMA_3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
    "use_cache": False,
}
LAYERS = 32
WIDEN = 2  # float32 shards of what is gathered in bfloat16
PUBLISHED = (  # torchtitan, benchmarks/llama3_h100_202412_torchtitan.md, tables 1 and 2: GiB
    ("8192 tokens, batch 2, selective recomputation: FSDP2, AdamW, eager", 82.4),
    ("the same, torch.compile", 77.0),
)
OPTIMIZERS: dict[str, Callable[[nn.Module], Any]] = {
    "AdamW, gradients kept": lambda model: None,
    "AdamA": lambda model: AdamA(model.named_parameters()),
    "SlimAdamA, 8 bits": lambda model: SlimAdamA(
        model.named_parameters(), static_rules(model), state_dtype="int8"
    ),
}


@dataclass(frozen=True)
class Setting:
    """One training step. checkpoint: whether each layer runs again in the backward, as a whole."""

    layers: int = LAYERS
    tokens: int = 8192
    batch: int = 1
    checkpoint: bool = True


def sharded_bench(
    json_file: Path | None = None,
    *,
    setting: Setting | None = None,
    ranks: int = 8,
    machine: str = "h200",
    console: Console | None = None,
) -> list[Result]:
    """Plans a rank of Llama-3-8B with each optimizer. Prints a table.

    Args:
        json_file: overwritten with one JSON object a row.
        setting: the step.
        ranks: how many share each parameter.
        machine: the described machine that is planned for.
        console: prints the table.

    Returns:
        Rows of optimizer, and
        parameters, states, transient, total: bytes of a rank.
        status: of the plan, such as "OPTIMAL".
        seconds: that planning took.
    """
    console = console or Console()
    setting = setting or Setting()
    if json_file is not None:
        check_writable(json_file)

    def row_of(name: str) -> list[Result]:
        with console.status(f"{name}: {setting}"):
            return [_row(name, setting, ranks, machine)]

    rows = gather(map(row_of, OPTIMIZERS), json_file)
    console.print(table(rows, setting, ranks))
    for what, gib in PUBLISHED:
        console.print(f"published (torchtitan, 8 H100): {what}: {gib} GiB")
    return rows


def _row(name: str, setting: Setting, ranks: int, machine: str) -> Result:
    model = _llama(setting)
    ids = torch.zeros(setting.batch, setting.tokens, dtype=torch.long, device="meta")
    optimizer, begin = OPTIMIZERS[name](model), time.perf_counter()
    step = plan(
        model,
        input_ids=ids,
        labels=ids,
        loss=lambda output: output.loss,
        optimizer=optimizer,
        options={"recompute": False},  # what runs again is the setting's choice
        machine=machine,
        mesh=Sharding(ranks, WIDEN),
    )
    parameters = step.persistent_by_kind[Kind.PARAMETER]
    # torch's AdamW is no part of the graph: two states as large as the parameters
    states = 2 * parameters if optimizer is None else step.persistent_by_kind[Kind.STATE]
    return {
        "optimizer": name,
        "parameters": parameters,
        "states": states,
        "transient": step.peak,
        "total": step.peak + step.persistent + (states if optimizer is None else 0),
        "status": step.planned[0][1].status,
        "seconds": time.perf_counter() - begin,
    }


def _llama(setting: Setting) -> nn.Module:
    import transformers

    config = transformers.LlamaConfig(**LLAMA_3_8B, num_hidden_layers=setting.layers)
    with torch.device("meta"):
        model: nn.Module = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    if setting.checkpoint:
        model.activation_checkpointing_enable()  # type: ignore[operator]
    return model.train()


def table(rows: list[Result], setting: Setting, ranks: int) -> Table:
    again = "each layer runs again" if setting.checkpoint else "nothing runs again"
    shown = Table(
        title=f"Llama-3-8B, {setting.layers} layers, {setting.tokens} tokens, batch "
        f"{setting.batch}, {again}: MiB of one of {ranks} ranks",
        title_justify="left",
    )
    for column in ("optimizer", "parameters", "states", "transient", "total", "plan", "s"):
        shown.add_column(column, justify="left" if column == "optimizer" else "right")
    for row in rows:
        sizes = (mib(row[name]) for name in ("parameters", "states", "transient", "total"))
        shown.add_row(row["optimizer"], *sizes, row["status"], f"{row['seconds']:.0f}")
    return shown
