"""Applies rewrites of saved tensors to a joint graph, where they gain bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from torch import fx

from roam.core.shrunk import Shrunk
from roam.passes.rewrites.saved.choice import Choice
from roam.passes.rewrites.saved.exact import ExactRecompute
from roam.passes.rewrites.saved.rewrite import SavedRewrite
from roam.passes.rewrites.saved.tensors import SavedTensor, saved_tensors
from roam.passes.rewrites.saved.write import Writer
from roam.passes.traced import Table, Tracer


@dataclass
class Told:
    """What the latest run of the pass did, for reports."""

    shrunk: tuple[Shrunk, ...] = ()


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
        choice = Choice(self.rewrites, saved, self.recompute.chains(saved))
        self.told.shrunk = choice.told()
        if not choice.chosen:
            return 0
        tracer = Tracer(self.decompositions())
        Writer(graph, tracer, choice, _streams(saved)).write()
        graph.eliminate_dead_code()
        module.recompile()
        return len(choice.chosen)


def _streams(saved: Sequence[SavedTensor]) -> dict[fx.Node, int]:
    """Returns a number for the random numbers of each tensor.

    It depends on the modules that read the tensor alone, so that tensors get the same numbers
    whatever else of the graph is sampled or in a checkpoint().
    """
    seen: Counter[str] = Counter()
    found = {}
    for tensor in saved:
        module = ", ".join(tensor.modules)
        found[tensor.node] = crc32(f"{module} {seen[module]}".encode())
        seen[module] += 1
    return found
