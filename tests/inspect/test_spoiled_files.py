"""A spoiled file is refused with an error of roam's, or what it shows is true."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache, partial
from math import inf

import msgspec
import pytest
from msgspec.structs import replace

from roam.core.check import check
from roam.core.edits import Load, Offload, Recompute, Shrink, Split, apply
from roam.core.errors import FigureError, FileFormatError, RoamError
from roam.core.files import problem_from_json
from roam.core.lifetime import live_peak
from roam.core.plan import Plan, Status, committed_curve
from roam.core.problem import Buffer, Home, Kind, Op, Problem, Tier
from roam.core.text import parse_plan, parse_problem, plan_to_text, problem_to_text
from roam.inspect.breakdown import breakdown, breakdown_from_json
from roam.inspect.compare import compare
from roam.inspect.explain import explain
from roam.inspect.export import FORMATS
from roam.inspect.recomputed import Again, Recomputed
from roam.inspect.record import GraphRecord
from roam.inspect.step_plan import StepPlan
from roam.planner import plan
from tests.core.strategies import all_orders, graph, stacked_plan
from tests.inspect.spoiling import spoiled
from tests.inspect.steps import MIB, chain, step

CHANGES = 1000


@cache
def folded() -> Problem:
    """Two layers whose gradients are folded: three blocks or more, reuse, and what is external."""
    weights = (
        Buffer(f"{i}.{name}", 4096, kind, Home.USER)
        for i in range(2)
        for name, kind in (("weight", Kind.PARAMETER), ("weight.exp_avg", Kind.STATE))
    )
    return Problem(
        "folded",
        (
            Buffer("x", 512, Kind.INPUT, Home.USER),
            *weights,
            Buffer("h", 8192, Kind.SAVED, where="0"),
            Buffer("a", 8192, Kind.SAVED, where="0"),
            Buffer("y", 1024, where="1"),
            Buffer("loss", 4, Kind.OUTPUT, Home.EXTERNAL),
            Buffer("dy", 1024, where="1"),
            Buffer("dw1", 4096, Kind.RELEASED, where="1"),
            Buffer("da", 8192, where="1"),
            Buffer("dh", 8192, where="0"),
            Buffer("dw0", 4096, Kind.RELEASED, Home.EXTERNAL, where="0"),
        ),
        (
            Op("mm", reads=(0, 1), creates=(5,), where="0"),
            Op("relu", reads=(5,), creates=(6,), where="0", scratch=64),
            Op("mm_1", reads=(6, 3), creates=(7,), where="1"),
            Op("sum", reads=(7,), creates=(8,)),
            Op("expand", creates=(9,), phase=1, cost=1e-6),
            Op("mm_2", reads=(9, 6), creates=(10,), phase=1, where="1"),
            Op("mm_3", reads=(9, 3), creates=(11,), phase=1, where="1"),
            Op("fold", reads=(10,), mutates=(3, 4), phase=1, after=(6,), where="1"),
            Op("relu_1", reads=(11, 5), creates=(12,), over=((12, 11),), phase=1, where="0"),
            Op("mm_4", reads=(12, 0), creates=(13,), phase=1, where="0"),
            Op("fold_1", reads=(13,), mutates=(1, 2), phase=1, where="0"),
        ),
    )


@cache
def whole() -> StepPlan:
    """Planned graphs of all sorts beside one without a plan."""
    made = plan(folded())
    again = (Again("0.mlp", 2, 0.25, 4096), Again("", 1, 0.5, 0))
    kept = Recomputed("60%", 9 * MIB, 15 * MIB, 2.0, 0.5, again, left=MIB, beside=64)
    first = GraphRecord("folded", folded(), made, lowering="inductor", recomputed=kept)
    odd = GraphRecord("odd", reason="a size that depends on data")
    return StepPlan((first, *step().graphs, *chain(2).graphs, edited(), odd))


def edited() -> GraphRecord:
    """A small step with edits of every kind, its plan with an arena for a file."""
    problem = graph("training_step")
    edits = [
        Recompute("linear_1", ("linear_2_backward",)),
        Offload("h", Tier.FILE, (Load(("linear_2_backward",)),)),
        Offload("w2", Tier.FILE, (Load(("linear_2", "linear_2_backward")),)),
        Shrink("gx", 10, "int8", ("linear_1_backward",), restored=True),
        Split(("gx~int8~1.whole", "linear_1_backward"), (1, 1), joined=("g1",)),
    ]
    order = tuple(range(len(apply(problem, edits).ops)))
    return GraphRecord("edited", problem, stacked_plan(problem, order, edits), lowering="aten")


@cache
def least(problem: Problem) -> int:
    """The least that any order takes, by trying all of them."""
    return min((live_peak(problem, order) for order in all_orders(problem)), default=0)


def assert_true(problem: Problem, found: Plan) -> None:
    """Figures as recomputed, and a bound below every order's peak."""
    check(problem, found)
    curve = committed_curve(problem, found.order, found.reuse, found.offsets, found.blocks)
    assert found.peak == max(curve, default=0)
    users = [b for b in problem.buffers if b.home is Home.USER and b.tier is Tier.DEVICE]
    assert found.persistent == sum(b.size for b in users)
    assert found.lower_bound <= least(problem)
    assert (found.status is Status.OPTIMAL) == (found.peak == found.lower_bound)


