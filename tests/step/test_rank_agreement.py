"""Ranks compare what they compile: threads stand for them, around one store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, fx, nn

from roam.capture.graph_names import DynamoGraph
from roam.core.errors import GraphsDifferError, MissingRankError
from roam.options import Options
from roam.step.rank_agreement import Listing, Team

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")


class Net(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.activation = nn.Linear(2, 2), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


def listing(activation: Callable[[Tensor], Tensor] = torch.relu, **options: Any) -> Listing:
    gm = fx.symbolic_trace(Net(activation))
    return Listing.of(gm, DynamoGraph("Net"), Options.parse(options, None))


def on_ranks(*each: tuple[Listing, int], seconds: float = 10) -> list[Any]:
    """What `agree` returns or raises on each rank; the last of three ranks says nothing."""
    store = dist.HashStore()

    def rank(number: int) -> Any:
        try:
            return Team(store, number, len(each), timedelta(seconds=seconds)).agree(
                "Net 0/0", *each[number]
            )
        except (GraphsDifferError, MissingRankError) as error:
            return error

    silent = [number for number, (_, free) in enumerate(each) if free < 0]
    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(rank, [n for n in range(len(each)) if n not in silent]))


def test_the_fewest_free_bytes_count() -> None:
    assert on_ranks((listing(), 30), (listing(), 20), (listing(), 40)) == [20, 20, 20]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (listing(torch.tanh), "rank 1 runs tanh where rank 0 runs relu"),
        (listing(lambda x: x), "rank 1 runs nothing more where rank 0 runs relu"),
        (
            listing(budget="60%"),
            r"rank 1 has the option budget=Budget.*60%.* where rank 0 has budget=None",
        ),
    ],
    ids=["op", "fewer ops", "option"],
)
def test_every_rank_hears_the_first_difference(other: Listing, said: str) -> None:
    for error in on_ranks((listing(), 0), (other, 0)):
        with pytest.raises(GraphsDifferError, match=said):
            raise error


def test_a_rank_that_compiles_nothing_is_named() -> None:
    [*found] = on_ranks((listing(), 0), (listing(), 0), (listing(), -1), seconds=0.1)
    assert len(found) == 2
    for error in found:
        with pytest.raises(MissingRankError, match=r"rank 2 compiled no graph within 0:00:00\.1"):
            raise error


def test_folders_of_ranks_may_differ() -> None:
    a, b = (listing(offload=f"/tmp/{rank}", lowering="aten") for rank in range(2))
    assert a.digest == b.digest
