"""How fast the page of a large plan is. Prints figures, and asserts none that depends on a clock.

pytest -m slow -s tests/browser/test_speed.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import roam
from roam.bench.zoo import LARGE, loss_of
from tests.browser.conftest import Open

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FRAMES = 120
# Makes one change in each frame, and returns the length of each frame in milliseconds.
MEASURE = """
const [change, frames, done] = arguments;
const todo = new Function("n", change), lengths = [];
let last = null, n = 0;
function frame(now) {
  if (last !== null) lengths.push(now - last);
  last = now;
  if (n++ === frames) return done(lengths);
  todo(n);
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
"""
ZOOM = f"""
const stage = document.querySelector(".stage"), {{ left, top }} = stage.getBoundingClientRect();
stage.dispatchEvent(new WheelEvent("wheel", {{
  deltaY: n < {FRAMES} / 2 ? -40 : 40, clientX: left + 400 + n, clientY: top + 100, bubbles: true,
}}));
"""
MOVE = f"""
const slider = document.querySelector("input[type=range]");
slider.value = Math.floor(slider.max * n / {FRAMES});
slider.dispatchEvent(new Event("input"));
"""


def test_gpt2_xl(opened: Open) -> None:
    entry = LARGE["gpt2-xl"]
    with torch.device("meta"):
        model = entry.build()
    page = roam.plan(model, loss=loss_of, lowering="aten", **entry.batch()).html
    assert len(page.encode()) < 10**6
    shown = opened(page)
    paint = "return performance.getEntriesByName('first-paint')[0].startTime"
    print(f"\n{len(page.encode()):,} bytes, first paint {shown.execute_script(paint):.0f} ms")
    for name, change in (("zoom", ZOOM), ("moment", MOVE)):
        lengths = sorted(frames(shown, change))
        rate = 1000 * len(lengths) / sum(lengths)
        print(f"{name}: {rate:.0f} frames a second, 95 % within {lengths[-6]:.0f} ms")
        assert len(lengths) == FRAMES


def frames(page: Any, change: str) -> list[float]:
    found: list[float] = page.execute_async_script(MEASURE, change, FRAMES)
    return found
