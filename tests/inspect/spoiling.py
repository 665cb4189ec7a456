"""Ways to spoil a file: one change of its JSON, or of its bytes, drawn at random."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

NONSENSE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 64, 2**31, 2**62, 2**63, 10**30, 0.5, -0.0, 1e300, "", "x", "aten",
    "OPTIMAL", "[/]", "$\\frac{", "\x00\x1b[2J", "\ud800", [], {}, [0], [[0, 0]], {"0": 0},
)  # fmt: skip

Slot = tuple[Any, Any]  # a list or an object, and an index or a key of it


def slots(value: Any) -> Iterator[Slot]:
    """Every place in a JSON value where another value may stand."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from slots(inner)


def spoiled(text: bytes, seed: int) -> bytes:
    """The file with one change, or two: in half of the cases of a plan, if it holds any."""
    chance = random.Random(seed)
    if chance.random() < 0.15:
        return chance.choice(BYTES)(text, chance)
    was, value = json.loads(text), json.loads(text)
    while value == was:
        for _ in range(chance.choice((1, 1, 1, 2))):
            plans = [slot for slot in slots(value) if slot[1] == "plan" and slot[0]["plan"]]
            inside, key = chance.choice(plans) if plans and chance.random() < 0.5 else (value, None)
            where = list(slots(value if key is None else inside[key]))
            chance.choice(CHANGES)(*chance.choice(where), chance, where)
    return json.dumps(value).encode()


def _replaced(inside: Any, key: Any, chance: random.Random, where: list[Slot]) -> None:
    inside[key] = chance.choice(NONSENSE)


def _moved(inside: Any, key: Any, chance: random.Random, where: list[Slot]) -> None:
    """A number that is a little off, twice what it was, or half of it."""
    numbers = [(i, k) for i, k in where if type(i[k]) is int]
    inside, key = chance.choice(numbers or where)
    if type(was := inside[key]) is int:
        inside[key] = chance.choice((was + 1, was - 1, was + 64, 2 * was, was // 2, -was))


def _exchanged(inside: Any, key: Any, chance: random.Random, where: list[Slot]) -> None:
    """The value of another place of the same type, of the same list if it is in one."""
    near = [(inside, k) for k in range(len(inside))] if isinstance(inside, list) else where
    there, other = chance.choice([(i, k) for i, k in near if type(i[k]) is type(inside[key])])
    inside[key], there[other] = json.loads(json.dumps([there[other], inside[key]]))


def _dropped(inside: Any, key: Any, chance: random.Random, where: list[Slot]) -> None:
    del inside[key]


def _added(inside: Any, key: Any, chance: random.Random, where: list[Slot]) -> None:
    """An unknown field, or an element twice."""
    if isinstance(inside, list):
        inside.insert(chance.randrange(len(inside) + 1), json.loads(json.dumps(inside[key])))
    else:
        inside[chance.choice(("colour", "status", "99", "-1", "0"))] = chance.choice(NONSENSE)


CHANGES: tuple[Callable[[Any, Any, random.Random, list[Slot]], None], ...] = (
    _replaced, _moved, _exchanged, _dropped, _added,
)  # fmt: skip


def _cut(text: bytes, chance: random.Random) -> bytes:
    return text[: chance.randrange(len(text))]


def _repeated(text: bytes, chance: random.Random) -> bytes:
    low, high = sorted((chance.randrange(len(text)), chance.randrange(len(text))))
    return text[:high] + text[low:]


def _one_byte(text: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(text))
    return text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]


def _field_twice(text: bytes, chance: random.Random) -> bytes:
    at = chance.choice([i for i in range(len(text)) if text[i : i + 1] == b"{"])
    end = text.find(b",", at)
    return text[: at + 1] + text[at + 1 : end] + b"," + text[at + 1 :]


def _nested(text: bytes, chance: random.Random) -> bytes:
    at = chance.choice([i for i in range(len(text)) if text[i : i + 1] == b":"])
    return text[: at + 1] + b"[" * 100_000 + text[at + 1 :]


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut, _repeated, _one_byte, _field_twice, _nested,
    lambda text, chance: b"\xef\xbb\xbf" + text,
    lambda text, chance: text.decode().encode("utf-16"),
    lambda text, chance: text + text,
    lambda text, chance: text.replace(b"\n", b"").replace(b",", b",\n\n", 3),
)  # fmt: skip
