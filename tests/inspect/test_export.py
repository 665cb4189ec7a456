"""Plans in the formats of other tools, each read by something that is not ours."""

from __future__ import annotations

import csv
import io
import json
import pickle
import pickletools
from typing import Any

import jsonschema
import networkx
import pytest
from torch.cuda import _memory_viz

from roam.core.lifetime import live_curve
from roam.core.plan import Plan, committed_curve
from roam.core.problem import Problem
from roam.inspect.export import FORMATS
from roam.inspect.moment import curves_by_kind
from tests.inspect.steps import MIB, chain, step
from tests.inspect.test_timeline import moved

STEPS = [step().planned[0], chain(7).planned[0]]
every_step = pytest.mark.parametrize("pair", STEPS, ids=["step", "chain"])
Pair = tuple[Problem, Plan]


def snapshot(pair: Pair) -> dict[str, Any]:
    return pickle.loads(FORMATS["memory_viz"].write(*pair))


def held(pair: Pair) -> list[int]:
    problem, plan = pair
    return committed_curve(problem, plan.order, plan.reuse, plan.offsets, plan.blocks)


# What the viewer's own unpickler knows: torch/utils/viz/MemoryViz.js, function unpickleData.
VIEWER_READS = {
    "APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPUT",
    "BINUNICODE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "FRAME", "LONG1", "LONG_BINGET",
    "MARK", "MEMOIZE", "NEWFALSE", "NEWTRUE", "NONE", "PROTO", "SETITEMS", "SHORT_BINUNICODE",
    "STOP", "TUPLE2",
}  # fmt: skip


@every_step
def test_the_snapshot_is_pickled_as_the_viewer_expects(pair: Pair) -> None:
    opcodes = list(pickletools.genops(FORMATS["memory_viz"].write(*pair)))
    assert [arg for op, arg, _ in opcodes if op.name == "PROTO"] == [4]
    assert {op.name for op, _, _ in opcodes} <= VIEWER_READS


@every_step
def test_blocks_tile_their_segments(pair: Pair) -> None:
    for segment in snapshot(pair)["segments"]:
        address = segment["address"]
        for block in segment["blocks"]:
            assert block["address"] == address
            address += block["size"]
        assert address == segment["address"] + segment["total_size"]


@every_step
def test_the_trace_is_the_step(pair: Pair) -> None:
    """Replayed, it allocates inside what it reserves, and both are what the plan says."""
    problem, plan = pair
    segments: dict[int, int] = {}
    blocks: dict[int, int] = {}
    most = {t: [0, 0] for t in range(len(plan.order))}
    [trace] = snapshot(pair)["device_traces"]
    for event in trace:
        where, size = event["addr"], event["size"]
        match event["action"]:
            case "segment_alloc":
                assert all(a + n <= where or where + size <= a for a, n in segments.items())
                segments[where] = size
            case "segment_free":
                assert segments.pop(where) == size
                assert not [a for a in blocks if where <= a < where + size]
            case "alloc":
                assert any(a <= where and where + size <= a + n for a, n in segments.items())
                assert all(a + n <= where or where + size <= a for a, n in blocks.items())
                blocks[where] = size
            case "free_completed":
                assert blocks.pop(where) == size
        at = most[event["time_us"]]
        at[:] = max(at[0], sum(segments.values())), max(at[1], sum(blocks.values()))
    busy = [t for t in most if any(most[t])]
    assert [most[t][0] for t in busy] == [held(pair)[t] for t in busy]
    live = live_curve(problem, plan.order, plan.reuse)
    assert [most[t][1] for t in busy] == [live[t] for t in busy]
    assert max(most[t][0] for t in busy) == plan.peak
    kept = sum(b.size for b in problem.buffers if b.kept)
    assert sum(segments.values()) == sum(blocks.values()) == kept


@every_step
def test_pytorch_reads_the_snapshot(pair: Pair) -> None:
    problem, plan = pair
    found = snapshot(pair)
    total = problem.persistent + sum(b.size for b in problem.buffers if b.kept)
    said = _memory_viz.segsum(found)
    assert f"total_allocated: {total / MIB:.1f}MiB" in said
    assert "TOTAL MEM" in _memory_viz.trace(found)
    assert "snapshot.pickle" in _memory_viz.trace_plot(found)
    assert "snapshot.pickle" in _memory_viz.segment_plot(found)
    assert len(plan.order) == 1 + max(e["time_us"] for e in found["device_traces"][0])


