"""The optimizers that `roam bench adama` compares, by the names of their contenders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from roam import optim
from roam.optim.folding import FoldingOptimizer


@dataclass(frozen=True)
class Way:
    """One optimizer of roam, as a benchmark makes it.

    Attributes:
        make: of a model and the values of the constructor.
        values: of the constructor.
        accumulates: whether it can have several micro-batches, with `summed`.
        summed: values that it needs for that.
        dtype: of the weights.
    """

    make: Callable[..., FoldingOptimizer]
    values: tuple[tuple[str, Any], ...] = ()
    accumulates: bool = True
    summed: tuple[tuple[str, Any], ...] = ()
    dtype: torch.dtype = torch.float32

    def optimizer(self, model: nn.Module, micro_batches: int) -> FoldingOptimizer:
        """Returns an optimizer of the model's parameters.

        Raises:
            HyperparameterError: it cannot accumulate.
        """
        how = dict(self.values)
        if micro_batches > 1:
            how |= {"mode": "accumulate", "micro_batches": micro_batches, **dict(self.summed)}
        return self.make(model, **how)


def _of(kind: type[FoldingOptimizer]) -> Callable[..., FoldingOptimizer]:
    return lambda model, **how: kind(model.named_parameters(), **how)


def _slim(model: nn.Module, **how: Any) -> FoldingOptimizer:
    return optim.SlimAdamA(model.named_parameters(), optim.static_rules(model), **how)


def _mini(model: nn.Module, **how: Any) -> FoldingOptimizer:
    heads = int(model.config.num_attention_heads)  # type: ignore[union-attr, arg-type]
    return optim.AdamMini(model.named_parameters(), optim.mini_rules(model, heads), **how)


EIGHT_BITS = (("state_dtype", "int8"), ("weight_remainder", True))
FOLDING: dict[str, Way] = {
    "adama": Way(_of(optim.AdamA)),
    "slim": Way(_slim),
    "sgd": Way(_of(optim.SGD), (("momentum", 0.9),)),
    "lion": Way(_of(optim.Lion), summed=(("betas", (0.95, 0.95)),)),
    "adafactor": Way(_of(optim.Adafactor), accumulates=False),
    "adalomo": Way(_of(optim.AdaLomo), accumulates=False),
    "came": Way(_of(optim.CAME), accumulates=False),
    "muon": Way(_of(optim.Muon), summed=(("nesterov", False),)),
    "scion": Way(_of(optim.Scion)),
    "adama8": Way(_of(optim.AdamA), EIGHT_BITS, dtype=torch.bfloat16),
    "slim8": Way(_slim, EIGHT_BITS, dtype=torch.bfloat16),
}
