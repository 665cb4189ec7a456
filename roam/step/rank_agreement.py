"""Compares what the ranks that train one model are about to compile, before anything is planned.

    rank 0    graph, options, free bytes ──► store ──┐
                                                     ├──► each rank reads all ── alike? ── plan
    rank 1    graph, options, free bytes ──► store ──┘

Ranks that run different graphs meet in different collectives, and each waits for the others. So
each rank writes what it compiles into the store of the process group, and waits there for the
others, no longer than the group's timeout. A collective in place of the store would itself wait for
a rank that compiles nothing, and could not tell which rank that is.

Sizes are not compared: ranks may train on batches of different shapes. No plan is sent either. From
equal graphs, sizes and options every rank makes the same plan by itself, because its searches are
limited by counted work (solvers/work.py). Where the clock cuts a plan short, ranks may run
different orders, with a warning; these compute the same, and no order changes that of collectives.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from hashlib import blake2b
from itertools import zip_longest
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, fx
from torch._dynamo.exc import ShortenTraceback
from torch.nn.parallel import DistributedDataParallel

from roam.capture.free_memory import free_bytes
from roam.capture.graph_names import DynamoGraph
from roam.capture.origins import user_line
from roam.core.budget import Of
from roam.core.errors import GraphsDifferError, MissingRankError
from roam.core.machine import Bytes
from roam.optim.data_parallel import modules_with, ranks
from roam.optim.hooks import owner_of
from roam.optim.ranks import Ranks
from roam.options import Options

OF_A_RANK = ("offload",)  # options in which ranks may differ: each may have a folder of its own


class _GraphsDifferError(ShortenTraceback, GraphsDifferError):
    """A GraphsDifferError that dynamo passes to the user unwrapped."""


class _MissingRankError(ShortenTraceback, MissingRankError):
    """A MissingRankError that dynamo passes to the user unwrapped."""


class Listing(msgspec.Struct, frozen=True):
    """What a rank compiles: its options, and each call of its graph with its line of user code."""

    options: tuple[str, ...]
    calls: tuple[tuple[str, str], ...]

    @staticmethod
    def of(gm: fx.GraphModule, graph: DynamoGraph, options: Options) -> Listing:
        """Describes a captured graph without its sizes."""
        names = (f.name for f in fields(options) if f.name not in OF_A_RANK)
        chosen = (f"{name}={getattr(options, name)!r}" for name in names)
        inputs = iter(graph.inputs)
        calls = ((_call(node, inputs), user_line(node)) for node in gm.graph.nodes)
        return Listing(tuple(chosen), tuple(each for each in calls if each[0]))

    @property
    def digest(self) -> str:
        calls = [call for call, _ in self.calls]
        return blake2b(msgspec.json.encode((self.options, calls)), digest_size=16).hexdigest()

    def difference(self, other: Listing, rank: int) -> str:
        """Returns the first difference between this listing, rank 0's, and that of `rank`."""
        for mine, theirs in zip(self.options, other.options, strict=True):
            if mine != theirs:
                return f"rank {rank} has the option {theirs} where rank 0 has {mine}"
        pairs = zip_longest(self.calls, other.calls, fillvalue=("nothing more", ""))
        for here, there in pairs:
            if here[0] != there[0]:
                return f"rank {rank} runs {_shown(there)} where rank 0 runs {_shown(here)}"
        raise AssertionError("listings with different digests differ somewhere")


def _call(node: fx.Node, names: Iterator[str]) -> str:
    """Returns what a node calls. Empty for an input that is no parameter, and for the results."""
    if node.op == "placeholder":
        return next(names, "")
    if node.op == "call_function":
        target: Any = node.target
        return str(getattr(target, "__name__", target))
    return "" if node.op == "output" else f"{node.op} {node.target}"


def _shown(call: tuple[str, str]) -> str:
    name, line = call
    return f"{name} ({line})" if line else name


