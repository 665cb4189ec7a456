"""Problems and plans as text that a person reads, mails, and keeps as a golden file.

    # lines like this one, and empty ones, are skipped
    problem mlp
    buffer x size=64 kind=input home=user
    buffer h size=256
    buffer y size=256 kind=saved
    op linear reads=x creates=h scratch=32
    op relu reads=h creates=y over=y<h cost=1e-06

One record a line (`text_records.py`): what it is, its name, then `field=value`; a field at its
default is left out. `y<h` says that y may be written over h.

A plan names its edits (`text_edits.py`), the ops in the order to run them, and says where each
placed buffer lies:

    plan mlp fingerprint=e3b0c44298fc1c14 peak=288 live_peak=288 lower_bound=288 persistent=64
    block offset=0 size=256 lower=0 upper=2
    run linear
    run relu
    place h offset=0
    place y offset=0 over=h
"""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import unquote

from msgspec.structs import replace

from roam.core.bounds import must_live
from roam.core.plan import Arena, Block, Plan
from roam.core.problem import Buffer, Home, Kind, Lane, Op, Problem, Tier
from roam.core.proof import UNKNOWN, proof_from_text, proof_to_text
from roam.core.text_edits import EDITS, edits_to_lines, parse_edits
from roam.core.text_records import (
    Reader,
    escape,
    list_of,
    member,
    one_of,
    pair_of,
    parse_records,
    read_flag,
    read_number,
    read_whole,
    unless,
    write_line,
    wrong,
)


def problem_to_text(problem: Problem) -> str:
    """Returns a text that `parse_problem` reads back as an equal problem."""
    buffers = [escape(b.name) for b in problem.buffers]
    ops = [escape(o.name) for o in problem.ops]
    lines = [write_line("problem", escape(problem.name))]
    for name, buffer in zip(buffers, problem.buffers, strict=True):
        lines.append(
            write_line(
                "buffer",
                name,
                size=str(buffer.size),
                kind=unless(buffer.kind, Kind.TEMPORARY),
                home=unless(buffer.home, Home.ARENA),
                align=unless(buffer.align, 64),
                where=buffer.where and escape(buffer.where),
                tier=unless(buffer.tier, Tier.DEVICE),
            )
        )
    for name, op in zip(ops, problem.ops, strict=True):
        lines.append(
            write_line(
                "op",
                name,
                reads=",".join(buffers[b] for b in op.reads),
                creates=",".join(buffers[b] for b in op.creates),
                mutates=",".join(buffers[b] for b in op.mutates),
                over=",".join(f"{buffers[made]}<{buffers[dying]}" for made, dying in op.over),
                scratch=unless(op.scratch, 0),
                phase=unless(op.phase, 0),
                cost=unless(op.cost, 0.0),
                after=",".join(ops[p] for p in op.after),
                where=op.where and escape(op.where),
                lane=unless(op.lane, Lane.COMPUTE),
                once="yes" if op.once else "",
            )
        )
    return "\n".join(lines) + "\n"


def parse_problem(text: str) -> Problem:
    """Reads what `problem_to_text` writes.

    Raises FileFormatError naming the line and what was expected there, and a ProblemError where
    the text is whole but describes no program.
    """
    head, *records = parse_records(text, "problem", ("buffer", "op"))
    head.read({})
    buffers = [r for r in records if r.what == "buffer"]
    ops = [r for r in records if r.what == "op"]
    buffer = one_of("a buffer", {r.name: b for b, r in enumerate(buffers)})
    op = one_of("an op", {r.name: i for i, r in enumerate(ops)})
    of_buffer: dict[str, Reader] = {
        "size": read_whole,
        "kind": member(Kind),
        "home": member(Home),
        "align": read_whole,
        "where": unquote,
        "tier": member(Tier),
    }
    of_op: dict[str, Reader] = {
        "reads": list_of(buffer),
        "creates": list_of(buffer),
        "mutates": list_of(buffer),
        "over": list_of(pair_of(buffer)),
        "scratch": read_whole,
        "phase": read_whole,
        "cost": read_number,
        "after": list_of(op),
        "where": unquote,
        "lane": member(Lane),
        "once": read_flag,
    }
    return Problem(
        head.name,
        tuple(Buffer(r.name, **r.read(of_buffer, needed=["size"])) for r in buffers),
        tuple(Op(r.name, **r.read(of_op)) for r in ops),
    )


