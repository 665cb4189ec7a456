"""Checks that a step returns a loss on which eager's `backward()` would not raise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from roam.core.errors import OfflineError


def check_loss(output: Any, what: str) -> None:
    """Raises OfflineError if `backward()` would raise: no loss, no scalar, nothing to train.

    A model may return its loss beside other things, in a tuple or a mapping.
    """
    found = [output] if isinstance(output, Tensor) else _scalars_in(output)
    if not found:
        raise OfflineError(
            f"{what} holds no scalar tensor to call backward() on, it is a "
            f"{type(output).__name__}: give a loss=, a function of the output that returns a scalar"
        )
    if not any(t.requires_grad for t in found):
        raise OfflineError(
            f"{what} trains nothing, no parameter's gradient can come from it: it is detached, "
            "made under no_grad, or made of frozen parameters only"
        )
    if not any(t.requires_grad and t.numel() == 1 and not t.is_complex() for t in found):
        shape = f"{found[0].dtype} {list(found[0].shape)}"
        raise OfflineError(
            f"{what} is no scalar but {shape}, on which backward() would raise: reduce it, as in "
            "loss=lambda y: y.mean()"
        )


def _scalars_in(output: Any) -> list[Tensor]:
    """Returns the tensors of one element in nested tuples, lists and mappings."""
    if isinstance(output, Tensor):
        return [output] if output.numel() == 1 else []
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return [t for part in output for t in _scalars_in(part)]
    return []
