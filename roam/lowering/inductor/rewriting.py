"""Runs rewrites of the joint graph inside Inductor, before Inductor decides what to save."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import getsourcefile
from pathlib import Path
from typing import Any, Self

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from roam.lowering.inductor.user_passes import cache_key, passes, users_own
from roam.passes.pipeline import Failed, Pass, run, working
from roam.passes.rewrites.saved import SavedRewrite, ShrinkSaved


def joint_pass(rewrites: Sequence[Pass], failed: Failed) -> dict[str, Any]:
    """Returns the Inductor setting that runs the rewrites after the user's own joint pass.

    Returns an empty dict if there are no rewrites. `failed` is called with the name and the error
    of each rewrite that fails.
    """
    if not rewrites:
        return {}
    first = users_own("joint_custom_pre_pass", JointRewrites)
    return {"joint_custom_pre_pass": JointRewrites(tuple(rewrites), first, failed)}


class JointRewrites(CustomGraphPass):
    """Runs the user's own passes, if any, and then those of roam's rewrites that do not fail.

    Runs the rewrites on a copy of the graph first, to find those that fail.
    """

    def __init__(self, rewrites: tuple[Pass, ...], first: Any, failed: Failed) -> None:
        self.rewrites, self.first, self.failed = rewrites, first, failed

    def __call__(self, graph: fx.Graph) -> None:
        for users in passes(self.first):
            users(graph)
        module = graph.owning_module
        assert module is not None
        _, ran = working(self.rewrites, module, self.failed)  # tried on a copy
        run(ran, module)

    def __deepcopy__(self, memo: object) -> Self:
        """Returns the pass itself: Inductor copies settings, and `failed` must not be copied."""
        return self

    def uuid(self) -> Any:
        """Returns a key for Inductor's caches: source code and options of the rewrites.

        Returns None, so that Inductor caches nothing, if the source code of a rewrite is unknown or
        the user's own pass has no key.
        """
        every: list[Pass | SavedRewrite] = [*self.rewrites]
        for each in self.rewrites:
            every += each.rewrites if isinstance(each, ShrinkSaved) else ()
        files = {_source(each) for each in every}
        if None in files:
            return None  # a rewrite without a source file may change while its key does not
        known = (file for file in files if file)
        return cache_key(self.first, [__file__, *known], self.rewrites)


def _source(rewrite: Pass | SavedRewrite) -> str | None:
    """Returns the source file of a rewrite's class; None if there is none, as in a notebook."""
    try:
        file = getsourcefile(type(rewrite))
    except (OSError, TypeError):
        return None
    return file if file is not None and Path(file).is_file() else None
