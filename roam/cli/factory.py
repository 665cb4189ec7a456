"""Calls the user's function that `roam plan pkg.module:factory` names, and plans what it makes.

    def factory():
        return model, batch, loss              # or model, batch, loss, optimizer

- batch: the arguments of the model's forward: a mapping by name, a tuple, or one argument.
- loss: a function of the model's output; None if the model returns the loss.
- optimizer: one of roam.optim.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from roam.core.errors import FactoryError, RoamError

if TYPE_CHECKING:
    from roam.inspect.step_plan import StepPlan


def load(target: str) -> Callable[[], Any]:
    """Imports the function that "pkg.module:factory" names, also from the current folder.

    Raises FactoryError.
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise FactoryError(f"{target!r} names no function: write pkg.module:factory")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise FactoryError(f"{module!r} cannot be imported: {_told(error)}") from error
    if not callable(found):
        raise FactoryError(f"{module!r} has no function {name!r}")
    function: Callable[[], Any] = found
    return function


def plan_made_by(
    target: str,
    options: dict[str, Any] | None = None,
    device: str | None = None,
    machine: str | None = None,
    measure_costs: bool = False,
) -> StepPlan:
    """The plan of what a factory makes. The other arguments are those of `roam.plan`.

    Raises FactoryError if the factory, the model or the loss raises, and what `roam.plan` raises.
    """
    from roam.offline import plan

    try:
        made = load(target)()
    except FactoryError:
        raise
    except Exception as error:
        raise FactoryError(f"{target} raised {_told(error)}") from error
    if not isinstance(made, tuple) or len(made) not in (3, 4):
        raise FactoryError(f"{target} returned no tuple (model, batch, loss), but {_shape(made)}")
    model, batch, loss, *optimizer = made
    args, kwargs = _given(batch)
    folding = next(iter(optimizer), None)
    how: dict[str, Any] = {
        "optimizer": folding,
        "device": device,
        "options": options,
        "machine": machine,
        "measure_costs": measure_costs,
    }
    try:
        return plan(model, *args, loss=loss, **how, **kwargs)
    except RoamError:
        raise
    except Exception as error:
        raise FactoryError(
            f"the step of {target} does not run, {_told(error)} (roam --traceback plan shows more)"
        ) from error


def _given(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (batch if isinstance(batch, tuple) else (batch,)), {}


def _shape(made: Any) -> str:
    if not isinstance(made, tuple):
        return type(made).__name__
    return f"({', '.join(type(part).__name__ for part in made)})"


def _told(error: Exception) -> str:
    """Returns an error's first paragraph (dynamo's have several) and the user's line."""
    from roam.capture.user_code import innermost_line  # brings in torch

    paragraph, _, _ = str(error).partition("\n\n")
    line = innermost_line(extract_tb(error.__traceback__))
    return f"{type(error).__name__}: {paragraph}{line}"
