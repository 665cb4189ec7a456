"""Losses and heads whose logits can be split into blocks, and their errors against float64.

    loss = LOSSES["soft_cap"]
    given = inputs(loss, Sizes(), seed=0)
    errors(results(loss, given), exact(loss, given))    # {"loss": 6e-8, "hidden": 2e-7, ...}

A loss is a function of tensors, which it takes by these names:

    hidden [batch, seq, width]      labels [batch, seq]             class_weights [vocab]
    weight [vocab, width]           bias [vocab]                    mixer [width, width]
    second [vocab, width]: another head       ids [batch, seq]: tokens to embed

To add one, add a function to LOSSES.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, linear, pad

IGNORED = -100  # the label that cross_entropy ignores by default
LossFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs.

    By default the logits are large enough to be split, into blocks of different numbers of rows.

    spread: standard deviation of the logits.
    """

    batch: int = 1
    seq: int = 779
    width: int = 64
    vocab: int = 16_411
    spread: float = 2.0


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits.flatten(0, -2), labels.flatten()


def mean(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(*_rows(linear(hidden, weight), labels))


def sum_(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(*_rows(linear(hidden, weight), labels), reduction="sum")


def with_bias(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(*_rows(linear(hidden, weight, bias), labels))


def soft_cap(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """As in Gemma 2 (arXiv 2408.00118, section 2), with a cap that bends these logits."""
    cap = 5.0
    return cross_entropy(*_rows(cap * torch.tanh(linear(hidden, weight) / cap), labels))


def label_smoothing(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(*_rows(linear(hidden, weight), labels), label_smoothing=0.1)


def ignore_index(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Every third token is padding, and one whole end, so that a block may have no label."""
    seq = labels.shape[1]
    place = torch.arange(seq, device=labels.device)
    ignored = (place % 3 == 0) | (place >= seq - seq // 4)
    return cross_entropy(*_rows(linear(hidden, weight), labels.masked_fill(ignored, IGNORED)))


def class_weights(hidden: Tensor, weight: Tensor, class_weights: Tensor, labels: Tensor) -> Tensor:
    """The mean divides by the sum of the weights of the labels."""
    return cross_entropy(*_rows(linear(hidden, weight), labels), weight=class_weights)


def z_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """As in PaLM (arXiv 2204.02311, section 5): the square of log z is added."""
    logits, truth = _rows(linear(hidden, weight), labels)
    return cross_entropy(logits, truth) + 1e-2 * logits.logsumexp(1).square().mean()


def shifted_labels(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Each token predicts the next one. The last has none, as transformers does it today."""
    following = pad(labels, (0, 1), value=IGNORED)[..., 1:].contiguous()
    return cross_entropy(*_rows(linear(hidden, weight), following))


def shifted_logits(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Each token predicts the next one. The logits of the last are cut off."""
    logits = linear(hidden, weight)[..., :-1, :].contiguous()
    return cross_entropy(*_rows(logits, labels[..., 1:].contiguous()))


def upcast(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """bfloat16 in, with logits upcast to float32."""
    logits = linear(hidden, weight)
    if logits.dtype == torch.bfloat16:  # not in the float64 of `exact`
        logits = logits.float()
    return cross_entropy(*_rows(logits, labels))


def tied(ids: Tensor, weight: Tensor, mixer: Tensor, labels: Tensor) -> Tensor:
    """The head's weight embeds the tokens as well."""
    hidden = torch.tanh(linear(embedding(ids, weight), mixer))
    return cross_entropy(*_rows(linear(hidden, weight), labels))


def two_heads(hidden: Tensor, weight: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """The second head predicts the next label."""
    now = cross_entropy(*_rows(linear(hidden, weight), labels))
    return now + 0.5 * shifted_labels(hidden, second, labels)


LOSSES: Mapping[str, LossFunction] = MappingProxyType(
    {
        "mean": mean,
        "sum": sum_,
        "bias": with_bias,
        "soft_cap": soft_cap,
        "label_smoothing": label_smoothing,
        "ignore_index": ignore_index,
        "class_weights": class_weights,
        "z_loss": z_loss,
        "shifted_labels": shifted_labels,
        "shifted_logits": shifted_logits,
        "upcast": upcast,
        "tied": tied,
        "two_heads": two_heads,
    }
)


def inputs(loss: LossFunction, sizes: Sizes, seed: int) -> dict[str, Tensor]:
    """Draws the inputs that a loss takes, float32, or bfloat16 for `upcast`.

    `class_weights` need no gradient, the other floating ones do.
    """
    g = torch.Generator().manual_seed(seed)
    rows, head = (sizes.batch, sizes.seq), (sizes.vocab, sizes.width)
    dtype = torch.bfloat16 if loss is upcast else torch.float32

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=g)).to(dtype)

    def tokens() -> Tensor:
        return torch.randint(0, sizes.vocab, rows, generator=g)

    scale = sizes.spread / sizes.width**0.5
    draw: dict[str, Callable[[], Tensor]] = {
        "hidden": lambda: normal(*rows, sizes.width),
        "weight": lambda: normal(*head, scale=scale),
        "second": lambda: normal(*head, scale=scale),
        "bias": lambda: normal(sizes.vocab),
        "mixer": lambda: normal(sizes.width, sizes.width),
        "class_weights": lambda: torch.rand(sizes.vocab, generator=g) + 0.5,
        "labels": tokens,
        "ids": tokens,
    }
    drawn = {name: draw[name]() for name in inspect.signature(loss).parameters}
    for name, value in drawn.items():
        value.requires_grad_(value.is_floating_point() and name != "class_weights")
    return drawn


def results(loss: LossFunction, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the loss, by the name "loss", and the gradient of each input that needs one."""
    leaves = {name: value.detach() for name, value in given.items()}
    for name, value in given.items():
        leaves[name].requires_grad_(value.requires_grad)
    value = loss(*leaves.values())
    value.backward()
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"loss": value.detach(), **gradients}


def exact(loss: LossFunction, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the results in float64, in eager mode."""
    wide = {
        name: value.detach().double() if value.is_floating_point() else value
        for name, value in given.items()
    }
    for name, value in given.items():
        wide[name].requires_grad_(value.requires_grad)
    return results(loss, wide)


def errors(found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns for each result the norm of its error by the norm of the true one.

    Raises ValueError if the results differ in their names.
    """
    if found.keys() != truth.keys():
        raise ValueError(f"results {list(found)} are not {list(truth)}")
    return {
        name: float((found[name].double() - value).norm() / value.norm())
        for name, value in truth.items()
    }
