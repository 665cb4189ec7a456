"""Finds out what Inductor lacks to run on a device, such as a compiler.

Inductor is the default lowering if it lacks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module

import torch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.utils._triton import has_triton

DEVICES = ("cpu", "cuda", "xpu")


@cache
def unknown_names() -> str | None:
    """Returns a message if this torch lacks a private name of Inductor that roam imports.

    Returns None if no such name is missing. Imports this lowering's modules to find out, which
    takes a second the first time.
    """
    try:
        import_module("roam.lowering.inductor.kernels")
    except ImportError as error:
        return f"the Inductor of torch {torch.__version__} is unknown ({error})"
    return None


def missing(devices: Iterable[torch.device]) -> str | None:
    """Returns what Inductor lacks to generate code for the first device that it cannot serve.

    Returns None if it can generate code for all devices.
    """
    found = (_missing_for(device.type) for device in devices)
    return next((what for what in found if what is not None), None)


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
