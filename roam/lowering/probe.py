"""Measures what operators allocate for themselves, by running each once on zeros.

Convolutions reorder their operands, attention keeps blocks of scores, a product copies an operand
that does not lie right: how much, the kernels decide, by shape, layout and the machine. So each
distinct call (op, shapes, strides, types) is run once before its graph is planned, and the
allocator's events are read: scratch = peak - what the results need. Calls are remembered for the
process.

Pointwise ops are not run: what they allocate is known (passes/scratch.py). On devices other than
the CPU nothing is measured.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import fx
from torch.autograd import profiler_legacy

from roam.core.errors import UnplannableError
from roam.node_facts import is_op
from roam.numbers import Numbers
from roam.passes.geometry import tensor_inputs, tensors

log = logging.getLogger("roam")

Call = tuple[Any, ...]
_known: dict[Call, int] = {}
_lock = threading.Lock()
_OPAQUE = ("workspace", "reserve")  # written by a forward kernel for its backward, which trusts it


def probe(graphs: Iterable[fx.Graph], numbers: Numbers) -> dict[fx.Node, int]:
    """Scratch bytes of the ops that were measured.

    In a thread of its own: a profiler that the user runs in this one would not have a second.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_probe, graphs, numbers).result()


def _probe(graphs: Iterable[fx.Graph], numbers: Numbers) -> dict[fx.Node, int]:
    found: dict[fx.Node, int] = {}
    with _lock, torch.no_grad(), torch.random.fork_rng(devices=[]):
        for node in (n for graph in graphs for n in graph.nodes if _is_worth_it(n)):
            try:
                call = _signature(node, numbers)
                if call not in _known:
                    _known[call] = _measure(node, numbers)
            except UnplannableError:
                continue  # a size that depends on data: the capture names it
            found[node] = _known[call]
    return found


def is_measured(target: Any) -> bool:
    """Whether ops of this kind are run."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    if torch.Tag.pointwise in target.tags:
        return False
    return not any(a.name in _OPAQUE for a in target._schema.arguments)


def _is_worth_it(node: fx.Node) -> bool:
    if node.op != "call_function" or not is_measured(node.target) or not is_op(node):
        return False
    everything = [*tensors(node), *(t for _, t in tensor_inputs(node))]
    return bool(tensors(node)) and all(
        t.device.type == "cpu" and t.layout is torch.strided for t in everything
    )


def _signature(node: fx.Node, numbers: Numbers) -> Call:
    def describe(found: Any) -> Any:
        if isinstance(found, fx.Node):
            return describe(found.meta.get("val"))
        if isinstance(found, torch.Tensor):
            return found.dtype, numbers.shape(found.shape), numbers.shape(found.stride())
        if isinstance(found, (list, tuple)):
            return tuple(map(describe, found))
        if isinstance(found, dict):
            return tuple((k, describe(v)) for k, v in found.items())
        return repr(numbers(found))

    threads = torch.get_num_threads()
    return node.target, threads, describe(node.args), describe(node.kwargs)


def _measure(node: fx.Node, numbers: Numbers) -> int:
    """Runs one op on zeros. An op that cannot take zeros has no known scratch space."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: _zeros(n.meta["val"], numbers))
    profiler = profiler_legacy.profile(profile_memory=True)
    profiler.__enter__()
    try:
        results = node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception as error:
        log.debug("%s cannot be measured on zeros: %r", node.target, error)
        results = None
    finally:
        records: Any = torch.autograd._disable_profiler_legacy()  # type: ignore[attr-defined]
    changes = [r.cpu_memory_usage() for t in records for r in t if r.kind() == "memory_alloc"]
    return 0 if results is None else max(0, _peak(changes) - _needed(node, numbers))


def _needed(node: fx.Node, numbers: Numbers) -> int:
    """Bytes of the results; some ops (reduced losses) return them in storages that are larger."""
    return sum(int(numbers(t.untyped_storage().nbytes())) for t in tensors(node))


def _peak(changes: Sequence[int]) -> int:
    now = highest = 0
    for change in changes:
        now += change
        highest = max(highest, now)
    return highest


def _zeros(fake: Any, numbers: Numbers) -> Any:
    """A stand-in of the same type, shape and strides; numbers stand for themselves."""
    if isinstance(fake, (list, tuple)):
        return [_zeros(f, numbers) for f in fake]
    if not isinstance(fake, torch.Tensor):
        return numbers(fake)
    shape, stride = numbers.shape(fake.shape), numbers.shape(fake.stride())
    return torch.empty_strided(shape, stride, dtype=fake.dtype).zero_()
