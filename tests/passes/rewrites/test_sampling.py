"""What is saved of tensors: unbiased, with the variance of the closed form, and reproducible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from roam.core.errors import OptionError
from roam.passes import RAD, WTACRS, Quantized, VeLoRA
from roam.passes.rewrites.codes import Codes
from roam.passes.rewrites.sampling import row_norms, threshold, winners_and_draws
from roam.passes.rewrites.saved import Noise

DRAWS = 10_000
ROWS, WIDTH, OUT = 12, 4, 3
FAR = 4.5  # standard deviations of the mean of a right estimate: less likely than 1e-5 for each


def operands() -> tuple[Tensor, Tensor]:
    """Returns x, [N, n], with some heavy rows and one of zeros, and dz, [N, m]."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, WIDTH, generator=random, dtype=torch.float64)
    x[:3] *= torch.tensor([[20.0], [5.0], [0.0]], dtype=torch.float64)
    return x, torch.randn(ROWS, OUT, generator=random, dtype=torch.float64)


def seeds(draws: int = DRAWS) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(2**62, (draws, 1), generator=random)


def estimates(estimate: Callable[[Noise], Tensor], draws: int = DRAWS) -> Tensor:
    """Returns one estimate for each seed."""
    return torch.func.vmap(lambda seed: estimate(Noise(seed, 7)), chunk_size=1000)(seeds(draws))


def far(found: Tensor, exact: Tensor, rounding: float = 1e-9) -> float:
    """Returns the largest distance of a mean from an exact value, in standard deviations."""
    error = (found.mean(0) - exact).abs()
    spread = found.std(0) / len(found) ** 0.5
    return float((error / spread.clamp_min(rounding * exact.abs().max())).max())


def weight_gradient(rewrite: WTACRS, x: Tensor, dz: Tensor) -> Callable[[Noise], Tensor]:
    def estimate(noise: Noise) -> Tensor:
        rows, index = rewrite.sample(x, noise)
        return dz[index].t() @ rows

    return estimate


@pytest.mark.parametrize("sampler", ["threshold", "winners"])
def test_the_expected_gradient_is_the_exact_one(sampler: str) -> None:
    x, dz = operands()
    found = estimates(weight_gradient(WTACRS(keep=0.5, sampler=sampler), x, dz))
    assert far(found, dz.t() @ x) < FAR


def test_winners_have_the_variance_of_the_closed_form() -> None:
    """Of s draws with replacement of the rest: (W Σ |x_i|² |dz_i|² / |x_i| - |rest|²) / s."""
    x, dz = operands()
    count, weights = 6, row_norms(x)
    order = weights.argsort(descending=True)
    rest = weights[order].flip(0).cumsum(0).flip(0)
    winners = int((rest[:count] / (count - torch.arange(count))).argmin())
    assert 0 < winners < count - 1
    others, draws = order[winners:], count - winners
    mean = dz[others].t() @ x[others]
    squares = (dz[others].square().t() @ (x[others].square() / weights[others, None])) * rest[
        winners
    ]
    expected = (squares - mean.square()) / draws
    found = estimates(weight_gradient(WTACRS(keep=0.5, sampler="winners"), x, dz)).var(0)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1e-6)


def test_a_threshold_sample_has_distinct_rows_in_the_right_shares() -> None:
    x, _ = operands()
    weights, count = row_norms(x), 6
    drawn = [threshold(weights, count, Noise(seed)) for seed in seeds(2000)]
    index = torch.stack([i for i, _ in drawn])
    assert all(len(set(i)) == count for i in index.tolist())
    share = torch.bincount(index.flatten(), minlength=ROWS) / len(index)
    scale = torch.zeros(ROWS, dtype=torch.float64).index_put_(
        (index.flatten(),), torch.stack([s for _, s in drawn]).flatten()
    )
    kept = scale > 0
    torch.testing.assert_close(share[kept].double(), 1 / scale[kept], rtol=0, atol=0.05)
    assert float(scale[0]) == 1  # the heaviest row is always there
    assert not bool(kept[2])  # the row of zeros never is


def test_threshold_samples_vary_no_more_than_winners_and_draws() -> None:
    x, dz = operands()
    [least, most] = [
        estimates(weight_gradient(WTACRS(keep=0.5, sampler=s), x, dz), 2000).var(0).sum()
        for s in ("threshold", "winners")
    ]
    assert least < most


@pytest.mark.parametrize("sample", [threshold, winners_and_draws])
def test_a_sample_of_all_rows_is_all_rows(sample: Any) -> None:
    x, _ = operands()
    index, scale = sample(row_norms(x), ROWS, Noise(seeds(1)[0]))
    assert sorted(index.tolist()) == list(range(ROWS))
    assert bool((scale == 1).all())


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_values_are_unbiased_and_vary_as_rounding_does(bits: int) -> None:
    """A value between two codes is f steps above the lower one: variance f (1 - f) step²."""
    x = operands()[0].float()
    codes = Codes(bits)
    found = estimates(lambda noise: codes.decode(*codes.encode(x, noise)).double())
    assert far(found, x.double(), rounding=1e-7) < FAR
    step = (x.amax(1) - x.amin(1)) / codes.levels
    share = ((x - x.amin(1, keepdim=True)) / step.clamp_min(1e-9)[:, None]).double() % 1
    expected = share * (1 - share) * step.double()[:, None].square()
    torch.testing.assert_close(found.var(0), expected, rtol=0.15, atol=1e-4)


def test_projections_are_unbiased_and_vary_as_the_closed_form_says() -> None:
    """Of R with r signs: the variance of an entry is (|row of dW|² - entry²) / r."""
    x, dz = operands()
    exact, kept = dz.t() @ x, 2

    def estimate(noise: Noise) -> Tensor:
        signs = torch.where(
            noise.uniform(WIDTH * kept).reshape(WIDTH, kept) < 0.5, -1.0, 1.0
        ).double()
        return (exact @ signs) @ signs.t() / kept

    found = estimates(estimate)
    assert far(found, exact) < FAR
    expected = (exact.square().sum(1, keepdim=True) - exact.square()) / kept
    torch.testing.assert_close(found.var(0), expected, rtol=0.1, atol=1e-6)


def test_numbers_are_even_independent_and_of_one_seed() -> None:
    drawn = Noise(torch.tensor([123])).uniform(100_000)
    assert abs(float(drawn.mean()) - 0.5) < FAR * (1 / 12 / 100_000) ** 0.5
    lagged = ((drawn[1:] - 0.5) * (drawn[:-1] - 0.5)).mean() * 12
    assert abs(float(lagged)) < FAR / 100_000**0.5
    counts = torch.histc(drawn, 100)
    assert float(((counts - 1000).square() / 1000).sum()) < 160  # chi² of 99 degrees: 1e-4 above
    again = Noise(torch.tensor([123])).uniform(10)
    assert torch.equal(again, drawn[:10])
    assert torch.equal(
        Noise(torch.tensor([5]), 9).alone().uniform(4), Noise(torch.tensor([5]), 9).uniform(4)
    )
    assert not torch.equal(Noise(torch.tensor([123]), 1).uniform(10), again)
    assert not torch.equal(Noise(torch.tensor([123 + 2**40])).uniform(10), again)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WTACRS(keep=0),
        lambda: WTACRS(keep=1.5),
        lambda: WTACRS(sampler="best"),
        lambda: Quantized(bits=3),
        lambda: Quantized(group=7),
        lambda: RAD(keep=1),
        lambda: VeLoRA(groups=0),
    ],
)
def test_wrong_options_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(OptionError):
        make()
