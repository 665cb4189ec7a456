"""Compiles functions with numba, if numba is installed (`pip install roam-planner[exact]`).

Without numba the functions are interpreted and return the same results. Compiling takes some
seconds, once: numba caches the machine code beside the sources. Numba recompiles a function if the
function's own file has changed, but not if the file of a function that it calls has changed. So
remove `__pycache__/*.nbi` after editing a module that uses `compiled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

F = TypeVar("F")

if TYPE_CHECKING:

    def compiled(function: F) -> F: ...

    COMPILED: bool
else:
    try:
        from numba import njit
    except ImportError:
        COMPILED = False

        def compiled(function):
            return function
    else:
        COMPILED = True
        compiled = njit(cache=True, nogil=True)
