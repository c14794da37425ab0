"""The launcher's download and its documentation; what it does is tested in tests/clients."""

import hashlib
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.core.settings import ROOT
from views.web import launcher


def test_the_file_knows_this_server_and_is_cached(client: FlaskClient) -> None:
    answer = client.get("/clients/stoa.mjs")
    assert answer.mimetype == "text/javascript"
    assert 'const SERVED = {"url":"http://localhost:8000","version":"' in answer.text
    assert launcher.UNFILLED not in answer.text
    tag = answer.headers["ETag"]
    assert client.get("/clients/stoa.mjs", headers={"If-None-Match": tag}).status_code == 304


def test_the_page_shows_the_checksum_of_what_is_served(client: FlaskClient) -> None:
    page = client.get("/docs/cli").text
    assert hashlib.sha256(client.get("/clients/stoa.mjs").data).hexdigest() in page
    help = (
        (ROOT / "static" / "clients" / "stoa.mjs").read_text(encoding="utf-8").partition("const HELP = `")[2]
    )
    for name in re.findall(r"<code>((?:--|STOA_)[A-Za-z_-]+)", page):
        assert name in help, f"{name} is documented, but not in --help"


@pytest.mark.parametrize("url", ["http://x/';touch pwned", "http://x/$(id)", 'http://x/"`id`'])
def test_a_hostile_address_stays_one_argument(app: Flask, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "site", lambda: {"url": url, "version": "1"})
    with app.test_request_context():
        line = launcher.run_line("acme/reviewer@1.0.0")
    assert line.startswith("curl -fsSO '")
    assert line.endswith('\' && node stoa.mjs run acme/reviewer@1.0.0 "Introduce yourself."')
