"""Random groups of ops, made of what heads and losses are made of: split, they are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.passes.rewrites.split.joint import Always, gradients

Step = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
Given = Mapping[str, Tensor]

# what takes (batch, tokens, classes) to the same sizes, and keeps rows apart
STEPS: dict[str, Step] = {
    "tanh": lambda z, d: torch.tanh(z),
    "gelu": lambda z, d: torch.nn.functional.gelu(z),
    "bias": lambda z, d: z + d["b"],
    "row factor": lambda z, d: z * d["r"],
    "row and class": lambda z, d: z * d["r"] + d["b"],
    "log softmax": lambda z, d: z.log_softmax(-1),
    "softmax": lambda z, d: z.softmax(-1),
    "centered": lambda z, d: z - z.mean(-1, keepdim=True),
    "normed": lambda z, d: z / (1 + z.square().sum(-1, keepdim=True)).sqrt(),
    "masked": lambda z, d: torch.where(d["y"][..., None] % 2 == 0, z, z.exp().clamp_max(3)),
    "masked out": lambda z, d: z.masked_fill(d["y"][..., None] % 5 == 0, 0.0),
    "one-hot": lambda z, d: z * torch.nn.functional.one_hot(d["y"], z.shape[-1]),
    "flat": lambda z, d: z.reshape(-1, z.shape[-1]).sigmoid().view(z.shape),
    "turned": lambda z, d: z.transpose(-1, -2).exp().clamp_max(2).transpose(-1, -2),
    "running": lambda z, d: z.cumsum(-1) / z.shape[-1],
    "highest": lambda z, d: z - z.amax(-1, keepdim=True),
    "itself": lambda z, d: z * z.sigmoid() + z,
}
# what makes a scalar of it
ENDS: dict[str, Step] = {
    "mean": lambda z, d: z.square().mean(),
    "sum of rows": lambda z, d: z.logsumexp(-1).sum(),
    "picked": lambda z, d: -z.log_softmax(-1).gather(-1, d["y"][..., None]).mean(),
    "rows then mean": lambda z, d: z.square().sum(-1).sqrt().mean(),
    "exponential": lambda z, d: z.logsumexp(-1).mean().exp(),
    "next token": lambda z, d: -z[:, :-1].log_softmax(-1).gather(-1, d["y"][:, 1:, None]).mean(),
    "some rows": lambda z, d: torch.where(d["y"] > 3, z.sum(-1), 0.0).sum() / (d["y"] > 3).sum(),
}
# their gradient does not depend on the logits, unless on which is the highest
LINEAR = {
    *("bias", "row factor", "row and class", "masked out", "one-hot", "centered", "running"),
    "highest",
}
programs = st.tuples(
    st.lists(st.sampled_from(sorted(STEPS)), max_size=4),
    st.sampled_from(sorted(ENDS)),
    st.integers(1, 3),  # batch
    st.integers(9, 20),  # tokens
    st.integers(3, 12),  # rows of a block, at least
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
def test_a_random_group_in_blocks_is_the_same_in_one_piece(
    program: tuple[list[str], str, int, int, int],
) -> None:
    steps, end, batch, tokens, fewest = program
    of = torch.Generator().manual_seed(1)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=of, dtype=torch.float64)

    inputs = {
        "x": draw(batch, tokens, 4),
        "w": draw(40, 4) / 2,
        "b": draw(40),
        "r": draw(batch, tokens, 1),
        "y": torch.randint(0, 40, (batch, tokens), generator=of),
    }

    def loss(d: Given) -> Tensor:
        z = torch.nn.functional.linear(d["x"], d["w"])
        for step in steps:
            z = STEPS[step](z, d)
        return ENDS[end](z, d)

    split, blocks = gradients(loss, inputs, [Always(fewest_rows=fewest)])
    whole, _ = gradients(loss, inputs, None)
    tokens -= end == "next token"
    fits = batch * tokens > fewest
    if "turned" in steps and batch > 1:  # whole sequences are blocks, or some tokens of all
        fits = batch > -(-fewest // tokens) or tokens > -(-fewest // batch)
    # the gradient of a sum after linear ops is not made from the logits
    if fits and not (end == "some rows" and LINEAR.issuperset(steps)):
        assert len(blocks) == 1, program
        assert blocks[0] > 1
    for found, expected in zip(split, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
