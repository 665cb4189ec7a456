"""The options and modes of `torch.compile(..., backend="roam", mode=..., options={...})`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from roam.core.budget import Budget
from roam.core.errors import OptionError
from roam.core.offload_to import OffloadOption, OffloadTo
from roam.optim.folding import FoldingOptimizer
from roam.optim.handle import OptimizerHandle
from roam.passes.cheap_recompute import CheapRecompute
from roam.passes.pipeline import Pass
from roam.passes.rewrites.by_name import named
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
        planning_seconds: how much work planning a graph may take: what an ordinary machine does in
            that time, counted, so that every machine finds the same plan.
        optimizer: one of roam.optim, whose gradients are folded inside the backward. A graph
            looks up the optimizer of its parameters when it runs, so the options hold only a weak
            handle.
        lowering: "aten" runs the graph's own operators, "inductor" the kernels that Inductor
            fuses. None means "inductor" if Inductor works here, else "aten".
        rewrites: what changes the joint graph before it is partitioned into forward and backward:
            rewrites that keep saved tensors smaller, such as `roam.passes.WTACRS(keep=0.3)` or, by
            name, "wta-crs" and "wta-crs:keep=0.3", and passes of the user's
            (`roam.passes.pipeline.Pass`, frozen dataclasses).
        split: whether groups of ops with a large middle run one block of rows at a time
            (passes/rewrites/split), so that sums over the rows run in another order. True splits
            every group that it finds; None only with Inductor's kernels, and only what is many
            times larger than its input, such as the logits before cross entropy. False splits
            nothing, and adds up gradients of shared weights in Inductor's order. With True,
            gradients of 32 MiB or more are made and folded one block of rows at a time
            (passes/fold_rows.py), if the optimizer's rule works by rows.
        recompute: which tensors are not saved for the backward, because it costs next to nothing
            to make them again: None, tensors of a mebibyte or more; "cheap", of 16 KiB or more;
            False, none, so that what Inductor or autograd would save is saved. With Inductor's
            kernels these are tensors that one pointwise kernel makes of what is saved anyway. With
            ATen's, those whose ops take half a percent of the step together, if that lowers the
            peak; those that one pointwise op makes of what is saved, from 16 KiB on; and whatever
            brings the peak down to that of PyTorch's `aot_eager`, whose partitioner recomputes.
        budget: the most bytes that the step may take: a size ("12GiB", or a number of bytes) of all
            that there is, parameters and states too; a share ("60%") of what the step allocates
            if it saves all for its backward; or "auto", what is free when the graph is compiled,
            less a tenth. What is needed for that runs again in the backward. With ATen's kernels
            the graphs of a model share it: each may take what the others hold leaves. With
            Inductor's each keeps it by itself, and with dynamic sizes ATen's run, by a plan for
            each size.
        offload: the path of a folder, or an `OffloadTo`. Tensors that are saved for the backward
            may move to a file there and come back. Without a budget, those move that lower the
            peak and that no op is planned to wait for. With a budget, transfers, waits and
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
        """Where the states of optimizers lie between steps; None if they stay where they are."""
        return None if self.offload is None else self.offload.states

    @property
    def activations(self) -> OffloadTo | None:
        """Where tensors go that are saved for the backward; None if they stay."""
        return None if self.offload is None else self.offload.activations

    @property
    def recomputes(self) -> CheapRecompute | None:
        """What chooses the tensors that Inductor's kernels recompute; None if nothing does."""
        if self.recompute is False:
            return None
        return CheapRecompute() if self.recompute else CheapRecompute(smallest=LARGE)

    @property
    def smallest_recomputed(self) -> int | None:
        """Bytes of the smallest tensor that is worth to run an op again; None if nothing is."""
        found = self.recomputes
        return None if found is None else found.smallest

    def exact_recompute(self, lowering: str) -> ExactRecompute:
        """Returns what a lowering recomputes without being asked for."""
        large = self.smallest_recomputed
        if lowering == "inductor":
            return ExactRecompute(large, fuses=True)
        pointwise = None if self.recompute is False else Recompute().smallest
        return ExactRecompute(pointwise, smallest_norm=large)

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
    """Raises OptionError for what is no sequence of passes, rewrites and names of rewrites."""
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
