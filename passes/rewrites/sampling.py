"""Samples of rows by weight, for unbiased estimates of sums over all rows.

A sample keeps each row with a known probability and scales what it keeps by the reciprocal, so that
the expected sum is the whole sum. All samplers return the same number of rows, `count`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roam.passes.rewrites.saved.noise import Noise

LEAST = 1e-30  # the weight of a row of zeros: it adds nothing, and weights have to be positive


def row_norms(rows: Tensor) -> Tensor:
    """Returns the Euclidean norm of each row of [N, n], as float64, [N]."""
    squares = rows.to(torch.float32).square().sum(1)
    return squares.to(torch.float64).sqrt().clamp_min(LEAST)


def threshold(weights: Tensor, count: Any, noise: Noise) -> tuple[Tensor, Tensor]:
    """Returns a threshold sample: distinct rows, the heaviest of which are always there.

    Keeps row i with probability min(1, w_i / tau), for the tau with which these sum to `count`
    (VarOpt, arXiv 0803.0473). A systematic draw in random order keeps exactly `count` rows.

    Args:
        weights: positive, float64, [N].
        count: the number of rows to keep, at most N.
        noise: draws the random numbers.

    Returns:
        The rows' indices, and the reciprocals of their probabilities.
    """
    total = weights.shape[0]
    largest, _ = weights.sort(descending=True)
    rest = largest.flip(0).cumsum(0).flip(0)  # from each row on: what it and the lighter ones weigh
    left = count - torch.arange(count, device=weights.device)
    tau = (rest[:count] / left).amin()
    drawn = noise.uniform(total + 1)
    order = drawn[1:].argsort()
    ends = (weights[order] / tau).clamp_max(1.0).cumsum(0)
    points = torch.arange(count, device=weights.device) + drawn[:1]
    index = order[torch.searchsorted(ends, points, right=True).clamp_max(total - 1)]
    return index, (tau / weights[index]).clamp_min(1.0)


def winners_and_draws(weights: Tensor, count: Any, noise: Noise) -> tuple[Tensor, Tensor]:
    """Returns the sample of WTA-CRS (arXiv 2305.15265, theorem 2): winners, and draws of the rest.

    The heaviest rows are kept as they are; the other places are drawn from the rest with
    replacement. There are as many winners as make (1 - their share) / (number of draws) smallest.
    Takes and returns what `threshold` does.
    """
    total = weights.shape[0]
    largest, order = weights.sort(descending=True)
    rest = largest.flip(0).cumsum(0).flip(0)
    place = torch.arange(count, device=weights.device)
    winners = (rest[:count] / (count - place)).argmin().reshape(1)
    weight, draws = rest.gather(0, winners), count - winners
    ends = largest.cumsum(0)
    points = ends[-1] - weight + noise.uniform(count) * weight
    drawn = torch.searchsorted(ends, points, right=True).clamp_max(total - 1)
    drawn = torch.maximum(drawn, winners)  # rounding must not draw a winner
    wins = place < winners
    chosen = torch.where(wins, place, drawn)
    return order[chosen], torch.where(wins, 1.0, weight / (draws * largest[drawn]))
