"""A recommender of two towers with five losses.

user's ids ── embeddings ── tower ── user ──┬── in-batch softmax over all items
                                            │
                                            ├── click, like, seconds watched
item's ids ── embeddings ── tower ── item ──┤
                                            └── the item's category
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    normalize,
)

from roam.bench.batches import Batch, MakeBatch


@dataclass(frozen=True)
class Sizes:
    """The sizes of the towers.

    Attributes:
        users, items: the values of each categorical feature of a user and of an item.
        wide: channels of an embedding.
        layers: channels of each layer of a tower.
        head: channels of the hidden layer of a head.
        categories: of the items.
        temperature: of the softmax.
    """

    users: tuple[int, ...] = (50_000, 20_000, 1_000, 1_000, 200, 100)
    items: tuple[int, ...] = (50_000, 10_000, 1_000, 500, 100)
    wide: int = 64
    layers: tuple[int, ...] = (1024, 512, 256)
    head: int = 256
    categories: int = 1000
    temperature: float = 0.05


class TwoTower(nn.Module):
    """Two towers that are trained by retrieval and by four more tasks together.

    The towers and the softmax over the items of the batch are those of Yi et al.,
    *Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations* (RecSys 2019,
    sections 3 and 5), without the correction; the tasks are those of Zhao et al., *Recommending
    What Video to Watch Next* (RecSys 2019, section 4.2), and the item's category.
    """

    def __init__(self, sizes: Sizes = Sizes()) -> None:
        super().__init__()
        self.temperature = sizes.temperature
        self.user = _Tower(sizes.users, sizes)
        self.item = _Tower(sizes.items, sizes)
        width = sizes.layers[-1]
        self.click, self.like, self.watched = (
            _dense((2 * width, sizes.head), last=1) for _ in range(3)
        )
        self.category = _dense((width, sizes.head), last=sizes.categories)

    def forward(
        self,
        user_ids: Tensor,
        item_ids: Tensor,
        clicks: Tensor,
        likes: Tensor,
        seconds: Tensor,
        categories: Tensor,
    ) -> dict[str, Tensor]:
        """Returns the sum of the losses. Takes ids [batch, features]; the rest is [batch]."""
        user, item = self.user(user_ids), self.item(item_ids)
        scores = normalize(user, dim=-1) @ normalize(item, dim=-1).T / self.temperature
        both = torch.cat([user, item], 1)
        losses = (
            cross_entropy(scores, torch.arange(len(scores), device=scores.device)),
            binary_cross_entropy_with_logits(self.click(both)[:, 0], clicks),
            binary_cross_entropy_with_logits(self.like(both)[:, 0], likes),
            huber_loss(self.watched(both)[:, 0], seconds),
            cross_entropy(self.category(item), categories),
        )
        return {"loss": torch.stack(losses).sum()}


class _Tower(nn.Module):
    def __init__(self, values: Sequence[int], sizes: Sizes) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, sizes.wide) for n in values)
        *hidden, last = sizes.layers
        self.layers = _dense((len(values) * sizes.wide, *hidden), last=last)

    def forward(self, ids: Tensor) -> Tensor:
        found = [table(ids[:, i]) for i, table in enumerate(self.embeddings)]
        made: Tensor = self.layers(torch.cat(found, 1))
        return made


def _dense(widths: Sequence[int], *, last: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for given, made in pairwise(widths):
        layers += [nn.Linear(given, made), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], last))


def visits(batch: int, sizes: Sizes = Sizes()) -> MakeBatch:
    """Returns a maker of users, the items they saw, and what they did."""

    def make(g: torch.Generator) -> Batch:
        def ids(values: Sequence[int]) -> Tensor:
            return torch.stack([torch.randint(0, n, (batch,), generator=g) for n in values], 1)

        clicks, likes = torch.randint(0, 2, (2, batch), generator=g).float()
        return {
            "user_ids": ids(sizes.users),
            "item_ids": ids(sizes.items),
            "clicks": clicks,
            "likes": likes,
            "seconds": torch.rand(batch, generator=g),
            "categories": torch.randint(0, sizes.categories, (batch,), generator=g),
        }

    return make
