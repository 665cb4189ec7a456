"""Instances of packing: their files, and the checker of an answer."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from roam.core.errors import FileFormatError, OffsetError, OverlapError
from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.layout.packing.instance import (
    Instance,
    check_packing,
    granule,
    read_csv,
    write_csv,
)
from roam.solvers.layout.packing.pack import pack
from tests.solvers.layout.rectangles import rectangles


def test_the_checker_names_both() -> None:
    rects = [Rect(0, 4, 10), Rect(4, 9, 10), Rect(3, 5, 10)]
    check_packing(rects, [0, 0, 10], ["a", "b", "c"])
    with pytest.raises(OverlapError, match=r"'b' and 'c'|'c' and 'b'"):
        check_packing(rects, [20, 0, 9], ["a", "b", "c"])


@given(rectangles(), st.data())
def test_the_checker_and_a_plain_one_agree(rects: list[Rect], data: st.DataObject) -> None:
    offsets = [data.draw(st.integers(0, 6)) for _ in rects]
    overlap = any(
        a.size and b.size and a.lower < b.upper and b.lower < a.upper
        and p < q + b.size and q < p + a.size
        for i, (a, p) in enumerate(zip(rects, offsets, strict=True))
        for b, q in list(zip(rects, offsets, strict=True))[:i]
    )  # fmt: skip
    if overlap:
        with pytest.raises(OverlapError):
            check_packing(rects, offsets)
    else:
        check_packing(rects, offsets)


@pytest.mark.parametrize("rect", [Rect(0, 1, 8, 64), Rect(0, 1, 8, 1, 64)])
def test_the_checker_knows_alignment_and_fixed_offsets(rect: Rect) -> None:
    check_packing([rect], [64])
    with pytest.raises(OffsetError, match="lies at 8"):
        check_packing([rect], [8])


@given(rectangles())
def test_csv_there_and_back(rects: list[Rect]) -> None:
    assume(rects)
    instance = Instance(tuple(f"b{i}" for i in range(len(rects))), tuple(rects))
    offsets = pack(rects).found.offsets
    again = read_csv(write_csv(instance, offsets))
    assert again.names == instance.names
    assert tuple(r.fixed for r in again.rects) == offsets
    assert [(r.lower, r.upper, r.size, r.align) for r in again.rects] == [
        (r.lower, r.upper, r.size, r.align) for r in rects
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: .* columns"),
        ("id,lower,upper,size\n", "line 1: no buffer"),
        ("id,lower,upper,size,size\na,0,1,2,2\n", "each once"),
        ("id,lower,upper,size\na,0,1,2\nb,0,1,2\na,0,1,2\n", "line 4: a second buffer 'a'"),
        ("id,lower,upper,size\na,0,1,2,9\n", "line 2: buffer 'a' has 5 fields for 4 columns"),
        ("id,lower,upper,size\na,0,1,2.0\n", "line 2: buffer 'a' has a size .* '2.0'"),
        ("id,lower,upper,size\na,0,1,1_0\n", "line 2: buffer 'a' has a size .* '1_0'"),
        ("id,lower,upper,size\na,0,1,٣\n", "line 2: buffer 'a' has a size .* '٣'"),
        ("id,lower,upper,size\na,0,1,\n", "line 2: buffer 'a' has a size .* ''"),
        (f"id,lower,upper,size\na,0,1,{'9' * 5000}\n", "line 2: buffer 'a' has a size"),
        (f"id,lower,upper,size\na,0,1,{2**62}\n", "beyond 2.62"),
        ('id,lower,upper,size\n"a\nb",0,1,2\nc,1,0,2\n', "line 4: buffer 'c'"),
        ('id,lower,upper,size\n"a,0,1,2\n', "line 2: unexpected end"),
        ("id,lower,upper,size,alignment\na,0,1,2,0\n", "line 2: buffer 'a' .* alignment > 0"),
        ("id,lower,upper,size,alignment,offset\na,0,1,2,4,2\n", "'a' has the fixed offset 2"),
        ("id,lower,upper\na,0,1\n", "columns"),
        ("id,lower,upper,size,color\na,0,1,2,red\n", "color"),
        ("id,lower,upper,size\na,0,1,2\nb,0,x,2\n", "line 3"),
        ("id,lower,upper,size\na,0,1\n", "line 2"),
        ("id,lower,upper,size\nsame,3,3,2\n", "same"),
        ("id,lower,upper,size\na,0,1,-2\n", "line 2"),
    ],
)
def test_what_is_no_csv_of_buffers(text: str, said: str) -> None:
    with pytest.raises(FileFormatError, match=said):
        read_csv(text)


@pytest.mark.parametrize("row", [f"a,0,1,{2**63}", f"a,0,{2**63},1", "a,0,1,1,1,-3"])
def test_a_csv_of_what_cannot_be_packed(row: str) -> None:
    columns = (
        "id,lower,upper,size,alignment,offset" if row.count(",") > 3 else "id,lower,upper,size"
    )
    with pytest.raises(FileFormatError, match=r"2\^62|offset >= 0"):
        read_csv(f"{columns}\n{row}\n")


def test_heights_come_in_steps() -> None:
    assert granule([Rect(0, 1, 64), Rect(0, 1, 96)]) == 32
    assert granule([Rect(0, 1, 64, 512), Rect(0, 1, 100)]) == 4
    assert granule([Rect(0, 1, 64, 1, 7)]) == 1
    assert granule([]) == 1
