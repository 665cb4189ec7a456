"""Versioned JSON files, read strictly: what is not exactly such a file is refused by name.

msgspec refuses unknown and missing fields, wrong types and truncated text. It does not refuse a key
that stands twice in an object (the last one wins), and it says little about text that is no UTF-8.
"""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

from roam.core.errors import FileFormatError, FileVersionError

T = TypeVar("T")
UTF8_MARK = b"\xef\xbb\xbf"


def read_versioned(
    text: bytes | str, type: type[T], *, what: str, key: str, version: int, again: str
) -> T:
    """Returns the value of a file whose top object holds its own version.

    Args:
        text: the file.
        type: a struct that forbids unknown fields.
        what: what such a file is called, for messages.
        key: the field with the version.
        version: the version that this roam reads.
        again: how to get a file of that version, for messages.

    Raises:
        FileFormatError: empty, truncated, no JSON, no UTF-8, nested too deeply, a field that is
            missing, unknown, of a wrong type or there twice.
        FileVersionError: a file of another version, whatever else it holds.
    """
    try:
        head = msgspec.json.decode(_utf8(text), type=dict[str, msgspec.Raw])
        if key not in head:
            raise ValueError(f"it has no field {key!r}")
        if (found := msgspec.json.decode(head[key], type=int)) != version:
            raise FileVersionError(
                f"the {what} has version {found}, this roam reads {version}: {again}"
            )
        value = msgspec.json.decode(text, type=type)
        json.loads(text, object_pairs_hook=_refuse_twice, parse_int=str, parse_float=str)
    except FileVersionError:
        raise
    except RecursionError:
        raise FileFormatError(f"not a whole {what} file: it is nested too deeply") from None
    except ValueError as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise FileFormatError(f"not a whole {what} file: {error}") from None
    return value


def has_field(text: bytes, key: str) -> bool:
    """Whether the text is a JSON object with such a field."""
    try:
        return key in msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _utf8(text: bytes | str) -> bytes | str:
    """The text. Raises ValueError where it is no JSON for a reason that a parser does not tell."""
    if not text.strip():
        raise ValueError("it is empty")
    if isinstance(text, bytes):
        if text.startswith(UTF8_MARK):
            raise ValueError("it begins with a byte order mark: save it as UTF-8 without one")
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"it is no UTF-8 text ({error.reason} at byte {error.start})"
            ) from None
    return text


def _refuse_twice(pairs: list[tuple[str, object]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"an object has the field {key!r} twice")
        seen.add(key)
