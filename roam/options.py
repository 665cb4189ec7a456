"""The options and modes of `torch.compile(..., backend="roam", mode=..., options={...})`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from roam.core.budget import Budget
from roam.core.errors import OptionError
from roam.core.offload_to import OffloadOption, OffloadTo
from roam.optim.folding import FoldingOptimizer
from roam.optim.handle import OptimizerHandle
from roam.passes.annotations.offers import NoteOffers
from roam.passes.cheap_recompute import CheapRecompute
from roam.passes.pipeline import Pass
from roam.passes.rewrites.by_name import BY_NAME, named
from roam.passes.rewrites.recompute import Recompute
from roam.passes.rewrites.saved import ExactRecompute, SavedRewrite

LARGE = 2**20  # bytes of a tensor that is recomputed without being asked for, if it is cheap
LOWERINGS = {  # by the option's value; the first that works is the usual one
    "inductor": "roam.lowering.inductor.entry",
    "aten": "roam.lowering.aten.entry",
}
Rewrite = Pass | SavedRewrite
MODES = (
    None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The checked options of one `torch.compile(..., backend="roam")`.

    Attributes:
        arena: "step" frees the arena at the end of every backward. "keep" keeps it for the next
            step, until `roam.release()`; it implies the lowering "aten".
        planning_seconds: limits the work of planning a graph, to about what an ordinary machine
            does in this time. The work is counted, so that every machine finds the same plan.
        optimizer: an optimizer of roam.optim, whose gradients are folded inside the backward. A
            graph looks up the optimizer of its parameters when it runs, so the options hold only a
            weak handle.
        lowering: "aten" runs the graph's own operators, "inductor" runs kernels that Inductor
            fuses. None means "inductor" if Inductor works here, else "aten".
        rewrites: rewrites of the joint graph, which run before it is partitioned into forward and
            backward. They keep saved tensors smaller, such as `roam.passes.WTACRS(keep=0.3)` or, by
            name, "wta-crs" and "wta-crs:keep=0.3", or are passes of the user's
            (`roam.passes.pipeline.Pass`, frozen dataclasses).
        split: whether groups of ops whose results in between are large run one block of rows at a
            time (passes/rewrites/split). Sums over the rows are then added up in another order.
            True splits every such group. None splits only with Inductor's kernels, and only if the
            results are many times larger than the input, such as the logits before cross entropy.
            False splits nothing, and adds up gradients of shared weights in Inductor's order. With
            True, gradients of 32 MiB or more are also made and folded one block of rows at a time
            (passes/fold_rows.py), if the optimizer's rule works by rows.
        recompute: which tensors are recomputed in the backward and not saved, because that takes
            next to no time: None, tensors of a mebibyte or more; "cheap", of 16 KiB or more; False,
            none, so that the forward saves what Inductor or autograd would save. With Inductor's
            kernels, tensors are recomputed that one pointwise kernel makes from saved ones. With
            ATen's kernels, these are: tensors whose ops together take half a percent of the step,
            if that lowers the peak; tensors of 16 KiB or more that one pointwise op makes from
            saved ones; and tensors that have to be recomputed so that the peak is no higher than
            that of PyTorch's `aot_eager`.
        budget: the most bytes that the step may take. A size ("12GiB", or a number of bytes) limits
            all bytes, parameters and states included. A share ("60%") is one of what the step
            allocates if it recomputes nothing. "auto" is nine tenths of the bytes that are free
            when the graph is compiled. Ops are recomputed in the backward until the budget is kept.
            With ATen's kernels the graphs of a model share the budget: each may take what the
            others leave. What later graphs take is not known when the first is compiled, so it
            leaves much to them; if the budget is a size, it is planned anew once its first step has
            shown what they take. With Inductor's kernels each graph keeps the budget by itself, and
            graphs with dynamic sizes run ATen's kernels, with a plan for each size.
        offload: the path of a folder, or an `OffloadTo`. Tensors that are saved for the backward
            may move to a file there and come back. Without a budget, tensors move if that lowers
            the peak and no op is planned to wait for them. With a budget, transfers, waits and
            recomputation are mixed for the least time. With `{"states": folder}`, large optimizer
            states lie in a file there between steps; each is loaded for its fold and then stored.
            Both may be given: `{"activations": ..., "states": ...}`. Implies the lowering "aten".
        mode: one of Inductor's own modes, as `torch.compile(..., mode=...)` names them. Pass
            it here beside other options: `torch.compile` takes either a mode or options.
    """

    arena: str = "step"
    planning_seconds: float = 10.0
    optimizer: OptimizerHandle | None = None
    lowering: str | None = None
    rewrites: tuple[Rewrite, ...] = ()
    split: bool | None = None
    recompute: str | bool | None = None
    budget: Budget | None = None
    offload: OffloadOption | None = None
    mode: str | None = None

    @property
    def states(self) -> OffloadTo | None:
        """The folder where the states of optimizers lie between steps; None if in memory."""
        return None if self.offload is None else self.offload.states

    @property
    def activations(self) -> OffloadTo | None:
        """The folder that tensors saved for the backward may move to; None if they stay."""
        return None if self.offload is None else self.offload.activations

    @property
    def recomputes(self) -> CheapRecompute | None:
        """Chooses the tensors that Inductor's kernels recompute; None if they recompute none."""
        if self.recompute is False:
            return None
        return CheapRecompute() if self.recompute else CheapRecompute(smallest=LARGE)

    @property
    def smallest_recomputed(self) -> int | None:
        """Bytes of the smallest tensor that is recomputed without a budget; None if none is."""
        found = self.recomputes
        return None if found is None else found.smallest

    def exact_recompute(self, lowering: str) -> ExactRecompute:
        """Returns the rules by which a lowering's rewrites recompute tensors on their own."""
        large = self.smallest_recomputed
        if lowering == "inductor":
            return ExactRecompute(large, fuses=True)
        pointwise = None if self.recompute is False else Recompute().smallest
        return ExactRecompute(pointwise, smallest_norm=large)

    def offering(self, lowering: str, split: Pass) -> Options:
        """Returns these options with a pass that notes which others would keep tensors smaller.

        Args:
            lowering: the name of the lowering that is planned.
            split: the pass that the option split=True adds there.
        """
        asked = {r.name for r in self.rewrites}
        others = tuple(made() for name, made in BY_NAME.items() if name not in asked)
        unsaid = split if self.split is None else None
        notes = NoteOffers(others, unsaid, self.exact_recompute(lowering))
        return replace(self, rewrites=(notes, *self.rewrites))

    @staticmethod
    def parse(options: dict[str, Any] | None, mode: str | None) -> Options:
        """Checks the user's options and mode, and returns them with defaults filled in.

        Raises OptionError for an unknown mode or option, or a wrong value.
        """
        if not isinstance(options, (dict, type(None))):
            raise OptionError(f"options is a dict such as {{'arena': 'keep'}}, not {options!r}")
        given = {"mode": mode, **(options or {})}
        if given["mode"] not in MODES:
            valid = ", ".join(m for m in MODES if m)
            raise OptionError(f"roam has no mode {given['mode']!r}: the modes are {valid}")
        unknown = sorted(set(given) - set(NAMES))
        if unknown:
            valid = ", ".join(NAMES)
            raise OptionError(f"roam has no option {unknown[0]!r}: the options are {valid}")
        if given.get("arena", "step") not in ("step", "keep"):
            raise OptionError(f"option arena is 'step' or 'keep', not {given['arena']!r}")
        if given.get("lowering") not in (None, *LOWERINGS):
            valid = " or ".join(map(repr, sorted(LOWERINGS)))
            raise OptionError(f"option lowering is {valid}, not {given['lowering']!r}")
        if (given.get("lowering"), given.get("arena")) == ("inductor", "keep"):
            raise OptionError("option arena='keep' is for ATen's kernels: ask for lowering='aten'")
        if given.get("recompute") not in (None, "cheap", False):
            raise OptionError(f"option recompute is 'cheap' or False, not {given['recompute']!r}")
        seconds = given.get("planning_seconds", 1.0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
            raise OptionError(f"option planning_seconds is a positive number, not {seconds!r}")
        if given.get("split") not in (None, True, False):
            raise OptionError(f"option split is True or False, not {given['split']!r}")
        optimizer = given.get("optimizer")
        if isinstance(optimizer, FoldingOptimizer):
            given["optimizer"] = optimizer.handle
        elif not isinstance(optimizer, (OptimizerHandle, type(None))):
            raise OptionError(
                f"option optimizer is one of roam.optim (AdamA), not a {type(optimizer).__name__}: "
                "only those fold a gradient before all of them are known"
            )
        if given.get("budget") is not None:
            given["budget"] = Budget.parse(given["budget"])
            if given.get("recompute"):
                raise OptionError("option budget chooses what is recomputed: leave out recompute")
        if given.get("offload") is not None:
            given["offload"] = OffloadOption.parse(given["offload"])
            if given.get("lowering") == "inductor":
                raise OptionError("option offload is for ATen's kernels: ask for lowering='aten'")
            if given["offload"].states is not None and given.get("optimizer") is None:
                raise OptionError(
                    "'states' of option offload are those of an optimizer of roam.optim: name it, "
                    "options={'optimizer': AdamA(...), ...}"
                )
            given["lowering"] = "aten"
        given["rewrites"] = _rewrites(given.get("rewrites", ()))
        if given.get("arena") == "keep":
            given["lowering"] = "aten"  # the only one that has an arena to keep
        return Options(**given)


def _rewrites(given: Any) -> tuple[Rewrite, ...]:
    """Returns the option "rewrites" as passes and rewrites. Raises OptionError if it is wrong."""
    if not isinstance(given, (list, tuple)):
        raise OptionError(f"option rewrites is a list of passes, not {given!r}")
    return tuple(map(_rewrite, given))


def _rewrite(given: Any) -> Rewrite:
    if isinstance(given, str):
        return named(given)
    is_object = not isinstance(given, type) and hasattr(given, "name")
    if is_object and isinstance(getattr(given, "modules", ()), str):
        raise OptionError(f"modules of {given.name} is a tuple of patterns, not {given.modules!r}")
    if is_object and (callable(given) or isinstance(given, SavedRewrite)):
        found: Rewrite = given
        return found
    raise OptionError(
        "option rewrites is a list of passes (roam.passes.pipeline.Pass), of rewrites of saved "
        f"tensors (roam.passes.rewrites.saved.SavedRewrite) and of names, and {given!r} is none"
    )


NAMES = tuple(Options.__dataclass_fields__)
