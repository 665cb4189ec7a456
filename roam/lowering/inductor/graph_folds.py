"""Puts folds into a backward as operators, so that no Python runs between its kernels.

    fold(mm, 2)             m1 = m + (mm - m) · numbers[0, 1]   ...   copy_(m, m1), copy_(p, p1)

    inputs of the graph     its own ── parameters that were no inputs ── states ── numbers

In the picture, mm is the gradient, p the parameter, and m a state of the optimizer.

A CUDA graph is captured once and replayed without Python, and the code of Inductor's C++ wrapper is
one function. Folds that are calls of an optimizer (`lowering.inductor.folds`) allow neither. So if
all fold rules have a formula (`optim.formula`), the formulas are traced here. Inductor makes
kernels of them, and may fuse these with the kernels that make the gradients. `numbers` is a tensor
with a row for each fold: the numbers that change from step to step, such as the learning rate. It
is made anew for each run. In the FX graph all folds are at the end; the planner decides when they
run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch._inductor import config
from torch._inductor.decomposition import select_decomp_table
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from roam.core.problem import Kind
from roam.passes.geometry import same_layout, storage_key, value
from roam.passes.gradient_release import META, WHERE, Release

if TYPE_CHECKING:
    from roam.optim.formula import BoundFormula

# keys of `node.meta`
FOLDED = "roam_folded"  # on an operator of a fold; the value is a `Folded`
ADDED = "roam_added"  # on a parameter or state that a fold made an input; the value is an `Added`
NUMBERS = "fold_numbers"  # name of the input that holds the numbers of all folds in one run
# what each fold computes, by the index of its parameter among the inputs of the forward, or of a
# whole step
Formulas = Mapping[int, "BoundFormula"]


@dataclass(frozen=True)
class Folded:
    """Tells which fold an operator belongs to.

    Attributes:
        index: position of the parameter among the inputs of the forward, or of a whole step.
        gradient: name of the gradient's FX node.
    """

    index: int
    gradient: str


@dataclass(frozen=True)
class Added:
    """Describes a parameter or a state that becomes an input of the graph, because a fold needs it.

    Attributes:
        parameter: position of the parameter among the inputs of the forward, or of a whole step.
        state: the name of the state; "" for the parameter itself.
        kind: the kind of the input's buffer in the Problem.
    """

    parameter: int
    state: str
    kind: Kind


@dataclass(frozen=True)
class Inputs:
    """The inputs that folds add to a graph, behind its own: parameters, states, and the numbers.

    A parameter is given by its index among the inputs of the forward, or of a whole step.

    Attributes:
        places: by parameter that was an input of the graph before, its position there.
        parameters: the parameters that become inputs because they were none.
        folds: the parameters whose gradients are folded. All states of each become inputs.
        values: fake values of all added inputs, in their order; the numbers are the last.
    """

    places: Mapping[int, int]
    parameters: tuple[int, ...]
    folds: tuple[int, ...]
    values: tuple[Any, ...]

    def fixed(self, before: int) -> list[int]:
        """Returns the positions of the inputs that keep their addresses in all runs.

        These are parameters and states.

        before: how many inputs the graph had before the folds added theirs.
        """
        added = range(before, before + len(self.values) - 1)  # all but the numbers
        return [*self.places.values(), *added]

    def put(self, formulas: Formulas, args: list[Any]) -> None:
        """Appends the added inputs to `args`, the inputs of one run of the graph.

        Also replaces each input that is a parameter by the parameter itself, because a hook on
        saved tensors may have put a copy there.

        formulas: the formulas of the folds, with the parameters and states of this run.
        """
        for i, place in self.places.items():
            args[place] = formulas[i].param
        args += [formulas[i].param for i in self.parameters]
        args += [state for i in self.folds for state in formulas[i].states]
        args.append(_numbers([formulas[i] for i in self.folds]))


def without_python(asked: Mapping[str, Any]) -> bool:
    """Returns whether Inductor will run its kernels without Python: in CUDA graphs, or from C++.

    asked: settings of Inductor for one graph. They override those in force in this thread.
    """
    cuda_graphs = asked.get("triton.cudagraphs", config.triton.cudagraphs)
    return bool(cuda_graphs or asked.get("cpp_wrapper", config.cpp_wrapper))


def put_in(gm: fx.GraphModule, inputs: Sequence[Any], formulas: Formulas) -> Inputs | None:
    """Replaces each fold of a gradient by the operators of its formula.

    Returns the inputs that this adds. Returns None, and changes nothing, if Python has to fold:

        - an input of the graph shares a parameter's memory and is not the parameter itself, or two
          inputs are the parameter: Inductor could not tell which reads come before the write
        - the graph does not fold exactly the gradients that have formulas
        - the parameters lie on several devices

    Args:
        gm: a backward or a whole step, with an op for each fold.
        inputs: example inputs of the graph, as compile_fx gave them.
        formulas: the formulas of the folds.
    """
    graph = gm.graph
    given = graph.find_nodes(op="placeholder")
    folds = {node.meta[META].index: node for node in graph.nodes if META in node.meta}
    fakes = {i: node.meta[META].parameter for i, node in folds.items()}
    found = {i: _places_of(fake, given, inputs) for i, fake in fakes.items()}
    devices = {formula.param.device for formula in formulas.values()}
    if None in found.values() or folds.keys() != formulas.keys() or len(devices) != 1:
        return None
    places = {i: place for i, own in found.items() for place in own or ()}
    missing = tuple(i for i in folds if i not in places)
    adder = _Adder(gm, next(iter(fakes.values())))
    known = {i: given[place] for i, place in places.items()}
    for i in missing:
        known[i] = adder.add(f"fold_{i}_parameter", fakes[i], Added(i, "", Kind.PARAMETER))
    states: dict[int, list[fx.Node]] = {}
    for i in folds:
        named = zip(formulas[i].names, formulas[i].states, strict=True)
        states[i] = [
            adder.like(f"fold_{i}_{name}", state, Added(i, name, Kind.STATE))
            for name, state in named
        ]
    table = _numbers([formulas[i] for i in folds])
    numbers = adder.like(NUMBERS, table)
    for row, (i, fold) in enumerate(folds.items()):
        own = [known[i], fold.args[2], *states[i], numbers]
        _inline(fold, formulas[i], row, own)
    gm.recompile()
    return Inputs(places, missing, tuple(folds), tuple(map(value, adder.added)))


def _places_of(
    parameter: Tensor, given: Sequence[fx.Node], inputs: Sequence[Any]
) -> list[int] | None:
    """Returns the position of a parameter among the inputs of a graph, in a list.

    The list is empty if the parameter is no input. Returns None if two inputs are the parameter, or
    if an input is another view of the parameter's memory.

    Inductor's forward may have saved a copy instead of the parameter, with the strides that
    convolutions prefer. The example input shows that, and the graph does not. Such a copy is not
    the parameter.

    Args:
        parameter: the parameter's fake value.
        given: the nodes of the graph's inputs.
        inputs: the example input of each node in `given`.
    """
    found: list[int] = []
    for place, (node, example) in enumerate(zip(given, inputs, strict=True)):
        fake = value(node)
        if not isinstance(fake, Tensor) or storage_key(fake) != storage_key(parameter):
            continue
        if found or not same_layout(fake, parameter):
            return None
        if same_layout(example, parameter):
            found.append(place)
    return found


class _Adder:
    """Adds inputs to a graph, behind those that it has.

    Attributes:
        mode: the fake mode of the graph's values.
        added: the nodes of the new inputs, in order.
        last: the node of the graph's last input.
    """

    def __init__(self, gm: fx.GraphModule, fake: Any) -> None:
        self.graph = gm.graph
        self.mode = fake.fake_mode
        self.added: list[fx.Node] = []
        self.last = self.graph.find_nodes(op="placeholder")[-1]

    def like(self, name: str, tensor: Tensor, added: Added | None = None) -> fx.Node:
        """Adds an input for a tensor like `tensor`: of its shape, strides, dtype and device.

        Args:
            name: the name of the input.
            tensor: the tensor. Its values do not matter.
            added: tells which parameter or state the input is; None for the numbers of folds.

        Returns:
            The node of the input.
        """
        how: Any = {"dtype": tensor.dtype, "device": tensor.device}
        with self.mode:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), **how)
        return self.add(name, fake, added)

    def add(self, name: str, fake: Tensor, added: Added | None) -> fx.Node:
        with self.graph.inserting_after(self.last):
            self.last = self.graph.placeholder(name)
        self.last.meta |= {"val": fake} if added is None else {"val": fake, ADDED: added}
        self.added.append(self.last)
        return self.last


def _inline(fold: fx.Node, formula: BoundFormula, row: int, inputs: Sequence[fx.Node]) -> None:
    """Replaces the node of a fold by the operators of its formula, at the end of the graph.

    Args:
        fold: the node.
        formula: the formula of the fold.
        row: the fold's row in the table of numbers.
        inputs: the nodes of the parameter, of the gradient, of the states, and of the table.
    """
    length = len(formula.numbers)

    def change(*tensors: Tensor) -> None:
        *own, table = tensors
        formula.change(*own, table[row, :length])

    values = [value(node) for node in inputs]
    release: Release = fold.meta[META]
    with release.parameter.fake_mode:  # type: ignore[attr-defined]
        traced = make_fx(functionalize(change), decomposition_table=select_decomp_table())(*values)
    graph = fold.graph
    names = dict(zip(traced.graph.find_nodes(op="placeholder"), inputs, strict=True))
    about = {k: fold.meta[k] for k in WHERE if k in fold.meta}
    about[FOLDED] = Folded(release.index, inputs[1].name)
    with graph.inserting_before(graph.output_node()):
        graph.graph_copy(traced.graph, names)
    for node in names.values():
        if node not in inputs:
            node.meta |= about
    graph.erase_node(fold)


def _numbers(formulas: Sequence[BoundFormula]) -> Tensor:
    """Returns a matrix of the numbers on which folds depend in this step, such as learning rates.

    It has a row for each fold, and lies on the device of the parameters. Shorter rows end in zeros.
    """
    exact = any(formula.param.dtype is torch.float64 for formula in formulas)
    most = max(len(formula.numbers) for formula in formulas)
    rows = [(*f.numbers, *(0.0 for _ in range(most - len(f.numbers)))) for f in formulas]
    table = torch.tensor(rows, dtype=torch.float64 if exact else torch.float32)
    return table.to(formulas[0].param.device, non_blocking=True)
