"""Optimizers of other people, and their formulas in float64, written plainly.

A formula is a function (state, p, g, t, group): it changes nothing, returns the new p, and keeps
what it needs in `state`. t counts from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Formula = Callable[[dict[str, Any], Tensor, Tensor, int, dict[str, Any]], Tensor]


def toy(state: dict[str, Any], p: Tensor, g: Tensor, t: int, group: dict[str, Any]) -> Tensor:
    return p - group["lr"] * g.sign()


def lion(state: dict[str, Any], p: Tensor, g: Tensor, t: int, group: dict[str, Any]) -> Tensor:
    m, (beta1, beta2), lr = state.get("m", 0.0), group["betas"], group["lr"]
    state["m"] = beta2 * m + (1 - beta2) * g
    return p - lr * (torch.sign(beta1 * m + (1 - beta1) * g) + group["weight_decay"] * p)


def factored(
    state: dict[str, Any], key: str, square: Tensor, beta: float, start: Any = 0.0
) -> Tensor:
    """1 / √v of running means of `square`."""
    if square.dim() < 2:
        v = state[key] = beta * state.get(key, start) + (1 - beta) * square
        return v.rsqrt()
    row, col = state.get(key, (start, start))
    row = beta * row + (1 - beta) * square.mean(-1, keepdim=True)
    col = beta * col + (1 - beta) * square.mean(-2, keepdim=True)
    state[key] = row, col
    return (row * col / row.mean(-2, keepdim=True)).rsqrt()


def rms(x: Tensor) -> float:
    return math.sqrt(float(x.square().sum()) / max(1, x.numel()))


def adalomo(state: dict[str, Any], p: Tensor, g: Tensor, t: int, group: dict[str, Any]) -> Tensor:
    (eps1, eps2), decay = group["eps"], group["weight_decay"]
    u = g * factored(state, "v", g**2 + eps1, 1 - t ** group["decay_rate"])
    u = u / max(1.0, rms(u) / group["clip_threshold"])
    lr = group["lr"] * max(eps2, rms(p))
    return p * (1 - lr * decay) - lr * u


def came(state: dict[str, Any], p: Tensor, g: Tensor, t: int, group: dict[str, Any]) -> Tensor:
    (beta1, beta2, beta3), (eps1, eps2), lr = group["betas"], group["eps"], group["lr"]
    u = g * factored(state, "v", g**2 + eps1, beta2)
    u = u / max(1.0, rms(u) / group["clip_threshold"])
    m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * u
    if p.dim() >= 2:
        m = m * factored(state, "s", (u - m) ** 2 + eps2, beta3)
    return p * (1 - lr * group["weight_decay"]) - lr * m


def newton_schulz(x: Tensor) -> Tensor:
    """In bfloat16, as everybody's is: the iteration amplifies rounding."""
    y = x.to(torch.bfloat16)
    y = y.T if x.size(0) > x.size(1) else y
    y = y / y.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = y @ y.T
        y = torch.addmm(
            y, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), y, beta=3.4445
        )
    return (y.T if x.size(0) > x.size(1) else y).to(x.dtype)


def scion(state: dict[str, Any], p: Tensor, g: Tensor, t: int, group: dict[str, Any]) -> Tensor:
    alpha, lr = group["momentum"], group["lr"]
    d = state["d"] = (1 - alpha) * state.get("d", 0.0) + alpha * g
    if group["norm"] == "Sign":
        reach = torch.sign(d) / (p.shape[-1] if p.dim() else 1)
    elif p.dim() < 2:
        reach = d / (rms(d) + 1e-8)
    else:
        n, m = p.shape[:2]
        window = math.prod(p.shape[2:])
        o = newton_schulz(d.reshape(n, -1)).view(p.shape)
        reach = math.sqrt(n / m) / window * o
    return p * (1 if group["unconstrained"] else 1 - lr) - lr * group["scale"] * reach


def galore(state: dict[str, Any], p: Tensor, g: Tensor, t: int, group: dict[str, Any]) -> Tensor:
    (beta1, beta2), lr, rank = group["betas"], group["lr"], group["rank"]
    projects = p.dim() == 2 and min(p.shape) > rank
    r, tall = g, p.dim() == 2 and len(p) > p.size(1)
    if projects:
        if (t - 1) % group["update_proj_gap"] == 0:
            u, _, vh = torch.linalg.svd(g.float(), full_matrices=False)  # its signs are any
            state["P"] = (vh[:rank].T if tall else u[:, :rank]).double()
        r = g @ state["P"] if tall else state["P"].T @ g
    m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * r
    v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * r**2
    update = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + group["eps"])
    if projects:
        update = group["scale"] * (update @ state["P"].T if tall else state["P"] @ update)
    return (p - lr * update) * (1 - lr * group["weight_decay"])


class InFloat64:
    """An optimizer by a formula, with groups as torch's have them."""

    def __init__(self, groups: Sequence[dict[str, Any]], formula: Formula) -> None:
        self.formula = formula
        self.param_groups = groups
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.values = {p: p.detach().double() for group in groups for p in group["params"]}
        self.t = 0

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.setdefault(p, {})
                new = self.formula(state, self.values[p], p.grad.double(), self.t, group)
                self.values[p] = new
                p.copy_(new)


class Itself:
    """An optimizer of roam in float64 beside one in the model's dtype, for one without a formula.

    It shows that blocks, dtypes and accumulation change nothing, and not that the rule is right.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], make: Any, values: dict[str, Any]) -> None:
        self.wide = {p: p.detach().double().requires_grad_() for g in groups for p in g["params"]}
        own = [{**g, "params": [self.wide[p] for p in g["params"]]} for g in groups]
        self.optimizer = make(own, **values)
        self.param_groups = self.optimizer.param_groups

    @torch.no_grad()
    def step(self) -> None:
        for p, wide in self.wide.items():
            self.optimizer.absorb(wide, p.grad.double())
        self.optimizer.step()
        for p, wide in self.wide.items():
            p.copy_(wide)
