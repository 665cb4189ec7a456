"""Which second moments have little to lose: their signal-to-noise ratio (arXiv 2503.01843, sec. 3).

    SNR_K(v) = E_K'[ (E_K v)² / Var_K v ]        K: the dimensions to average over, K' the others

Where it is above 1, the mean over K stands for all of them well enough. It is measured during an
ordinary run: at step 1, every 100 steps up to 1000 and every 1000 after, and averaged.

    measurement = SnrMeasurement(model, optimizer)      # an AdamA, or torch's AdamW
    ...                                                 # train
    measurement.rules().save(Path("rules.json"))
    SlimAdamA(model.named_parameters(), SlimRules.load(Path("rules.json")))
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from roam.core.errors import OptimizerError
from roam.optim.slim_rules import Dims, MeanRule, SlimRules, is_norm, owners

CEILING = 1e9  # above it v is as good as constant, and rounding is what is measured


class SnrMeasurement:
    """Measures from now on, after the optimizer's steps."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._owners = owners(model)
        self._found: dict[str, dict[Dims, list[float]]] = {}
        self._step = 0
        self._hook = optimizer.register_step_post_hook(self._after_step)

    def stop(self) -> None:
        """Measures no longer."""
        self._hook.remove()

    def rules(self) -> SlimRules:
        """For each matrix that is no norm's, the dimensions with the highest ratio above 1.

        Raises OptimizerError before the first step.
        """
        if not self._found:
            raise OptimizerError("nothing was measured yet: the first measurement is after step 1")
        return SlimRules("snr", {name: self._rule(name) for name in self._owners})

    def _rule(self, name: str) -> MeanRule:
        owner = self._owners[name]
        shape = tuple(owner.param.shape)
        if is_norm(owner.module) or len(shape) < 2:
            return MeanRule((), "norm" if is_norm(owner.module) else "vector", shape)
        ratios = {k: sum(seen) / len(seen) for k, seen in self._found.get(name, {}).items()}
        dims: Dims = ()
        if ratios and max(ratios.values()) > 1:
            dims = max(ratios, key=lambda k: ratios[k])
        shown = {",".join(map(str, k)): ratio for k, ratio in ratios.items()}
        return MeanRule(dims, "measured", shape, shown)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._step += 1
        if not is_due(self._step):
            return
        for name, owner in self._owners.items():
            v = optimizer.state.get(owner.param, {}).get("exp_avg_sq")
            if v is None or v.shape != owner.param.shape:
                continue
            for dims in candidates(tuple(v.shape)):
                self._found.setdefault(name, {}).setdefault(dims, []).append(snr(v, dims))


def is_due(step: int) -> bool:
    """Whether the paper measures after this step, counted from 1."""
    return step == 1 or step % (100 if step <= 1000 else 1000) == 0


def candidates(shape: Dims) -> list[Dims]:
    """Fan-out, fan-in and both, of a matrix or a convolution's weight; those that save anything."""
    if len(shape) < 2:
        return []
    rest = tuple(range(1, len(shape)))
    return [k for k in ((0,), rest, (0, *rest)) if math.prod(shape[d] for d in k) > 1]


def snr(v: Tensor, dims: Dims) -> float:
    """The ratio over `dims`. Where v is 0 throughout, no gradient was seen and nothing counts."""
    wide = v.double()  # the squares of squares of small gradients leave float32's range
    variance, mean = torch.var_mean(wide, dims, correction=0)
    seen = mean > 0
    if not seen.any():
        return 0.0
    ratio = mean[seen].square() / variance[seen]
    return float(ratio.clamp(max=CEILING).mean())
