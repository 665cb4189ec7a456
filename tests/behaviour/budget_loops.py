"""Models and training loops for tests of budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import dropout, gelu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import roam
from roam.inspect.measure import measure_peak
from tests.helpers import compiler, grads, random, snapshot, unfused

WIDTH, ROWS = 32, 256
SLACK = 64  # bytes of losses that the loop keeps

Run = Callable[[Tensor], Tensor]
Loop = Callable[[Run, nn.Module, Tensor], None]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        made = self.down(gelu(self.up(self.norm(x))))
        return x + dropout(made, 0.1, self.training)


class Attention(nn.Module):
    """With dropout inside, by the kernel or step by step."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.qkv = fused, nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(-1, 64, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = scaled_dot_product_attention(q, k, v, dropout_p=0.1)
        else:
            y = dropout((q @ k.transpose(-1, -2)).softmax(-1), 0.1) @ v
        return x + y.transpose(1, 2).reshape(x.shape)


class InPlace(nn.Module):
    """Changes its own activations and a buffer in place."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.register_buffer("seen", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = layer(x)
            y += 1
            y.mul_(2)
            self.seen.add_(y.detach().sum(0))
            x = x + y.sin()
        return x


class Frozen(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*(Block() for _ in range(4)))
        self[0].requires_grad_(False)
        self[2].requires_grad_(False)


class Checkpointed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self):
            x = checkpoint(block, x, use_reentrant=False) if i == 0 else block(x)
        return x


class Broken(nn.Sequential):
    """Graph breaks between its blocks: a graph for each of them."""

    def forward(self, x: Tensor) -> Tensor:
        x = self[0](x)
        torch._dynamo.graph_break()
        x = self[1](x)
        torch._dynamo.graph_break()
        return self[2](x)  # type: ignore[no-any-return]


class LossApart(nn.Sequential):
    """A graph break behind its blocks: the loss is a graph of its own."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        torch._dynamo.graph_break()
        return x


class Looped(nn.Sequential):
    """A graph break in a loop: one graph runs for several blocks."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = block(x)
            torch._dynamo.graph_break()
        return x


class Loss(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).square().mean()  # type: ignore[no-any-return]


def blocks(kind: type[nn.Sequential] = nn.Sequential, number: int = 3) -> nn.Module:
    return kind(*(Block() for _ in range(number)))


def deeper() -> nn.Module:
    return blocks(number=4)


def broken() -> nn.Module:
    return blocks(Broken)


def loss_apart() -> nn.Module:
    return LossApart(*(Attention(fused=False) for _ in range(4)))


def once(run: Run, model: nn.Module, x: Tensor) -> None:
    run(x).backward()  # type: ignore[no-untyped-call]


def again(run: Run, model: nn.Module, x: Tensor) -> None:
    loss = run(x)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    loss.backward()  # type: ignore[no-untyped-call]


def asked(run: Run, model: nn.Module, x: Tensor) -> None:
    wanted = list(model.parameters())
    for p, gradient in zip(wanted, torch.autograd.grad(run(x), wanted), strict=True):
        p.grad = gradient


def twice(run: Run, model: nn.Module, x: Tensor) -> None:
    losses = run(x), run(x + 1)
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]


def hooked(run: Run, model: nn.Module, x: Tensor) -> None:
    with saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        loss = run(x)
    loss.backward()  # type: ignore[no-untyped-call]


def half(run: Run, model: nn.Module, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = run(x)
    loss.backward()  # type: ignore[no-untyped-call]


def evaluated(run: Run, model: nn.Module, x: Tensor) -> None:
    run(x).backward()  # type: ignore[no-untyped-call]
    model.eval()
    with torch.no_grad():
        run(x)
    model.train()


def shorter(run: Run, model: nn.Module, x: Tensor) -> None:
    for rows in (ROWS, ROWS // 2, ROWS // 3):
        model.zero_grad(set_to_none=True)
        run(x[:rows]).backward()  # type: ignore[no-untyped-call]


def trained(
    make: Callable[[], nn.Module], loop: Loop, backend: str, **options: Any
) -> tuple[list[Any], int]:
    """Returns the gradients, parameters and buffers of two steps, and the peak of a third."""
    torch._dynamo.reset()
    roam.reset_report()
    torch.manual_seed(0)
    model, x = Loss(make()), random(ROWS, WIDTH)
    run = unfused(model, **options) if backend == "roam" else compiler(backend)(model)
    found: list[Any] = []
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        loop(run, model, x)
        found += [*grads(model), *snapshot([*model.parameters(), *model.buffers()])]
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p.sub_(p.grad, alpha=0.01)
    model.zero_grad(set_to_none=True)
    return found, measure_peak(lambda: loop(run, model, x)).peak


def persistent_bytes(make: Callable[[], nn.Module]) -> int:
    """Returns the bytes of a model's parameters and of its batch."""
    return sum(p.nbytes for p in make().parameters()) + ROWS * WIDTH * 4


def accumulated(run: Run, model: nn.Module, x: Tensor) -> None:
    for _ in range(2):
        run(x).backward()  # type: ignore[no-untyped-call]


def kept(run: Run, model: nn.Module, x: Tensor) -> None:
    """Something looks at every saved tensor, and does not let go of it."""
    seen: list[Tensor] = []
    with saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        loss = run(x)
    loss.backward()  # type: ignore[no-untyped-call]
