"""Defines Scion, whose steps are equally long, however long the gradient is (arXiv 2502.07529)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from roam.core.errors import HyperparameterError
from roam.optim.blocks import blocks, row_blocks
from roam.optim.factored import rms
from roam.optim.fold import AccumulatingRule, OverRanks, State, StateSpec, Turn
from roam.optim.folding import FoldingOptimizer
from roam.optim.formula import Formula, add_in_graph
from roam.optim.orthogonal import orthogonalized

Norm = Literal["Auto", "Spectral", "Sign", "BiasRMS"]


@dataclass(frozen=True)
class ScionRule(AccumulatingRule):
    """The rule by which Scion folds and updates (arXiv 2502.07529, algorithms 1 and 2)."""

    lr: float | Tensor = 1e-3
    momentum: float = 0.1
    norm: Norm = "Auto"
    scale: float = 1.0
    unconstrained: bool = False

    folds_with = ("momentum",)

    def __post_init__(self) -> None:
        self._require(
            lr=bool(self.lr >= 0),
            momentum=0 < self.momentum <= 1,
            norm=self.norm in ("Auto", "Spectral", "Sign", "BiasRMS"),
            scale=self.scale > 0,
        )

    def state(self, param: Tensor) -> tuple[StateSpec, ...]:
        if self.norm == "Spectral" and param.dim() < 2:
            raise HyperparameterError(f"norm='Spectral' has no meaning for {list(param.shape)}")
        return (StateSpec.like("momentum_buffer", param),)

    @property
    def over_ranks(self) -> dict[str, OverRanks]:
        return {"momentum_buffer": "mean"}

    def decay(self, state: State, param: Tensor, step: int) -> None:
        state["momentum_buffer"].mul_(1 - self.momentum)

    def fold(self, state: State, param: Tensor, grad: Tensor, at: Turn) -> None:
        state["momentum_buffer"].add_(grad, alpha=self.momentum * at.scale)

    def fold_in_graph(self, param: Tensor, at: Turn) -> Formula:
        numbers = at.once(1 - self.momentum), self.momentum * at.scale
        return Formula(add_in_graph, ("momentum_buffer",), numbers)

    def apply(self, state: State, param: Tensor, step: int) -> None:
        lr, d = float(self.lr), state["momentum_buffer"]
        if not self.unconstrained:
            param.mul_(1 - lr)
        reach, norm = -lr * self.scale, self.norm
        if norm == "Auto":
            norm = "BiasRMS" if param.dim() < 2 else "Spectral"
        if norm == "Spectral":
            # the weight of a convolution is a matrix with a row for each output channel, and a
            # column for each input channel at each place of the window
            n, m = len(d), d[:1].numel()
            window = math.prod(d.shape[2:])
            factor = math.sqrt(n / max(1, m // max(1, window))) / max(1, window)
            o = orthogonalized(d.reshape(n, m)).view(d.shape)
            for p, part in row_blocks(param, o):
                p.add_(part, alpha=reach * factor)
        elif norm == "Sign":
            for p, part in blocks(param, d):
                p.add_(part.sign(), alpha=reach / max(1, d.shape[-1] if d.dim() else 1))
        else:
            length = rms(d).add_(EPS)
            for p, part in blocks(param, d):
                p.add_(part / length, alpha=reach)


EPS = 1e-8  # added to the root mean square by which the momentum is divided ("BiasRMS")


class Scion(FoldingOptimizer):
    """Scion (arXiv 2502.07529): d = (1-α) d + α g,  p = (1 - lr) p - lr scale LMO(d).

    g is the gradient, d its running mean. Of all steps of length 1, LMO(d) goes the farthest along
    d. The option `norm` selects the norm by which the length is measured, and so LMO(d):

        "Spectral"   √(n/m) NS(d) for n x m matrices; NS (Newton-Schulz) orthogonalizes, as in Muon
        "BiasRMS"    d / RMS(d)
        "Auto"       "BiasRMS" for vectors, "Spectral" for all others
        "Sign"       sign(d) / m, for the last layer and embeddings; m: size of the last dimension

    The weight of a convolution is a matrix here: n and m are its output and input channels, and its
    "Spectral" step is also divided by the number of places in the window.

    `unconstrained=True` leaves out the factor 1 - lr. One state for each element, d: 4 bytes a
    parameter in float32. Both modes are exact: d is linear in g, and no gradient is kept.

    Args:
        params: parameters, groups of them, or `model.named_parameters()`. Give the last layer and
            embeddings a group with `"norm": "Sign"` and a larger scale (the authors': 3000; 50 for
            the others).
        lr, norm, scale, unconstrained: as in the authors' package, scion.
        momentum: α, the share of the new gradient in d, as in the authors' package.
        mode, micro_batches, process_group: as in AdamA.
        max_norm, clip_by: as in AdamA, but only in mode "release".

    Raises:
        HyperparameterError: a value is out of its range, or does not go with the mode; or
            `norm="Spectral"` is given for a vector.
    """

    rule = ScionRule