class Store(Protocol):
    """What is used of torch.distributed's stores. All methods may raise RuntimeError."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def wait(self, keys: list[str], timeout: timedelta) -> None: ...

    def check(self, keys: list[str]) -> bool: ...


class Announcement(msgspec.Struct, frozen=True):
    """What a rank tells the others of a graph. free: bytes that it may use for a budget "auto"."""

    digest: str
    free: Bytes


@dataclass
class Team:
    """The ranks that train one model, as one of them sees them.

    Attributes:
        store: what all of them can read and write.
        rank: of this process.
        size: how many there are.
        timeout: how long one of them waits for the others.
        graphs: how many graphs they have compared.
        frames: by dynamo's number of a function whose graph they have compared, the fewest bytes
            that a rank had free then.
    """

    store: Store
    rank: int
    size: int
    timeout: timedelta
    graphs: int = 0
    frames: dict[Any, Bytes] = field(default_factory=dict)

    @staticmethod
    def of(group: dist.ProcessGroup) -> Team:
        """Returns the ranks of a process group, which wait as long as in its collectives.

        The timeout of the group's store is that of the default group.
        """
        options = group._get_backend(group._device_types[0]).options
        store = group.get_group_store()
        return Team(store, group.rank(), group.size(), options._timeout)

    def agree(self, name: str, listing: Listing, free: Bytes) -> Bytes:
        """Returns the fewest bytes that a rank has free, once all ranks compile this graph.

        Args:
            name: the name of the graph, for errors.
            listing: what this rank compiles.
            free: bytes that this rank has free.

        Raises:
            GraphsDifferError: another rank compiles another graph, or with other options.
            MissingRankError: another rank compiles nothing until the timeout.
        """
        number, self.graphs = self.graphs, self.graphs + 1
        mine = msgspec.json.encode(Announcement(listing.digest, free))
        written = self._exchange(name, f"{number}", mine)
        every = [msgspec.json.decode(text, type=Announcement) for text in written]
        if len({each.digest for each in every}) > 1:  # every rank finds that, and takes part
            texts = self._exchange(name, f"{number}/listing", msgspec.json.encode(listing))
            first, *others = (msgspec.json.decode(text, type=Listing) for text in texts)
            rank, other = next((r, o) for r, o in enumerate(others, 1) if o.digest != first.digest)
            raise _GraphsDifferError(
                f"{name}: {first.difference(other, rank)}. The ranks of a process group compile "
                "the same model with the same options, or each would wait for the others in "
                "another collective",
                first_useful_frame=None,
            )
        return min(each.free for each in every)

    def _exchange(self, name: str, what: str, mine: bytes) -> list[bytes]:
        """Returns what each rank has written, in the order of the ranks."""
        keys = [f"roam/{what}/{rank}" for rank in range(self.size)]
        try:
            self.store.set(keys[self.rank], mine.decode())
            self.store.wait(keys, self.timeout)
            return [self.store.get(key) for key in keys]
        except RuntimeError as error:  # a FileStore raises that, the others raise a DistError
            who = self._missing(keys)
            raise _MissingRankError(
                f"{name}: {who} compiled no graph within {self.timeout}, and this rank "
                f"({self.rank}) waited for that. Either the process has ended, with an error of "
                "its own, or it runs other code: ranks of a process group compile the same graphs",
                first_useful_frame=None,
            ) from error

    def _missing(self, keys: Sequence[str]) -> str:
        """Returns in words which ranks have not written."""
        try:
            missing = [str(rank) for rank, key in enumerate(keys) if not self.store.check([key])]
        except RuntimeError:  # the rank that keeps the store has ended
            return "another rank"
        return f"rank {', '.join(missing)}" if missing else "another rank"


_teams: WeakKeyDictionary[dist.ProcessGroup, Team] = WeakKeyDictionary()


def agreed(
    options: Options, graph: DynamoGraph, gm: fx.GraphModule, example_inputs: Sequence[Any]
) -> Options:
    """Returns the options by which this rank compiles a graph, once all ranks compile it too.

    Does nothing for a process that trains alone, and for a graph that does not train. When a
    function is compiled again, which may be for the shape of one rank's batch, nothing is compared.
    A budget "auto" is that of the rank that had the fewest free bytes at the first time.

    Raises:
        GraphsDifferError: another rank compiles another graph, or with other options.
        MissingRankError: another rank compiles nothing until the timeout of the process group.
    """
    if ranks() < 2 or graph.compile_id is None or not torch.is_grad_enabled():
        return options
    is_free = options.budget is not None and options.budget.of is Of.FREE
    group = _group(options, example_inputs, wrapped=is_free)
    if group is None or dist.get_backend(group) == "fake":  # there are no other ranks
        return options
    team = _teams.get(group)
    if team is None:
        team = _teams[group] = Team.of(group)
    frame, times = graph.compile_id.frame_id, graph.compile_id.frame_compile_id
    if not times or frame not in team.frames:
        inputs = (a.device for a in example_inputs if isinstance(a, Tensor))
        free = free_bytes(next(inputs, torch.device("cpu"))) if is_free else 0
        team.frames[frame] = team.agree(graph.name, Listing.of(gm, graph, options), free)
    if options.budget is None or not is_free:
        return options
    return replace(options, budget=replace(options.budget, amount=team.frames[frame]))


def _group(options: Options, inputs: Sequence[Any], *, wrapped: bool) -> dist.ProcessGroup | None:
    """Returns the group of the ranks that train a graph's parameters; None if nobody says so.

    It is that of the optimizer that folds their gradients. If none does, and a budget is of what is
    free, it is that of the module that wraps them. That looks at all live objects.
    """
    params = [a for a in inputs if isinstance(a, Tensor) and a.requires_grad]
    optimizer = None if options.optimizer is None else options.optimizer()
    if optimizer is not None and any(owner_of(p) is optimizer for p in params):
        return optimizer.ranks.group if isinstance(optimizer.ranks, Ranks) else None
    return _wrapper_group(params) if wrapped else None


def _wrapper_group(params: Collection[Tensor]) -> dist.ProcessGroup | None:
    """Returns the group of the DistributedDataParallel or fully_shard around a parameter."""
    # a compiled DDP has its graphs compiled for parameters without data, which nobody wraps
    if (active := DistributedDataParallel._get_active_ddp_module()) is not None:
        return active.process_group
    wanted = {id(p) for p in params}

    def holds(param: Tensor) -> bool:
        return id(param) in wanted

    for found in modules_with(holds, DistributedDataParallel):
        return found.process_group
    fsdp = sys.modules.get("torch.distributed.fsdp")  # None: no code has sharded a parameter
    for found in () if fsdp is None else modules_with(holds, fsdp.FSDPModule):
        for group in found._get_fsdp_state()._fsdp_param_groups:
            return group.mesh_info.shard_process_group
    return None
