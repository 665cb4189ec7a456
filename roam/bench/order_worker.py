"""A process of `roam bench order`: captures a model's step, or plans a synthetic graph.

Prints one JSON object. `--entry MODEL --contender STEP --out FILE` captures and writes the
Problem; `--entry N --contender synthetic` makes a graph of N ops and plans it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from roam.bench.children import Result, resident_peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entry", required=True)
    parser.add_argument("--contender", required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    asked = parser.parse_args()
    if asked.contender == "synthetic":
        result = plan_synthetic(int(asked.entry), asked.seconds)
    else:
        result = capture(asked.entry, asked.contender, asked.out)
    print(json.dumps(result), flush=True)


def capture(entry: str, step: str, out: Path) -> Result:
    from roam.bench.order_zoo import EVERY, WHOLE, captured
    from roam.core.files import problem_to_json

    start = time.perf_counter()
    problem = captured(EVERY[entry], folds=step == WHOLE)
    seconds = time.perf_counter() - start
    out.write_bytes(problem_to_json(problem))
    return {"capture_seconds": seconds}


def plan_synthetic(ops: int, seconds: float) -> Result:
    from roam.bench.synthetic import training_graph
    from roam.planner import Settings, plan, replaced_peak

    problem = training_graph(ops)
    start = time.perf_counter()
    found = plan(problem, Settings(seconds))
    return {
        "entry": problem.name,
        "ops": len(problem.ops),
        "buffers": len(problem.buffers),
        "program": replaced_peak(problem),
        "peak": found.peak,
        "bound": found.lower_bound,
        "gap": found.gap,
        "status": found.status.value,
        "method": found.method,
        "seconds": time.perf_counter() - start,
        "resident": resident_peak(),
    }


if __name__ == "__main__":
    main()
