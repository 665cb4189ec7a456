"""Problems and plans as text that a person reads, mails, and keeps as a golden file.

    # lines like this one, and empty ones, are skipped
    problem mlp
    buffer x size=64 kind=input home=user
    buffer h size=256
    buffer y size=256 kind=saved
    op linear reads=x creates=h scratch=32
    op relu reads=h creates=y over=y<h cost=1e-06

One line a thing: what it is, its name, then `field=value`; a field at its default is left out.
Lists are separated by commas, and `y<h` says that y may be written over h. White space and any of
`, < = %` in a name are written as in URLs, `%20`; a name that is empty is `%`.

A plan names the ops in the order to run them and says where each placed buffer lies:

    plan mlp fingerprint=e3b0c44298fc1c14 peak=288 live_peak=288 lower_bound=288 persistent=64
    block offset=0 size=256 lower=0 upper=2
    run linear
    run relu
    place h offset=0
    place y offset=0 over=h
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote

from msgspec.structs import replace

from roam.core.bounds import must_live
from roam.core.errors import FileFormatError
from roam.core.plan import Block, Plan
from roam.core.problem import Buffer, Home, Kind, Op, Problem

Reader = Callable[[str], Any]  # raises ValueError saying what it expected


def problem_to_text(problem: Problem) -> str:
    """`parse_problem` reads it back as an equal problem."""
    buffers = [_escape(b.name) for b in problem.buffers]
    ops = [_escape(o.name) for o in problem.ops]
    lines = [_line("problem", _escape(problem.name))]
    for name, buffer in zip(buffers, problem.buffers, strict=True):
        lines.append(
            _line(
                "buffer",
                name,
                size=str(buffer.size),
                kind=_unless(buffer.kind, Kind.TEMPORARY),
                home=_unless(buffer.home, Home.ARENA),
                align=_unless(buffer.align, 64),
                where=buffer.where and _escape(buffer.where),
            )
        )
    for name, op in zip(ops, problem.ops, strict=True):
        lines.append(
            _line(
                "op",
                name,
                reads=",".join(buffers[b] for b in op.reads),
                creates=",".join(buffers[b] for b in op.creates),
                mutates=",".join(buffers[b] for b in op.mutates),
                over=",".join(f"{buffers[made]}<{buffers[dying]}" for made, dying in op.over),
                scratch=_unless(op.scratch, 0),
                phase=_unless(op.phase, 0),
                cost=_unless(op.cost, 0.0),
                after=",".join(ops[p] for p in op.after),
                where=op.where and _escape(op.where),
            )
        )
    return "\n".join(lines) + "\n"


def parse_problem(text: str) -> Problem:
    """Reads what `problem_to_text` writes.

    Raises FileFormatError naming the line and what was expected there, and a ProblemError where
    the text is whole but describes no program.
    """
    head, *records = _parse(text, "problem", ("buffer", "op"))
    head.read({})
    buffers = [r for r in records if r.what == "buffer"]
    ops = [r for r in records if r.what == "op"]
    buffer = _one_of("a buffer", {r.name: b for b, r in enumerate(buffers)})
    op = _one_of("an op", {r.name: i for i, r in enumerate(ops)})
    of_buffer: dict[str, Reader] = {
        "size": _whole,
        "kind": _member(Kind),
        "home": _member(Home),
        "align": _whole,
        "where": unquote,
    }
    of_op: dict[str, Reader] = {
        "reads": _list(buffer),
        "creates": _list(buffer),
        "mutates": _list(buffer),
        "over": _list(_pair(buffer)),
        "scratch": _whole,
        "phase": _whole,
        "cost": _number,
        "after": _list(op),
        "where": unquote,
    }
    return Problem(
        head.name,
        tuple(Buffer(r.name, **r.read(of_buffer, needed=["size"])) for r in buffers),
        tuple(Op(r.name, **r.read(of_op)) for r in ops),
    )


def plan_to_text(plan: Plan, problem: Problem) -> str:
    """`parse_plan` reads it back as an equal plan.

    The plan need not be valid, but must name no op or buffer that `problem` does not have.
    """
    buffers = [_escape(b.name) for b in problem.buffers]
    lines = [
        _line(
            "plan",
            _escape(plan.problem),
            fingerprint=_escape(plan.fingerprint),
            peak=str(plan.peak),
            live_peak=str(plan.live_peak),
            lower_bound=str(plan.lower_bound),
            stated=_unless(plan.stated, 0),
            persistent=str(plan.persistent),
            method=plan.method and _escape(plan.method),
            seconds=_unless(plan.seconds, 0.0),
        )
    ]
    lines += [
        f"block offset={k.offset} size={k.size} lower={k.lower} upper={k.upper}"
        for k in plan.blocks
    ]
    lines += [f"run {_escape(problem.ops[i].name)}" for i in plan.order]
    for b in sorted(plan.offsets.keys() | plan.reuse.keys()):
        offset = str(plan.offsets.get(b, ""))
        over = buffers[plan.reuse[b]] if b in plan.reuse else ""
        lines.append(_line("place", buffers[b], offset=offset, over=over))
    return "\n".join(lines) + "\n"


def parse_plan(text: str, problem: Problem) -> Plan:
    """Reads what `plan_to_text` writes, and proves of its bound what `must_live` proves.

    `check` says whether the rest is so. Raises FileFormatError naming the line and what was
    expected there, and GraphMismatchError when the plan belongs to another problem.
    """
    head, *records = _parse(text, "plan", ("block", "run", "place"))
    numbers: dict[str, Reader] = dict.fromkeys(
        ("peak", "live_peak", "lower_bound", "persistent"), _whole
    )
    of_plan = numbers | {
        "stated": _whole,
        "fingerprint": unquote,
        "method": unquote,
        "seconds": _number,
    }
    figures = head.read(of_plan, needed=[*numbers, "fingerprint"])
    head_only = Plan(head.name, order=(), offsets={}, reuse={}, blocks=(), **figures)
    head_only.check_names(problem)
    buffer = _one_of("a buffer", {b.name: i for i, b in enumerate(problem.buffers)})
    op = _one_of("an op", {o.name: i for i, o in enumerate(problem.ops)})
    of_block: dict[str, Reader] = dict.fromkeys(("offset", "size", "lower", "upper"), _whole)
    places = [r for r in records if r.what == "place"]
    placed: dict[int, dict[str, Any]] = {}
    for r in places:
        if (b := r.read_name(buffer)) in placed:
            raise _wrong(r.line, f"{r.name!r} to be placed once", "it twice")
        placed[b] = r.read({"offset": _whole, "over": buffer})
    plan = replace(
        head_only,
        order=tuple(r.read_name(op) for r in records if r.what == "run"),
        offsets={b: fields["offset"] for b, fields in placed.items() if "offset" in fields},
        reuse={b: fields["over"] for b, fields in placed.items() if "over" in fields},
        blocks=tuple(
            Block(**r.read(of_block, needed=list(of_block))) for r in records if r.what == "block"
        ),
    )
    return plan.with_proof(must_live(problem))


@dataclass(frozen=True)
class _Record:
    """One line: what it describes, its name as written and its fields as written."""

    line: int
    what: str
    written: str
    fields: Mapping[str, str]

    @property
    def name(self) -> str:
        return _unescape(self.written)

    def read(self, readers: Mapping[str, Reader], needed: Sequence[str] = ()) -> dict[str, Any]:
        """The values of the fields. Raises FileFormatError."""
        for field in needed:
            if field not in self.fields:
                raise _wrong(self.line, f"{field}=... for {self.what} {self.name!r}", "none")
        for field in self.fields:
            if field not in readers:
                expected = f"one of {', '.join(readers)}" if readers else "no fields"
                raise _wrong(self.line, expected, repr(field))
        return {field: self._value(readers[field], text) for field, text in self.fields.items()}

    def read_name(self, reader: Reader) -> Any:
        return self._value(reader, self.written)

    def _value(self, reader: Reader, text: str) -> Any:
        try:
            return reader(text)
        except ValueError as error:
            raise _wrong(self.line, str(error), repr(text)) from None


def _parse(text: str, head: str, others: Sequence[str]) -> list[_Record]:
    """The records of a text whose first is a `head`, and all others are of `others`."""
    records: list[_Record] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            record = _record(number, line)
            expected = others if records else (head,)
            if record.what not in expected:
                raise _wrong(number, " or ".join(expected), repr(record.what))
            records.append(record)
    if not records:
        raise _wrong(len(lines), head, "the end of the text")
    return records


def _record(number: int, line: str) -> _Record:
    what, *words = line.split()
    named = [w for w in words if "=" not in w]
    if len(named) != (what != "block"):
        raise _wrong(number, "one name" if what != "block" else "only fields", repr(line.strip()))
    fields: dict[str, str] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if field in fields:
            raise _wrong(number, f"{field}= once", "it twice")
        if equals:
            fields[field] = value
    return _Record(number, what, "".join(named), fields)


def _wrong(line: int, expected: str, found: str) -> FileFormatError:
    return FileFormatError(f"line {line}: expected {expected}, found {found}")


def _whole(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,30}", text):
        raise ValueError("a whole number")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", text):
        raise ValueError("a number")
    return float(text)


def _one_of(what: str, ids: Mapping[str, int]) -> Reader:
    def read(text: str) -> int:
        name = _unescape(text)
        if name not in ids:
            raise ValueError(f"the name of {what}")
        return ids[name]

    return read


def _member(enum: type[StrEnum]) -> Reader:
    def read(text: str) -> StrEnum:
        if text not in list(enum):
            raise ValueError(f"one of {', '.join(enum)}")
        return enum(text)

    return read


def _list(item: Reader) -> Reader:
    return lambda text: tuple(item(part) for part in text.split(","))


def _pair(item: Reader) -> Reader:
    def read(text: str) -> tuple[Any, Any]:
        made, less, dying = text.partition("<")
        if not less:
            raise ValueError("pairs created<read")
        return item(made), item(dying)

    return read


def _line(what: str, name: str, **fields: str) -> str:
    return " ".join([what, name, *(f"{field}={value}" for field, value in fields.items() if value)])


def _unless(value: object, default: object) -> str:
    return "" if value == default else str(value)


def _escape(name: str) -> str:
    return re.sub(r"[\s,<=%]", lambda found: quote(found.group(), safe=""), name) or "%"


def _unescape(text: str) -> str:
    return "" if text == "%" else unquote(text)
