"""Finds, in a step that dynamo captured as one graph, where parameters are updated and used.

    loss = ...
    grads = torch.autograd.grad(loss, [W, ...])   loss.backward()
    g = grads[0]
    kept = empty_like(W); kept.copy_(g)           what goes into .grad
    mark_step()                                   optimizer.step()
    ema.lerp_(W)                                  reads W after its update
    return loss, kept

A gradient that only goes into `.grad` is folded in the graph. In mode "release" the graph also
updates the parameter at `backward()`, as eager does, and later ops read the new values. Every other
update happens after the graph has run, so no op of the graph may depend on it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

from roam.capture.whole_program import is_changed, is_read
from roam.core.errors import WholeStepError
from roam.optim.folding import FoldingOptimizer, mark_step
from roam.passes.geometry import storage_key
from roam.passes.gradient_release import UPDATED

Names = Mapping[fx.Node, str]  # of inputs that are trained parameters of the optimizer


def place_updates(gm: fx.GraphModule, optimizer: FoldingOptimizer) -> dict[int, int]:
    """Changes the graph: it returns the gradients to fold, and updates parameters at `backward()`.

    Returns:
        By input of each of these parameters, the output that is its gradient.

    Raises:
        WholeStepError: something in the step would see other values than in eager.
    """
    graph = gm.graph
    inputs = list(graph.find_nodes(op="placeholder"))
    names = _parameters(gm, optimizer)
    _refuse_hidden_changes(gm, optimizer)
    marks = graph.find_nodes(op="call_function", target=mark_step)
    gradients = _gradients(graph, names)
    _refuse_early_step(graph, marks, gradients.values())
    late = {key for mark in marks for key in _used_after(mark)}
    found: dict[int, int] = {}
    for parameter, name in names.items():
        gradient = gradients.get(parameter)
        write = None if gradient is None else _only_write(gradient)
        updated = write is not None and optimizer.writes_parameters
        if not updated and storage_key(_fake(parameter)) in late:
            raise WholeStepError(f"{name} is used after optimizer.step()")
        if gradient is not None and write is not None:
            i = inputs.index(parameter)
            if updated:
                with graph.inserting_before(write):  # where no gradient is recorded
                    _update(graph, parameter, gradient, i)
            found[i] = _return_itself(graph, gradient, write)
        elif gradient is not None and not _is_kept(gradient):
            raise WholeStepError(f"the gradient of {name} is dropped, or another one kept")
    for mark in marks:
        graph.erase_node(mark)
    gm.recompile()
    return found


def _parameters(gm: fx.GraphModule, optimizer: FoldingOptimizer) -> dict[fx.Node, str]:
    known = {id(p): name for name, p in optimizer.named()}
    examples = {n: _example(n) for n in gm.graph.find_nodes(op="placeholder")}
    return {n: known[id(p)] for n, p in examples.items() if id(p) in known and p.requires_grad}


def _refuse_hidden_changes(gm: fx.GraphModule, optimizer: FoldingOptimizer) -> None:
    """Raises WholeStepError for changes that the graph does not contain.

    Changes of Python objects happen after the graph has run. And no graph contains what a fold
    changes, so the step must not read it.
    """
    if any(map(is_changed, (optimizer.param_groups, *optimizer.param_groups))):
        raise WholeStepError("the step changes the optimizer's groups (a learning rate)")
    groups = [v for group in optimizer.param_groups for v in group.values()]
    states = [v for state in optimizer.state.values() for v in state.values()]
    own = {id(v) for v in (*groups, *states) if isinstance(v, torch.Tensor)}
    if is_read(optimizer.state) or any(
        id(_example(n)) in own for n in gm.graph.find_nodes(op="placeholder")
    ):
        raise WholeStepError("the step looks at what the optimizer's folds change")
    for node in gm.graph.nodes:
        if node.op == "get_attr" and any(t.requires_grad for t in _flat(_fake(node))):
            # dynamo's backward gives no gradient to parameters from an optimizer's groups
            raise WholeStepError(f"the step looks at an optimizer's groups ({node.target})")
        if node.target in (torch.Tensor.set_, "set_"):
            raise WholeStepError("the step gives a tensor other memory (an assignment to .data)")


def _gradients(graph: fx.Graph, names: Names) -> dict[fx.Node, fx.Node]:
    """Returns the gradient of each parameter that has one."""
    found: dict[fx.Node, fx.Node] = {}
    for whole in graph.find_nodes(op="call_function", target=torch.autograd.grad):
        wanted = whole.args[1] if len(whole.args) > 1 else whole.kwargs["inputs"]
        several = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        for part in whole.users:
            if part.target is not operator.getitem or not isinstance(_fake(part), torch.Tensor):
                continue
            parameter = several[part.args[1]]
            if parameter in names:
                if parameter in found:
                    raise WholeStepError(f"{names[parameter]} has several gradients in the step")
                found[parameter] = part
    return found


def _refuse_early_step(
    graph: fx.Graph, marks: Iterable[fx.Node], gradients: Collection[fx.Node]
) -> None:
    """Raises WholeStepError if a backward follows `step()`: updates happen after the graph."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    if any(place[m] < place[g] for m in marks for g in gradients):
        raise WholeStepError("a backward follows optimizer.step()")


def _used_after(mark: fx.Node) -> Iterator[int]:
    """Yields the storages that ops after a node read or write, through a view or not."""
    node = mark.next
    while node.op != "output":
        if node.target is not torch.autograd.grad:  # its arguments are not read, only named
            for source in node.all_input_nodes:
                yield from map(storage_key, _flat(_fake(source)))
        node = node.next


def _only_write(gradient: fx.Node) -> fx.Node | None:
    """Returns the copy_ that fills a `.grad`, None if the gradient has other users."""
    (write, *others) = gradient.users or (None,)
    if write is None or others or write.target != "copy_" or write.args[1:] != (gradient,):
        return None
    kept = write.args[0]
    if not isinstance(kept, fx.Node) or kept.target is not torch.empty_like:
        return None
    return write if all(u is write or u.op == "output" for u in kept.users) else None


def _is_kept(gradient: fx.Node) -> bool:
    """Returns whether the gradient is in a `.grad` at the end of the step."""
    writes = [u for u in gradient.users if u.target == "copy_" and u.args[1] is gradient]
    places = [gradient, *(w.args[0] for w in writes)]
    return any(u.op == "output" for p in places if isinstance(p, fx.Node) for u in p.users)


def _return_itself(graph: fx.Graph, gradient: fx.Node, write: fx.Node) -> int:
    """Makes the graph return the gradient instead of its copy. Returns the output's position."""
    kept: Any = write.args[0]
    output = graph.output_node()
    returned: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    if kept not in returned:
        returned.append(kept)  # dynamo ignores a further output
    output.args = (tuple(gradient if r is kept else r for r in returned),)
    k = returned.index(kept)
    graph.erase_node(write)
    graph.erase_node(kept)
    return k


def _update(graph: fx.Graph, parameter: fx.Node, gradient: fx.Node, index: int) -> None:
    updated = graph.call_function(UPDATED, (parameter, gradient, index))
    graph.call_method("copy_", (parameter, updated))


def _example(placeholder: fx.Node) -> Any:
    return getattr(placeholder.meta.get("grapharg"), "example", None)


def _fake(node: fx.Node) -> Any:
    return node.meta.get("example_value")


def _flat(found: Any) -> list[torch.Tensor]:
    if isinstance(found, (list, tuple)):
        return [t for part in found for t in _flat(part)]
    return [found] if isinstance(found, torch.Tensor) else []
