"""Trains every model of a list with and without roam, each batch of models in a fresh process.

    python -m tests.models.sweep --lowering aten --to results.jsonl [--models A,B] [--hours 1]

Writes one line of JSON a model: what came out, what differs, seconds. A line that is there already
is kept, so an interrupted sweep goes on where it was. A model that takes longer than the limit, or
ends its process, is a line as well.
"""

from __future__ import annotations

import argparse
import json
import selectors
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch._functorch.config
import torch._inductor.config

import roam
from tests import kernels_together
from tests.helpers import compiler, fused, unfused
from tests.models.architectures import NAMES
from tests.models.training import EagerError, Example, Trace, different

BATCH = 40  # models a process
LIMIT = 400  # seconds a model
CLOSE = 1e-3  # to eager, where nothing else trains a model and its dropout is the same
Row = dict[str, Any]
REFERENCES = {"aten": "aot_eager", "inductor": "inductor"}


def compare(name: str, lowering: str, layers: int) -> Row:
    """What training the model with this lowering gives, beside what it is held against.

    ATen's kernels are held against eager first, which costs nothing, and against aot_eager where
    AOTAutograd's graph adds up in another order than eager does.
    """
    try:
        example = Example.of(name, layers)
    except EagerError as e:
        return {"result": "eager does not train", "detail": str(e)[:300]}
    roam.reset_report()
    start = time.perf_counter()
    try:
        mine = example.train(unfused if lowering == "aten" else fused)
    except Exception as e:
        return _raised(example, lowering, e)
    row: Row = {
        "seconds": round(time.perf_counter() - start, 1),
        "tensors": len(mine),
        "planned": roam.report().planned,
        "unplanned": roam.report().unplanned,
        "detours": sum(roam.report().detours.values()),
    }
    eager = example.train(lambda model: model)
    if lowering == "aten" and not different(mine, eager):
        return row | {"result": "equal", "to": "eager"}
    reference = REFERENCES[lowering]
    try:
        theirs = example.train(compiler(reference))
    except Exception as e:
        row |= {"detail": f"{type(e).__name__}: {str(e)[:200]}", "error": _error(mine, eager)}
        close = row["error"] < CLOSE
        return row | {"result": f"trains where {reference} raises" if close else "differs"}
    names = different(mine, theirs)
    if not names:
        return row | {"result": "equal", "to": reference}
    row |= {"differ": names[:8], "of": len(names), "error": _error(mine, theirs)}
    if set(names) <= set(different(example.train(compiler(reference)), theirs)):
        return row | {"result": f"equal but for what differs between runs of {reference}"}
    if lowering == "inductor":
        row |= _against_float64(example)
        if row["ours"] <= 2 * row["theirs"]:
            return row | {"result": "within Inductor's error"}
    return row | {"result": "differs"}


def _raised(example: Example, lowering: str, error: Exception) -> Row:
    """A row for a model that did not train, by whether it does without roam."""
    detail = f"{type(error).__name__}: {str(error)[-600:]}"
    try:
        example.train(compiler(REFERENCES[lowering]))
    except Exception:
        return {"result": "raises, as without roam", "detail": detail}
    return {"result": "raises", "detail": detail}


def _against_float64(example: Example) -> Row:
    """The largest errors of roam's and of Inductor's training without random ops.

    Against eager in float64, or in float32 if an op of the model knows no float64.
    """

    def train(compile_: Callable[[Any], Any], dtype: torch.dtype | None = None) -> Trace:
        return example.train(compile_, dtype=dtype, evaluating=True)

    try:
        exact = train(lambda model: model, torch.float64)
    except RuntimeError:  # a grouped product of experts, for one
        exact = train(lambda model: model)
    ours, theirs = (_error(train(run), exact) for run in (fused, compiler("inductor")))
    return {"ours": ours, "theirs": theirs}


def _error(mine: Trace, theirs: Trace) -> float:
    """The largest error of a tensor, as a share of the tensor's largest element."""
    errors = [0.0]
    for name in mine.keys() & theirs.keys():
        a, b = mine[name].double(), theirs[name].double()
        if a.numel() and a.shape == b.shape:
            errors.append(float((a - b).abs().max() / b.abs().max().clamp(min=1e-8)))
    return max(errors)


def _child(names: list[str], lowering: str, layers: int) -> None:
    """Prints a line for each model."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # several add up what scatters into one place in any order
    # a graph is compiled every time; its C++ kernels, which are Inductor's, once
    torch._inductor.config.fx_graph_cache = False
    torch._functorch.config.enable_autograd_cache = False
    kernels_together.take_over()
    for name in names:
        row = {"model": name, "lowering": lowering, **compare(name, lowering, layers)}
        print("ROW" + json.dumps(row), flush=True)


def rows(names: list[str], lowering: str, layers: int, limit: float) -> Iterator[Row]:
    """A row for each model; processes that hang or die cost the model they were at."""
    left = list(names)
    while left:
        given = ["--child", ",".join(left[:BATCH]), "--lowering", lowering, "--layers", str(layers)]
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.models.sweep", *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdout is not None
        todo = left[:BATCH]
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ)
            while todo:
                line = child.stdout.readline() if ready.select(limit) else None
                if line and not line.startswith("ROW"):
                    continue
                name = todo.pop(0)
                left.remove(name)
                if line:
                    yield json.loads(line[3:])
                    continue
                child.kill()
                why = "timeout" if line is None else f"the process ended with {child.wait()}"
                yield {"model": name, "lowering": lowering, "result": why}
                break
        child.kill()
        child.wait()


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--lowering", choices=("aten", "inductor"), default="aten")
    ask.add_argument("--layers", type=int, default=2)
    ask.add_argument("--to", type=Path, default=Path("sweep.jsonl"))
    ask.add_argument("--models", default="", help="names with commas; all if left out")
    ask.add_argument("--seed", type=int, help="go through the models in this random order")
    ask.add_argument("--hours", type=float, default=4.0)
    ask.add_argument("--limit", type=float, default=LIMIT, help="seconds a model")
    ask.add_argument("--child", default="", help=argparse.SUPPRESS)
    how = ask.parse_args()
    if how.child:
        _child(how.child.split(","), how.lowering, how.layers)
        return
    names = how.models.split(",") if how.models else list(NAMES)
    if how.seed is not None:
        Random(how.seed).shuffle(names)
    how.to.touch()
    there = {json.loads(line)["model"] for line in how.to.read_text().splitlines()}
    end = time.monotonic() + 3600 * how.hours
    with how.to.open("a") as file:
        for row in rows([n for n in names if n not in there], how.lowering, how.layers, how.limit):
            print(json.dumps(row), file=file, flush=True)
            if time.monotonic() > end:
                return


if __name__ == "__main__":
    main()
