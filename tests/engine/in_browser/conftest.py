"""Pages opened in headless Chromium, where that is installed (Debian: chromium, chromium-driver)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pc_engine.result import Result
from pc_engine.runs.writers import PartitionWriter

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    "--disable-dev-shm-usage",  # containers have little of it
)
_PATIENCE_S = 120


class Browser:
    """A browser with one page, and what a person does there."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str | Path, width: int = 1280, height: int = 800) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(address.as_uri() if isinstance(address, Path) else address)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a body of JavaScript returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: Any) -> Any:
        """Wait until an expression is true, and return its value."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        try:
            return WebDriverWait(self.driver, _PATIENCE_S, poll_frequency=0.02).until(
                lambda _: self.run(f"return {script}", *arguments)
            )
        except TimeoutException:
            raise AssertionError(f"never true: {script} (console: {self.driver.get_log('browser')})") from None

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return list(self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector))

    def press(self, *keys: str) -> None:
        self.actions().send_keys(*keys).perform()

    def actions(self) -> Any:
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.driver, duration=0)

    def choose(self, label: str, option: str) -> None:
        """Choose an option of the select that a label names."""
        from selenium.webdriver.support.ui import Select

        select = self.driver.find_element("xpath", f"//label[span[text()='{label}']]//select")
        Select(select).select_by_visible_text(option)

    def complaints(self) -> list[str]:
        """What the console says since it was asked last: errors, and what the page's policy forbade."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def _driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(chromedriver)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture
def browser(_driver: Any) -> Iterator[Browser]:
    """A browser without a page, which has to have had nothing to complain of at the end."""
    _driver.get("about:blank")
    _driver.get_log("browser")
    browser = Browser(_driver)
    yield browser
    assert browser.complaints() == []
    _driver.get("about:blank")


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """Return ``write(directory, *results)``, which writes a run directory."""

    def write(directory: Path, *results: Result) -> Path:
        directory.mkdir(parents=True)
        with PartitionWriter(directory) as writer:
            for result in results:
                writer.write(result)
        return directory

    return write
