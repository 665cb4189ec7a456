"""The rewrites of saved tensors that users may ask for by name: "wta-crs" or "wta-crs:keep=0.1"."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Mapping
from typing import Any

from roam.core.errors import OptionError
from roam.passes.rewrites.approx_bp import ApproxBP
from roam.passes.rewrites.quantized import Quantized
from roam.passes.rewrites.rad import RAD
from roam.passes.rewrites.saved import SavedRewrite
from roam.passes.rewrites.velora import VeLoRA
from roam.passes.rewrites.wta_crs import WTACRS

_ALL: tuple[Callable[..., SavedRewrite], ...] = (WTACRS, Quantized, ApproxBP, RAD, VeLoRA)
BY_NAME: Mapping[str, Callable[..., SavedRewrite]] = {made().name: made for made in _ALL}


def named(text: str) -> SavedRewrite:
    """Returns the rewrite of a name, with fields behind it: "wta-crs:keep=0.1,exact_in=()".

    Raises OptionError for an unknown name or field, or a value that is none.
    """
    name, _, given = text.partition(":")
    if name not in BY_NAME:
        raise OptionError(f"option rewrites knows no {name!r}: the names are {', '.join(BY_NAME)}")
    try:
        return BY_NAME[name](**dict(map(_field, given.split(",") if given else ())))
    except TypeError as error:
        raise OptionError(f"option rewrites has {text!r}: {error}") from None


def _field(text: str) -> tuple[str, Any]:
    """Returns the name and the value of a field; what is no literal is a string."""
    name, _, value = text.partition("=")
    try:
        return name, literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
