"""Runs the commands about plans, on factories of small models."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from roam.cli.app import app

FACTORIES = """
import torch
from torch import nn
from roam.optim import AdamA

def model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

def positional():
    return model(), torch.randn(5, 8), lambda y: y.sum()

def by_name():
    return model(), {"input": torch.randn(5, 8)}, lambda y: y.sum()

def folded():
    made = model()
    return made, (torch.randn(5, 8),), lambda y: y.sum(), AdamA(made.parameters())

def broken():
    raise ValueError("no such layer")

def nothing():
    return None

def short():
    return model(), torch.randn(5, 8)

def wide():
    return model(), torch.randn(5, 9), lambda y: y.sum()

def no_loss():
    return model(), torch.randn(5, 8), 3

def detached():
    return model(), torch.randn(5, 8), lambda y: y.detach().sum()

def unreduced():
    return model(), torch.randn(5, 8), lambda y: y

number = 3
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])
