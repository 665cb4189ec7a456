"""Trains a model of transformers for two steps of SGD and returns all that can be compared."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from tests.models import tiny
from tests.models.batches import Batch, batches

STEPS = 2
Compile = Callable[[nn.Module], Any]
Trace = dict[str, Tensor]


class EagerError(Exception):
    """Eager does not train the model at the config and the batches that are made here."""


@dataclass(frozen=True)
class Example:
    """A model's class, a config that it can be built from and a batch that eager trains it on."""

    name: str
    config: Any
    batch: Batch

    @staticmethod
    def of(name: str, layers: int = 2) -> Example:
        """The first config and batch that eager trains on. Raises EagerError."""
        import transformers

        cls = getattr(transformers, name, None)
        if cls is None:
            raise EagerError(f"this transformers has no {name}")
        error: Exception | None = None
        for config in _configs(cls, layers):
            try:
                model = _built(name, config)
            except Exception as e:  # a config that is not consistent is not the model's
                error = error or e
                continue
            for batch in batches(model):
                example = Example(name, config, batch)
                try:
                    steps = example.train(lambda model: model, steps=1)
                except Exception as e:  # nor is a batch that it does not take
                    error = error or e
                    continue
                if steps["0 loss"].isfinite() and any(key.endswith(".grad") for key in steps):
                    return example
            break
        raise EagerError(f"{name}: {error!r}") from error

    def train(
        self,
        compile_: Compile,
        steps: int = STEPS,
        dtype: torch.dtype | None = None,
        evaluating: bool = False,
    ) -> Trace:
        """The losses, gradients and buffers of the steps, and the weights after them."""
        torch._dynamo.reset()
        model = _built(self.name, self.config)
        model.train(not evaluating).to(dtype)
        batch = {
            n: x.to(dtype) if x.is_floating_point() and dtype else x for n, x in self.batch.items()
        }
        run = compile_(model)
        found: Trace = {}
        for step in range(steps):
            _seed(step)
            value = loss(run(**{n: x.clone() for n, x in batch.items()}))
            value.backward()  # type: ignore[no-untyped-call]
            found[f"{step} loss"] = value.detach().clone()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    found[f"{step} {name}.grad"] = p.grad.clone()
            for name, b in model.named_buffers():
                found[f"{step} {name}"] = b.clone()
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p.sub_(p.grad, alpha=0.01)
            model.zero_grad(set_to_none=True)
        for name, p in model.named_parameters():
            found[name] = p.detach().clone()
        return found


def loss(out: Any) -> Tensor:
    """The model's own loss; without one, all outputs with a gradient, each element its weight."""
    if isinstance(out, dict) and isinstance(out.get("loss"), Tensor):
        return out["loss"].sum()  # type: ignore[no-any-return]
    total = torch.zeros(())
    for x in tensors(out):
        if x.requires_grad:
            flat = (x.abs() if x.is_complex() else x).reshape(-1)
            weights = torch.linspace(0.5, 1.5, len(flat), dtype=flat.dtype)
            total = total + (flat * weights).mean().float()
    return total


def tensors(out: Any) -> Iterator[Tensor]:
    """The tensors in nested outputs, in order, each once."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (dict, list, tuple)):
        for part in out.values() if isinstance(out, dict) else out:
            yield from tensors(part)


def different(mine: Trace, theirs: Trace) -> list[str]:
    """The names of what is not equal bit for bit, or only in one of the traces."""
    names = [n for n in theirs if n not in mine or not same_bits(mine[n], theirs[n])]
    return names + [n for n in mine if n not in theirs]


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _configs(cls: Any, layers: int) -> Iterator[Any]:
    """Configs of as few layers as the kinds of layers allow."""
    for deep in (layers, *(n for n in tiny.DEEPER if n > layers)):
        try:
            yield tiny.config(cls.config_class, deep)
        except Exception:  # the next is deeper; with none, the caller has nothing to build
            continue


def _built(name: str, config: Any) -> nn.Module:
    """The model in training mode, with the same weights every time. Raises what its class does."""
    import copy

    import transformers

    cls = getattr(transformers, name)
    with torch.device("meta"):
        size = sum(p.numel() for p in cls(copy.deepcopy(config)).parameters())
    if size > tiny.LARGEST:
        raise ValueError(f"{size} parameters are not tiny")
    _seed(0)
    model = cls(copy.deepcopy(config))
    if getattr(model, "loss_type", "") is None:
        model.loss_type = "ForCausalLM"  # what transformers falls back to, with a warning
    trained: nn.Module = model.train()
    return trained


def _seed(seed: int) -> None:
    """Models draw from torch, and masks and dropped layers from Python and numpy."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)
