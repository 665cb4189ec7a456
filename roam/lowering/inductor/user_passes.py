"""Keeps the user's own Inductor passes working if roam sets a pass for the same option.

roam's pass replaces the user's pass in Inductor's settings. It has the user's pass as its attribute
`first`, runs that, and then does its own work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch._inductor import config
from torch._inductor.custom_graph_pass import get_hash_for_files


def users_own(option: str, ours: type[Any]) -> Any:
    """Returns the pass that the user set for an option of Inductor; None if there is none.

    Args:
        option: the name of the option.
        ours: the class of roam's pass. If a pass of this class is set already, the user's pass is
            its attribute `first`.
    """
    found: Any = getattr(config, option)
    return found.first if isinstance(found, ours) else found


def passes(first: Any) -> tuple[Any, ...]:
    """Returns the user's passes of an option as a tuple: torch takes one, or a list of them."""
    if first is None:
        return ()
    return tuple(first) if isinstance(first, (list, tuple)) else (first,)


def cache_key(first: Any, files: Iterable[str], *options: Any) -> Any:
    """Returns a key for Inductor's caches: code and options of roam's pass and the user's passes.

    Args:
        first: the user's pass, a list of passes, or None.
        files: the source files of roam's pass.
        options: all that roam's pass depends on, with a `repr` that is the same in every process.

    Returns:
        The key, or None if the user's pass has none: then Inductor caches nothing.
    """
    # a plain function may be a pass, too, but has no key
    theirs = tuple(each.uuid() if hasattr(each, "uuid") else None for each in passes(first))
    if None in theirs:
        return None
    return get_hash_for_files(tuple(sorted(files))) + repr((*options, theirs)).encode()
