"""Rules for SlimAdam: which second moments are averaged, and over which dimensions.

The static rules are the paper's for transformers (arXiv 2503.01843, table 1). A matrix maps inputs
(fan-in) to outputs (fan-out):

    query, key, embeddings, head      mean over fan-in: a second moment for each output, or token
    value, attention output, MLP      mean over fan-out: a second moment for each input
    norms, biases, all others         no mean: a second moment for each element

A matrix that computes query, key and value together takes the rule of query and key, which are two
thirds of it.
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

# (role, side over which the mean is taken, pattern that the end of a linear module's path matches);
# the first match counts
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
    """The rule of one parameter: whether and how its second moment is averaged.

    Attributes:
        dims: dimensions over which the second moment is averaged; empty if it is not averaged.
        role: what the parameter was taken for, such as "MLP" or "norm"; "measured" if `dims` come
            from a measurement.
        shape: the shape of the parameter.
        snr: the measured signal-to-noise ratio of each candidate for `dims`; a candidate is written
            as its dimensions with commas, such as "0,1". Empty if not measured.
    """

    dims: Dims
    role: str
    shape: Dims
    snr: dict[str, float] = {}

    @property
    def numel(self) -> tuple[int, int]:
        """The parameter's number of second moments, as (without this rule, with this rule)."""
        full = slim = 1
        for d, n in enumerate(self.shape):
            full *= n
            slim *= 1 if d in self.dims else n
        return full, slim


class SlimRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of a model. Printing them shows which parameters matched.

    Attributes:
        source: "static" from a table of names (`static_rules`), "snr" from a measurement.
        rules: the rule of each parameter, by its name.
    """

    source: Literal["static", "snr"]
    rules: dict[str, MeanRule]

    def dims(self) -> dict[str, Dims]:
        return {name: rule.dims for name, rule in self.rules.items()}

    @property
    def saved(self) -> float:
        """The share of all second moments that these rules save, 0 to 1."""
        sizes = [rule.numel for rule in self.rules.values()]
        return 1 - sum(slim for _, slim in sizes) / max(1, sum(full for full, _ in sizes))

    def save(self, file: Path) -> None:
        """Writes the rules to a file, as JSON. Raises FileWriteError if it cannot be written."""
        write_file(file, msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @staticmethod
    def load(file: Path) -> SlimRules:
        """Reads rules from a file that `save` wrote.

        Raises:
            RulesFileError: the file holds something else.
            OSError: the file cannot be read.
        """
        try:
            return msgspec.json.decode(file.read_bytes(), type=SlimRules)
        except msgspec.DecodeError as error:
            raise RulesFileError(f"{file}: {error}") from None

    def __str__(self) -> str:
        """Returns a table of the rules.

        Parameters whose rules and names differ only by the number of the layer share a line. All
        norms and vectors share another.
        """
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
    """Returns SlimAdam's rules for a transformer, chosen by each module's type and name.

    The type decides for embeddings and norms, the module's name for the weights of linear modules.
    A parameter that several modules share goes by its first name, as in `model.named_parameters()`.
    Norms, vectors such as biases, and parameters that match nothing (role "no match") keep their
    full second moments.
    """
    return SlimRules("static", {name: _static(owner) for name, owner in owners(model).items()})


class Owner(NamedTuple):
    """A parameter and the module that owns it.

    Attributes:
        path: the name of the module in the model.
        module: the module.
        attribute: the parameter's name in the module.
        param: the parameter.
    """

    path: str
    module: nn.Module
    attribute: str
    param: nn.Parameter


def owners(model: nn.Module) -> dict[str, Owner]:
    """Returns which module holds each parameter, and by which attribute.

    The keys are the parameters' names in `model.named_parameters()`, as `plain_name` returns them.
    """
    modules = dict(model.named_modules())
    found = {}
    for name, param in model.named_parameters():
        path, _, attribute = name.rpartition(".")
        found[plain_name(name)] = Owner(plain_name(path), modules[path], attribute, param)
    return found


def plain_name(name: str) -> str:
    """Returns a parameter's name without the parts `_orig_mod.` that torch.compile inserts."""
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
    fan_in = fan_in_of(owner)
    if fan_in is None:
        return rule("no match")
    for role, side, pattern in ROLES:
        if re.search(rf"\.{pattern}$", _linear_path(owner)):
            return rule(role, fan_in if side == "fan-in" else 1 - fan_in)
    return rule("no match")


def fan_in_of(owner: Owner) -> int | None:
    """Returns the dimension of the inputs in a linear module's weight; None for other modules.

    Linear weights are those of nn.Linear and of transformers' Conv1D, and `in_proj_weight` of
    nn.MultiheadAttention.
    """
    if isinstance(owner.module, nn.Linear) or owner.attribute == "in_proj_weight":
        return 1
    # the Conv1D of the library transformers has weights of shape [inputs, outputs]
    return 0 if type(owner.module).__name__ == "Conv1D" else None


def _linear_path(owner: Owner) -> str:
    """Returns the module's path with a leading dot, to match with the patterns in ROLES.

    For `in_proj_weight` of nn.MultiheadAttention, returns a path as if it were the weight of a
    module named "in_proj".
    """
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