def assert_shown(made: StepPlan) -> None:
    """Everything that shows a plan shows this one, without an error of its own."""
    assert str(made)
    assert made.html
    assert made.largest is None or str(made.explain())
    assert 0 <= made.extra_time < inf
    assert str(compare(made, step()))
    parts = breakdown(made).parts
    assert sum(p.size for p in parts) == made.total
    for problem, found in made.planned:
        assert str(explain(problem, found))
        for how in FORMATS.values():
            how.write(problem, found)


def test_the_whole_file_is_as_good_as_told() -> None:
    made, read = whole(), StepPlan.from_json(whole().to_json())
    assert read == made
    assert made.planned[0][1].status is Status.OPTIMAL
    assert len(made.planned[0][1].blocks) > 1
    assert made.planned[0][1].reuse
    assert_shown(read)


def reforged(text: bytes) -> bytes:
    """The file with names and fingerprints made to fit, as a careful forger would."""
    try:
        value = json.loads(text)
        for record in value["graphs"]:
            problem = msgspec.convert(record["problem"], Problem)
            record["plan"] |= {"problem": problem.name, "fingerprint": problem.fingerprint}
        return json.dumps(value).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return text


def test_a_plan_file_with_a_change_is_refused_or_true() -> None:
    planned = StepPlan(whole().graphs[:-1])
    texts, refused = (whole().to_json(), planned.to_json()), 0
    for seed in range(CHANGES):
        text = spoiled(texts[seed % 2], seed)
        try:
            read = StepPlan.from_json(reforged(text) if seed % 2 else text)
        except RoamError:
            refused += 1
            continue
        for problem, found in read.planned:
            assert_true(problem, found)
        assert_shown(read)
    assert CHANGES / 2 < refused < CHANGES


