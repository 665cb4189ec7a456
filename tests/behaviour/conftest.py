"""What tests of behaviour share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from roam.runtime.file_tier import forget
from tests.runtime.faults import on_disk


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for tiers, in which no file with a name is left."""
    yield on_disk(tmp_path)
    forget()
    assert os.listdir(tmp_path) == []
