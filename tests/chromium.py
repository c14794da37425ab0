"""A real browser for tests: fixtures to open pages, at the widths and in the schemes we promise, and axe to judge them."""

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
    """The browser that `.ci/chromium` found (STOA_CHROMIUM), or one on the path; one per test process."""
    path = os.environ.get("STOA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_page(chromium: Browser) -> OpenPage:
    """A page of its own: `with open_page(base, width=390, scheme="dark", script=False) as page`.

    On leaving, whatever the browser complained of (content policy, script errors, files that are missing) fails the
    test, except answers with the statuses in `expected`.
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
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None,
        )
        yield page
        context.close()
        forgiven = tuple(f"{status} " for status in expected)
        left = [line for line in complaints if not any(word in f"{line} " for word in forgiven)]
        if left:
            pytest.fail(f"the browser complained: {left}")

    return opened


def judge(page: Page) -> None:
    """Fail for anything axe finds, and for a page wider than its window."""
    found = Axe().run(page).response["violations"]
    for each in found:
        pytest.fail(f"axe: {each['id']} ({each['impact']}) at {[node['target'] for node in each['nodes']]}")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} px wider than its window"
