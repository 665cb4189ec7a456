"""Problems in files: versioned JSON, one file a problem. Plans have their own in `plan.py`."""

from __future__ import annotations

import msgspec

from roam.core.errors import FileFormatError, FileVersionError
from roam.core.problem import Buffer, Op, Problem

VERSION = 1


class _Head(msgspec.Struct):
    roam_problem: int


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
    try:
        version = msgspec.json.decode(text, type=_Head).roam_problem
    except msgspec.MsgspecError as error:
        raise FileFormatError(f"not a whole problem file: {error}") from None
    if version != VERSION:
        raise FileVersionError(
            f"the problem file has version {version}, this roam reads {VERSION}: capture it again"
        )
    try:
        file = msgspec.json.decode(text, type=_File)
    except msgspec.MsgspecError as error:
        raise FileFormatError(f"not a problem: {error}") from None
    return Problem(file.name, file.buffers, file.ops)
