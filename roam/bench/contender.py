"""The process of one contender on one model: plans, allocates and times steps. Starts it, too.

    python -m roam.bench.contender --entry gpt2 --contender roam --steps 5

prints one JSON object. With --serve it warms up, prints that it is ready, and then takes one timed
step for every line it reads, so that several contenders can be timed in turns (see `paired`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from roam.bench.children import Child, Result, answering, process, resident_peak

if TYPE_CHECKING:
    from roam.core.plan import Plan
    from roam.core.problem import Problem

CONTENDERS = ("eager", "aot_eager", "inductor", "roam", "roam aten", "roam keep")
OPTIONS: dict[str, dict[str, Any]] = {
    "roam": {},
    "roam aten": {"lowering": "aten"},
    "roam keep": {"arena": "keep"},
}
WORKER = "roam.bench.contender"


def run(entry: str, contender: str, *, steps: int = 5, device: str = "cpu") -> Result:
    """Runs one contender in a new process.

    Returns:
        entry, contender, device: what ran.
        measured: peak of one training step, in transient bytes: gradients and memory that is kept
            between steps included.
        kept: bytes kept between steps, except what compiling left.
        left: bytes that the first step left: constants of the program, which a plan counts as
            persistent, and an arena that is kept between steps.
        loop: as `measured`, for the user's whole loop: a step and an update by torch's AdamW, whose
            state is made before.
        seconds, median_seconds: of every timed step, and their median.
        first_seconds: of the first step, compilation included, under the profiler.
        resident: peak resident bytes of the process, compilation and profiler included.
        loss: of the last step.
        And for roam the keys of `planned`, and, if all graphs are planned,
        above: `measured` less what is planned, in bytes.

    Raises:
        ContenderError: the process failed.
    """
    with process(WORKER, entry, contender, "--device", device, "--steps", str(steps)) as child:
        return child.read()


def paired(
    entry: str,
    contenders: Sequence[str] = CONTENDERS,
    *,
    rounds: int = 10,
    base: str = "eager",
    device: str = "cpu",
) -> Result:
    """Times the contenders in turns, one step each, so that each ratio is of neighbouring steps.

        A B C  A B C  A B C ...

    Each contender has its own process; while one runs its step the others wait.

    Returns:
        entry, base: as given.
        seconds: by contender, one for each round.
        ratio: by contender, its seconds by the base's, the median over the rounds.

    Raises:
        ContenderError: a process failed.
    """
    if base not in contenders:
        raise ValueError(f"the base {base!r} is none of the contenders: {', '.join(contenders)}")
    seconds: dict[str, list[float]] = {c: [] for c in contenders}
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for c in contenders:
            children[c] = stack.enter_context(
                process(WORKER, entry, c, "--device", device, "--serve")
            )
            children[c].read()  # warm, before the next one starts to compile
        for _ in range(rounds):
            for c, child in children.items():
                seconds[c].append(child.ask("step")["seconds"])
    ratio = {
        c: statistics.median(s / b for s, b in zip(seconds[c], seconds[base], strict=True))
        for c in contenders
    }
    return {"entry": entry, "base": base, "seconds": seconds, "ratio": ratio}


# ---- inside the new process ----


class Trainer:
    """A model, a batch, and a step that runs forward and backward and drops the gradients."""

    def __init__(self, entry: str, contender: str, device: str) -> None:
        import torch

        from roam.bench.zoo import find

        found = find(entry)
        self.model = found.build().to(device)
        self.batch = {k: v.to(device) for k, v in found.batch().items()}
        self.loss = _compiled(contender)
        self.seed: Callable[[int], object] = torch.manual_seed

    def step(self, update: Callable[[], object] = lambda: None) -> float:
        value = self.loss(self.model, self.batch)
        value.backward()
        update()
        self.model.zero_grad(set_to_none=True)
        return float(value.item())

    def timed_step(self) -> tuple[float, float]:
        """Runs one step, with the same random numbers every time. Returns (seconds, loss)."""
        self.seed(0)
        start = time.perf_counter()
        value = self.step()  # ends in item(), which waits for the device
        return time.perf_counter() - start, value


def _compiled(contender: str) -> Callable[..., Any]:
    import torch

    from roam.bench.zoo import loss

    if contender == "eager":
        return loss
    if contender in OPTIONS:
        return torch.compile(loss, backend="roam", options=OPTIONS[contender])
    return torch.compile(loss, backend=contender)


def measure(entry: str, contender: str, steps: int, device: str) -> Result:
    """Measures what `run` returns, in this process, which must be new."""
    import torch

    import roam
    from roam.inspect.measure import measure_peak

    trainer = Trainer(entry, contender, device)
    first: list[float] = []
    compiled = measure_peak(lambda: first.append(trainer.timed_step()[0]), device)
    roam.release()  # so that the measured steps allocate an arena that is kept, and it counts
    memory = measure_peak(trainer.timed_step, device, warm_up=trainer.timed_step)
    timed = [trainer.timed_step() for _ in range(steps)]
    optimizer = torch.optim.AdamW(trainer.model.parameters())
    trainer.step(optimizer.step)  # makes the optimizer's state

    def iteration() -> float:
        return trainer.step(optimizer.step)

    roam.release()
    loop = measure_peak(iteration, device, warm_up=trainer.step)
    result: Result = {
        "entry": entry,
        "contender": contender,
        "device": device,
        "measured": memory.peak,
        "kept": memory.held,
        "left": compiled.held,
        "loop": loop.peak,
        "seconds": [seconds for seconds, _ in timed],
        "median_seconds": statistics.median(seconds for seconds, _ in timed),
        "first_seconds": first[0],
        "resident": resident_peak(),
        "loss": timed[-1][1],
    }
    if contender not in OPTIONS:
        return result
    found = planned()
    if "planned" in found and not found["unplanned"]:
        found["above"] = memory.peak - found["planned"]
    return result | found


def planned() -> Result:
    """Returns what roam planned in this process.

    Returns:
        graphs, unplanned: how many.
        reasons: why graphs are unplanned.
        detours: calls that ran without their plan.
        And if a graph was planned:
        planned, bound: bytes of the whole step.
        planning_seconds: over all graphs.
        ops, gap, arena, fragmentation, persistent: of the largest graph.
        external: the share of the largest graph's peak that is not in the arena.
        And with a tier:
        without: bytes that the graphs would allocate if nothing moved.
        least: bytes below which no transfers without a stall bring the order of the ops.
        And with a budget:
        limit: the most bytes that the largest graph may allocate.
        extra, extra_bound: the share of the step's time that what runs again takes, and the share
            below which no recomputation keeps the budget, by the costs of ops.
    """
    from roam.inspect.report import report

    done = report()
    result: Result = {
        "graphs": len(done.graphs),
        "unplanned": done.unplanned,
        "reasons": [g.reason for g in done.graphs if g.reason],
        "detours": done.detours,
    }
    if done.step.largest is None:
        return result
    problem, plan = done.step.largest
    if again := [r for g in done.graphs if (r := g.recomputed) is not None and r.budget]:
        seconds = sum(r.step for r in again) or 1.0
        result |= {
            "limit": max(r.limit for r in again),
            "extra": sum(r.seconds for r in again) / seconds,
            "extra_bound": sum(r.bound for r in again) / seconds,
        }
    if moved := [g.moved for g in done.graphs if g.moved is not None]:
        result |= {"without": sum(m.without for m in moved), "least": max(m.bound for m in moved)}
    return result | {
        "ops": len(plan.order),
        "planned": done.step.peak,
        "bound": done.step.lower_bound,
        "gap": plan.gap,
        "arena": plan.arena,
        "fragmentation": plan.fragmentation,
        "external": 1 - _in_blocks(problem, plan) / plan.peak if plan.peak else 0.0,
        "persistent": plan.persistent,
        "method": plan.method,
        "planning_seconds": sum(p.seconds for _, p in done.step.planned),
    }


def split_blocks() -> int | None:
    """Returns the number of blocks of the group that is split into most of them; 1 if none is.

    None: no graph was planned.
    """
    from roam.inspect.report import report
    from roam.inspect.split_groups import ops_by_block

    problems = [g.problem for g in report().graphs if g.problem is not None]
    groups = (blocks for problem in problems for blocks in ops_by_block(problem).values())
    return max(map(max, groups), default=1) if problems else None


def _in_blocks(problem: Problem, plan: Plan) -> int:
    """Returns the bytes of the arena's blocks at the worst moment."""
    from roam.inspect.moment import worst_moment

    t = worst_moment(problem, plan)
    return sum(b.size for b in plan.blocks if b.lower <= t < b.upper)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m roam.bench.contender", description=__doc__)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--contender", required=True, choices=CONTENDERS)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--serve", action="store_true", help="a step for every line read")
    args = parser.parse_args(argv)

    say = answering()

    if not args.serve:
        say(measure(args.entry, args.contender, args.steps, args.device))
        return
    trainer = Trainer(args.entry, args.contender, args.device)
    for _ in range(2):
        trainer.timed_step()
    say({"ready": True})
    for _ in sys.stdin:
        seconds, value = trainer.timed_step()
        say({"seconds": seconds, "loss": value})


if __name__ == "__main__":
    main()
