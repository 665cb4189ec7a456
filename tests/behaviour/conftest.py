"""What tests of behaviour share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from roam.runtime.file_tier import forget
from tests.runtime.faults import on_disk


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for tiers, in which no file with a name is left."""
    yield on_disk(tmp_path)
    forget()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def nothing_is_pending() -> Iterator[None]:
    """What an earlier test left in a traceback would count against a budget."""
    gc.collect()
    yield
    torch._dynamo.reset()
