"""States of optimizers that lie in a file between steps: the bits are those in memory."""

from __future__ import annotations

import copy
import gc
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roam
from roam.bench.zoo import TINY
from roam.core.errors import OptionError
from roam.core.lifetime import lifetimes
from roam.core.problem import Home, Kind, Tier
from roam.optim import AdamA, SlimAdamA
from roam.optim.folding import FoldingOptimizer
from roam.runtime.file_tier import file_tier
from tests.behaviour.small_nets import Block, Loss, rows, stepped
from tests.behaviour.stored_training import MAKES, SMALLEST, Make, Training, to, two_blocks
from tests.helpers import assert_equal, snapshot, unfused


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_bits_are_those_of_states_in_memory(make: Make, folder: Path) -> None:
    expected = Training(make).steps(3)
    training = Training(make, offload={"states": to(folder)})
    assert_equal(training.steps(3), expected)
    [graph] = roam.report().graphs
    assert graph.problem is not None
    assert graph.stored is not None
    loaded = sum(x.nbytes for x in training.stored)
    states = [b for b in graph.problem.buffers if b.kind is Kind.STATE and b.home is Home.USER]
    assert loaded == sum(b.size for b in states if b.tier is Tier.FILE)
    assert loaded == graph.stored.read == graph.stored.written
    folds = 3 * training.optimizer.micro_batches
    assert file_tier(folder).out.traffic.nbytes == folds * loaded
    applied = 3 * loaded if make is MAKES["accumulating"] else 0
    # nothing is read for the first fold
    assert file_tier(folder).back.traffic.nbytes == (folds - 1) * loaded + applied
    in_memory = [s for state in training.optimizer.state.values() for s in state.values()]
    assert all(t.nbytes < SMALLEST for t in in_memory if isinstance(t, Tensor))


def test_activations_and_states_go_to_one_folder_within_a_budget(folder: Path) -> None:
    expected = Training().steps(2)
    away = roam.OffloadTo(str(folder), write=1e13, smallest=SMALLEST)
    training = Training(offload={"activations": away, "states": away}, budget="75%")
    assert_equal(training.steps(2), expected)
    [graph] = roam.report().graphs
    assert graph.moved is not None
    assert graph.stored is not None
    assert graph.recomputed is not None
    assert graph.plan is not None
    assert graph.plan.peak <= graph.recomputed.limit


def test_a_disk_that_loads_of_states_keep_busy_moves_nothing_else() -> None:
    """What would wait for it stays: that nothing waits for saved tensors is planned."""

    def moved(states: str) -> bool:
        fast = {"write": 1e13, "read": 1e7}  # bytes a second: states take longer than the backward
        away = {
            "activations": roam.OffloadTo("/no/such", smallest=SMALLEST, **fast),
            "states": roam.OffloadTo(states, smallest=SMALLEST, **fast),
        }
        model = Loss(two_blocks)
        optimizer = MAKES["AdamA"](model)
        [graph] = roam.plan(model, rows(), optimizer=optimizer, offload=away).graphs
        return graph.moved is not None

    assert (moved("/no/other"), moved("/no/such")) == (True, False)


def test_measured_peak_is_the_planned_one_and_a_window_of_the_states(folder: Path) -> None:
    training = Training(offload={"states": to(folder)})
    training.steps(2)
    x = rows()

    def step() -> None:
        training.run(x).backward()
        training.optimizer.step()

    [(problem, plan)] = roam.report().step.planned
    assert roam.measure_peak(step).peak <= plan.peak + 64  # the loss and its gradient
    loaded = [b for b, found in enumerate(problem.buffers) if found.name.endswith("~1")]
    lives, size = lifetimes(problem, plan.order), {b: problem.buffers[b].size for b in loaded}
    at_once = max(
        sum(size[b] for b in loaded if lives[b][0] <= t < lives[b][1])
        for t in range(len(plan.order))
    )
    assert 0 < at_once < sum(size.values()) / 2


def test_a_checkpoint_resumes_with_the_same_bits(folder: Path) -> None:
    expected = Training().steps(4)
    first = Training(offload={"states": to(folder)})
    first.steps(2)
    file = io.BytesIO()
    torch.save((first.model.state_dict(), first.optimizer.state_dict()), file)
    file.seek(0)
    second = Training(offload={"states": to(folder)})
    second.steps(1, first=7)  # states that are in the file already are replaced
    for part, saved in zip((second.model, second.optimizer), torch.load(file), strict=True):
        part.load_state_dict(saved)
    assert second.stored
    found = second.steps(2, first=2)
    assert_equal(found[2:], expected[4:])


def test_states_that_are_in_memory_move_when_the_model_is_compiled(folder: Path) -> None:
    expected = Training().steps(4)
    training = Training()
    training.steps(2)
    torch._dynamo.reset()
    training.run = unfused(
        training.model, optimizer=training.optimizer, offload={"states": to(folder)}
    )
    assert_equal(training.steps(2, first=2)[2:], expected[4:])
    assert training.stored


def test_what_no_graph_folds_loads_its_states_itself(folder: Path) -> None:
    def steps(**options: Any) -> list[Any]:
        training = Training(**options)
        weight = training.model.get_parameter("model.1.up.weight")
        hook = weight.register_hook(lambda g: 2 * g)
        found = training.steps(3)
        hook.remove()
        return found

    expected = steps()
    assert_equal(steps(offload={"states": to(folder)}), expected)


