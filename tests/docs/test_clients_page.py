"""The guide to clients: the document and the page have the same sections, and their examples are well-formed."""

import ast
import html
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Session
from models.core.settings import Settings, load_settings
from models.gateway import client_guide
from models.gateway.model_suggestion import suggested_model
from models.gateway.pricing import PriceTable
from models.gateway.routing import Router
from tests.chromium import OpenPage, judge
from tests.factories import Person
from tests.server import serving
from tests.web.test_forms_act_once import KEYS, fields
from views.gateway.api.model_calls import gateway


def _shell(text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


PARSERS: dict[str, Callable[[str], Any]] = {
    "sh": _shell,
    "toml": tomllib.loads,
    "json": json.loads,
    "python": ast.parse,
    "js": str,
}


def codes(page: str) -> list[str]:
    return [html.unescape(each) for each in re.findall(r"<pre[^>]*><code>(.*?)</code>", page, re.DOTALL)]


def test_every_example_parses_and_is_on_the_page(client: FlaskClient) -> None:
    document = client_guide.PATH.read_text(encoding="utf-8")
    written = re.findall(r"^```(\w+) \S[^\n]*\n(.*?)\n```$", document, re.DOTALL | re.MULTILINE)
    assert len(written) * 2 == document.count("```"), "a block without a language or a title"
    for language, text in written:
        PARSERS[language](text)
    page = client.get("/docs/clients").text
    assert codes(page) == [text for _, text in written]
    headings = re.findall(r"^## (.+)$", document, re.MULTILINE)
    assert re.findall(r'<li><a href="#[a-z-]+">([^<]+)</a>', page) == headings
    assert re.findall(r'<article [^>]*id="([a-z-]+)"', page) == re.findall(
        r'href="#([a-z-]+)">[^<]+</a></li>', page
    )
    assert 'name="key"' not in page


def test_the_address_and_the_model_are_those_of_this_server(
    app: Flask, settings: Settings, anonymous: Person, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = Router(
        load_settings(_env_file=None, stoa_data_dir=settings.data_dir, anthropic_api_key="sk-test"),
        PriceTable(),
    )
    monkeypatch.setattr(gateway(app), "routes", router)
    monkeypatch.setitem(
        app.extensions,
        "settings",
        app.extensions["settings"].model_copy(update={"stoa_base_url": "https://stoa.example.org"}),
    )
    names = [each.requested for each in router.models()]
    first, last = suggested_model(names), names[-1]
    page = alice.browser.get("/docs/clients").text
    assert f'model = "{first}"' in html.unescape(page)
    assert "stoa/demo" not in "".join(codes(page))
    assert "localhost:8000" not in "".join(codes(page))
    chosen = alice.browser.get("/docs/clients", query_string={"model": last}).text
    assert f'model = "{last}"' in html.unescape(chosen)
    assert alice.browser.get("/docs/clients?model=x%00").status_code == 404
    assert first not in anonymous.browser.get("/docs/clients").text


def test_a_key_is_chosen_by_name_and_never_shown(
    session: OrmSession, anonymous: Person, alice: Person, mallory: Person
) -> None:
    form = fields(alice.browser.get(KEYS), "/profile/keys") | {"name": "laptop <b>", "days": "30"}
    answer = alice.browser.post("/profile/keys", data=form)
    row = session.scalars(select(Session).where(Session.name == "laptop <b>")).one()
    created = alice.browser.get(answer.headers["Location"]).text
    (secret,) = re.findall(r"STOA_KEY=(sk_live_[0-9A-Za-z]+)", created)
    address = f"/docs/clients?key={row.session_token}"
    assert f'href="{address}"' in created
    page = alice.browser.get(address).text
    assert codes(page)[0] == f'export STOA_KEY="{row.token_hint}"'
    assert "laptop &lt;b&gt;" in page
    assert secret not in page
    assert mallory.browser.get(address).status_code == 404
    assert alice.browser.get("/docs/clients?key=%00").status_code == 404
    assert anonymous.browser.get(address).headers["Location"].startswith("/login?next=")


@pytest.mark.browser
def test_the_page_in_a_browser(app: Flask, alice: Person, open_page: OpenPage) -> None:
    cookie = alice.browser.get_cookie("next-auth.session-token")
    assert cookie is not None
    with serving(app) as base, open_page(base, width=1440, script=True) as page:
        where = {"name": cookie.key, "value": cookie.value, "domain": "127.0.0.1", "path": "/"}
        page.context.add_cookies([where])  # type: ignore[list-item]
        page.goto("/docs/clients")
        judge(page, 320, 390, 1440)
