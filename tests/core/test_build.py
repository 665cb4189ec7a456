"""What a ProblemBuilder makes of what it is told."""

from __future__ import annotations

from roam.core.build import ProblemBuilder
from roam.core.problem import Home, Kind, Op


def step() -> ProblemBuilder:
    """A forward that saves h, and a backward whose gradient is folded."""
    build = ProblemBuilder()
    w = build.add_buffer("w", 40, Kind.PARAMETER, Home.USER)
    h = build.add_buffer("h", 8, home=Home.ARENA)
    build.add_op("mm", reads=[w], creates=[h])
    t = build.add_buffer("tangents_1", 4)
    build.begin_phase(1, [t])
    g = build.add_buffer("mm", 40, home=Home.ARENA)
    build.add_op("mm", reads=[h, t], creates=[g])
    build.add_fold("w", [g], [("exp_avg", 40)], mutates=[w], scratch=16)
    build.keep(h, Kind.SAVED)
    return build


def test_every_op_of_a_phase_waits_for_what_autograd_made() -> None:
    ops = step().problem("step").ops
    assert [o.name for o in ops] == ["mm", "tangents", "mm'", "fold_w"]
    assert [o.phase for o in ops] == [0, 1, 1, 1]
    assert [o.after for o in ops] == [(), (), (1,), (1,)]


def test_a_phase_that_is_given_nothing_waits_for_nothing() -> None:
    build = ProblemBuilder()
    build.begin_phase(1)
    build.add_op("one", after=[])
    assert build.problem("none").ops == (Op("one", phase=1),)


def test_a_folded_gradient_is_released_and_the_state_is_the_users() -> None:
    problem = step().problem("step")
    kinds = {b.name: (b.kind, b.home) for b in problem.buffers}
    assert kinds["mm"] == (Kind.RELEASED, Home.ARENA)
    assert kinds["w.exp_avg"] == (Kind.STATE, Home.USER)
    fold = problem.ops[-1]
    assert [problem.buffers[b].name for b in fold.mutates] == ["w.exp_avg", "w"]
    assert fold.scratch == 16


def test_what_the_user_holds_keeps_its_kind() -> None:
    build = step()
    w, h = 0, 1
    build.keep(w, Kind.GRADIENT)
    build.keep(h, Kind.OUTPUT, Home.EXTERNAL)
    build.keep(h, Kind.SAVED)
    found = build.problem("step").buffers
    assert (found[w].kind, found[w].home) == (Kind.PARAMETER, Home.USER)
    assert (found[h].kind, found[h].home) == (Kind.OUTPUT, Home.EXTERNAL)


def test_a_builder_goes_on_from_a_problem() -> None:
    begun = step().problem("begun")
    build = ProblemBuilder(begun, align=512)
    build.begin_phase(1)
    b = build.add_buffer("h", 1)
    build.add_op("mm", creates=[b])
    found = build.problem("begun")
    assert found.buffers[:b] == begun.buffers
    assert (found.buffers[b].name, found.buffers[b].align) == ("h'", 512)
    assert found.ops[-1].name == "mm''"
    assert found.ops[: len(begun.ops)] == begun.ops
