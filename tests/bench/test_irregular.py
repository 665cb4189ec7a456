"""Networks written from their papers: sizes that the papers or their authors state, and losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from roam.bench.irregular import cells, experts, randwire, recurrent, two_tower
from roam.bench.irregular.cells import NASNET_A, NASNET_A_REDUCTION


@pytest.mark.parametrize(
    ("build", "millions", "rounding"),
    [
        (cells.nasnet_a, 5.3, 0.05),  # arXiv 1707.07012, table 2
        (cells.amoebanet_a, 5.1, 0.15),  # arXiv 1802.01548, table 4
        (cells.darts, 3.3, 0.05),  # arXiv 1806.09055, table 1
        (partial(randwire.randwire, seed=1), 5.6, 0.15),  # arXiv 1904.01569, table 2: a mean
        (partial(randwire.randwire, seed=2), 5.6, 0.15),
        (partial(randwire.randwire, seed=3), 5.6, 0.15),
    ],
)
def test_networks_have_the_parameters_of_their_papers(
    build: Callable[[], nn.Module], millions: float, rounding: float
) -> None:
    with torch.device("meta"):
        model = build()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=rounding)


def test_cells_have_the_operations_and_channels_of_the_figure() -> None:
    names = [name for block in NASNET_A.blocks for name in block[::2]]
    assert sum(name.startswith("separable") for name in names) == 5
    assert sum(name == "average" for name in names) == 3
    with torch.device("meta"):
        model = cells.nasnet_a()
        trunk = model.layers[0]
        assert isinstance(trunk, cells.Trunk)
        # two cells of the stem, three stages of four, and a reduction between stages
        assert len(trunk.cells) == 2 + 3 * 4 + 2
        assert trunk(torch.empty(1, 3, 224, 224)).shape == (1, 1056, 7, 7)
    convolutions = [m for m in trunk.cells[-1].modules() if isinstance(m, nn.Conv2d)]
    # a separable one has two and is applied twice; one fits each of the two inputs
    assert len(convolutions) == 5 * 2 * 2 + 2
    assert len(NASNET_A_REDUCTION.joined) == 4


@pytest.mark.parametrize("size", [32, 33])
def test_halving_reads_every_other_pixel_and_its_neighbour(size: int) -> None:
    halved = cells.Halved(1, 2).eval()
    with torch.no_grad():
        halved.even.weight.fill_(1.0)
        halved.odd.weight.fill_(1.0)
        x = torch.arange(float(size * size)).view(1, 1, size, size)
        even, odd = halved(x)[0]
    torch.testing.assert_close(even, x[0, 0, ::2, ::2], rtol=1e-4, atol=1e-3)
    inside = x[0, 0, 1::2, 1::2]
    torch.testing.assert_close(odd[: len(inside), : len(inside)], inside, rtol=1e-4, atol=1e-3)


def test_wires_are_those_of_a_small_world() -> None:
    sources = randwire.small_world(32, seed=5)
    assert sources == randwire.small_world(32, seed=5) != randwire.small_world(32, seed=6)
    assert all(j < i for i, some in enumerate(sources) for j in some)
    assert sum(map(len, sources)) == 32 * 4 / 2


SMALL_TOWERS = two_tower.Sizes(
    users=(5, 7), items=(6,), wide=4, layers=(8, 4), head=4, categories=3
)
SMALL_EXPERTS = experts.Sizes(
    vocab=20, seq=6, width=8, hidden=12, experts=4, chosen=2, heads=2, layers=1
)


def images(size: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size), "labels": torch.zeros(2).long()}


def tokens() -> dict[str, Tensor]:
    ids = torch.zeros(2, 6).long()
    return {"input_ids": ids, "labels": ids}


@pytest.mark.parametrize(
    ("build", "batch"),
    [
        (partial(cells.nasnet_a, 3, repeats=1, width=8), partial(images, 64)),
        (partial(cells.amoebanet_a, 3, repeats=1, width=8), partial(images, 64)),
        (partial(cells.darts, 3, cells=3, width=4), partial(images, 16)),
        (partial(randwire.randwire, 3, nodes=8, channels=4), partial(images, 64)),
        (partial(recurrent.UnrolledLSTM, vocab=20, width=4), tokens),
        (partial(experts.ExpertDecoder, SMALL_EXPERTS), tokens),
        (
            partial(two_tower.TwoTower, SMALL_TOWERS),
            partial(two_tower.visits(4, SMALL_TOWERS), torch.Generator()),
        ),
    ],
)
def test_every_parameter_is_trained(
    build: Callable[[], nn.Module], batch: Callable[[], dict[str, Tensor]]
) -> None:
    with torch.device("meta"):
        model = build()
    loss = model(**{name: values.to("meta") for name, values in batch().items()})["loss"]
    assert loss.shape == ()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_mixture_is_the_sum_of_the_best_experts_by_their_gates() -> None:
    mixture = experts.Mixture(SMALL_EXPERTS)
    x = torch.randn(3, SMALL_EXPERTS.width)
    made, _ = mixture(x)
    for row, result in zip(x, made, strict=True):
        scores, chosen = mixture.gate(row).topk(2)
        gates = scores.softmax(0)
        parts = [g * mixture.experts[i](row) for g, i in zip(gates, chosen.tolist(), strict=True)]
        torch.testing.assert_close(result, parts[0] + parts[1])