def test_a_golden_with_a_change_is_refused_or_consistent() -> None:
    text, refused = breakdown(step()).to_json("test_it"), 0
    for seed in range(CHANGES // 4):
        try:
            read, _ = breakdown_from_json(spoiled(text, seed))
        except RoamError:
            refused += 1
            continue
        assert sum(p.size for p in read.parts) == read.total
        assert read.lower_bound == 0  # nothing is proven of what a golden states
        assert str(compare(read, step()))
    assert refused > CHANGES / 8


def spoiled_lines(text: str, chance: random.Random) -> str:
    """The text with a line dropped, doubled or moved, or with a word or a character changed."""
    lines = text.split("\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    words = [w for line in lines for w in line.split()]
    match chance.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            some = lines[at].split() or [""]
            some[chance.randrange(len(some))] = chance.choice((*words, "size=1e9", "seconds=nan"))
            lines[at] = " ".join(some)
        case _:
            place = chance.randrange(len(lines[at]) + 1)
            new = chance.choice("0917-=%,<\x00\n ٣∞e")
            lines[at] = lines[at][:place] + new + lines[at][place + 1 :]
    return "\n".join(lines)


def test_texts_with_a_change_are_refused_or_true() -> None:
    problem, made = folded(), plan(folded())
    texts = problem_to_text(problem), plan_to_text(made, problem)
    refused = 0
    for seed in range(CHANGES // 2):
        chance = random.Random(seed)
        changed = list(texts)
        changed[seed % 2] = spoiled_lines(texts[seed % 2], chance)
        try:
            read = parse_problem(changed[0])
            found = parse_plan(changed[1], read)
            check(read, found)
        except RoamError:
            refused += 1
            continue
        assert_true(read, found)
    assert refused > CHANGES / 8


def forged(**fields: object) -> bytes:
    """The hand-made step, whose bound is below its live peak, with other fields of its plan."""
    [[problem, made]] = step().planned
    wrong = replace(made, **fields)  # type: ignore[arg-type]
    return StepPlan((GraphRecord("step", problem, wrong),)).to_json()


def test_a_bound_that_an_order_refutes_is_refused() -> None:
    [[_, made]] = step().planned
    assert made.lower_bound < made.live_peak
    for bound, reason in (
        (-1, "lower bound of -1"),
        (made.peak, "its live peak is"),
        (made.live_peak, "another order takes 6291456"),
        (made.lower_bound + 1, "another order takes 6291456"),
    ):
        with pytest.raises(FigureError, match=reason):
            StepPlan.from_json(forged(lower_bound=bound))
    lower = StepPlan.from_json(forged(lower_bound=0)).planned[0][1]  # weak, and true
    assert (lower.lower_bound, lower.stated) == (0, 0)


def test_a_bound_that_no_proof_reaches_in_time_is_stated() -> None:
    """Only what must be alive whatever runs is proven without time."""
    problem = folded()
    made = plan(problem)
    bare = parse_plan(plan_to_text(made, problem), problem)
    assert bare.lower_bound < made.lower_bound == bare.stated
    assert bare.status is Status.FEASIBLE
    record = GraphRecord("folded", problem, made)
    read = StepPlan.from_json(StepPlan((record,)).to_json(), seconds=-1)
    assert (read.lower_bound, read.stated) == (bare.lower_bound, made.lower_bound)
    assert StepPlan.from_json(read.to_json()) == StepPlan((record,))  # with time it is proven
    for shown in (
        str(read),
        str(read.graphs[0]),
        str(read.explain()),
        read.html,
        str(compare(read, step())),
        plan_to_text(bare, problem),
    ):
        assert "stated" in shown
        assert "OPTIMAL" not in shown


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"plan":{', '"plan":null,"was":{', "unknown field `was`"),
        ('"reason":null,', "", "missing required field `reason`"),
        ('"reason":null', '"reason":"so"', "neither a problem and its plan alone nor a reason"),
        ('"lowering":"aten"', '"lowering":"magic"', "'magic'"),
        ('"name":"step","problem"', '"colour":1,"name":"step","problem"', "`colour`"),
        ('"problem":{', '"problem":{"colour":1,', "`colour`"),
        ('"kind":"saved"', '"kind":"best"', "'best'"),
        ('"seconds":0.5', '"seconds":-1', "-1"),
        ('"phase":1', '"phase":1000000000', "phase 1000000000"),
        ('"size":1048576', f'"size":{2**62}', "2.62"),
        ('"problem":"step"', '"problem":"other"', "plan is of 'other'"),
        ('"peak":', '"peak":1,"peak":', "'peak' twice"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, reason: str) -> None:
    text = forged(seconds=0.5).decode()
    assert old in text
    with pytest.raises(RoamError, match=reason):
        StepPlan.from_json(text.replace(old, new, 1))


def test_a_plan_that_is_missing_or_null_is_refused() -> None:
    [[problem, _]] = step().planned
    text = StepPlan((GraphRecord("step", problem, None, None),)).to_json()
    with pytest.raises(FileFormatError, match=r"graph 'step' .* neither"):
        StepPlan.from_json(text)
    with pytest.raises(FileFormatError, match="missing required field `plan`"):
        StepPlan.from_json(text.replace(b'"plan":null,', b""))


READERS: dict[str, Callable[[bytes], object]] = {
    "step plan": StepPlan.from_json,
    "breakdown": breakdown_from_json,
    "plan": partial(Plan.from_json, problem=step().planned[0][0]),
    "problem": problem_from_json,
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "no UTF-8 text"),
        (b"\x80", "no UTF-8 text"),
        (b'{"a":1}\x00', "malformed"),
        (b"[" * 100_000, "`object`"),
        (b'{"roam_step":1,"a":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_text_of_json(what: str, text: bytes, reason: str) -> None:
    with pytest.raises(FileFormatError, match=f"^not a whole {what} file: .*{reason}"):
        READERS[what](text)


def test_a_golden_that_contradicts_itself_is_refused() -> None:
    text = breakdown(step()).to_json().decode()
    for old, new, reason in (
        (f'"peak": {step().peak}', f'"peak": {step().peak + 1}', "its parts add up to"),
        (f'"persistent": {9 * MIB}', '"persistent": 0', "its parts add up to"),
        ('"kind": "saved"', '"kind": "best"', "unknown kind 'best'"),
        (f'"lower_bound": {6 * MIB}', f'"lower_bound": {60 * MIB}', "a lower bound of"),
        (f'"lower_bound": {6 * MIB}', '"lower_bound": -1', "a lower bound of -1"),
    ):
        assert old in text
        with pytest.raises(FileFormatError, match=reason):
            breakdown_from_json(text.replace(old, new, 1))
