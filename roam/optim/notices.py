"""Warns about training code that does not work as intended if gradients are folded.

Each kind of warning is shown once for each optimizer. DistributedDataParallel leads to an error.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from roam.core.errors import OptimizerWarning
from roam.optim import refusals
from roam.optim.data_parallel import in_data_parallel, nobody_sums, ranks
from roam.optim.fold import Group
from roam.optim.groups import FoldedValues, Members

NOT_THE_USERS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


class Notices:
    """Shows the warnings of one optimizer about the user's training code, each kind once."""

    def __init__(self, optimizer: str) -> None:
        self._optimizer = optimizer  # name of the optimizer's class
        self._shown: set[type[OptimizerWarning]] = set()
        self._members = Members()
        self._values = FoldedValues()
        self._looked_for_ranks = False

    def begin(self, members: Members, names: Callable[[Group], Sequence[str]]) -> None:
        """Remembers the groups, with the values (lr, ...) that this mini-batch's folds use.

        Args:
            members: the groups with their parameters.
            names: returns the names of those values of a group that the folds use, such as "lr".
        """
        self._members = members
        self._values.note(members.groups, names)

    def end(self, folded: Collection[Tensor], now: Members) -> None:
        """Warns if what this mini-batch's folds relied on was edited before its `step()`.

        That is so if a value that the folds used, such as "lr", has changed in the group of a
        parameter with a folded gradient, or if such a parameter has left the groups.

        Args:
            folded: the parameters with folded gradients.
            now: the groups with their parameters, at the time of `step()`.
        """
        before = self._members
        if before is now and self._values.are_as_noted():
            return
        left: list[str] = []
        values: set[str] = set()
        for param in folded:
            was, place = before.places.get(param), now.places.get(param)
            if was is not None and place is not None:
                values |= self._values.changed(was.group, place.group)
            elif was is not None:
                left.append(before.name(param))
        if values or left:
            self._show(refusals.late_change(self._optimizer, values, left))

    def clipping(self) -> None:
        self._show(refusals.clipping(self._optimizer))

    def look_for_ranks(self, holds: Callable[[Tensor], bool], params: Collection[Tensor]) -> None:
        """Warns if several ranks train and nothing known sums their gradients before the folds.

        Checks once, in the first mini-batch after torch.distributed was initialized.

        Args:
            holds: returns whether the optimizer folds a parameter's gradient.
            params: all parameters of the optimizer; none if it combines states over the ranks, and
                so needs no sum of gradients.

        Raises:
            DataParallelError: DistributedDataParallel wraps a parameter that `holds` is true for,
                even if there is only one rank.
        """
        if self._looked_for_ranks or not (count := ranks()):
            return
        if in_data_parallel(holds):
            raise refusals.data_parallel(self._optimizer)
        self._looked_for_ranks = True
        if count > 1 and nobody_sums(params):
            self._show(refusals.unsummed(self._optimizer, count))

    def _show(self, warning: OptimizerWarning) -> None:
        if type(warning) in self._shown:
            return
        self._shown.add(type(warning))
        frame, level = sys._getframe(), 1
        # skips frames of roam and torch, so that the warning shows a line of the user's code
        while frame.f_code.co_filename.startswith(NOT_THE_USERS) and frame.f_back is not None:
            frame, level = frame.f_back, level + 1
        warnings.warn(warning, stacklevel=level)
