"""The landing page, redirects, robots.txt and caching of static files."""

import hashlib
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from models.core.settings import ROOT
from views.web.assets import initials, tint


@pytest.mark.parametrize(
    ("path", "status", "goal"),
    [
        ("/usage", 308, "/profile?tab=usage"),
        ("/api-keys", 308, "/profile?tab=api-keys"),
        ("/docs", 307, "/docs/api"),
    ],
)
def test_moved_pages_redirect(browser: FlaskClient, path: str, status: int, goal: str) -> None:
    answer = browser.get(path)
    assert (answer.status_code, answer.headers["Location"]) == (status, goal)


def test_private_pages_are_excluded_from_crawling(browser: FlaskClient) -> None:
    text = browser.get("/robots.txt").text
    assert "Disallow: /api/" in text
    assert "Sitemap: http://localhost:8000/sitemap.xml" in text


def test_one_stylesheet_holds_every_component(browser: FlaskClient) -> None:
    css = browser.get("/static/css/stoa.css")
    assert css.mimetype == "text/css"
    for file in (ROOT / "static/css/components").glob("*.css"):
        assert file.read_text(encoding="utf-8") in css.text, f"{file.name} is not imported in components.css"
    assert "@import" not in css.text


def test_versioned_files_are_cached_for_a_year(browser: FlaskClient) -> None:
    page = browser.get("/").text
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(addresses) >= 4
    for address in addresses:
        answer = browser.get(address, buffered=True)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
    plain = browser.get("/static/css/stoa.css")
    assert plain.headers["Cache-Control"] == "no-cache"
    again = browser.get("/static/css/stoa.css", headers={"If-None-Match": plain.headers["ETag"]})
    assert again.status_code == 304


def test_vendored_files_match_their_list() -> None:
    vendor = ROOT / "static/vendor"
    listed = dict(
        re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})`", (vendor / "VENDORED.md").read_text(), re.MULTILINE)
    )
    files = {str(file.relative_to(vendor)) for end in ("js", "ttf") for file in vendor.rglob(f"*.{end}")}
    assert files == set(listed)
    for name, digest in listed.items():
        assert hashlib.sha256(Path(vendor / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("name", "letters"),
    [("Alice Marsh", "am"), ("Bob", "bo"), ("carol.d@example.org", "cd"), ("", "?"), (None, "?"), ("Ä", "ä")],
)
def test_initials(name: str | None, letters: str) -> None:
    assert initials(name) == letters


def test_tint_is_one_of_six_and_stays() -> None:
    assert {tint(f"id-{n}") for n in range(100)} == {1, 2, 3, 4, 5, 6}
    assert tint("alice") == tint("alice")


def test_landing_example_call_adds_up(browser: FlaskClient) -> None:
    page = browser.get("/").text
    rows = re.findall(r"<tr role=\"row\">(.*?)</tr>", page, re.DOTALL)
    cells = [re.findall(r">([−+]?\d+)</td>", row) for row in rows[1:]]
    before, (held, after_hold), (charged, _), (back, after) = cells[0][-1], *cells[1:4]
    assert int(held.replace("−", "-")) == -4
    assert int(charged) == 2
    assert int(before) - 4 == int(after_hold)
    assert int(after_hold) + int(back) == int(after) == int(before) - int(charged)


def test_landing_labels_demo_data(browser: FlaskClient) -> None:
    assert "empty until your first call" in browser.get("/").text
    assert "Demo data: daily spend of the demo account" in browser.get("/?demo=1").text


@pytest.mark.parametrize(
    ("client", "word"),
    [("curl", "curl http"), ("python", "from openai"), ("node", "baseURL"), ("codebuff", "CodebuffClient")],
)
def test_landing_has_setup_for_each_client(browser: FlaskClient, client: str, word: str) -> None:
    page = browser.get(f"/?client={client}")
    assert word in page.text
    assert "http://localhost:8000/" in page.text
    fragment = browser.get(f"/?client={client}", headers={"HX-Request": "true"})
    assert word in fragment.text
    assert "<html" not in fragment.text


def test_unknown_client_shows_the_first(browser: FlaskClient) -> None:
    assert "curl http" in browser.get("/?client=%00nothing").text
