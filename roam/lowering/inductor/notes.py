"""Writes the plan of a graph into its generated code, so that Inductor's caches keep the plan too.

A note is a plan with all that is needed to report it, encoded in a statement of the code. The
three ways to get a graph's code, and with it the plan:

    the graph is compiled now             plan ── note ── code ── cache
    FxGraphCache has the code             code ── find(code)
    AOTAutogradCache has the code         code is imported, and runs ── loaded(note)
"""

from __future__ import annotations

import base64
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from msgspec.structs import replace
from torch._guards import CompileContext

from roam.core.origins import NO_ORIGINS, Origins
from roam.core.plan import Plan
from roam.core.problem import BufferId, Home, Kind, Problem
from roam.inspect.record import GraphRecord
from roam.inspect.report import count_graph, record
from roam.lowering.inductor.problem import Read
from roam.lowering.trace import tell
from roam.runtime.saved_stack import place

LOWERING = "inductor"  # the value of the option "lowering", for reports


class Note(msgspec.Struct, frozen=True):
    """The plan of one graph, or of a backward together with its forward.

    Attributes:
        name: the name of the captured graph.
        problem: what was planned: one phase (forward or backward), or both.
        plan: the plan of `problem`.
        complete: whether the plan includes the backward, or the graph has no backward.
        named: by name in the FX graph, the buffer of each input and result of the graph.
        saved: the buffers of a forward's results that go to the backward only.
        held: for each op of a forward, in planned order, an upper bound on the bytes that its
            generated code holds while the op runs; empty if `complete`.
        forward: the key of the forward (`How.key`) that a backward was planned with; "" if the
            graph is not a backward, or if its forward is unknown.
        estimated: names of the ops whose scratch space is extrapolated from smaller sizes.
        estimated_costs: names of the ops whose cost is an estimate.
        origins: operators and lines of the user's code that ops were made from, and the dtypes and
            shapes of buffers.
    """

    name: str
    problem: Problem
    plan: Plan
    complete: bool
    named: dict[str, BufferId]
    saved: frozenset[BufferId]
    held: tuple[int, ...] = ()
    forward: str = ""
    estimated: tuple[str, ...] = ()
    estimated_costs: tuple[str, ...] = ()
    origins: Origins = NO_ORIGINS

    def statement(self) -> str:
        """Returns a Python statement that contains the note.

        The generated module runs the statement when it is imported.
        """
        text = base64.b85encode(zlib.compress(msgspec.json.encode(self))).decode()
        return f"__import__('{__name__}', fromlist=['']).loaded(r'{text}')"

    def as_first_phase(self) -> Read:
        """Returns the forward as the first phase of a Problem. Its backward can be added to that.

        The ops of the forward are in the order of its generated code. A result of an op may
        overwrite only the buffer that the result overwrites in this code.
        """
        old, order = self.problem, self.plan.order
        place = {op: t for t, op in enumerate(order)}
        ops = [
            replace(
                old.ops[i],
                after=tuple(sorted(place[p] for p in old.ops[i].after)),
                over=tuple(pair for pair in old.ops[i].over if pair in self.plan.reuse.items()),
            )
            for i in order
        ]
        buffers = [
            replace(b, kind=Kind.SAVED) if i in self.saved and b.home is not Home.USER else b
            for i, b in enumerate(old.buffers)
        ]
        problem = Problem(old.name, tuple(buffers), tuple(ops))
        named = self.named, self.saved, self.held
        return Read(
            problem,
            (),
            len(ops),
            *named,
            estimated=self.estimated,
            estimated_costs=self.estimated_costs,
            origins=self.origins,
        )

    def buffer_name(self, node: str | None) -> str:
        """Returns the name of the buffer of an FX node; empty without a node or a buffer."""
        found = None if node is None else self.named.get(node)
        return "" if found is None else self.problem.buffers[found].name

    def of(self, name: str) -> GraphRecord:
        """Returns the plan as a record for reports.

        Args:
            name: the name of the graph in this process.
        """
        made = self.problem, self.plan
        return GraphRecord(
            name,
            *made,
            lowering=LOWERING,
            estimated=self.estimated,
            estimated_costs=self.estimated_costs,
            origins=self.origins,
        )


_STATEMENT = re.compile(
    rf"__import__\('{re.escape(__name__)}', fromlist=\[''\]\).loaded\(r'(.*)'\)"
)
_here = threading.local()


def find(code: str) -> Note | None:
    """Returns the note that generated code contains; None if it contains no note."""
    found = _STATEMENT.search(code)
    return None if found is None else _decode(found[1])


def loaded(text: str) -> None:
    """Adds the plan that is written into generated code to `roam.report()`, and logs it.

    Generated modules call this function when they are imported, with the plan as `text` (a note).
    For the code of a backward, also registers where the code of its forward puts saved tensors from
    now on. Does not report or log in the context `compiling`, or if the plan is not complete: the
    backward is planned later.
    """
    note = _decode(text)
    if note.forward:
        place(note.forward, note.problem, note.plan)
    if note.complete and not getattr(_here, "compiling", False):
        graph = note.of(note.name)
        record(graph, count_graph())
        tell(graph, CompileContext.current_compile_id())


@contextmanager
def compiling() -> Iterator[None]:
    """A context in which this thread's calls of `loaded` report no plan.

    The code that compiles a graph enters it, and reports the plan itself.
    """
    _here.compiling = True
    try:
        yield
    finally:
        _here.compiling = False


def _decode(text: str) -> Note:
    return msgspec.json.decode(zlib.decompress(base64.b85decode(text)), type=Note)
