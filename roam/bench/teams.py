"""Processes that are the ranks of one training: started here, and met by gloo in each of them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from roam.bench.children import Child, process


@contextmanager
def team(worker: str, entry: str, contender: str, ranks: int, *words: str) -> Iterator[list[Child]]:
    """Starts a worker for each rank, and ends all of them with the context.

    Args:
        worker: the module, which enters `meeting`.
        entry, contender: what it runs.
        ranks: how many processes.
        words: further arguments.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        how = ("--ranks", str(ranks), "--meeting", f"file://{folder}/meeting", *words)
        yield [
            stack.enter_context(process(worker, entry, contender, "--rank", str(rank), *how))
            for rank in range(ranks)
        ]


def rank_arguments() -> argparse.ArgumentParser:
    """Returns a parser of what `team` gives to every worker, to be a parent of its own."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--meeting", required=True)
    return parser


@contextmanager
def meeting(args: argparse.Namespace) -> Iterator[None]:
    """A context in which this process, of one thread, is a rank of the default process group."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=args.meeting, rank=args.rank, world_size=args.ranks)
    yield
    dist.destroy_process_group()
