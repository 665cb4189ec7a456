"""Measures, by signal-to-noise ratios, which second moments of a model may be averaged.

The method is that of SlimAdam (arXiv 2503.01843, section 3):

    SNR_K(v) = E_K'[ (E_K v)² / Var_K v ]

    v: the second moments of a parameter    K: the dimensions to average over    K': all others
    E, Var: mean and variance over these dimensions

If the ratio is above 1, the mean over K represents the second moments well enough. The ratio
is measured during an ordinary training run, at step 1, every 100 steps up to step 1000 and every
1000 steps after that. Each parameter gets the K whose mean ratio over all measurements is highest,
if that is above 1.

    measurement = SnrMeasurement(model, optimizer)      # an AdamA, or torch's AdamW
    ...                                                 # train
    measurement.rules().save(Path("rules.json"))
    SlimAdamA(model.named_parameters(), SlimRules.load(Path("rules.json")))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from roam.core.errors import OptimizerError
from roam.optim.eight_bit import is_code
from roam.optim.eight_bit_adam import decoded
from roam.optim.slim_rules import Dims, MeanRule, SlimRules, is_norm, owners
from roam.runtime.stored_tensor import StoredTensor

CEILING = 1e9  # the highest ratio that is counted; above it, rounding is the only noise


class SnrMeasurement:
    """Measures signal-to-noise ratios after some steps of an optimizer, until `stop` is called.

    The steps are counted from the creation of this object; `is_due` tells which are measured.
    Leaves out parameters that have no second moment, or one of another shape than the parameter,
    because it is averaged already.

    Args:
        model: the model, which gives the parameters their names.
        optimizer: trains the model. Keeps second moments in its state, as "exp_avg_sq".
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._owners = owners(model)
        self._found: dict[str, dict[Dims, list[float]]] = {}
        self._step = 0
        self._hook = optimizer.register_step_post_hook(self._after_step)

    def stop(self) -> None:
        """Ends the measurement. `rules` may still be called."""
        self._hook.remove()

    def rules(self) -> SlimRules:
        """Returns rules that average second moments as the signal-to-noise ratios (SNR) suggest.

        The second moments of a parameter are averaged over the dimensions with the highest mean
        SNR, if this is above 1. Those of norms, of vectors, and of parameters that were not
        measured, are not averaged.

        Raises:
            OptimizerError: nothing has been measured yet.
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
            v = _second_moments(optimizer.state.get(owner.param, {}))
            if v is None or v.shape != owner.param.shape:
                continue
            for dims in candidates(tuple(v.shape)):
                self._found.setdefault(name, {}).setdefault(dims, []).append(snr(v, dims))


def _second_moments(state: Mapping[str, Any]) -> Tensor | None:
    """Returns the second moments in a parameter's state as numbers in memory; None without any.

    Decodes them if the state has them as codes of 8 bits, and loads them if they lie in a file.
    """
    own = {k: t for k, t in state.items() if k.startswith("exp_avg_sq")}
    here = {k: t.load() if isinstance(t, StoredTensor) else t for k, t in own.items()}
    return decoded(here, "exp_avg_sq") if is_code(here, "exp_avg_sq") else here.get("exp_avg_sq")


def is_due(step: int) -> bool:
    """Returns whether to measure after `step`, counted from 1, as the SlimAdam paper does.

    That is at step 1, every 100 steps up to step 1000, and every 1000 steps after that.
    """
    return step == 1 or step % (100 if step <= 1000 else 1000) == 0


def candidates(shape: Dims) -> list[Dims]:
    """Returns the sets of dimensions over which second moments of this shape may be averaged.

    These are the first dimension, all others, and all; in nn.Linear fan-out, fan-in, and both.
    Returns no set for vectors and scalars. Leaves out a set of dimensions that all have size 1.
    """
    if len(shape) < 2:
        return []
    rest = tuple(range(1, len(shape)))
    return [k for k in ((0,), rest, (0, *rest)) if math.prod(shape[d] for d in k) > 1]


def snr(v: Tensor, dims: Dims) -> float:
    """Returns the signal-to-noise ratio of the second moments v over the dimensions `dims`.

    Takes the mean and the variance of v over `dims`, and averages the ratios mean² / variance. A
    ratio counts as at most CEILING. Leaves out ratios with a mean of 0: these elements have had no
    gradient yet. Returns 0 if no ratio is left.
    """
    wide = v.double()  # fourth powers of small gradients underflow in float32
    variance, mean = torch.var_mean(wide, dims, correction=0)
    seen = mean > 0
    if not seen.any():
        return 0.0
    ratio = mean[seen].square() / variance[seen]
    return float(ratio.clamp(max=CEILING).mean())
