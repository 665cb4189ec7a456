"""Remembers an optimizer's `param_groups`, to find out later whether the user has edited them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor

from roam.core.errors import HyperparameterError
from roam.optim.fold import Group

PLAIN = frozenset({float, int, type(None)})


class Place(NamedTuple):
    """A parameter's group, and its index in the group's `params`."""

    group: dict[str, Any]
    position: int


class Members:
    """The parameters of an optimizer's groups, as they were when this object was made.

    Iterating over the object yields the parameters, in the order of the groups.

    Attributes:
        places: by parameter, its group and its index in the group's `params`.

    Raises:
        HyperparameterError: a parameter is in two groups.
    """

    def __init__(self, groups: Sequence[dict[str, Any]] = ()) -> None:
        self._lists = [(group, [*group["params"]]) for group in groups]
        self.places: dict[Tensor, Place] = {}
        for group, params in self._lists:
            for i, param in enumerate(params):
                if (known := self.places.get(param)) is not None and known.group is not group:
                    raise HyperparameterError(f"{self.name(param)} is in a second group, too")
                self.places[param] = Place(group, i)

    def are_in(self, groups: Sequence[dict[str, Any]]) -> bool:
        """Returns whether `groups` are the remembered dicts, with the remembered parameters.

        Runs in every step, so it only compares identities and builds nothing.
        """
        if len(groups) != len(self._lists):
            return False
        for group, (known, params) in zip(groups, self._lists, strict=True):
            now = group["params"]
            if group is not known or len(now) != len(params) or not all(map(is_, now, params)):
                return False
        return True

    @property
    def groups(self) -> list[dict[str, Any]]:
        return [group for group, _ in self._lists]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.places)

    def given_name(self, param: Tensor) -> str | None:
        """Returns the name that the user gave the parameter; None if the user gave none.

        The user gives names by passing `model.named_parameters()` to the optimizer.
        """
        group, i = self.places[param]
        names = group.get("param_names") or ()
        return names[i] if i < len(names) else None

    def name(self, param: Tensor) -> str:
        """Returns a name for messages: the user's, or a name made of group, index and shape."""
        group, i = self.places[param]
        number = next(k for k, (known, _) in enumerate(self._lists) if known is group)
        return self.given_name(param) or f"parameter {i} of group {number}, {list(param.shape)}"


class FoldedValues:
    """Remembers values of param groups (lr, betas, ...), to tell later which of them have changed.

    `note` remembers the values that the backwards of a mini-batch use. The backwards themselves
    read the groups, not this object.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Group, tuple[str, ...], tuple[Any, ...]]] = []

    def note(self, groups: Sequence[Group], names: Callable[[Group], Sequence[str]]) -> None:
        """Remembers, for each group, the values whose names `names` returns, such as "lr"."""
        self._kept = []
        for group in groups:
            own = tuple(names(group))
            self._kept.append((group, own, tuple([_kept(group[name]) for name in own])))

    def are_as_noted(self) -> bool:
        """Returns whether each group still has the values that `note` remembered."""
        return all(
            kept == tuple([group[name] for name in names]) or not _differing(names, kept, group)
            for group, names, kept in self._kept
        )

    def changed(self, noted: Group, now: Group) -> set[str]:
        """Returns the names of the values that have changed since `note` for a parameter.

        Args:
            noted: the group that the parameter was in, one of those passed to `note`.
            now: the group that the parameter is in now, the same or another one. A value that this
                group lacks has changed.
        """
        [(names, kept)] = [(names, kept) for g, names, kept in self._kept if g is noted]
        return _differing(names, kept, now)


def _differing(names: Sequence[str], kept: Sequence[Any], group: Group) -> set[str]:
    pairs = zip(names, kept, strict=True)
    return {n for n, was in pairs if n not in group or not _same(was, group[n])}


class _KeptTensor:
    """Remembers the value of a tensor, such as a learning rate, which may change in place.

    An object of this class equals (==) only itself, never a tensor. So `FoldedValues.are_as_noted`,
    which first compares all values of a group by ==, finds a difference, and then calls `same`.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version, self.copy = tensor, tensor._version, tensor.detach().clone()

    def same(self, value: Any) -> bool:
        # compares version counters first, because comparing numbers on a GPU waits for the GPU
        unchanged = value is self.tensor and value._version == self.version
        return unchanged or bool(self.copy == value)


def _kept(value: Any) -> Any:
    if type(value) in PLAIN:  # checked first, as nearly all values are numbers or None
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(_kept, value))
    return _KeptTensor(value) if isinstance(value, Tensor) else value


def _same(kept: Any, value: Any) -> bool:
    if isinstance(kept, _KeptTensor):
        return kept.same(value)
    if isinstance(kept, tuple):
        return len(kept) == len(value) and all(map(_same, kept, value))
    return bool(kept == value)
