from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from roam.bench.layout import layout_bench
from roam.cli.app import app
from roam.solvers.layout.packing.baselines import BASELINES
from roam.solvers.layout.packing.instance import check_packing, read_csv

TWO = "id,lower,upper,size\na,0,2,6\nb,1,3,5\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "two.11.csv").write_text(TWO)
    return tmp_path / "two.11.csv"


@pytest.mark.parametrize(
    ("capacity", "code", "said"),
    [
        ((), 0, "OPTIMAL: 11 bytes"),
        (("--capacity", "11"), 0, "FITS: 11 bytes"),
        (("--capacity", "1KiB"), 0, "FITS: 11 bytes"),
        (("--capacity", "10"), 1, "DOES_NOT_FIT: 11 bytes, none is below 11"),
        (("--capacity", "ten"), 2, ""),
    ],
)
def test_what_it_says(file: Path, capacity: tuple[str, ...], code: int, said: str) -> None:
    result = run("layout", file, *capacity)
    assert result.exit_code == code
    assert said in result.stdout


def test_no_time_to_tell() -> None:
    hard = Path(__file__).parents[1] / "instances" / "minimalloc" / "A.1048576.csv"
    result = run("layout", hard, "--capacity", 2**20, "--seconds", 0)
    assert result.exit_code == 3
    assert result.stdout.startswith("UNKNOWN")


def test_the_file_with_offsets_is_valid_and_may_be_read_again(file: Path) -> None:
    out = file.with_name("out.csv")
    assert run("layout", file, "--out", out).exit_code == 0
    found = read_csv(out.read_text())
    check_packing(found.rects, [r.fixed if r.fixed is not None else -1 for r in found.rects])
    assert run("layout", out).exit_code == 0


def test_what_is_no_such_file(file: Path) -> None:
    file.write_text("name,size\na,3\n")
    result = run("layout", file)
    assert result.exit_code == 2
    assert f"{file}: line 1: " in result.stderr
    assert "id,lower,upper,size" in result.stderr


def test_a_file_of_a_spreadsheet_and_one_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + TWO.encode())
    assert run("layout", file).exit_code == 0
    file.write_bytes(b"\x80\x81")
    result = run("layout", file)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "is no text" in result.stderr


def test_the_file_of_the_buffers_is_not_overwritten(file: Path) -> None:
    link = file.with_name("link.csv")
    link.symlink_to(file)
    for out in (file, link):
        result = run("layout", file, "--out", out)
        assert (result.exit_code, file.read_text()) == (2, TWO)
        assert "is the file of the buffers itself" in result.stderr


def test_fixed_offsets_that_clash_are_named(file: Path) -> None:
    file.write_text("id,lower,upper,size,offset\nfree,0,9,1,\nlow,0,2,6,0\nhigh,1,3,5,4\n")
    result = run("layout", file)
    assert result.exit_code == 2
    assert "'low' and 'high' overlap" in result.stderr


def test_the_benchmark(file: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    rows = layout_bench(
        tmp_path / "rows.json", only="t", data=file.parent, seconds=1, console=Console(file=said)
    )
    assert [json.loads(line) for line in (tmp_path / "rows.json").read_text().splitlines()] == rows
    [row] = rows
    assert (row["instance"], row["status"], row["height"], row["load"]) == ("two", "FITS", 11, 11)
    assert set(row["baselines"]) == set(BASELINES)
    assert "1 of 1 solved" in said.getvalue()


def test_an_instance_that_is_not_there() -> None:
    result = run("bench", "layout", "--only", "nothing")
    assert result.exit_code == 2
    assert "nothing" in result.stderr
