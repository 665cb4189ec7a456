"""The commands about plans: `roam plan`, `show`, `diff`, `export`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roam.cli.exits import NO, UNKNOWN, exits
from roam.cli.plan_printing import print_step, print_tree
from roam.core.atomic_write import check_writable, write_file
from roam.core.errors import OptionError, RoamError
from roam.core.sizes import show_size
from roam.core.strict_json import has_field

if TYPE_CHECKING:
    from roam.core.plan import Plan
    from roam.core.problem import Problem
    from roam.inspect.breakdown import Breakdown
    from roam.inspect.step_plan import StepPlan

PlanFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A file of roam plan.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Graph = Annotated[int | None, typer.Option(min=1, help="Which graph; the largest by default.")]


def register(app: typer.Typer) -> None:
    app.command(epilog=exits(f"{NO}: it takes more than --fits"))(plan)
    app.command(epilog=exits(f"{UNKNOWN}: --verify could not prove a bound again"))(show)
    app.command(epilog=exits(f"{NO}: it grew by more than --tolerance"))(diff)
    app.command(epilog=exits())(export)


def plan(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PKG.MODULE:FACTORY",
            help="A function that returns model, batch, loss, and an optimizer if it has one.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Write the plan here, JSON.")] = None,
    fits: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Exit with 1 if it takes more: 24GiB.")
    ] = None,
    lowering: Annotated[
        str | None, typer.Option(help="inductor (the default if it works) or aten.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device of the step. Default: where the factory put it.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How much work to plan a graph, counted.")] = 10.0,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Keep the step within it: 12GiB, 60% or auto."),
    ] = None,
    offload: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Move saved tensors to a file there, if it is free."),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Simulate a described machine: a100-ssdtrain or h200."),
    ] = None,
    states: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Keep the optimizer's states in a file there."),
    ] = None,
    rewrite: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Keep saved tensors smaller: wta-crs:keep=0.3. Repeat."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure-costs", help="Time each distinct op, for two seconds in all."),
    ] = False,
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="Also print what smaller peaks cost. Needs --lowering aten."),
    ] = False,
    json: Json = False,
) -> None:
    """Plan a training step without running it."""
    from rich.console import Console

    from roam.cli.factory import plan_made_by
    from roam.core.sizes import parse_size

    capacity = None if fits is None else parse_size(fits)  # before the long work
    if out is not None:
        check_writable(out)
    with Console(stderr=True).status(f"capturing and planning {target}"):
        options: dict[str, Any] = {"lowering": lowering, "planning_seconds": seconds}
        options |= {} if budget is None else {"budget": budget}
        options |= {"rewrites": rewrite} if rewrite else {}
        away = {"activations": offload, "states": states}
        if away := {what: folder for what, folder in away.items() if folder is not None}:
            options["offload"] = away
        step = plan_made_by(target, options, device, machine, measure_costs=measure)
    points = step.pareto() if pareto else ()
    print_step(step, json, points)
    if out is not None:
        write_file(out, step.to_json())
    if capacity is not None and not step.fits(capacity):
        over = show_size(step.total - capacity)
        typer.echo(f"roam: does not fit into {fits}: {over} missing", err=True)
        raise typer.Exit(NO)


def show(
    file: PlanFile,
    text: Annotated[bool, typer.Option("--text", help="Print the plan op by op.")] = False,
    why: Annotated[bool, typer.Option("--explain", help="Say where the peak is, and why.")] = False,
    tree: Annotated[
        bool, typer.Option("--tree", help="Print the tree of segments between key points.")
    ] = False,
    depth: Annotated[
        int | None,
        typer.Option(min=1, help="Print so many levels of the tree in full; else two, shortened."),
    ] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Simulate when ops and transfers run; draw that.")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Draw it, .svg or .png.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as a page.")] = None,
    proven: Annotated[
        bool, typer.Option("--verify", help="Prove its lower bounds again, by networkx.")
    ] = False,
    graph: Graph = None,
    json: Json = False,
) -> None:
    """Check a plan file and summarise it."""
    for out in (picture, html):
        _check_out(file, out)
    if depth is not None and not tree:
        raise OptionError("--depth is of the tree: add --tree")
    step = _read(file)
    if timeline and graph is not None:
        step = _only(step, graph)
    if proven:
        _verify(file, step if graph is None else _only(step, graph))
        return
    if picture is not None:
        from roam.inspect.picture import figure, save

        save(step.simulated().figure() if timeline else figure(*_pick(step, graph)), picture)
    if html is not None:
        write_file(html, step.html)
    if text:
        from roam.core.text import plan_to_text

        problem, found = _pick(step, graph)
        typer.echo(plan_to_text(found, problem), nl=False)
    elif timeline:
        typer.echo(str(step.simulated()))
    elif tree:
        print_tree(*_pick(step, graph), depth)
    elif why:
        from roam.inspect.explain import explain

        problem, found = _pick(step, graph)
        typer.echo(explain(problem, found, step.time, step.record_of(problem).edit_lines()))
    else:
        print_step(step if graph is None else _only(step, graph), json)


def diff(
    before: PlanFile,
    after: PlanFile,
    tolerance: Annotated[
        str | None,
        typer.Option(help="Exit with 1 if peak or persistent bytes grew by more: 1%, 10MiB."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write both plans as one page.")] = None,
    json: Json = False,
) -> None:
    """Show what grew from one plan to another, by module and by kind. Takes golden files too."""
    import msgspec

    from roam.inspect.compare import PlanComparison, Tolerance, compare

    allowed = None if tolerance is None else Tolerance.parse(tolerance)
    guarded = allowed is not None
    for file in (before, after):
        _check_out(file, html)
    found = compare(*(_step_or_golden(file, guarded=guarded) for file in (before, after)))
    if html is not None:
        if not isinstance(found, PlanComparison):
            raise OptionError("--html is of two plans: a golden file has none to show")
        write_file(html, found.html)
    if json:
        parts = {"before": found.before, "after": found.after}
        grew = {"modules": found.modules, "kinds": found.kinds}
        typer.echo(msgspec.json.encode({**grew, **parts}))
    else:
        typer.echo(str(found))
    if allowed is not None and found.exceeds(allowed):
        typer.echo(f"roam: {after} takes more than {before} and {tolerance}", err=True)
        raise typer.Exit(NO)


def export(
    file: PlanFile,
    format: Annotated[str, typer.Argument(help="memory_viz, chrome, minimalloc or graphml.")],
    out: Annotated[Path | None, typer.Option(help="Beside the plan file by default.")] = None,
    graph: Graph = None,
) -> None:
    """Write a plan in the format of another tool."""
    from roam.inspect.export import FORMATS

    if format not in FORMATS:
        raise OptionError(f"no format {format!r}: the formats are {', '.join(FORMATS)}")
    how = FORMATS[format]
    path = out or file.with_suffix(how.suffix)
    _check_out(file, path)
    write_file(path, how.write(*_pick(_read(file), graph)))
    typer.echo(f"{path}: open it with {how.opens_with}")


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """A context in which errors of roam name the file."""
    try:
        yield
    except RoamError as error:
        raise type(error)(f"{file}: {error}") from error


def _read(file: Path) -> StepPlan:
    """Reads and checks the plans in a file."""
    from roam.inspect.step_plan import StepPlan

    with _naming(file):
        return StepPlan.from_json(file.read_bytes())


def _step_or_golden(file: Path, *, guarded: bool) -> StepPlan | Breakdown:
    """Returns the plan of a plan file, or the breakdown of a golden file.

    guarded: whether to raise UnplannedStepError for a step with an unplanned graph.
    """
    from roam.inspect.breakdown import breakdown_from_json

    text = file.read_bytes()
    if has_field(text, "roam_breakdown"):
        with _naming(file):
            return breakdown_from_json(text)[0]
    step = _read(file)
    if guarded:
        with _naming(file):
            step.check_planned()
    return step


def _check_out(file: Path, out: Path | None) -> None:
    """Raises OptionError if the output would replace the plan file that it is made from."""
    if out is not None and out.exists() and out.samefile(file):
        raise OptionError(f"{out} is the plan file itself: name another output")


def _pick(step: StepPlan, graph: int | None) -> tuple[Problem, Plan]:
    found = step.largest if graph is None else dict(enumerate(step.planned, 1)).get(graph)
    if found is None:
        names = ", ".join(f"{i} {p.name}" for i, (p, _) in enumerate(step.planned, 1))
        raise OptionError(f"no such graph: there are {names or 'no planned graphs'}")
    return found


def _only(step: StepPlan, graph: int) -> StepPlan:
    from roam.inspect.step_plan import StepPlan

    _, found = _pick(step, graph)
    return StepPlan(tuple(g for g in step.graphs if g.plan is found))


def _verify(file: Path, step: StepPlan) -> None:
    """Says of every graph how its bound was proven again; exits with UNKNOWN if one was not."""
    from roam.inspect.verify import verify

    with _naming(file):
        found = [(problem.name, verify(problem, plan)) for problem, plan in step.planned]
    for name, verified in found:
        typer.echo(f"{name}: {verified}")
    if not all(verified.holds for _, verified in found):
        raise typer.Exit(UNKNOWN)
