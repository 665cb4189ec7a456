"""Describes a folder that tensors may move to, with the rates of its disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from roam.capture.tier_rates import bandwidth
from roam.core.machine import Bytes
from roam.core.offload_to import OffloadTo
from roam.core.plan import Plan
from roam.core.problem import OpId, Problem
from roam.core.sizes import show_size
from roam.inspect.moved import DAY
from roam.inspect.report import ask_for_tiers
from roam.inspect.seconds import show_seconds
from roam.inspect.stored import Stored
from roam.lowering.aten.step_watch import Measured
from roam.planner import CAUTION, Link, Timed, Timeline, find_loads, simulate
from roam.runtime.file_tier import file_tier, tiers
from roam.runtime.tier_settings import Verify

LEAST = 1e-6  # part of the read rate that saved tensors get even if loads of states need it all


@dataclass(frozen=True)
class FileTier:
    """A folder that tensors may move to, with the rates of transfers.

    Attributes:
        folder: the path of the folder.
        link: the rates of transfers to the folder and back, in bytes a second.
        smallest: bytes of the smallest tensor that may move.
        verify: how many of the bytes that come back are compared with those sent.
        slower: seconds that ops take in steps, divided by their costs; 1 before any step ran.
        caution: factor on the duration of transfers when they are planned, because rates vary.
        activations: whether tensors that are saved for the backward move to the folder.
        states: whether states of optimizers lie in the folder.
    """

    folder: str
    link: Link
    smallest: Bytes
    verify: Verify
    slower: float = 1.0
    caution: float = CAUTION
    activations: bool = True
    states: bool = True

    def reserve(self, nbytes: Bytes) -> None:
        """Makes room in the folder's file for the tensors of one more forward, of `nbytes` bytes.

        Also sets how bytes read back from this folder are verified, from now on (`verify`).

        Raises:
            TierError: the folder cannot hold the file, or the disk is full.
        """
        tier = file_tier(self.folder)
        tier.verify_by(self.verify)
        tier.reserve(nbytes)

    def beside_loads(self, problem: Problem) -> FileTier:
        """Returns the folder with the read rate that loads of states leave to saved tensors.

        The loads (reads of optimizers' states) use the link for a part of the backward's time, or
        of the step's if it is one graph. The read rate is lowered by that part, as if the loads
        were spread evenly over this time. Returns this object if no states lie in the folder.
        """
        if not self.states:
            return self
        whole = problem.ops[-1].phase == 0
        late = self.slower * sum(op.cost for op in problem.ops if whole or op.phase > 0)
        loaded = sum(problem.buffers[load.buffer].size for load in find_loads(problem))
        taken = loaded / self.link.read / late if late else 0.0
        left = self.link.read * max(1 - taken, LEAST)
        return replace(self, link=replace(self.link, read=left))

    def simulated(self, problem: Problem, order: Sequence[OpId]) -> Timeline:
        """Simulates an order. Returns when its ops and transfers begin and end, in seconds."""
        step = self.timed(problem, 0)
        return simulate(step.problem, order, self.link, step.elsewhere)

    def timed(self, problem: Problem, boundary: OpId) -> Timed:
        """Returns a step in program order with the seconds of its ops, for choosing transfers.

        Transfers to another folder are listed in `Timed.elsewhere`: they do not use this link.

        boundary: the first op of the backward.
        """
        step = Timed.of(problem, boundary, self.slower)
        if self.activations and self.states:
            return step
        loads = find_loads(problem)
        of_states = {i for load in loads for i in (*load.loading, *load.storing)}
        elsewhere = frozenset(
            op.name
            for i, op in enumerate(problem.ops)
            if not (self.states if i in of_states else self.activations)
        )
        return replace(step, elsewhere=elsewhere)

    def careful(self) -> FileTier:
        """Returns the folder with its rates divided by `caution`, as used to plan transfers."""
        return replace(self, link=self.link.slower(self.caution))

    def stored(self, problem: Problem, plan: Plan) -> Stored | None:
        """Returns how a plan loads optimizer states, for reports; None if it loads none."""
        loads = find_loads(problem)
        if not loads:
            return None
        line = self.simulated(problem, plan.order)
        return Stored(
            self.folder,
            len(loads),
            sum(problem.buffers[load.buffer].size for load in loads),
            sum(problem.buffers[load.buffer].size for load in loads if load.storing),
            line.seconds,
            line.stall,
            self.link.write,
            self.link.read,
        )

    @staticmethod
    def of(asked: OffloadTo, seen: Measured | None = None) -> FileTier:
        """Returns the tier of a folder. Measures the rates that the user has not stated.

        If the user states only the rate of writing, it counts for reading too. A measured rate
        counts only up to the pace to which the folder's transfers are limited.

        asked: the folder, as the user gave it.
        seen: what was measured in steps; None if nothing was. Its rates take precedence over the
            user's.

        Raises:
            TierError: the folder cannot hold a file for the tensors.
            TransferError: the disk fails while it is measured.
        """
        write, read = asked.write, asked.read or asked.write
        if seen is not None:
            write, read = seen.write or write, seen.read or read
        if write is None or read is None:
            rates, pace = bandwidth(asked.folder), file_tier(asked.folder).settings
            write = write or min(rates.write, pace.write_pace)
            read = read or min(rates.read, pace.read_pace)
        found = FileTier(asked.folder, Link(write, read), asked.smallest, Verify(asked.verify))
        if seen is None:
            return found
        return replace(found, slower=seen.slower, caution=seen.caution)


def _moved_so_far() -> list[str]:
    """Returns a line about each folder that was written to in this process.

    The line tells the bytes moved so far, how long ops waited for them, and the bytes that would be
    written in a day at the mean rate so far, which counts the time between steps too.
    """
    found = []
    for tier in tiers():
        out, back = tier.out.traffic, tier.back.traffic
        if tier.since is not None and out.nbytes:
            a_day = int(out.nbytes * DAY / (time.monotonic() - tier.since))
            found.append(
                f"{tier.folder}: {show_size(out.nbytes)} written and {show_size(back.nbytes)} read "
                f"so far, which ops waited {show_seconds(out.stalled + back.stalled)} for; "
                f"{show_size(a_day)} a day are written at this pace"
            )
    return found


ask_for_tiers(_moved_so_far)
