"""The rewrites of saved tensors that users may ask for by name: "wta-crs" or "wta-crs:keep=0.1"."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from roam.core.errors import OptionError
from roam.passes.rewrites.approx_bp import ApproxBP
from roam.passes.rewrites.quantized import Quantized
from roam.passes.rewrites.rad import RAD
from roam.passes.rewrites.relu_bits import ReluBits
from roam.passes.rewrites.saved import SavedRewrite
from roam.passes.rewrites.velora import VeLoRA
from roam.passes.rewrites.wta_crs import WTACRS

_ALL: tuple[Callable[..., SavedRewrite], ...] = (WTACRS, Quantized, ApproxBP, ReluBits, RAD, VeLoRA)
FIXED = ("name", "exact")  # what a rewrite is, not how
BY_NAME: Mapping[str, Callable[..., SavedRewrite]] = {made().name: made for made in _ALL}


def named(text: str) -> SavedRewrite:
    """Returns the rewrite that a text describes: a name, a colon, and fields as in a call.

    An example: "wta-crs:keep=0.1,modules=('h.*',)". A single word, as in `sampler=winners`, needs
    no quotes. Raises OptionError for an unknown name or field, or a value of the wrong type.
    """
    name, _, given = text.partition(":")
    if name not in BY_NAME:
        raise OptionError(f"option rewrites knows no {name!r}: the names are {', '.join(BY_NAME)}")
    made: Any = BY_NAME[name]
    fields = _fields(text, given)
    known = [f.name for f in dataclasses.fields(made) if f.name not in FIXED]
    if unknown := sorted(fields.keys() - {*known}):
        raise OptionError(
            f"option rewrites has {text!r}: {name} has no {unknown[0]!r}, but {', '.join(known)}"
        )
    try:
        found: SavedRewrite = msgspec.convert(fields, made)
    except msgspec.ValidationError as error:
        raise OptionError(f"option rewrites has {text!r}: {error}") from None
    return found


def _fields(text: str, given: str) -> dict[str, Any]:
    """Returns names and values of the arguments of a call."""
    try:
        call: Any = ast.parse(f"_({given})", mode="eval").body
        if call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("a value needs the name of its field before it")
        return {k.arg: _value(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        why = f"not fields as in 'wta-crs:keep=0.1' ({error.args[0]})"
        raise OptionError(f"option rewrites has {text!r}: {why}") from None


def _value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
