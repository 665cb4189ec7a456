"""Makes and folds a large gradient one block of rows after another, so that it never exists whole.

    mm(g, x) ── fold           mm(g[0:r], x)  ── fold_rows(0)
                        ->     mm(g[r:2r], x) ── fold_rows(r)
                               ...

The products that make the blocks may differ from the whole product in their last bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from roam.core.folds import RowFolds
from roam.passes.geometry import is_view, nbytes, storage_key, tensors, value
from roam.passes.gradient_release import META, Release, fold_rows
from roam.passes.graph_ops import erase_unused
from roam.passes.rewrites import split
from roam.passes.sliced import Sliced


@dataclass(frozen=True)
class FoldRows:
    """Splits each fold whose optimizer can fold blocks of rows, if that lowers the live bytes."""

    name: str = "fold_rows"

    def __call__(self, module: fx.GraphModule) -> int:
        graph = module.graph
        place = {node: i for i, node in enumerate(graph.nodes)}
        folds = [n for n in graph.nodes if META in n.meta]
        changed = {storage_key(n.meta[META].parameter) for n in folds}
        done = 0
        for fold in folds:
            release: Release = fold.meta[META]
            gradient: Any = fold.args[2]
            if release.by_rows is None or len(gradient.users) > 1:
                continue
            sliced = Sliced.of(gradient, 0)
            if sliced is None or not changed.isdisjoint(_storages(_sources(sliced))):
                continue  # a block may read a parameter after a fold has changed it
            if _pays(sliced, release.by_rows, place):
                _write(fold, sliced)
                done += 1
        return done


def _sources(sliced: Sliced) -> list[fx.Node]:
    """Returns the tensors from which slices are computed."""
    return [source for part in sliced.all_parts() for source in part.sources]


def _storages(nodes: Iterable[fx.Node]) -> dict[int, int]:
    """Returns the bytes of the storages in which the results of nodes lie, by `storage_key`."""
    return {storage_key(t): t.untyped_storage().nbytes() for node in nodes for t in tensors(node)}


def _write(fold: fx.Node, sliced: Sliced) -> None:
    release: Release = fold.meta[META]
    assert release.by_rows is not None
    step, scratch = release.by_rows
    rows = len(value(sliced.node))
    before = fold.prev
    with fold.graph.inserting_before(fold):
        for block, start in enumerate(range(0, rows, step)):
            part = sliced.write(start, min(start + step, rows))
            node = fold.graph.call_function(fold_rows, (None, release.index, part, start))
            node.meta = {**fold.meta, META: replace(release, in_block=True, scratch=scratch)}
            while before.next is not fold:
                before = before.next
                before.meta[split.META] = f"fold{release.index}", block
    fold.graph.erase_node(fold)
    erase_unused(sliced.node)


def _pays(sliced: Sliced, by_rows: RowFolds, place: Mapping[fx.Node, int]) -> bool:
    """Returns whether blocks need fewer bytes than the whole gradient.

    All blocks are made where the last part of the whole gradient was made. So the sources of
    earlier parts stay alive until then. Compares their bytes, plus those of one block and of the
    rows that are added to it, with the bytes of the gradient.

    place: by op, its index in the graph.
    """
    parts = [*sliced.all_parts()]
    whole = nbytes(sliced.node)
    if whole is None or all(is_view(part.node) for part in parts):
        return False  # the bytes are unknown, or those of a tensor that exists whole
    last = max((place[part.node] for part in parts if part.sources), default=0)
    late = (source for node, i in place.items() if i >= last for source in node.all_input_nodes)
    alive = _storages(late)  # without blocks, too
    waiting = sum(size for key, size in _storages(_sources(sliced)).items() if key not in alive)
    block = whole * by_rows.rows // len(value(sliced.node))
    added = max((nbytes(part.added) or 0 for part in parts if part.added is not None), default=0)
    return waiting + block + added < whole
