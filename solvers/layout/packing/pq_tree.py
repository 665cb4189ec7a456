"""PQ-trees: represent all orders in which given sets are consecutive (Booth and Lueker 1976).

A tree represents all orders of its leaves that arise from permuting the children of free nodes
(P-nodes), and from reversing the children of ordered nodes (Q-nodes). Requiring that the leaves of
a set be consecutive gives another tree, or no tree if no order of the first tree meets the
requirement. Trees are immutable and share subtrees. A set of leaves is an integer with one bit for
each leaf.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import lgamma, log
from typing import NamedTuple


class Tree(NamedTuple):
    """A PQ-tree: represents a set of orders of its leaves.

    Attributes:
        leaves: the set of the tree's leaves: leaf i is bit i.
        kind: a hash of the orders that the tree represents. Orders that only swap leaves of equal
            kind count as the same order.
        children: the subtrees; empty for a leaf.
        ordered: whether the children may only be reversed, not permuted. False for two children.
        freedom: the natural logarithm of the number of orders that the tree represents.
    """

    leaves: int
    kind: int
    children: tuple[Tree, ...] = ()
    ordered: bool = False
    freedom: float = 0.0


class Gathered(NamedTuple):
    """The result of `gather`: a set of leaves was made consecutive and replaced by other leaves.

    Attributes:
        tree: the tree after the replacement.
        run: the replaced leaves, as a row of consecutive subtrees.
        beside: a leaf next to the first subtree of `run`; None if `run` may be reversed.
        chance: the natural logarithm of a share: of all orders of the tree before the replacement,
            that of the orders in which the set is consecutive.
    """

    tree: Tree
    run: tuple[Tree, ...]
    beside: int | None
    chance: float


def leaf(i: int, kind: int) -> Tree:
    return Tree(1 << i, kind)


def join(children: Sequence[Tree], *, ordered: bool = False) -> Tree:
    """Returns a tree with the given trees as its children. If only one is given, returns that one.

    `ordered` says whether the children may only be reversed, not permuted. For two children it
    changes nothing: reversing them is permuting them.
    """
    if len(children) == 1:
        return children[0]
    ordered = ordered and len(children) > 2
    leaves, freedom = 0, log(2) if ordered else lgamma(len(children) + 1)
    for child in children:
        leaves |= child.leaves
        freedom += child.freedom
    kinds = [child.kind for child in children]
    kind = hash((*min(kinds, kinds[::-1]), 0)) if ordered else hash(tuple(sorted(kinds)))
    return Tree(leaves, kind, tuple(children), ordered, freedom)


def frontier(tree: Tree) -> Iterator[int]:
    """Yields the leaves of a tree in one of the orders that the tree represents."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if node.children:
            stack += reversed(node.children)
        else:
            yield node.leaves.bit_length() - 1


def runs(tree: Tree, some: int) -> list[int]:
    """Cuts the set `some` of leaves into sets that are consecutive in every order of the tree.

    The sets are as large as possible. In a set of leaves, bit i is leaf i.
    """
    found: list[int] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if not node.leaves & ~some:
            found.append(node.leaves)
            continue
        last = 0
        for child in node.children:
            if child.leaves & ~some:
                last = 0
                if child.leaves & some:
                    stack.append(child)
            elif node.ordered and last:
                found[-1] |= child.leaves
            else:
                found.append(child.leaves)
                last = 1
    return found


