"""Notes at the ops of a joint graph which options would keep their results smaller.

    x ── gelu ── y ── mm ── loss ── ... ── mm ── dW
                 │                         │
                 └───────── saved ─────────┘      y: wta-crs would save 3 MiB in place of 10

Whoever reads the graph copies the notes into the plan's origins, and the plan's page shows them.
Nothing in the graph changes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from roam.core.errors import RewriteError
from roam.core.sizes import show_size
from roam.passes.geometry import nbytes
from roam.passes.graph_ops import OFFERS, offers
from roam.passes.pipeline import Pass, copied
from roam.passes.rewrites.saved import ExactRecompute, SavedRewrite
from roam.passes.rewrites.saved.choice import Choice
from roam.passes.rewrites.saved.exact import Chain
from roam.passes.rewrites.saved.tensors import SavedTensor, saved_tensors

SMALLEST = 2**20  # bytes of a tensor of which it is said that it could exist in blocks
IN_BLOCKS = "split=True runs the ops around it in blocks of rows: it never exists whole"

log = logging.getLogger("roam")


@dataclass(frozen=True)
class NoteOffers:
    """Sets `node.meta["roam_offers"]` of tensors for which the user could ask for a rewrite.

    Attributes:
        rewrites: rewrites of saved tensors that the user did not ask for. Each is looked at alone.
        split: the pass that the option "split" would add; None if it is there already or unwanted.
        recompute: what the lowering recomputes exactly without being asked for.
    """

    rewrites: tuple[SavedRewrite, ...]
    split: Pass | None
    recompute: ExactRecompute
    name: str = "note_offers"

    def __call__(self, module: fx.GraphModule) -> int:
        saved = saved_tensors(module.graph)
        if not saved:
            return 0  # no step of training
        chains = self.recompute.chains(saved)
        for rewrite in self.rewrites:
            self._note_smaller(rewrite, saved, chains)
        if self.split is not None:
            self._note_blocks(self.split, module)
        return 0

    def _note_smaller(
        self,
        rewrite: SavedRewrite,
        saved: Sequence[SavedTensor],
        chains: Mapping[fx.Node, Chain],
    ) -> None:
        """Notes which tensors a rewrite alone would keep smaller. chains: how others are remade."""
        try:
            choice = Choice((rewrite,), saved, chains)
        except RewriteError:
            log.debug("%s is not offered, it fails", rewrite.name, exc_info=True)
            return
        bits = "keep every bit" if rewrite.exact else "are approximated"
        for node, how in choice.chosen.items():
            whole = show_size(choice.tensors[node].bytes)
            saves = f"{rewrite.name}, if it is saved: {show_size(how.bytes)} in place of {whole}"
            _note(node, f"{saves}; gradients {bits}")

    def _note_blocks(self, split: Pass, module: fx.GraphModule) -> None:
        """Notes which large tensors are gone from a copy of the graph that is split."""
        trial = copied(module)
        if not split(trial):
            return
        left = {n.name for n in trial.graph.nodes}
        for node in module.graph.nodes:
            if node.name not in left and (nbytes(node) or 0) >= SMALLEST:
                _note(node, IN_BLOCKS)


def _note(node: fx.Node, sentence: str) -> None:
    node.meta[OFFERS] = (*offers(node), sentence)