def test_pytorch_names_module_and_node() -> None:
    found = snapshot(STEPS[0])
    lines = _memory_viz.memory(found, format_flamegraph=str).splitlines()
    assert "stream_0;active_allocated;head:3:mm_1 (gradient) 1048576" in lines
    assert "stream_0;active_allocated;head:0:head.weight (parameter) 4194304" in lines
    [hidden] = [
        [f"{f['filename']}:{f['line']}:{f['name']}" for f in e["frames"]]
        for e in found["device_traces"][0]
        if e["action"] == "alloc" and len(e["frames"]) == 2
    ]
    assert hidden == ["head:1:mm (temporary)", "head:2:mul (temporary)"]


# What the "Trace Event Format" says of the events that are written here.
EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["ph", "name", "pid"],
    "properties": {"ph": {"enum": ["X", "C", "M", "b", "e"]}, "name": {"type": "string"}},
    "allOf": [
        {
            "if": {"properties": {"ph": {"const": "X"}}},
            "then": {
                "required": ["ts", "dur", "tid", "cat"],
                "properties": {"ts": {"type": "number"}, "dur": {"type": "number", "minimum": 0}},
            },
        },
        {
            "if": {"properties": {"ph": {"enum": ["b", "e"]}}},
            "then": {"required": ["ts", "id", "cat"]},
        },
        {
            "if": {"properties": {"ph": {"const": "C"}}},
            "then": {
                "required": ["ts", "args"],
                "properties": {"args": {"additionalProperties": {"type": "number", "minimum": 0}}},
            },
        },
        {
            "if": {"properties": {"ph": {"const": "M"}}},
            "then": {
                "properties": {
                    "name": {"enum": ["process_name", "thread_name"]},
                    "args": {"required": ["name"]},
                }
            },
        },
    ],
}
TRACE = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "traceEvents": {"type": "array", "items": EVENT},
        "displayTimeUnit": {"enum": ["ms", "ns"]},
    },
}


@every_step
def test_chrome(pair: Pair) -> None:
    trace = json.loads(FORMATS["chrome"].write(*pair))
    jsonschema.validate(trace, TRACE)
    counters = [e for e in trace["traceEvents"] if e["ph"] == "C"]
    assert [sum(c["args"].values()) for c in counters] == [*held(pair), 0]
    slices = [e["name"] for e in trace["traceEvents"] if e["ph"] == "X"]
    assert slices == [pair[0].ops[i].name for i in pair[1].order]


def test_chrome_has_transfers_beside_the_ops() -> None:
    """From the moment in which the start has run to the end of the wait."""
    problem, plan = moved().planned[0]
    trace = json.loads(FORMATS["chrome"].write(problem, plan))
    jsonschema.validate(trace, TRACE)
    names = [problem.ops[i].name for i in plan.order]
    found = [(e["ph"], e["id"], e["cat"], e["ts"]) for e in trace["traceEvents"] if "id" in e]
    assert found == [
        (ph, name, lane, names.index(f"{name}.{end}") + 1)
        for name, lane in (("h0~file~1", "copy_out"), ("h0~1", "copy_in"))
        for ph, end in (("b", "start"), ("e", "wait"))
    ]


def test_the_schema_tells_a_bad_trace() -> None:
    for bad in ({"ph": "X", "name": "op", "pid": 0}, {"ph": "?", "name": "op", "pid": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"traceEvents": [bad]}, TRACE)


@every_step
def test_the_curves_by_kind_add_up(pair: Pair) -> None:
    curves = curves_by_kind(*pair).values()
    assert [sum(at) for at in zip(*curves, strict=True)] == held(pair)


def test_minimalloc() -> None:
    text = FORMATS["minimalloc"].write(*STEPS[0]).decode()
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"id": "saved", "lower": "0", "upper": "3", "size": str(2 * MIB)},
        {"id": "hidden", "lower": "1", "upper": "4", "size": str(MIB)},
    ]


@every_step
def test_graphml(pair: Pair) -> None:
    problem, plan = pair
    found = networkx.parse_graphml(FORMATS["graphml"].write(*pair).decode())
    expected = problem.to_networkx()
    assert set(found.nodes) == set(expected.nodes)
    assert set(found.edges) == set(expected.edges)
    assert all(found.edges[e]["bytes"] == expected.edges[e]["bytes"] for e in expected.edges)
    order = sorted(found.nodes, key=lambda n: found.nodes[n]["time"])
    assert order == [problem.ops[i].name for i in plan.order]
