"""Defines a rule that updates parameters by one of PyTorch's fused kernels, if there is one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roam.optim.blocks import alike
from roam.optim.fold import OF_OPTIMIZER, AccumulatingRule, Update

DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


@dataclass(frozen=True)
class FusedRule(AccumulatingRule):
    """A rule that calls the fused kernel by which torch.optim updates with `fused=True`.

    `release` then gives the same bits as torch.optim. It calls the kernel if `has_fused` returns
    True, and if the states have the parameter's shape and strides. Otherwise it calls `update`,
    which computes the update by formulas.
    """

    @abstractmethod
    def fused(self, updates: Sequence[Update]) -> None:
        """Updates parameters by the fused kernel.

        All parameters are of one device and dtype. Each has the shape and strides of its gradient
        and of its states. `release` bumps the version counters.
        """

    @property
    def prefers_formulas(self) -> bool:
        """Whether a value of the rule, such as `update_clip`, asks for what the kernel cannot do.

        Then `update` computes the update by formulas.
        """
        return False

    def has_fused(self, param: Tensor, grad: Tensor) -> bool:
        """Returns whether the fused kernel can update this parameter by this gradient."""
        return (
            not self.prefers_formulas
            and grad.device.type in DEVICES
            and param.dtype in DTYPES
            and param.dtype == grad.dtype
        )

    def release(self, updates: Sequence[Update]) -> None:
        kinds: dict[tuple[torch.device, torch.dtype, torch.dtype], list[Update]] = {}
        for update in updates:
            key = update.param.device, update.param.dtype, update.grad.dtype
            kinds.setdefault(key, []).append(update)
        for kind in kinds.values():
            if self.has_fused(kind[0].param, kind[0].grad):
                self._release_fused(kind)
            else:
                super().release(kind)

    def _release_fused(self, updates: Sequence[Update]) -> None:
        together: list[Update] = []
        for update in updates:
            state, param, grad, _ = update
            own = [t for name, t in state.items() if name not in OF_OPTIMIZER]
            # a fused kernel ignores strides: all its tensors must have one order of elements
            if alike(param, grad, *own):
                together.append(update)
            elif alike(param, *own):
                together.append(update._replace(grad=torch.empty_like(param).copy_(grad)))
            else:
                super().release([update])
        if together:
            self.fused(together)
            # a fused kernel does not bump version counters, by which autograd detects changes
            torch.autograd.graph.increment_version([update.param for update in together])
