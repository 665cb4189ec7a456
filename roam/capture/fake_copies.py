"""Copies models and inputs without their data: a plan needs only shapes, types and devices."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchRuntimeError
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.nn import Parameter
from torch.utils import _pytree

from roam.capture.user_code import innermost_line

T = TypeVar("T")
without_fakes = unset_fake_temporarily  # a context in which new tensors are real again

NEEDS_DATA = (DataDependentOutputException, DynamicOutputShapeException)
DOES_NOT_RUN = TorchRuntimeError  # an operator that refuses its arguments, wrapped by dynamo


def why_it_does_not_run(error: TorchRuntimeError) -> str:
    """Returns the operator's own error message, and the user's line that called it."""
    root: BaseException = error
    while (inner := root.__cause__ or root.__context__) is not None:
        root = inner
    said, _, _ = str(root).strip().partition("\n")
    return f"{type(root).__name__}: {said}{innermost_line(error.real_stack)}"


@contextmanager
def quiet_meta_kernels() -> Iterator[None]:
    """A context in which FakeTensorMode does not log errors of operators.

    torch raises these errors too; the log would only repeat them, with a traceback.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("failed while attempting to run meta")

    log = logging.getLogger(FakeTensorMode.__module__)
    log.addFilter(is_other)
    try:
        yield
    finally:
        log.removeFilter(is_other)


def fake_mode_of(model: nn.Module) -> FakeTensorMode:
    """Returns the fake mode that the model was built under, or a new one if it has no fakes."""
    tensors = [*model.parameters(), *model.buffers()]
    modes = (t.fake_mode for t in tensors if isinstance(t, FakeTensor))
    return next(modes, FakeTensorMode(allow_non_fake_inputs=True))


def fake_model(mode: FakeTensorMode, model: nn.Module, device: torch.device | None) -> nn.Module:
    """Returns a copy of the model whose parameters and buffers have no data.

    device: of the copy. None keeps the device of each tensor, and puts meta tensors on the CPU.
    """
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        memo[id(tensor)] = _fake(mode, tensor, device)
    with FakeCopyMode(mode):
        return copy.deepcopy(model, memo)


def fake_inputs(mode: FakeTensorMode, inputs: T, device: torch.device | None) -> T:
    """Returns the same nested inputs, their tensors replaced by tensors without data."""
    return _pytree.tree_map_only(Tensor, lambda t: _fake(mode, t, device), inputs)


def _fake(mode: FakeTensorMode, tensor: Tensor, device: torch.device | None) -> Tensor:
    if isinstance(tensor, FakeTensor) and device in (None, tensor.device):
        return tensor
    nowhere = tensor.device.type == "meta"
    if not nowhere and device in (None, tensor.device):
        return mode.from_tensor(tensor, static_shapes=True)  # preserves shared memory
    where = device or torch.device("cpu")
    shell = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    fake: Tensor = FakeTensor(mode, shell, where)
    if isinstance(tensor, Parameter):
        return Parameter(fake, requires_grad=tensor.requires_grad)
    return fake.requires_grad_(tensor.requires_grad)


def is_built_for(device: torch.device | str) -> bool:
    """Returns whether this torch knows the device.

    If it does not, autograd aborts the process, even where no tensor has data.
    """
    built = torch.accelerator.current_accelerator()
    return torch.device(device).type in ("cpu", "meta", None if built is None else built.type)
