"""Records, one a line: what it is, its name, then `field=value`. Problems and plans are such texts.

Lists are separated by commas, pairs by `<`. White space and any of `, < = %` in a name are written
as in URLs, `%20`; a name that is empty is `%`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote

from roam.core.errors import FileFormatError

Reader = Callable[[str], Any]  # raises ValueError saying what it expected
NAMELESS = ("block", "split")


@dataclass(frozen=True)
class Record:
    """One line: what it describes, its name as written and its fields as written."""

    line: int
    what: str
    written: str
    fields: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name as it was before it was written."""
        return unescape(self.written)

    def read(self, readers: Mapping[str, Reader], needed: Sequence[str] = ()) -> dict[str, Any]:
        """Returns the values of the fields. Raises FileFormatError."""
        for field in needed:
            if field not in self.fields:
                raise wrong(self.line, f"{field}=... for {self.what} {self.name!r}", "none")
        for field in self.fields:
            if field not in readers:
                expected = f"one of {', '.join(readers)}" if readers else "no fields"
                raise wrong(self.line, expected, repr(field))
        return {field: self._value(readers[field], text) for field, text in self.fields.items()}

    def read_name(self, reader: Reader) -> Any:
        """Returns what the name stands for. Raises FileFormatError."""
        return self._value(reader, self.written)

    def _value(self, reader: Reader, text: str) -> Any:
        try:
            return reader(text)
        except ValueError as error:
            raise wrong(self.line, str(error), repr(text)) from None


def parse_records(text: str, head: str, others: Sequence[str]) -> list[Record]:
    """Returns the records of a text whose first is a `head`, and all others are of `others`.

    Raises FileFormatError naming the line that is none.
    """
    records: list[Record] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            record = _record(number, line)
            expected = others if records else (head,)
            if record.what not in expected:
                raise wrong(number, " or ".join(expected), repr(record.what))
            records.append(record)
    if not records:
        raise wrong(len(lines), head, "the end of the text")
    return records


def _record(number: int, line: str) -> Record:
    what, *words = line.split()
    named = [w for w in words if "=" not in w]
    if len(named) != (what not in NAMELESS):
        expected = "only fields" if what in NAMELESS else "one name"
        raise wrong(number, expected, repr(line.strip()))
    fields: dict[str, str] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if field in fields:
            raise wrong(number, f"{field}= once", "it twice")
        if equals:
            fields[field] = value
    return Record(number, what, "".join(named), fields)


def wrong(line: int, expected: str, found: str) -> FileFormatError:
    """Returns the error of a line that is not as expected, to be raised."""
    return FileFormatError(f"line {line}: expected {expected}, found {found}")


def read_whole(text: str) -> int:
    """Reads a whole number."""
    if not re.fullmatch("-?[0-9]{1,30}", text):
        raise ValueError("a whole number")
    return int(text)


def read_number(text: str) -> float:
    """Reads a number that may have a fraction and an exponent."""
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", text):
        raise ValueError("a number")
    return float(text)


def one_of(what: str, ids: Mapping[str, int]) -> Reader:
    """Returns a reader of a name that gives its id; `what` it names is for messages."""

    def read(text: str) -> int:
        name = unescape(text)
        if name not in ids:
            raise ValueError(f"the name of {what}")
        return ids[name]

    return read


def member(enum: type[StrEnum]) -> Reader:
    """Returns a reader of a member of an enumeration."""

    def read(text: str) -> StrEnum:
        if text not in list(enum):
            raise ValueError(f"one of {', '.join(enum)}")
        return enum(text)

    return read


def list_of(item: Reader) -> Reader:
    """Returns a reader of a list, given that of an item."""
    return lambda text: tuple(item(part) for part in text.split(","))


def pair_of(item: Reader) -> Reader:
    """Returns a reader of a pair, given that of an item."""

    def read(text: str) -> tuple[Any, Any]:
        made, less, dying = text.partition("<")
        if not less:
            raise ValueError("pairs created<read")
        return item(made), item(dying)

    return read


def write_line(what: str, name: str = "", **fields: str) -> str:
    """Returns a record as a line, without the fields that are ''."""
    written = [f"{field}={value}" for field, value in fields.items() if value]
    return " ".join([what, *([name] if name else []), *written])


def unless(value: object, default: object) -> str:
    """Returns the value as it is written, '' if it is the default."""
    return "" if value == default else str(value)


def escape(name: str) -> str:
    """Returns a name as it is written."""
    return re.sub(r"[\s,<=%]", lambda found: quote(found.group(), safe=""), name) or "%"


def read_flag(text: str) -> bool:
    """Reads the only value that a flag has where it is written."""
    if text != "yes":
        raise ValueError("yes")
    return True


def unescape(text: str) -> str:
    """Returns the name that was written."""
    return "" if text == "%" else unquote(text)
