"""What was measured once is known to every later process, whatever happens to the file."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from roam.capture.cost_table import CostTable, Site, cache_folder

HERE = Site("2.13.0", "a machine", 2)


def kept(folder: Path, **seconds: float) -> CostTable:
    table = CostTable.open(HERE, folder)
    table.seconds |= seconds
    table.save()
    return table


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    table = kept(tmp_path, mm=0.5)
    table.rates["cpu bandwidth"] = 1e9
    table.save()
    found = CostTable.open(HERE, tmp_path)
    assert (found.seconds, found.rates) == ({"mm": 0.5}, {"cpu bandwidth": 1e9})


@pytest.mark.parametrize(
    "elsewhere",
    [Site("2.14.0", "a machine", 2), Site("2.13.0", "another", 2), Site("2.13.0", "a machine", 1)],
    ids=["torch", "machine", "threads"],
)
def test_what_was_measured_elsewhere_is_not_found(elsewhere: Site, tmp_path: Path) -> None:
    path = kept(tmp_path, mm=0.5).path
    assert CostTable.open(elsewhere, tmp_path).seconds == {}
    path.rename(tmp_path / elsewhere.file_name)  # by hand, or by chance
    assert CostTable.open(elsewhere, tmp_path).seconds == {}


SPOILED = {
    "empty": "",
    "truncated": '{"roam_costs": 1, "tor',
    "no JSON": "seconds",
    "another version": json.dumps({"roam_costs": 99}),
    "a field is missing": json.dumps({"roam_costs": 1, "seconds": {}}),
    "a cost of zero": json.dumps(
        {
            "roam_costs": 1,
            "torch": HERE.torch,
            "machine": HERE.machine,
            "threads": HERE.threads,
            "seconds": {"mm": 0.0},
            "rates": {},
        }
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_file_is_replaced_and_that_is_logged(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / HERE.file_name
    path.write_text(SPOILED[how])
    with caplog.at_level(logging.WARNING, "roam"):
        table = kept(tmp_path, add=0.25)
    assert f"the ops of {path} are measured again: " in caplog.messages[0]
    assert table.seconds == CostTable.open(HERE, tmp_path).seconds == {"add": 0.25}


def test_a_folder_that_cannot_be_written_costs_only_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING, "roam"):
        table = kept(tmp_path / "file", mm=0.5)
    assert table.seconds == {"mm": 0.5}
    assert "measured costs of ops are not kept" in caplog.messages[-1]


def test_two_that_measure_at_once_both_add(tmp_path: Path) -> None:
    one, two = CostTable.open(HERE, tmp_path), CostTable.open(HERE, tmp_path)
    one.seconds["mm"] = 0.5
    two.seconds |= {"mm": 0.75, "add": 0.25}
    one.save()
    two.save()
    assert CostTable.open(HERE, tmp_path).seconds == two.seconds == {"mm": 0.75, "add": 0.25}


WRITER = """
import sys
from pathlib import Path
from roam.capture.cost_table import CostTable, Site

for i in range(20):
    table = CostTable.open(Site("2.13.0", "a machine", 2), Path(sys.argv[1]))
    table.seconds[f"{sys.argv[2]} {i}"] = 1.0
    table.save()
"""


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(n)]) for n in range(3)
    ]
    assert [w.wait() for w in writers] == [0, 0, 0]
    found = CostTable.open(HERE, tmp_path).seconds
    assert set(found) == {f"{n} {i}" for n in range(3) for i in range(20)}


def test_the_oldest_entries_go(tmp_path: Path) -> None:
    kept(tmp_path, a=1.0)
    table = CostTable.open(HERE, tmp_path)
    table.seconds |= {"b": 1.0, "c": 1.0}
    replace(table, most=2).save()
    assert [*CostTable.open(HERE, tmp_path).seconds] == ["b", "c"]


def test_where_the_files_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROAM_CACHE_DIR", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("ROAM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/roam")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "roam"
    monkeypatch.setattr(Path, "home", _homeless)
    assert cache_folder().name == "roam"


def _homeless() -> Path:
    raise RuntimeError("could not determine home directory")


def test_this_machine() -> None:
    assert Site.here() == Site.here()
    assert "cores" in Site.here().machine
    assert CostTable.here() is CostTable.here()
