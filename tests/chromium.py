"""Chromium for tests: fixtures to open pages at the supported widths, and axe checks in both colour schemes."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.server import serving as serving

WIDTHS = (390, 1440)
OF_COLOURS = ("color-contrast", "link-in-text-block")
"""The axe rules that depend on colours; the others find in one colour scheme what they find in the other."""
OFF_BY_DEFAULT = {
    "target-size": {"enabled": True},
    "label-content-name-mismatch": {"enabled": True},
}
"""Rules that axe leaves out: targets of 24 px, and labels that speech input knows because they are visible."""
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--js-flags=--no-turbofan")
"""No page runs long enough to repay the optimizing compiler: with it, axe takes a sixth more."""

expect.set_options(timeout=30_000)
"""Milliseconds; five seconds, the default, are not enough for a page of a busy machine."""

OpenPage = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser at STOA_CHROMIUM or on the path; one per test process."""
    path = os.environ.get("STOA_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_page(chromium: Browser) -> OpenPage:
    """A new page: `with open_page(base, width=390, script=False) as page`.

    Console errors (content policy, scripts, missing files) fail the test on exit, except responses with a status in
    `expected`.
    """

    @contextmanager
    def opened(
        base: str,
        *,
        width: int = 1440,
        script: bool = True,
        expected: tuple[int, ...] = (),
    ) -> Iterator[Page]:
        context = chromium.new_context(
            base_url=base,
            viewport={"width": width, "height": 900},
            color_scheme="light",
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


def judge(page: Page, *widths: int) -> None:
    """Fail on axe violations in the light or the dark colour scheme, and if the page is wider than the window. Checks at the
    page's own width and then at each other of `widths`: one loaded page costs a fraction of four. Colours do not depend on the
    width, so at the others only those of what was hidden before are checked; they take most of the time."""
    own = page.viewport_size
    assert own
    _load_axe(page)
    page.evaluate("scrollTo(0, 0)")
    _axe(page, {"rules": OFF_BY_DEFAULT})
    _in_dark(page, {"runOnly": OF_COLOURS})
    _fits(page)
    others = [width for width in widths if width != own["width"]]
    for width in others:
        page.evaluate(MARK_SEEN)
        page.set_viewport_size({**own, "width": width})
        page.evaluate("scrollTo(0, 0)")  # a target under the bar that stays on top counts as covered
        _axe(page, {"rules": OFF_BY_DEFAULT | {rule: {"enabled": False} for rule in OF_COLOURS}})
        if page.evaluate(MARK_NEW):
            _axe(page, {"runOnly": OF_COLOURS}, "[data-new-here]")
            _in_dark(page, {"runOnly": OF_COLOURS}, "[data-new-here]")
        _fits(page)
    if others:
        page.set_viewport_size(own)


def _fits(page: Page) -> None:
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} px wider than its window"


MARK_SEEN = """() => {
  window.seen = new Set([...document.querySelectorAll("body *")].filter((each) => each.checkVisibility()));
}"""
MARK_NEW = """() => {
  const shown = [...document.querySelectorAll("body *")].filter((each) => each.checkVisibility());
  const fresh = shown.filter((each) => !window.seen.has(each));
  for (const each of document.querySelectorAll("[data-new-here]")) each.removeAttribute("data-new-here");
  for (const each of fresh) if (!fresh.includes(each.parentElement)) each.setAttribute("data-new-here", "");
  return fresh.length;
}"""


def _in_dark(page: Page, options: dict[str, Any], context: str | None = None) -> None:
    page.emulate_media(color_scheme="dark")
    _axe(page, options, context)
    page.emulate_media(color_scheme="light")


WITHOUT_TRANSITIONS = """() => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync("*, *::before, *::after { transition-property: none !important }");
  document.adoptedStyleSheets.push(sheet);
}"""
"""Even with reduced motion a transition takes a frame, and axe would see the colours between two schemes."""


def _load_axe(page: Page) -> None:
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE_SCRIPT)
        page.evaluate(WITHOUT_TRANSITIONS)


def _axe(page: Page, options: dict[str, Any], context: str | None = None) -> None:
    found = page.evaluate(
        "([context, options]) => axe.run(context ?? document, options).then((results) => results.violations)",
        [context, {"resultTypes": ["violations"], **options}],
    )
    dark = page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
    for each in found:
        pytest.fail(
            f"axe, {'dark' if dark else 'light'}, {page.viewport_size}: {each['id']} ({each['impact']})"
            f" at {[(node['target'], node['failureSummary']) for node in each['nodes']]}"
        )
