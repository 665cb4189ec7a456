"""The plan of a graph travels in its generated code, so that Inductor's caches give it back.

miss                              hit in FxGraphCache        hit in AOTAutogradCache
plan ── note ── code ── cache     code ── find(code)         code is imported ── loaded(note)
"""

from __future__ import annotations

import base64
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from torch._guards import CompileContext

from roam.core.plan import Plan
from roam.core.problem import BufferId, Problem
from roam.inspect.report import GraphRecord, record
from roam.lowering.trace import tell

LOWERING = "inductor"  # the option's value, as reports name it


class Note(msgspec.Struct, frozen=True):
    """What was planned of one graph; of a backward together with its forward.

    complete: no backward is to come. named: the buffers of the forward's inputs and results, by
    name. saved: those that go to the backward.
    """

    name: str
    problem: Problem
    plan: Plan
    complete: bool
    named: dict[str, BufferId]
    saved: frozenset[BufferId]

    def statement(self) -> str:
        """What the generated module runs when it is imported."""
        text = base64.b85encode(zlib.compress(msgspec.json.encode(self))).decode()
        return f"__import__('{__name__}', fromlist=['']).loaded(r'{text}')"

    def of(self, name: str) -> GraphRecord:
        """What to report about the graph, which may have another name in this process."""
        return GraphRecord(name, self.problem, self.plan, lowering=LOWERING)


_STATEMENT = re.compile(
    rf"__import__\('{re.escape(__name__)}', fromlist=\[''\]\).loaded\(r'(.*)'\)"
)
_here = threading.local()


def find(code: str) -> Note | None:
    """The note in generated code."""
    found = _STATEMENT.search(code)
    return None if found is None else _decode(found[1])


def loaded(text: str) -> None:
    """A module was imported that a cache knew: its plan is reported, unless `compiling` will."""
    note = _decode(text)
    if note.complete and not getattr(_here, "compiling", False):
        graph = note.of(note.name)
        record(graph)
        tell(graph, CompileContext.current_compile_id())


@contextmanager
def compiling() -> Iterator[None]:
    """Within, whoever compiles a graph reports its plan."""
    _here.compiling = True
    try:
        yield
    finally:
        _here.compiling = False


def _decode(text: str) -> Note:
    return msgspec.json.decode(zlib.decompress(base64.b85decode(text)), type=Note)
