"""Weights that a model uses more than once: two full gradients of one never exist at once."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from transformers import T5Config, T5ForConditionalGeneration

import roam
from roam.core.lifetime import slots
from roam.core.problem import Home
from tests.helpers import folding_step, fused, measured_as_planned, some_slow

pytestmark = pytest.mark.usefixtures("shared_kernels")
WORDS, WIDTH = 1009, 32
FULL = WORDS * WIDTH * 4  # bytes of a gradient of the embedding, and of nothing else
IDS = torch.randint(WORDS, (2, 6), generator=torch.Generator().manual_seed(0))

Loss = Callable[[nn.Module], Tensor]


class Words(nn.Module):
    """An embedding, a layer, and a head that is tied to the embedding or is not there."""

    def __init__(self, padding: int | None, tied: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=padding)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.tied = tied

    def forward(self, ids: Tensor) -> Tensor:
        x = self.layer(self.words(ids)).tanh()
        return linear(x, self.words.weight) if self.tied else x


class Translator(Words):
    """An embedding shared by encoder, decoder and head."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + super().forward(ids.flip(1))


class UsedThrice(nn.Module):
    """A layer as large as the embeddings of the other models, used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.linspace(-1, 1, 4 * WIDTH).view(4, WIDTH)
        for _ in range(3):
            x = self.layer(x)[:, :WIDTH].tanh()
        return x


def t5() -> nn.Module:
    config = T5Config(
        vocab_size=WORDS, d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2
    )
    return T5ForConditionalGeneration(config).eval()


def squares(model: nn.Module) -> Tensor:
    found: Tensor = model(IDS).pow(2).mean()
    return found


def translation(model: nn.Module) -> Tensor:
    logits = model(input_ids=IDS, decoder_input_ids=IDS.flip(0)).logits
    return cross_entropy(logits.flatten(0, 1), IDS.flatten())


MODELS = {
    "untied": (lambda: Words(None, tied=False), squares),
    "untied, padding": (lambda: Words(3, tied=False), squares),
    "tied": (lambda: Words(None, tied=True), squares),
    "tied, padding": (lambda: Words(int(IDS[0, 0]), tied=True), squares),
    "encoder and decoder": (lambda: Translator(None, tied=True), squares),
    "shared layer": (UsedThrice, squares),
    "t5": (t5, translation),
}
QUICK = ("tied", "untied, padding", "shared layer")


models = pytest.mark.parametrize(("build", "loss"), some_slow(MODELS, QUICK))


def most_at_once() -> int:
    """How many planned buffers as large as the gradient are alive at the worst moment."""
    [(problem, plan)] = roam.report().step.planned
    large = [
        s
        for s in slots(problem, plan.order, plan.reuse)
        if s.size >= FULL and s.home is not Home.USER
    ]
    return max(sum(s.lower <= t < s.upper for s in large) for t in range(len(plan.order)))


@models
def test_one_full_gradient_at_a_time(build: Callable[[], nn.Module], loss: Loss) -> None:
    torch.manual_seed(0)
    model = build()
    exact = copy.deepcopy(model)
    step = fused(loss)

    def run() -> None:
        step(model).backward()
        model.zero_grad(set_to_none=True)

    step(model).backward()
    loss(exact).backward()
    for mine, wanted in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-4, atol=1e-6)
    model.zero_grad(set_to_none=True)
    measured_as_planned(run)
    assert most_at_once() == 1


@models
def test_one_full_gradient_at_a_time_before_it_is_folded(
    build: Callable[[], nn.Module], loss: Loss
) -> None:
    torch.manual_seed(0)
    model = build()
    step = folding_step(loss, model, model)
    step()
    measured_as_planned(step)
    assert most_at_once() == 1