def test_an_eager_model_trains_with_states_in_a_file(folder: Path) -> None:
    def steps(states: roam.OffloadTo | None) -> list[Any]:
        training = Training()
        training.run = training.model
        if states is not None:
            training.optimizer.keep_states_in(states)
        return training.steps(3)

    assert_equal(steps(to(folder)), steps(None))


def test_a_step_in_one_graph_loads_states_too(folder: Path) -> None:
    expected, _ = stepped(two_blocks, rows(), 3)
    found, _ = stepped(two_blocks, rows(), 3, offload={"states": to(folder)})
    assert_equal(found, expected)
    [graph] = roam.report().graphs
    assert graph.stored is not None
    assert file_tier(folder).back.traffic.nbytes == 2 * graph.stored.read > 0


class Broken(nn.Module):
    """Two blocks in two graphs, whose first weight is the last one, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Block(), Block()
        self.second.up.weight = self.first.up.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        torch._dynamo.graph_break()
        return self.second(y).square().mean()  # type: ignore[no-any-return]


def test_graphs_optimizers_and_shared_weights_in_one_folder(folder: Path) -> None:
    def train(**options: Any) -> list[Any]:
        torch._dynamo.reset()
        model = Broken()
        named = dict(model.named_parameters())
        slim = {n: p for n, p in named.items() if "down" in n}
        optimizers: list[FoldingOptimizer] = [
            SlimAdamA(slim.items(), {"first.down.weight": (0,)}),
            AdamA([p for n, p in named.items() if n not in slim]),
        ]
        run = unfused(model, optimizer=optimizers[0], **options)
        for _ in range(3):
            run(rows()).backward()
            for optimizer in optimizers:
                optimizer.step()
        return snapshot([*model.parameters()])

    expected = train()
    assert_equal(train(offload={"states": to(folder)}), expected)
    assert file_tier(folder).back.traffic.nbytes > 0


def test_a_copy_has_states_of_its_own(folder: Path) -> None:
    training = Training(offload={"states": to(folder)})
    training.steps(2)
    model, optimizer = copy.deepcopy((training.model, training.optimizer))
    expected = training.steps(2, first=2)
    training.model, training.optimizer = model, optimizer
    training.run = unfused(model, optimizer=optimizer, offload={"states": to(folder)})
    assert_equal(training.steps(2, first=2), expected)


def test_the_room_of_an_optimizer_is_free_when_it_is_gone(folder: Path) -> None:
    for _ in range(2):
        training = Training(offload={"states": to(folder)})
        training.steps(1)
        sizes = file_tier(folder).file_size
        del training
        gc.collect()
        file_tier(folder).trim()
    assert sizes > 0
    assert file_tier(folder).file_size == 0


@pytest.mark.parametrize("given", [{}, {"weights": "/"}, {"states": 3}])
def test_what_names_no_folders_is_refused(given: Any) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(OptionError, match="option offload"):
        unfused(model, offload=given)(torch.ones(2))


def test_states_need_an_optimizer_and_one_folder(folder: Path) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(OptionError, match="of an optimizer"):
        unfused(model, offload={"states": str(folder)})(torch.ones(2))
    optimizer = AdamA(model.parameters())
    optimizer.keep_states_in(str(folder))
    with pytest.raises(OptionError, match="the same folder"):
        optimizer.keep_states_in(str(folder.parent))


def test_a_plan_offline_has_states_in_a_file_and_moves_none(folder: Path) -> None:
    model = Loss(two_blocks)
    optimizer = MAKES["AdamA"](model)
    elsewhere = roam.OffloadTo("/no/such/folder", write=1e9, smallest=SMALLEST)
    kept = roam.plan(model, rows(), optimizer=optimizer, lowering="aten")
    stored = roam.plan(model, rows(), optimizer=optimizer, offload={"states": elsewhere})
    assert stored.persistent < kept.persistent
    assert "optimizer states in /no/such/folder" in str(stored)
    assert not optimizer.state
    again = type(stored).from_json(stored.to_json())
    assert again.graphs[0].stored == stored.graphs[0].stored


@pytest.mark.slow
def test_gpt2_resumes_from_a_checkpoint_with_the_bits_of_states_in_memory(folder: Path) -> None:
    entry = TINY["gpt2"]

    def train(steps: range, saved: Any = None, **options: Any) -> tuple[list[float], Any]:
        torch._dynamo.reset()
        model, batch = entry.build(), entry.batch()
        optimizer = AdamA(model.named_parameters(), lr=1e-3)
        run = unfused(model, optimizer=optimizer, **options)
        if saved is not None:
            for part, state in zip((model, optimizer), saved, strict=True):
                part.load_state_dict(state)
        losses = []
        for i in steps:
            torch.manual_seed(i)  # of dropout
            loss = run(**batch)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    expected, _ = train(range(6))
    first, saved = train(range(3), offload={"states": to(folder)})
    both = {"activations": to(folder), "states": to(folder)}
    second, _ = train(range(3, 6), saved, offload=both)
    assert first + second == expected
