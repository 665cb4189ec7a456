"""What Inductor needs on a device, so that its lowering is the usual one only where it works."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.utils._triton import has_triton

log = logging.getLogger("roam")

DEVICES = ("cpu", "cuda", "xpu")
ASKS = 'options={"lowering": "aten"} asks for that'


@cache
def lowering() -> ModuleType | None:
    """The lowering. None, which is said, where this torch lacks a private name that it uses."""
    try:
        return import_module("roam.lowering.inductor.entry")
    except ImportError as error:
        say_missing(f"the Inductor of torch {torch.__version__} is unknown ({error})")
        return None


def missing(devices: Iterable[torch.device]) -> str | None:
    """What Inductor lacks for one of the devices; None where it can generate and compile code."""
    found = (_missing_for(device.type) for device in devices)
    return next((what for what in found if what is not None), None)


@cache
def say_missing(what: str) -> None:
    """Once for each."""
    log.warning("%s: graphs run ATen's own kernels instead of Inductor's (%s)", what, ASKS)


def _missing_for(device: str) -> str | None:
    if device not in DEVICES:
        return f"Inductor's kernels are not planned on {device}"
    if device == "cpu":
        return None if _finds_compiler() else "no C++ compiler"
    return None if has_triton() else f"no Triton for {device}"


def _finds_compiler() -> bool:
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
