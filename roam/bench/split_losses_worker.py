"""A process of `roam bench split`: the errors of one contender in one loss of `split_losses`.

    python -m roam.bench.split_losses_worker --entry soft_cap --contender inductor

prints a JSON object. Where a contender's error is due to chance, in the last place of a loss, say,
one draw of the inputs tells little: there are several.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import asdict, fields

from roam.bench.children import Result, answering
from roam.bench.compilers import CONTENDERS
from roam.bench.contender import split_blocks
from roam.bench.split_losses import LOSSES, Sizes, errors, exact, inputs, results

DRAWS = 16


def measure(entry: str, contender: str, sizes: Sizes, draws: int = DRAWS) -> Result:
    """Returns the root mean square of the relative errors over several draws of the inputs.

    Returns:
        entry, contender: as given.
        errors: of the loss and of each gradient, by name, relative to float64's norm.
        blocks: as `split_blocks`; None for other backends.
    """
    loss, how = LOSSES[entry], CONTENDERS[contender]
    compiled = how.compile(loss)
    found: list[dict[str, float]] = []
    with how.settings():
        for seed in range(draws):
            given = inputs(loss, sizes, seed)
            made = results(compiled, given)
            found.append(errors(made, exact(loss, given)))
    mean = {name: statistics.fmean(e[name] ** 2 for e in found) ** 0.5 for name in found[0]}
    row = {"entry": entry, "contender": contender, "errors": mean}
    return row | {"blocks": split_blocks() if how.backend == "roam" else None}


def arguments(sizes: Sizes, draws: int) -> tuple[str, ...]:
    """Returns the command line of a worker with these sizes."""
    given = asdict(sizes) | {"draws": draws}
    return tuple(word for name, value in given.items() for word in (f"--{name}", str(value)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entry", required=True, choices=list(LOSSES))
    parser.add_argument("--contender", required=True, choices=list(CONTENDERS))
    parser.add_argument("--draws", type=int, default=DRAWS)
    for field in fields(Sizes):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = parser.parse_args()
    say = answering()
    sizes = Sizes(**{field.name: getattr(args, field.name) for field in fields(Sizes)})
    say(measure(args.entry, args.contender, sizes, args.draws))


if __name__ == "__main__":
    main()