def gather(tree: Tree, some: int, new: Tree) -> Gathered | None:
    """Makes the set `some` of leaves of `tree` consecutive, and replaces it by the tree `new`.

    Returns the new tree and how it was made. Returns None if the set is consecutive in no order of
    `tree`.
    """
    path: list[tuple[Tree, int]] = []
    node = tree
    while node.leaves & ~some:
        touched = [i for i, child in enumerate(node.children) if child.leaves & some]
        if len(touched) > 1:
            break
        path.append((node, touched[0]))
        node = node.children[touched[0]]
    else:
        return _rebuilt(tree, path, new, new, (node,), None)
    found = _ordered_row(node, some) if node.ordered else _free_row(node, some)
    if found is None:
        return None
    apart, row = found
    inside = [i for i, part in enumerate(row) if part.leaves & some]
    first, end = inside[0], inside[-1] + 1
    run, beside = tuple(row[first:end]), None
    if first > 0:
        beside = next(frontier(row[first - 1]))
    elif end < len(row):
        run, beside = run[::-1], next(frontier(row[end]))
    put = join([*row[:first], new, *row[end:]], ordered=True)
    return _rebuilt(tree, path, join([*apart, put]) if apart else put, new, run, beside)


def _rebuilt(
    tree: Tree,
    path: Sequence[tuple[Tree, int]],
    put: Tree,
    new: Tree,
    run: tuple[Tree, ...],
    beside: int | None,
) -> Gathered:
    for node, i in reversed(path):
        children = list(node.children)
        children[i] = put
        put = join(children, ordered=node.ordered)
    chance = put.freedom - new.freedom + sum(r.freedom for r in run) - tree.freedom
    return Gathered(put, run, beside, chance)


def _free_row(node: Tree, some: int) -> tuple[list[Tree], list[Tree]] | None:
    """Arranges the children of a free node so that the leaves of the set `some` are consecutive.

    The children of a free node may be permuted. Returns a list of the children that have no leaf of
    the set, and a row of subtrees made from all other children. Returns None if the leaves of the
    set cannot be consecutive.
    """
    empty, full, partial = _sorted(node, some)
    if len(partial) > 2:
        return None
    left = _tail(partial[0], some) if partial else []
    right = _tail(partial[1], some) if len(partial) > 1 else []
    if left is None or right is None:
        return None
    return empty, left + ([join(full)] if full else []) + right[::-1]


def _ordered_row(node: Tree, some: int) -> tuple[list[Tree], list[Tree]] | None:
    children = node.children
    touched = [i for i, child in enumerate(children) if child.leaves & some]
    first, last = touched[0], touched[-1]
    if any(child.leaves & ~some for child in children[first + 1 : last]):
        return None
    left, right = _tail(children[first], some), _tail(children[last], some)
    if left is None or right is None:
        return None
    row = [*children[:first], *left, *children[first + 1 : last], *right[::-1]]
    return [], row + list(children[last + 1 :])


def _tail(node: Tree, some: int) -> list[Tree] | None:
    """Splits a node into a row of subtrees, the last of which contain its leaves in the set `some`.

    Returns None if the node represents no order that ends with these leaves.
    """
    left: list[Tree] = []
    right: list[Tree] = []
    while node.leaves & some and node.leaves & ~some:
        empty, full, partial = _sorted(node, some)
        if len(partial) > 1:
            return None
        if node.ordered:
            children = node.children
            if children[0].leaves & some and children[-1].leaves & ~some:
                children, empty, full = children[::-1], empty[::-1], full[::-1]
            if children != (*empty, *partial, *full):
                return None
            left += empty
            right += full[::-1]
        else:
            left += [join(empty)] if empty else []
            right += [join(full)] if full else []
        if not partial:
            return left + right[::-1]
        node = partial[0]
    return [*left, node, *right[::-1]]


def _sorted(node: Tree, some: int) -> tuple[list[Tree], list[Tree], list[Tree]]:
    """Sorts the children of a node by how many of their leaves are in the set `some`.

    Returns three lists: the children with no leaf in the set, the children with all their leaves in
    the set, and all other children.
    """
    empty: list[Tree] = []
    full: list[Tree] = []
    partial: list[Tree] = []
    for child in node.children:
        if not child.leaves & some:
            empty.append(child)
        elif not child.leaves & ~some:
            full.append(child)
        else:
            partial.append(child)
    return empty, full, partial


def bits(some: int) -> Iterator[int]:
    """Yields the members of the set `some`: the numbers of its bits that are 1, lowest first."""
    while some:
        yield (some & -some).bit_length() - 1
        some &= some - 1
