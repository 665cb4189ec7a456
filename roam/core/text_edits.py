"""Edits as records of a plan's text, one a line, and one more for each load of an Offload.

recompute gelu readers=gelu_backward,down_backward before=loss
split ops=up,gelu,down rows=4,4,2 joined=y summed=dw
offload h tier=file start=gelu wait=loss
load h readers=gelu_backward start=loss_backward wait=down_backward
shrink h size=64 method=int8 readers=gelu_backward restored=yes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from roam.core.edits import AnyEdit, Load, Offload, Recompute, Shrink, Split
from roam.core.problem import Tier
from roam.core.text_records import (
    Reader,
    Record,
    escape,
    list_of,
    member,
    read_flag,
    read_number,
    read_whole,
    unescape,
    unless,
    write_line,
    wrong,
)

EDITS = ("recompute", "split", "offload", "load", "shrink")  # what such records may be

_NAMES = list_of(unescape)


def edits_to_lines(edits: Sequence[AnyEdit]) -> list[str]:
    """Returns the lines that `parse_edits` reads back as equal edits."""
    return [line for edit in edits for line in _lines(edit)]


def parse_edits(records: Iterable[Record]) -> tuple[AnyEdit, ...]:
    """Reads edits. Raises FileFormatError naming the line and what was expected there."""
    edits: list[AnyEdit] = []
    for r in records:
        if r.what == "recompute":
            of_recompute: dict[str, Reader] = {"readers": _NAMES, "before": unescape}
            edits.append(Recompute(r.name, **r.read(of_recompute, needed=["readers"])))
        elif r.what == "split":
            of_split: dict[str, Reader] = {
                "ops": _NAMES,
                "rows": list_of(read_whole),
                "joined": _NAMES,
                "summed": _NAMES,
            }
            edits.append(Split(**r.read(of_split, needed=["ops", "rows"])))
        elif r.what == "shrink":
            of_shrink: dict[str, Reader] = {
                "size": read_whole,
                "method": unescape,
                "readers": _NAMES,
                "restored": read_flag,
                "shrink_cost": read_number,
                "restore_cost": read_number,
            }
            needed = ["size", "method", "readers"]
            edits.append(Shrink(r.name, **r.read(of_shrink, needed=needed)))
        elif r.what == "offload":
            of_offload: dict[str, Reader] = {
                "tier": member(Tier),
                "start": unescape,
                "wait": unescape,
            }
            edits.append(Offload(r.name, loads=(), **r.read(of_offload, needed=["tier"])))
        else:
            _add_load(r, edits)
    return tuple(edits)


def _lines(edit: AnyEdit) -> list[str]:
    match edit:
        case Recompute():
            fields = {"readers": _list(edit.readers), "before": _name(edit.before)}
            return [write_line("recompute", escape(edit.op), **fields)]
        case Split():
            return [
                write_line(
                    "split",
                    ops=_list(edit.ops),
                    rows=",".join(map(str, edit.rows)),
                    joined=_list(edit.joined),
                    summed=_list(edit.summed),
                )
            ]
        case Shrink():
            return [
                write_line(
                    "shrink",
                    escape(edit.buffer),
                    size=str(edit.size),
                    method=escape(edit.method),
                    readers=_list(edit.readers),
                    restored="yes" if edit.restored else "",
                    shrink_cost=unless(edit.shrink_cost, 0.0),
                    restore_cost=unless(edit.restore_cost, 0.0),
                )
            ]
        case Offload():
            name, when = escape(edit.buffer), {"start": _name(edit.start), "wait": _name(edit.wait)}
            return [write_line("offload", name, tier=edit.tier, **when)] + [
                write_line(
                    "load",
                    name,
                    readers=_list(load.readers),
                    start=_name(load.start),
                    wait=_name(load.wait),
                )
                for load in edit.loads
            ]


def _add_load(record: Record, edits: list[AnyEdit]) -> None:
    """Reads a load of the offload before it."""
    last = edits[-1] if edits else None
    if not isinstance(last, Offload) or last.buffer != record.name:
        raise wrong(record.line, f"offload {record.written}, then its loads", "a load")
    of_load: dict[str, Reader] = {"readers": _NAMES, "start": unescape, "wait": unescape}
    load = Load(**record.read(of_load, needed=["readers"]))
    edits[-1] = replace(last, loads=(*last.loads, load))


def _list(names: Sequence[str]) -> str:
    return ",".join(map(escape, names))


def _name(name: str) -> str:
    return name and escape(name)
