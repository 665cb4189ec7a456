"""Which second moments SlimAdam replaces by their means, and over which dimensions.

The static rules are those of the paper for transformers (arXiv 2503.01843, table 1): over a matrix
that maps fan-in to fan-out,

    query, key, embeddings, head      mean over fan-in: one second moment for each output, or token
    value, attention output, MLP      mean over fan-out: one for each input
    norms, biases, the rest           none

A fused query, key and value takes the rule of query and key, which are two thirds of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from torch import nn

from roam.core.atomic_write import write_file
from roam.core.errors import RulesFileError

Side = Literal["fan-in", "fan-out"]
Dims = tuple[int, ...]

# What the path of a linear module says about it: the first that matches counts.
ROLES: tuple[tuple[str, Side, str], ...] = (
    ("query, key", "fan-in", r"(to_|w)?(q|k|query|key)(_proj|_lin)?"),
    ("query, key, value", "fan-in", r"(c_attn|[qQ]kv(_proj)?|W[qQ]kv|query_key_value)"),
    ("query, key, value", "fan-in", r"[\w.]*att[\w.]*\.in_proj"),
    ("value", "fan-out", r"(to_|w)?(v|value)(_proj|_lin)?"),
    ("head", "fan-in", r"(lm_head|embed_out|head|classifier|score|decoder)"),
    (
        "attention output",
        "fan-out",
        r"[\w.]*[aA]tt[\w.]*\.(c_proj|o_proj|out_proj|out_lin|to_out(\.0)?|dense|proj|wo|o)",
    ),
    (
        "MLP",
        "fan-out",
        r"(c_fc|c_proj|fc\d?|fc_in|fc_out|lin[12]|w[123i]|wi_[01]|wo|linear[12]"
        r"|(gate_|up_|down_|gate_up_)proj|dense_h_to_4h|dense_4h_to_h"
        r"|(intermediate|output)\.dense)",
    ),
)


class MeanRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter's rule.

    dims: what its second moment is the mean over; none: it stays full. role: what the parameter
    was taken for. snr: signal-to-noise ratio by candidate dims, where it was measured.
    """

    dims: Dims
    role: str
    shape: Dims
    snr: dict[str, float] = {}

    @property
    def numel(self) -> tuple[int, int]:
        """Second moments of the full parameter, and by this rule."""
        full = slim = 1
        for d, n in enumerate(self.shape):
            full *= n
            slim *= 1 if d in self.dims else n
        return full, slim


class SlimRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of a model by parameter name. Print them to see what was matched."""

    source: Literal["static", "snr"]
    rules: dict[str, MeanRule]

    def dims(self) -> dict[str, Dims]:
        return {name: rule.dims for name, rule in self.rules.items()}

    @property
    def saved(self) -> float:
        """The share of the second moments that need not be kept, 0 to 1."""
        sizes = [rule.numel for rule in self.rules.values()]
        return 1 - sum(slim for _, slim in sizes) / max(1, sum(full for full, _ in sizes))

    def save(self, file: Path) -> None:
        """Writes JSON."""
        write_file(file, msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @staticmethod
    def load(file: Path) -> SlimRules:
        """Reads what `save` wrote. Raises RulesFileError."""
        try:
            return msgspec.json.decode(file.read_bytes(), type=SlimRules)
        except msgspec.DecodeError as error:
            raise RulesFileError(f"{file}: {error}") from None

    def __str__(self) -> str:
        """One line for the parameters that differ only in their layer's number."""
        small = [r for r in self.rules.values() if r.role in ("norm", "vector")]
        count = sum(r.numel[0] for r in small)
        return "\n".join(
            (
                f"SlimAdam, {self.source} rules: {self.saved:.2%} of the second moments saved",
                *_lines({n: r for n, r in self.rules.items() if r.dims}),
                *_lines({n: r for n, r in self.rules.items() if not r.dims and r not in small}),
                f"  full: {len(small)} norms and vectors, {count:,} elements",
            )
        )


def static_rules(model: nn.Module) -> SlimRules:
    """The paper's rules for a transformer, by the type and the name of each module.

    Tied parameters have the name that comes first, as in `model.named_parameters()`. What matches
    nothing stays full, with the role "no match".
    """
    return SlimRules("static", {name: _static(owner) for name, owner in owners(model).items()})


class Owner(NamedTuple):
    """A parameter, the module that it is an attribute of, and both their names."""

    path: str
    module: nn.Module
    attribute: str
    param: nn.Parameter


def owners(model: nn.Module) -> dict[str, Owner]:
    """Each parameter once, by its name in `model.named_parameters()`."""
    modules = dict(model.named_modules())
    found = {}
    for name, param in model.named_parameters():
        path, _, attribute = name.rpartition(".")
        found[plain_name(name)] = Owner(plain_name(path), modules[path], attribute, param)
    return found


def plain_name(name: str) -> str:
    """Without what torch.compile puts into it."""
    return name.replace("_orig_mod.", "")


def is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _static(owner: Owner) -> MeanRule:
    def rule(role: str, *dims: int) -> MeanRule:
        return MeanRule(dims, role, tuple(owner.param.shape))

    if is_norm(owner.module):
        return rule("norm")
    if owner.param.dim() < 2:
        return rule("vector")
    if isinstance(owner.module, nn.Embedding):
        return rule("embedding", 1)
    fan_in = _fan_in(owner)
    if fan_in is None:
        return rule("no match")
    for role, side, pattern in ROLES:
        if re.search(rf"\.{pattern}$", _linear_path(owner)):
            return rule(role, fan_in if side == "fan-in" else 1 - fan_in)
    return rule("no match")


def _fan_in(owner: Owner) -> int | None:
    """Which dimension of a linear module's weight is the input's. None for other modules."""
    if isinstance(owner.module, nn.Linear) or owner.attribute == "in_proj_weight":
        return 1
    return 0 if type(owner.module).__name__ == "Conv1D" else None  # transformers': [in, out]


def _linear_path(owner: Owner) -> str:
    """With a dot before it; nn.MultiheadAttention's own weight counts as a module."""
    own = ".in_proj" if owner.attribute == "in_proj_weight" else ""
    return f".{owner.path}{own}"


def _lines(rules: dict[str, MeanRule]) -> Iterator[str]:
    alike: dict[tuple[str, Dims, Dims, str], list[str]] = {}
    for name, rule in rules.items():
        pattern = re.sub(r"\.\d+(?=\.)", ".*", name)
        alike.setdefault((rule.role, rule.dims, rule.shape, pattern), []).append(name)
    for (role, dims, shape, pattern), names in alike.items():
        name = f"{pattern} × {len(names)}" if len(names) > 1 else names[0]
        over = f"mean over {list(dims)}" if dims else "full"
        yield f"  {over}, {role}: {name} {list(shape)}"
