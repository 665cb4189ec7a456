"""A headless Chromium. Without one, or without selenium, the tests of this folder are skipped.

apt-get install chromium chromium-driver
pip install -e ".[browser]" && npm install --prefix tests/browser
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
Open = Callable[[str], Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1500,1100"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page and waits until it is drawn. In the end it has not complained, nor loaded."""

    def show(html: str) -> Any:
        page = tmp_path / "page.html"
        page.write_text(html, encoding="utf-8")
        browser.get(page.as_uri())
        wait(browser, lambda: browser.find_elements("css selector", "tbody tr td.number"))
        return browser

    yield show
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def wait(browser: Any, condition: Callable[[], object]) -> None:
    """Waits until a condition holds. Elements may be replaced while it is looked at."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    stale = [StaleElementReferenceException]
    WebDriverWait(browser, 20, 0.05, stale).until(lambda _: condition())
