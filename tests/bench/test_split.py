"""`roam bench split`: what its tables say, and that others' ways to split a head are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console, RenderableType
from torch import Tensor, nn

from roam.bench import paired_runs, split, split_tables
from roam.bench.chunked_head import Head, by_hand, by_torch
from roam.bench.compiled_worker import Trainer, memory, split_into
from roam.bench.compilers import CONTENDERS
from roam.bench.contender import split_blocks
from roam.bench.split import PARTS, Losses, Steps, split_bench
from roam.bench.split_losses import Sizes, errors
from roam.bench.split_zoo import SPLIT, find, head
from roam.bench.zoo import loss

MIB = 2**20


def text_of(drawn: RenderableType) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(drawn)
    return captured.get()


def row(contender: str, transient: int, ratio: float = 1.0, **more: Any) -> dict[str, Any]:
    sizes = {"transient": transient * MIB, "gradients": 2 * MIB, "total": transient * MIB}
    times = {"compile_seconds": 1.5, "ratios": [ratio], "seconds": 2 * ratio}
    return {"entry": "head", "contender": contender, **sizes, **times, **more}


HEADS = [
    row("inductor", 10, chunked=False),
    row("inductor chunked", 5, ratio=1.2, chunked=True),
    row("eager chunked 8", 4, ratio=1.1),
    row("torch chunked", 3, ratio=1.5),
    row("torch chunked 8", 3, ratio=1.4),
    row("roam split", 3, ratio=0.7, planned=3 * MIB, blocks=6),
]


def test_the_table_of_heads_has_what_comes_on_top_of_the_gradients() -> None:
    text = text_of(split_tables.heads("head", HEADS))
    [mine] = [line for line in text.splitlines() if line.startswith("│ roam split")]
    cells = [cell.strip() for cell in mine.split("│")[1:-1]]
    assert cells == [
        "roam split", "3.0", "3.0", "-70.0%", "1.0", "-87.5%", "1.40", "0.700", "1.5", "6",
    ]  # fmt: skip


def test_the_table_of_heads_says_if_inductor_chunked_nothing() -> None:
    lines = text_of(split_tables.heads("head", HEADS)).splitlines()
    last = {
        line.split("│")[1].strip(): line.split("│")[-2].strip() for line in lines if "│" in line
    }
    assert (last["inductor"], last["inductor chunked"]) == ("-", "")


@pytest.mark.slow
def test_inductors_chunker_splits_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.metrics, "num_auto_chunking", 0)
    large = head("head-small", 512, 16, 4099, torch.float32)  # above its smallest size
    monkeypatch.setitem(SPLIT, "head-small", large)
    peaks = {}
    for name in ("inductor", "inductor chunked"):
        torch._dynamo.reset()
        trainer = Trainer.of("head-small", name, update=False)
        with trainer.settings, torch._inductor.config.patch(force_disable_caches=True):
            trainer.step()
        peaks[name] = memory(trainer)["transient"]
        assert split_into(CONTENDERS[name]) == {"chunked": name == "inductor chunked"}
    assert peaks["inductor chunked"] < 0.7 * peaks["inductor"]


def test_roam_is_held_against_the_fastest_of_low_peak() -> None:
    best = split_tables.best_of_the_others(HEADS)
    assert best is not None
    lowest, fastest = best
    assert (lowest["transient"], fastest["contender"]) == (3 * MIB, "torch chunked 8")
    [line] = split_tables.beside_the_best(HEADS)
    assert "1.000 of the lowest peak" in line
    assert "0.500 of the time" in line
    assert split_tables.best_of_the_others([{"contender": "inductor", "error": "no"}]) is None
    assert split_tables.beside_the_best([HEADS[-1]]) == []


def test_the_table_of_losses_has_errors_by_inductors() -> None:
    def of(contender: str, **errors: float) -> dict[str, Any]:
        return {"entry": "bias", "contender": contender, "errors": errors, "blocks": None}

    rows = [
        of("inductor", loss=1e-7, hidden=0.0, bias=2e-7),
        of("roam split", loss=2e-7, hidden=0.0, bias=1e-7),
        {"entry": "sum", "contender": "roam split", "error": "ended\nOptionError: no split"},
    ]
    text = text_of(split_tables.losses(rows))
    for part in ("2.00 (1e-07)", "hidden 1.00 (0e+00)", "bias 0.50 (2e-07)", "OptionError: no"):
        assert part in text
    assert split_tables.ratio(1e-9, 0.0) == float("inf")


@pytest.mark.parametrize(
    "chunked",
    [by_torch, lambda m, b: by_torch(m, b, 8), lambda m, b: by_hand(m, b, 7)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_ways_to_split_a_head_have_its_gradients(
    chunked: Callable[[nn.Module, dict[str, Tensor]], Tensor], dtype: torch.dtype
) -> None:
    entry = find("head-tiny")
    model, batch = entry.build().to(dtype), entry.batch()

    def results(found: Tensor) -> dict[str, Tensor]:
        gradients = torch.autograd.grad(3 * found, list(model.parameters()))
        return {"loss": found.detach(), "hidden": gradients[0], "weight": gradients[1]}

    truth = {name: value.double() for name, value in results(loss(model, batch)).items()}
    differ = errors(results(chunked(model, batch)), truth)
    assert max(differ.values()) < (
        1e-6 if dtype == torch.float32 else 2e-2
    )  # torch sums losses in bfloat16


def test_only_a_head_has_a_chunked_loss() -> None:
    with pytest.raises(TypeError, match="only a Head"):
        by_hand(nn.Linear(2, 2), {}, blocks=2)


@pytest.mark.parametrize("name", [name for name in SPLIT if name.endswith("-tiny")])
def test_every_parameter_of_a_tiny_entry_is_trained(name: str) -> None:
    model, batch = SPLIT[name].build(), SPLIT[name].batch()
    torch.autograd.backward(loss(model, batch))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_parts_name_what_exists() -> None:
    for part in PARTS.values():
        assert set(part.contenders) <= CONTENDERS.keys()
        if isinstance(part, Steps):
            assert [find(name).name for name in part.entries] == list(part.entries)
    with torch.device("meta"):
        model = SPLIT["head-bfloat16"].build()
    assert isinstance(model, Head)
    assert model.weight.shape == (128_256, 2048)
    assert model.hidden.dtype == torch.bfloat16


class Fake:
    """The process of a contender, which answers without running."""

    def __init__(self, entry: str, contender: str) -> None:
        self.answer = row(contender, 4, errors={"loss": 1e-7}) | {"entry": entry}

    def read(self) -> dict[str, Any]:
        return self.answer

    def ask(self, _: str) -> dict[str, Any]:
        return {"seconds": 1.0, "system": 0.0}


def test_a_run_has_a_row_for_each_entry_and_contender(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[tuple[str, ...]] = []

    @contextmanager
    def process(worker: str, entry: str, contender: str, *more: str) -> Iterator[Fake]:
        started.append((worker.rpartition(".")[2], contender, *more))
        yield Fake(entry, contender)

    monkeypatch.setattr(paired_runs, "process", process)
    monkeypatch.setattr(split, "process", process)
    parts: dict[str, split.Part] = {
        "head": replace(PARTS["head"], entries=("head-tiny",)),
        "losses": Losses(("bias",)),
    }
    file = tmp_path / "rows.json"
    rows = split_bench(
        None, file, contenders=["roam split"], parts=parts, console=Console(quiet=True)
    )
    found = [(r["part"], r["entry"], r["contender"]) for r in rows]
    both = ("inductor", "roam split")
    assert found == [(*of, c) for of in (("head", "head-tiny"), ("losses", "bias")) for c in both]
    assert len(file.read_text().splitlines()) == 4
    assert all("--no-update" in s for s in started if s[0] == "compiled_worker")
    assert [s[1] for s in started if s[0] == "split_losses_worker"] == list(both)


@pytest.mark.parametrize(
    ("only", "contenders", "wrong"), [("gpt3", [], "gpt3"), (None, ["nobody"], "nobody")]
)
def test_unknown_names_are_refused(only: str | None, contenders: Sequence[str], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        split_bench(only, contenders=contenders, console=Console(quiet=True))


@pytest.mark.slow
def test_workers_answer() -> None:
    small = Sizes(batch=1, seq=13, width=8, vocab=50)
    parts: dict[str, split.Part] = {
        "head": Steps(("head-tiny",), ("eager chunked 8", "torch chunked"), update=False),
        "losses": Losses(("mean",), ("eager", "inductor pools"), small, draws=1),
    }
    rows = split_bench(parts=parts, console=Console(quiet=True))
    assert [row.get("error") for row in rows] == [None] * 4
    assert all(row["transient"] > row["gradients"] > 0 for row in rows[:2])
    assert all(0 < error < 1e-6 for row in rows[2:] for error in row["errors"].values())


def test_blocks_are_read_from_the_names_of_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    def reported(*names: str) -> int | None:
        problem = SimpleNamespace(ops=[SimpleNamespace(name=name) for name in names])
        graphs = [SimpleNamespace(problem=None), SimpleNamespace(problem=problem)]
        done = SimpleNamespace(graphs=graphs if names else graphs[:1])
        monkeypatch.setattr("roam.inspect.report.report", lambda: done)
        return split_blocks()

    assert reported("buf0", "backward buf1") == 1
    assert reported("buf0#1", "buf1#12", "buf2#2.3", "backward buf40") == 12
    assert reported() is None
