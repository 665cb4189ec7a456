"""The page of a plan as people use it: with the mouse, with the keyboard alone, in print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roam.inspect.compare import compare
from roam.inspect.step_plan import StepPlan
from tests.browser.conftest import Open, wait
from tests.inspect.steps import MIB, chain, step

pytestmark = pytest.mark.browser
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


def all_of(page: Any, selector: str) -> list[Any]:
    found: list[Any] = page.find_elements("css selector", selector)
    return found


def one(page: Any, selector: str) -> Any:
    return page.find_element("css selector", selector)


def text(page: Any, selector: str) -> str:
    return str(one(page, selector).text)


def scale(page: Any, name: str) -> list[str]:
    """The ticks of an axis."""
    return [tick.text for tick in all_of(page, f".axes .{name} .tick text")]


def listed(page: Any) -> int:
    """Bytes of all rows of the table."""
    return int(one(page, ".total").get_attribute("data-bytes"))


def go_to(page: Any, t: int) -> None:
    page.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
        one(page, "input[type=range]"),
        t,
    )
    wait(page, lambda: one(page, ".total").get_attribute("data-op") == str(t))


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def test_the_wheel_zooms_in_time_and_with_shift_in_addresses(opened: Open) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    page = opened(chain(100).html)
    time, address = scale(page, "time"), scale(page, "address")
    origin = ScrollOrigin.from_element(one(page, ".stage"), 0, -100)
    ActionChains(page).scroll_from_origin(origin, 0, -400).perform()
    wait(page, lambda: scale(page, "time") != time)
    assert scale(page, "address") == address
    ActionChains(page).key_down(Keys.SHIFT).scroll_from_origin(origin, 0, -400).key_up(
        Keys.SHIFT
    ).perform()
    wait(page, lambda: scale(page, "address") != address)
    next(b for b in all_of(page, "button") if b.text == "whole step").click()
    wait(page, lambda: (scale(page, "time"), scale(page, "address")) == (time, address))


def test_a_drag_of_the_brush_shows_a_part(opened: Open) -> None:
    from selenium.webdriver import ActionChains

    page = opened(chain(100).html)
    strip = one(page, ".strip .overlay")
    handle = one(page, ".strip .handle--e")
    ActionChains(page).drag_and_drop_by_offset(handle, -strip.size["width"] // 2, 0).perform()
    wait(page, lambda: "200" not in scale(page, "time"))
    assert scale(page, "time")[-1] == "100"


@pytest.mark.parametrize("made", [step(), chain(30)], ids=["step", "chain"])
def test_the_rows_of_a_moment_add_up_to_the_curve(opened: Open, made: StepPlan) -> None:
    [[problem, plan]] = made.planned
    held = plan.committed(problem)
    page = opened(made.html)
    for t in range(0, len(held), max(len(held) // 8, 1)):
        go_to(page, t)
        assert listed(page) == held[t]


def test_a_click_chooses_a_moment_and_a_buffer(opened: Open) -> None:
    from selenium.webdriver import ActionChains

    page = opened(step().html)
    stage = one(page, ".stage")
    left, right = 84, stage.size["width"] - 26  # the margins of layout.js
    across = left + (right - left) * 0.4 - stage.size["width"] / 2  # op 1 of 4
    ActionChains(page).move_to_element_with_offset(stage, int(across), -240).click().perform()
    wait(page, lambda: text(page, ".details h3") == "outside")
    assert text(page, ".now h2") == "op 1: mm"
    told = text(page, ".details")
    assert "In every order: this op makes it; mul (op 2) uses it and must run after this op" in told


def test_a_search_finds_a_module(opened: Open) -> None:
    page = opened(chain(30).html)
    one(page, ".search").send_keys("layers.7")
    wait(page, lambda: all_of(page, ".results button"))
    assert "layers.7" in [b.text for b in all_of(page, ".results button")]
    press(page, "\ue007")  # Enter takes the first
    wait(page, lambda: text(page, ".scope").startswith("in layers.7"))
    assert {cell.text for cell in all_of(page, ".app tbody td:nth-child(7)")} == {"layers.7"}


def test_leaving_out_a_tensor_says_what_the_peak_would_be(opened: Open) -> None:
    page = opened(step().html)
    one(page, "input[aria-label='Leave out outside']").click()
    wait(page, lambda: "Without 1 tensor" in text(page, ".now .without"))
    # alive: 2 of saved, then 2 + 1 and the op's scratch, 2 + 1, 1 + 1
    assert f"{(3 * MIB + 512) / MIB:.2f} MiB would be alive at most, at op 1" in text(
        page, ".now .without"
    )


def test_leaving_out_what_is_written_over_one_another(opened: Open) -> None:
    page = opened(step().html)
    next(b for b in all_of(page, ".app tbody .link") if b.text == "hidden").click()
    wait(page, lambda: "hidden → over are written over one another" in text(page, ".details"))
    next(b for b in all_of(page, ".details button") if b.text == "leave out all of them").click()
    wait(page, lambda: "Without 2 tensors" in text(page, ".now .without"))
    assert "5.00 MiB would be alive at most, at op 1" in text(page, ".now .without")


def test_the_table_sorts_and_filters(opened: Open) -> None:
    page = opened(step().html)
    names = [cell.text for cell in all_of(page, "tbody .link")]
    assert names == ["outside", "saved", "hidden"]
    next(b for b in all_of(page, "th button") if b.text.startswith("address")).click()
    wait(page, lambda: all_of(page, "tbody .link")[0].text == "hidden")  # the top of the arena
    one(page, ".filters input").send_keys("encoder")
    wait(page, lambda: [cell.text for cell in all_of(page, "tbody .link")] == ["saved"])
    assert listed(page) == 2 * MIB


def test_the_keyboard_alone_reaches_everything(opened: Open) -> None:
    from selenium.webdriver import ActionChains, Keys

    page = opened(step().html)
    controls = page.execute_script(
        "return document.querySelectorAll('.app :is(button, input, select, summary, [tabindex])')"
    )
    wanted = {c for c in controls if c.is_displayed()}
    reached = set()
    for _ in range(len(controls) + 5):
        press(page, Keys.TAB)
        reached.add(page.switch_to.active_element)
    assert wanted <= reached
    page.execute_script("arguments[0].focus()", one(page, ".stage"))
    time = scale(page, "time")
    press(page, "+")
    wait(page, lambda: scale(page, "time") != time)
    address = scale(page, "address")
    ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.UP).key_up(Keys.SHIFT).perform()
    wait(page, lambda: scale(page, "address") != address)
    press(page, ".")
    wait(page, lambda: text(page, ".now h2") == "op 2: mul")
    press(page, "p")
    wait(page, lambda: text(page, ".now h2") == "op 1: mm")
    press(page, "0", "/")
    assert page.switch_to.active_element == one(page, ".search")
    page.execute_script("arguments[0].focus()", one(page, "tbody .link"))
    press(page, Keys.ENTER)
    wait(page, lambda: text(page, ".details h3") == "outside")


def test_two_plans_have_one_scale_and_say_what_grew(opened: Open) -> None:
    page = opened(compare(step(), step(saved=7)).html)
    one_side, other = all_of(page, "section")
    for axis in ("address", "bytes"):
        assert scale(one_side, axis) == scale(other, axis)
    first = one(page, ".grew tbody tr")
    assert [cell.text for cell in all_of(first, "td")] == [
        "encoder", "2.00 MiB", "7.00 MiB", "+5.00 MiB",
    ]  # fmt: skip
    one(first, "button").click()
    wait(page, lambda: [s.text[:10] for s in all_of(page, ".scope")] == ["in encoder"] * 2)


def test_print_shows_the_still_picture(opened: Open) -> None:
    page = opened(step().html)
    still = one(page, ".still")
    assert not still.is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert still.is_displayed()
    assert not one(page, ".app").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.skipif(not AXE.exists(), reason="needs npm install --prefix tests/browser")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("two", [False, True], ids=["one plan", "two plans"])
def test_axe_finds_nothing_serious(opened: Open, theme: str, two: bool) -> None:
    page = opened(compare(step(), step(saved=7)).html if two else step().html)
    page.execute_script(f"document.querySelector('.roam-plan').dataset.theme = '{theme}'")
    for button in all_of(page, "tbody .link")[:1]:
        button.click()
    one(page, ".search").send_keys("head")
    wait(page, lambda: all_of(page, ".results button"))
    page.execute_script(AXE.read_text())
    found = page.execute_async_script("axe.run().then(arguments[0])")
    grave = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert [(v["id"], v["help"], [n["html"][:200] for n in v["nodes"]]) for v in grave] == []
    assert len(found["passes"]) > 20


def test_a_step_of_several_graphs_has_a_choice(opened: Open) -> None:
    page = opened(StepPlan((*step().graphs, *chain(5).graphs)).html)
    graphs = all_of(page, ".graph option")
    assert [g.text for g in graphs] == ["chain", "step"]  # the largest first
    graphs[1].click()
    wait(page, lambda: text(page, ".summary").startswith("step: 4 ops"))
    assert text(page, ".now h2") == "op 1: mm"
