"""Applies rewrites of saved tensors to a joint graph, where they gain bytes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from torch import fx

from roam.core.errors import RewriteError
from roam.core.shrunk import LeftOut, Shrunk
from roam.passes.rewrites.saved.choice import Choice
from roam.passes.rewrites.saved.exact import ExactRecompute
from roam.passes.rewrites.saved.noise import SEEDS
from roam.passes.rewrites.saved.rewrite import SavedRewrite
from roam.passes.rewrites.saved.tensors import SavedTensor, saved_tensors
from roam.passes.rewrites.saved.write import Writer
from roam.passes.traced import Table, Tracer

log = logging.getLogger("roam")


@dataclass
class Told:
    """What the rewrites of a graph did, for reports.

    Attributes:
        shrunk: by the latest run of `ShrinkSaved`.
        reasons: by rewrite, why it changed nothing.
    """

    shrunk: tuple[Shrunk, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return tuple(LeftOut(name, reason) for name, reason in self.reasons.items())

    def failed(self, name: str, error: Exception) -> None:
        """Notes that a rewrite failed."""
        self.reasons[name] = str(error) if isinstance(error, RewriteError) else repr(error)


@dataclass(frozen=True)
class ShrinkSaved:
    """Keeps saved tensors smaller by the rewrites that the user named.

    Attributes:
        rewrites: the user's, in the order in which they are tried on a tensor.
        recompute: what the lowering recomputes exactly without being asked for.
        told: is told what was done.
        decompositions: returns PyTorch's decompositions of ops that the lowering does not know.
    """

    rewrites: tuple[SavedRewrite, ...] = ()
    recompute: ExactRecompute = field(default_factory=ExactRecompute)
    told: Told = field(default_factory=Told, compare=False, repr=False)
    decompositions: Callable[[], Table] = field(default=dict, compare=False, repr=False)
    name: str = "shrink_saved"

    def __call__(self, module: fx.GraphModule) -> int:
        graph = module.graph
        saved = saved_tensors(graph)
        choice = self._choice(saved)
        if choice.chosen:
            tracer = Tracer(self.decompositions())
            Writer(graph, tracer, choice, _streams(saved)).write()
            graph.eliminate_dead_code()
            module.recompile()
        self.told.shrunk = choice.told
        return len(choice.chosen)

    def _choice(self, saved: Sequence[SavedTensor]) -> Choice:
        """Returns what is kept smaller by those of the rewrites that do not fail."""
        chains, rewrites = self.recompute.chains(saved), self.rewrites
        while True:
            try:
                choice = Choice(rewrites, saved, chains)
                break
            except RewriteError as error:
                broken: Any = error.rewrite
                log.warning("saved tensors are kept without %s", broken.name, exc_info=True)
                self.told.failed(broken.name, error)
                rewrites = tuple(r for r in rewrites if r is not broken)
        for rewrite in rewrites:
            if rewrite not in choice.useful:
                where = "" if rewrite.modules == ("*",) else f" in modules {rewrite.modules}"
                self.told.reasons[rewrite.name] = f"it finds no saved tensor of its kind{where}"
        return choice


def _streams(saved: Sequence[SavedTensor]) -> dict[fx.Node, int]:
    """Returns a number for the random numbers of each tensor.

    It depends on the modules that read the tensor alone, so that tensors get the same numbers
    whatever else of the graph is sampled or in a checkpoint().
    """
    seen: Counter[str] = Counter()
    found = {}
    for tensor in saved:
        module = ", ".join(tensor.modules)
        name = f"{module} {seen[module]}"
        digest = blake2b(name.encode(), digest_size=8).digest()
        found[tensor.node] = int.from_bytes(digest) % SEEDS
        seen[module] += 1
    return found
