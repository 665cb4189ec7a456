"""Where the ops of a Problem come from, in words that the author of a model knows.

It is no part of a Problem: a plan stays the same if a line of the model's code moves.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Origins(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Names are those of a Problem's ops and buffers. What is unknown is left out.

    calls: by fused kernel, the operators that it carries out: "addmm", "gelu".
    lines: by line of the user's code ("net.py:6, in forward: h = f(x)"), the ops that it runs.
    tensors: by dtype and shape ("float32[8, 1024]"), the buffers that are made with it.
    offers: by what an option would do ("wta-crs, if it is saved: 3 MiB in place of 10 MiB"), the
        buffers that it would do it to.
    """

    calls: dict[str, tuple[str, ...]] = {}
    lines: dict[str, tuple[str, ...]] = {}
    tensors: dict[str, tuple[str, ...]] = {}
    offers: dict[str, tuple[str, ...]] = {}


NO_ORIGINS = Origins()


def by_name(groups: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Returns the inverse of `lines` or `tensors`: each op's line, or each buffer's shape."""
    return {name: text for text, names in groups.items() for name in names}
