"""The process of a rank of `roam bench wrappers`: trains a wrapped model in several ways.

    python -m roam.bench.wrappers_worker --entry gpt2 --contender fsdp2 \\
        --rank 0 --ranks 2 --steps 5 --seconds 300 --ways eager "roam aten" --meeting file:///tmp/x

prints a JSON object for each way: the losses, the peak of the last step, and how many graphs ran by
a plan. Ends with a traceback if a way takes longer than the watchdog waits.
"""

from __future__ import annotations

import argparse
import faulthandler

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import roam
from roam.bench.children import Result, answering
from roam.bench.teams import meeting, rank_arguments
from roam.bench.wrappers import WAYS, WRAPPERS
from roam.bench.zoo import Entry, find, loss
from roam.inspect.measure import measure_peak

RATE = 1e-3


def wrapped(model: nn.Module, wrapper: str) -> nn.Module:
    """Returns the model in DistributedDataParallel, or sharded: each layer, and the rest."""
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layers in reversed([m for m in model.modules() if isinstance(m, nn.ModuleList)]):
        for layer in layers:  # those inside of others first
            if any(True for _ in layer.parameters()):
                fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def train(entry: Entry, wrapper: str, way: str, steps: int) -> Result:
    """Trains a new model for some steps, each rank on a batch of its own."""
    torch.compiler.reset()
    roam.reset_report()
    run = wrapped(entry.build(), wrapper)
    torch.manual_seed(dist.get_rank())
    batch = entry.make_batch(torch.Generator().manual_seed(dist.get_rank()))
    optimizer = torch.optim.AdamW(run.parameters(), RATE)
    call = torch.compile(loss, **WAYS[way]) if WAYS[way] else loss
    losses: list[float] = []

    def step() -> None:
        value = call(run, batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())

    for _ in range(steps - 1):
        step()
    peak = measure_peak(step).peak
    report = roam.report()
    return {
        "way": way,
        "losses": losses,
        "peak": peak,
        "planned": report.planned,
        "unplanned": report.unplanned,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, parents=[rank_arguments()])
    parser.add_argument("--contender", required=True, choices=WRAPPERS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--ways", nargs="+", choices=WAYS, required=True)
    args = parser.parse_args()
    say = answering()
    with meeting(args):
        for way in args.ways:
            faulthandler.dump_traceback_later(args.seconds, exit=True)
            try:
                found = train(find(args.entry), args.contender, way, args.steps)
            except Exception as error:
                found = {"way": way, "error": f"{type(error).__name__}: {error}"}
            say(found)
            if "error" in found:
                break  # the other ranks may have stopped elsewhere


if __name__ == "__main__":
    main()
