"""Chromium for tests: fixtures to open pages at the supported widths and colour schemes, and axe checks."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.server import serving as serving

WIDTHS = (390, 1440)
SCHEMES = ("light", "dark")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser at STOA_CHROMIUM or on the path; one per test process."""
    path = os.environ.get("STOA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_page(chromium: Browser) -> OpenPage:
    """A new page: `with open_page(base, width=390, scheme="dark", script=False) as page`.

    Console errors (content policy, scripts, missing files) fail the test on exit, except responses with a status in
    `expected`.
    """

    @contextmanager
    def opened(
        base: str,
        *,
        width: int = 1440,
        scheme: str = "light",
        script: bool = True,
        expected: tuple[int, ...] = (),
    ) -> Iterator[Page]:
        context = chromium.new_context(
            base_url=base,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        page = context.new_page()
        reports: list[str] = []
        page.on("pageerror", lambda error: reports.append(str(error)))
        page.on(
            "console",
            lambda line: reports.append(line.text) if line.type in ("error", "warning") else None,
        )
        yield page
        context.close()
        allowed = tuple(f"{status} " for status in expected)
        left = [line for line in reports if not any(word in f"{line} " for word in allowed)]
        if left:
            pytest.fail(f"the browser reported: {left}")

    return opened


def judge(page: Page) -> None:
    """Fail on axe violations, and if the page is wider than the window."""
    found = Axe().run(page).response["violations"]
    for each in found:
        pytest.fail(f"axe: {each['id']} ({each['impact']}) at {[node['target'] for node in each['nodes']]}")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} px wider than its window"