def plan_to_text(plan: Plan, problem: Problem) -> str:
    """Returns a text that `parse_plan` reads back as an equal plan.

    Args:
        plan: need not be valid, but must name no op or buffer that the edited problem lacks.
        problem: the unedited problem.

    Raises:
        EditError: the problem does not allow the edits.
    """
    edited = plan.edited(problem)
    buffers = [escape(b.name) for b in edited.buffers]
    ops = [escape(o.name) for o in edited.ops]
    lines = [
        write_line(
            "plan",
            escape(plan.problem),
            fingerprint=escape(plan.fingerprint),
            peak=str(plan.peak),
            live_peak=str(plan.live_peak),
            lower_bound=str(plan.lower_bound),
            stated=unless(plan.stated, 0),
            persistent=str(plan.persistent),
            method=plan.method and escape(plan.method),
            seconds=unless(plan.seconds, 0.0),
            proof="" if plan.proof == UNKNOWN else proof_to_text(plan.proof, ops),
            cut_short="yes" if plan.cut_short else "",
        )
    ]
    lines += edits_to_lines(plan.edits)
    for tier, arena in plan.arenas.items():
        whose = unless(tier, Tier.DEVICE)
        for k in arena.blocks:
            span = {"lower": str(k.lower), "upper": str(k.upper), "tier": whose}
            lines.append(write_line("block", offset=str(k.offset), size=str(k.size), **span))
    lines += [f"run {ops[i]}" for i in plan.order]
    placed = {b: (tier, at) for tier, a in plan.arenas.items() for b, at in a.offsets.items()}
    for b in sorted(placed.keys() | plan.reuse.keys()):
        tier, offset = placed.get(b, (Tier.DEVICE, ""))
        over = buffers[plan.reuse[b]] if b in plan.reuse else ""
        whose = unless(tier, Tier.DEVICE)
        lines.append(write_line("place", buffers[b], offset=str(offset), over=over, tier=whose))
    return "\n".join(lines) + "\n"


def parse_plan(text: str, problem: Problem) -> Plan:
    """Reads what `plan_to_text` writes, and proves of its bound what `must_live` proves.

    `check` says whether the rest is so.

    Args:
        text: the plan.
        problem: the unedited problem.

    Raises:
        FileFormatError: names the line and what was expected there.
        GraphMismatchError: the plan belongs to another problem.
        EditError: the problem does not allow the edits.
    """
    head, *records = parse_records(text, "plan", (*EDITS, "block", "run", "place"))
    numbers: dict[str, Reader] = dict.fromkeys(
        ("peak", "live_peak", "lower_bound", "persistent"), read_whole
    )
    of_plan = numbers | {
        "stated": read_whole,
        "fingerprint": unquote,
        "method": unquote,
        "seconds": read_number,
        "proof": str,  # names an op of the edited problem: read below
        "cut_short": read_flag,
    }
    figures = head.read(of_plan, needed=[*numbers, "fingerprint"])
    figures.pop("proof", None)
    edits = parse_edits(r for r in records if r.what in EDITS)
    plan = Plan(head.name, order=(), offsets={}, reuse={}, blocks=(), edits=edits, **figures)
    plan.check_names(problem)
    edited = plan.edited(problem)
    buffer = one_of("a buffer", {b.name: i for i, b in enumerate(edited.buffers)})
    op = one_of("an op", {o.name: i for i, o in enumerate(edited.ops)})
    of_plan["proof"] = partial(proof_from_text, op=op)
    proof = head.read(of_plan).get("proof", UNKNOWN)

    spans: dict[str, Reader] = dict.fromkeys(("offset", "size", "lower", "upper"), read_whole)
    of_block = spans | {"tier": member(Tier)}
    blocks: dict[Tier, list[Block]] = {}
    for r in (r for r in records if r.what == "block"):
        fields = r.read(of_block, needed=list(spans))
        blocks.setdefault(fields.pop("tier", Tier.DEVICE), []).append(Block(**fields))

    of_place: dict[str, Reader] = {"offset": read_whole, "over": buffer, "tier": member(Tier)}
    placed: dict[int, dict[str, Any]] = {}
    offsets: dict[Tier, dict[int, int]] = {}
    for r in (r for r in records if r.what == "place"):
        if (b := r.read_name(buffer)) in placed:
            raise wrong(r.line, f"{r.name!r} to be placed once", "it twice")
        placed[b] = r.read(of_place)
        if "offset" in placed[b]:
            tier = placed[b].get("tier", Tier.DEVICE)
            offsets.setdefault(tier, {})[b] = placed[b]["offset"]

    arenas = {t: Arena(offsets.get(t, {}), tuple(blocks.get(t, ()))) for t in Tier}
    device = arenas.pop(Tier.DEVICE)
    plan = replace(
        plan,
        order=tuple(r.read_name(op) for r in records if r.what == "run"),
        offsets=device.offsets,
        reuse={b: fields["over"] for b, fields in placed.items() if "over" in fields},
        blocks=device.blocks,
        elsewhere={t: arena for t, arena in arenas.items() if arena != Arena()},
        proof=proof,
    )
    return plan.with_proof(must_live(edited))
