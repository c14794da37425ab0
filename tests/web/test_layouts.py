"""Complete pages: content security policy, references, viewer, errors, dialogs and toasts."""

import json
import re
from html.parser import HTMLParser

import pytest
from flask.testing import FlaskClient

PAGES = [
    "/",
    "/kit",
    "/kit?layout=console&as=alice",
    "/kit?layout=gate",
    "/kit-fault/404",
    "/kit-fault/500",
    "/dialog?as=alice",
    "/kit-charts?as=alice",
]


class Markup(HTMLParser):
    """Collects violations of the content security policy, ids, and references to ids."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.ids: list[str] = []
        self.pointed: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "style" or name.startswith("on") or name.startswith("hx-on"):
                self.refused.append(f"{tag} {name}")
            if name == "id":
                self.ids.append(value or "")
            if name in ("for", "aria-describedby", "aria-labelledby", "popovertarget"):
                self.pointed.update((value or "").split())
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.refused.append(tag)


@pytest.mark.parametrize("path", PAGES)
def test_page_complies_with_the_policy_and_its_references_resolve(browser: FlaskClient, path: str) -> None:
    answer = browser.get(path)
    markup = Markup()
    markup.feed(answer.text)
    assert markup.refused == []
    assert len(markup.ids) == len(set(markup.ids))
    assert markup.pointed <= set(markup.ids)
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


def test_console_shows_credits_and_marks_the_current_page(browser: FlaskClient) -> None:
    page = browser.get("/kit?layout=console&as=alice").text
    assert "4,770" in page
    assert "Your account, Alice Marsh" in page
    assert "Demo data" not in page
    assert "Sign in" not in page


def test_demo_account_has_a_banner(browser: FlaskClient) -> None:
    assert "flask demo remove" in browser.get("/kit?layout=console&as=demo").text


def test_signed_out_page_links_to_sign_in(browser: FlaskClient) -> None:
    page = browser.get("/kit").text
    assert 'href="/login"' in page
    assert "credit-chip" not in page


def test_htmx_is_configured_without_eval_styles_and_history(browser: FlaskClient) -> None:
    content = re.search(r"name=\"htmx-config\" content='([^']+)'", browser.get("/").text)
    assert content
    config = json.loads(content[1])
    assert config["allowEval"] is False
    assert config["includeIndicatorStyles"] is False
    assert config["historyCacheSize"] == 0
    handling = {rule["code"]: rule for rule in config["responseHandling"]}
    assert handling["422"]["swap"] is True
    assert handling["[45].."]["swapOverride"] == "none"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 429, 500])
def test_error_is_a_page_with_a_next_step(browser: FlaskClient, status: int) -> None:
    answer = browser.get(f"/kit-fault/{status}")
    assert answer.status_code == status
    assert f">{status}<" in answer.text
    assert answer.headers["X-Request-Id"] in answer.text
    assert "btn--primary" in answer.text


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500])
def test_error_of_a_fragment_is_a_toast_and_swaps_nothing(browser: FlaskClient, status: int) -> None:
    answer = browser.get(f"/kit-fault/{status}", headers={"HX-Request": "true"})
    assert answer.status_code == status
    assert answer.headers["HX-Reswap"] == "none"
    assert 'hx-swap-oob="beforeend"' in answer.text
    assert "<html" not in answer.text


def test_signed_out_fragment_goes_to_sign_in(browser: FlaskClient) -> None:
    answer = browser.get("/kit-fault/401", headers={"HX-Request": "true"})
    assert answer.headers["HX-Redirect"] == "/login"


def test_dialog_is_a_fragment_or_a_page(browser: FlaskClient) -> None:
    fragment = browser.get("/dialog", headers={"HX-Request": "true"})
    assert "<dialog" in fragment.text
    assert "<html" not in fragment.text
    assert "HX-Request" in fragment.headers["Vary"]
    page = browser.get("/dialog?as=alice")
    assert "<dialog" not in page.text
    assert '<form method="post"' in page.text


def test_toast_is_sent_with_a_fragment_or_the_next_page(browser: FlaskClient) -> None:
    fragment = browser.get("/kit-toast", headers={"HX-Request": "true"})
    assert fragment.text.count("Key revoked.") == 1
    assert 'hx-swap-oob="beforeend"' in fragment.text
    page = browser.get("/kit-toast")
    assert 'class="toast"' in page.text
