"""Problems in files: versioned JSON, one file a problem. Plans have their own in `plan.py`."""

from __future__ import annotations

import msgspec

from roam.core.problem import Buffer, Op, Problem
from roam.core.strict_json import read_versioned

VERSION = 1


class _File(msgspec.Struct, forbid_unknown_fields=True):
    roam_problem: int
    name: str
    buffers: tuple[Buffer, ...]
    ops: tuple[Op, ...]


def problem_to_json(problem: Problem) -> bytes:
    return msgspec.json.encode(_File(VERSION, problem.name, problem.buffers, problem.ops))


def problem_from_json(text: bytes | str) -> Problem:
    """Reads a problem file.

    Raises FileFormatError or FileVersionError, and a ProblemError where the file is whole but
    describes no program.
    """
    file = read_versioned(
        text, _File, what="problem", key="roam_problem", version=VERSION, again="capture it again"
    )
    return Problem(file.name, file.buffers, file.ops)
