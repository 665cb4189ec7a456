"""`roam bench compiled`: what its table says, and what its processes answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from rich.console import Console

from roam.bench import compiled, compiled_worker, paired_runs
from roam.bench.children import ContenderError
from roam.bench.paired_runs import Timing
from roam.bench.zoo import TINY


def row(contender: str, transient: int, **more: Any) -> dict[str, Any]:
    sizes = {"transient": transient, "total": 2 * transient, "compile_seconds": 1.5}
    return {"entry": "gpt2", "contender": contender, **sizes, **more}


def test_the_table_compares_with_inductor() -> None:
    rows = [
        row("inductor", 2**21),
        row("roam inductor", 2**20, planned=2**20, ratios=[1.01, 1.1, 0.9], blocks=8),
        {"entry": "gpt2", "contender": "inductor pools", "error": "ended\nMemoryError: none\n"},
    ]
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(compiled.table("gpt2", rows))
    text = captured.get()
    [mine] = [line for line in text.splitlines() if "roam inductor" in line]
    assert mine.split("│")[2].strip() == "1.0"
    assert "-50.0%" in mine
    assert "1.010 (0.90 to 1.10)" in mine
    assert mine.split("│")[-2].strip() == "8"
    assert "MemoryError: none" in text


def test_the_table_names_the_exception_of_a_failed_contender() -> None:
    error = (
        "ended with exit status 1:\n    raise E()\nroam.core.errors.OptionError: no\n\nSet TORCH.."
    )
    console = Console(width=120, quiet=False)
    with console.capture() as captured:
        console.print(compiled.table("gpt2", [{"contender": "roam split", "error": error}]))
    assert "roam.core.errors.OptionError: no" in captured.get()


def test_a_contender_that_fails_leaves_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ContenderError("out of memory")

    monkeypatch.setattr(paired_runs, "process", fail)
    [found] = compiled.compiled_bench("gpt2", contenders=("eager",), console=Console(quiet=True))
    assert found == {"entry": "gpt2", "contender": "eager", "error": "out of memory"}


def test_what_a_contender_measures() -> None:
    torch._dynamo.reset()
    trainer = compiled_worker.Trainer.of("gpt2", "eager")
    found = compiled_worker.memory(trainer)
    weights = sum(p.nbytes for p in trainer.model.parameters())
    state = 2 * weights + 4 * len(list(trainer.model.parameters()))
    held = sum(t.nbytes for t in (*trainer.model.buffers(), *TINY["gpt2"].batch().values()))
    assert found["persistent"] == weights + state + held
    assert found["transient"] > weights  # the gradients, and what the forward saved
    assert found["total"] >= found["persistent"] + found["transient"]


def test_without_updates_a_loop_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    trainer = compiled_worker.Trainer.of("head-tiny", "eager chunked 8", update=False)
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.iteration()
    assert all(map(torch.equal, before, trainer.model.parameters()))
    found = compiled_worker.memory(trainer)
    weights = sum(p.nbytes for p in trainer.model.parameters())
    assert found["gradients"] == weights
    assert found["persistent"] == weights + trainer.batch["labels"].nbytes
    assert found["total"] == found["persistent"] + found["transient"]


@pytest.mark.parametrize("together", [False, True])
def test_what_is_timed_is_a_median_over_pairs(
    monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    compiling = {"inductor": iter((9.0, 2.0, 3.0)), "roam inductor": iter((4.0, 5.0, 30.0))}
    mine = iter((3.0, 3.0, 2.0, 2.0, 4.0, 4.0))
    started: list[list[str]] = []
    asked: list[str] = []

    class Fake:
        def __init__(self, contenders: list[str]) -> None:
            self.contenders = contenders
            self.warm = iter(contenders)

        def read(self) -> dict[str, Any]:
            name = next(self.warm)
            return row(name, 2**20) | {"compile_seconds": next(compiling[name], 0.0)}

        def ask(self, number: str) -> dict[str, Any]:
            asked.append(self.contenders[int(number)])
            seconds = next(mine) if asked[-1] == "roam inductor" else 2.0
            return {"seconds": seconds, "system": seconds / 4}

    @contextmanager
    def process(_worker: str, _entry: str, contender: str, *more: str) -> Iterator[Fake]:
        others = [more[i + 1] for i, word in enumerate(more) if word == "--contender"]
        started.append([contender, *others])
        yield Fake([contender, *others])

    monkeypatch.setattr(paired_runs, "process", process)
    found = compiled.compiled_bench(
        "gpt2",
        contenders=("inductor", "roam inductor"),
        timing=Timing(rounds=2, pairs=3, together=together),
        console=Console(quiet=True),
    )
    assert [r["compile_seconds"] for r in found] == [3.0, 5.0]
    assert [r["ratios"] for r in found] == [[1.0] * 3, [1.5, 1.0, 2.0]]
    assert [r["seconds"] for r in found] == [2.0, 3.0]
    assert [r["system"] for r in found] == [0.5, 0.75]
    timed = started[3 * 2 :]
    if together:
        assert timed == [["inductor", "inductor", "roam inductor"]] * 3
        assert asked[-3:] == ["roam inductor", "inductor", "inductor"]  # the other way round
    else:  # each beside an Inductor
        assert timed == [["inductor"]] * 6 + [["inductor"], ["roam inductor"]] * 3
        assert asked[-4:] == ["inductor", "roam inductor", "roam inductor", "inductor"]
