"""Turns symbolic sizes into numbers, given the inputs of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from sympy import sympify
from torch import fx

from roam.core.errors import UnplannableError
from roam.passes.geometry import value


@dataclass(frozen=True)
class Numbers:
    """Turns symbolic sizes into numbers.

    symbols: the value of each symbol in this call.
    """

    symbols: dict[Any, int] = field(default_factory=dict)

    @staticmethod
    def bind(placeholders: Sequence[fx.Node], args: Sequence[Any]) -> Numbers:
        """Reads the values of the symbols from the inputs: integers, shapes and strides."""
        symbols: dict[Any, int] = {}
        for node, arg in zip(placeholders, args, strict=True):
            fake = value(node)
            if isinstance(fake, torch.SymInt) and isinstance(arg, int):
                pairs: list[tuple[Any, int]] = [(fake, arg)]
            elif isinstance(fake, torch.Tensor) and isinstance(arg, torch.Tensor):
                pairs = list(
                    zip((*fake.shape, *fake.stride()), (*arg.shape, *arg.stride()), strict=True)
                )
            else:
                pairs = []
            for symbolic, number in pairs:
                if isinstance(symbolic, torch.SymInt) and symbolic.node.expr.is_Symbol:
                    symbols.setdefault(symbolic.node.expr, number)
        return Numbers(symbols)

    def __call__(self, number: Any) -> Any:
        """Returns the number of a size. Raises UnplannableError if only data decides it."""
        if not isinstance(number, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return number
        expr = number.node.expr
        known = sympify(expr.xreplace(self.symbols))
        if known == expr and number.node.has_hint():
            known = sympify(number.node.hint)  # a constant (of random state), no input's size
        if known.free_symbols:
            raise UnplannableError(f"the size {number} depends on data: it is not known in advance")
        if isinstance(number, torch.SymBool):
            return bool(known)
        return int(known) if isinstance(number, torch.SymInt) else float(known)

    def shape(self, sizes: Sequence[Any]) -> tuple[int, ...]:
        return tuple(int(self(n)) for n in sizes)
