"""The process of a rank of `roam bench parallel`: trains a model with others, measures itself.

    python -m roam.bench.parallel_worker --entry gpt2 --contender "adama roam" \\
        --rank 0 --ranks 2 --micro-batches 4 --meeting file:///tmp/x

prints {"total": bytes} when it has run, and then a JSON object for every line that it reads, on
which all ranks take a mini-batch: its seconds, the loss, and the elements that it has sent.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from roam.bench.children import answering, resident_peak
from roam.bench.parallel import CONTENDERS
from roam.bench.teams import meeting, rank_arguments
from roam.bench.zoo import find, loss
from roam.inspect.measure import measure_peak
from roam.optim import AdamA

RATE = 1e-4


class Training:
    """A model on one rank, and the loop over the micro-batches of a mini-batch.

    "ddp": DistributedDataParallel keeps gradients in its buckets, sums them in the last backward,
    and AdamW updates. "adama": gradients are folded, and states are combined.
    """

    def __init__(self, entry: str, contender: str, micro_batches: int) -> None:
        way, backend = contender.split()
        found = find(entry)
        self.model: nn.Module = found.build()
        self.batch = found.batch()
        self.micro_batches, self.sums = micro_batches, way == "ddp"
        self.optimizer: Any
        options = {}
        if self.sums:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE, fused=True)
            self.run: Any = DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        else:
            self.optimizer = AdamA(
                self.model.named_parameters(),
                RATE,
                mode="accumulate",
                micro_batches=micro_batches,
                process_group=dist.group.WORLD,
            )
            self.run, options = self.model, {"optimizer": self.optimizer}
        how: Any = {"options": options} if backend == "roam" else {}
        self.loss = torch.compile(loss, backend=backend, **how)

    def mini_batch(self) -> Tensor:
        for i in range(self.micro_batches):
            last = i == self.micro_batches - 1
            with self.run.no_sync() if self.sums and not last else nullcontext():
                value = self.loss(self.run, self.batch)
                (value / self.micro_batches if self.sums else value).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value.detach()

    def sent(self) -> int:
        """Returns the elements that a mini-batch gives to all_reduce, on average."""
        if self.sums:
            return sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return int(self.optimizer.ranks.sent // max(1, self.optimizer.mini_batches))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, parents=[rank_arguments()])
    parser.add_argument("--contender", required=True, choices=CONTENDERS)
    parser.add_argument("--micro-batches", type=int, required=True)
    args = parser.parse_args()

    say = answering()

    training: list[Training] = []

    def start() -> None:  # what it allocates and keeps counts: buckets and states
        training.append(Training(args.entry, args.contender, args.micro_batches))
        training[0].mini_batch()

    with meeting(args):
        held = measure_peak(lambda: training[0].mini_batch(), warm_up=start).peak
        say({"total": held})
        for _ in sys.stdin:
            begin = time.perf_counter()
            value = training[0].mini_batch()
            took = time.perf_counter() - begin
            say({"seconds": took, "loss": value.item(), "sent": training[0].sent()})
        say({"resident": resident_peak()})


if __name__ == "__main__":
    main()
