"""Collects where ops come from: operators in a kernel, lines of the user's code, shapes."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import fx

from roam.capture.user_code import LIBRARIES
from roam.core.origins import NO_ORIGINS, Origins
from roam.passes.graph_ops import offers

# a frame of the stack that dynamo records for a node: file, number, function, and its text
_FRAME = re.compile(r'File "(.+?)", line (\d+), in (\S+)\n\s*(.*)')
LONGEST = 80  # characters of a line of code that are kept


class OriginNotes:
    """Collects the origins of a Problem's ops and buffers while these are read.

    Args:
        begun: origins of ops that were read before, such as those of the forward.
    """

    def __init__(self, begun: Origins = NO_ORIGINS) -> None:
        self.calls = dict(begun.calls)
        self.lines = _lists(begun.lines)
        self.tensors = _lists(begun.tensors)
        self.offers = _lists(begun.offers)

    def note_op(self, name: str, nodes: Iterable[fx.Node]) -> None:
        """Notes the line of an op: that of the first of its nodes of which it is known."""
        if line := next(filter(None, map(user_line, nodes)), ""):
            self.lines[line].append(name)

    def note_kernel(self, name: str, nodes: Sequence[fx.Node]) -> None:
        """Notes the operators of a fused kernel, and its line."""
        self.calls[name] = tuple(dict.fromkeys(_called(n) for n in nodes))
        self.note_op(name, nodes)

    def note_buffer(
        self, name: str, dtype: torch.dtype, shape: Iterable[object], maker: fx.Node | None
    ) -> None:
        """Notes dtype and shape of the tensor in a buffer, and which options would keep it smaller.

        Args:
            name: the buffer's name.
            dtype, shape: of the tensor. Sizes that are symbols stay symbols.
            maker: the node that makes the tensor; None if unknown.
        """
        sizes = ", ".join(map(str, shape))
        self.tensors[f"{str(dtype).removeprefix('torch.')}[{sizes}]"].append(name)
        for sentence in () if maker is None else offers(maker):
            self.offers[sentence].append(name)

    def origins(self) -> Origins:
        groups = (self.lines, self.tensors, self.offers)
        return Origins(self.calls, *({k: tuple(v) for k, v in g.items()} for g in groups))


def _lists(groups: Mapping[str, tuple[str, ...]]) -> defaultdict[str, list[str]]:
    return defaultdict(list, {text: list(names) for text, names in groups.items()})


def user_line(node: fx.Node) -> str:
    """Returns the innermost line of the user's code that a node was traced from, "" if unknown.

    torch's own code is nobody's line. A model from a library is: that of its file.
    """
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f for f in frames if not f[0].startswith((*LIBRARIES, "<"))]
    if not own:
        return ""
    file, number, function, text = own[-1]
    code = text.strip()
    shown = code if len(code) <= LONGEST else f"{code[: LONGEST - 1]}…"
    return f"{importable(file)}:{number}, in {function}: {shown}"


def importable(file: str) -> str:
    """Returns a file's path from the folder that Python imports it from, or else its name.

    "transformers/models/gpt2/modeling_gpt2.py" tells more than a name, and holds on every machine.
    """
    path = Path(file)
    roots = (Path(p) for p in sys.path if p and path.is_relative_to(p))
    longest = max(roots, key=lambda p: len(p.parts), default=path.parent)
    return path.relative_to(longest).as_posix()


def _called(node: fx.Node) -> str:
    """Returns the name of the operator that a node calls, without its overload."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket.__name__)
    return getattr(target, "__name__", str(target))
