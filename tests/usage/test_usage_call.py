"""/calls/<id>: the page of a call, charged, failed or refused."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.gateway import CallBody, GatewayCall
from models.usage import Message
from tests import factories
from tests.factories import Person, now
from tests.server import serving

pytestmark = pytest.mark.usefixtures("kind")


def test_a_call_without_a_run_has_its_own_page(session: Session, alice: Person) -> None:
    assert alice.user is not None
    billed = factories.message(alice.user, credits=7)
    call = factories.call(alice.user, message=billed, output_tokens=50)
    before = factories.call(alice.user, started_at=call.started_at.replace(year=2020))
    page = alice.browser.get(f"/calls/{call.request_id}")
    assert page.status_code == 200
    assert "7 credits" in page.text
    assert "Hello yourself" in page.text
    assert re.search(r'href="[^"]*/calls">Calls</a>', page.text)
    assert f'href="{alice.home}/calls/{before.request_id}"' in page.text


def test_a_call_of_a_run_has_the_same_address_and_leads_to_its_run(session: Session, alice: Person) -> None:
    assert alice.user is not None
    run = factories.run(alice.user)
    call = factories.call(alice.user, run_id=run.id)
    for path in (f"/calls/{call.request_id}", f"/runs/{run.id}/calls/{call.request_id}"):
        page = alice.browser.get(path)
        assert page.status_code == 200
        assert f'href="{alice.home}/runs/{run.id}#c-{call.request_id}"' in page.text
    fragment = alice.browser.get(f"/calls/{call.request_id}", headers={"HX-Request": "true"}).text
    assert "<title>" in fragment
    assert "<html" not in fragment


def test_other_users_get_404(session: Session, alice: Person, mallory: Person, anonymous: Person) -> None:
    assert alice.user is not None
    call = factories.call(alice.user)
    assert mallory.browser.get(f"/calls/{call.request_id}").status_code == 404
    assert anonymous.browser.get(f"/calls/{call.request_id}").status_code == 302


@pytest.mark.parametrize("request_id", ["nothing", "%00", "..%2F", "x" * 5000, "' OR 1=1"])
def test_unknown_calls(alice: Person, request_id: str) -> None:
    assert alice.browser.get(f"/calls/{request_id}").status_code == 404


def kept(alice: Person, request: Any, text: str | None = None, **call: Any) -> GatewayCall:
    """A failed call with what is kept of it."""
    assert alice.user is not None
    values = {"state": "failed", "usage_source": None, "error": "upstream_status", "http_status": 500} | call
    failed = factories.call(alice.user, **values)
    factories.save(
        CallBody(request_id=failed.request_id, finished_at=now(), request=request, error_message=text)
    )
    return failed


@pytest.mark.parametrize(
    ("call", "words", "link"),
    [
        ({"provider": None, "error": "insufficient_credits", "http_status": 402}, "Refused: not enough credits", "Billing"),
        ({"provider": None, "error": "budget_exceeded", "http_status": 402}, "Refused by a budget", "Budgets"),
        ({"provider": None, "error": "credits_held", "http_status": 429}, "calls in flight held", "Billing"),
        ({"provider": None, "error": "account_stopped", "http_status": 403}, "all calls are stopped", "Resume calls"),
        ({"provider": None, "error": "rate_limit_exceeded", "http_status": 429}, "Refused by the plan", "Plans"),
        ({"provider": None, "error": "org_conflict", "http_status": 403}, "another organisation", "Keys"),
        ({"provider": None, "error": "invalid_request", "http_status": 400}, "the request is invalid", "API documentation"),
        ({"provider": None, "error": "unheard_of", "http_status": 418}, "The call failed", None),
        ({"provider": "stoa", "http_status": 422}, "Stoa answered 422", None),
        ({"provider": "gone", "http_status": 503}, "gone answered 503", None),
        ({"provider": "stoa", "error": "upstream_timeout", "http_status": 504}, "Stoa did not answer in time", None),
        ({"provider": "stoa", "error": "internal"}, "This server failed", None),
    ],
)  # fmt: skip
def test_one_notice_says_why_in_full_and_what_to_do(
    session: Session, alice: Person, call: dict[str, Any], words: str, link: str | None
) -> None:
    text = "<b>In full</b>: " + "because " * 300
    page = alice.browser.get(f"/calls/{kept(alice, [], text, **call).request_id}").text
    [notice] = re.findall(r'<div class="notice notice--bad".*?</div>.*?</div>', page, re.S)
    assert words in notice
    assert html.escape(text) in page
    assert f"HTTP {call.get('http_status', 500)}" in notice
    assert [name for name in re.findall(r"</svg>|>([^<>]+)</a>", notice) if name] == ([link] if link else [])


REQUEST = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
    {"role": "assistant", "tool_calls": [{"id": "t1", "function": {"name": "read", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "t1", "content": [{"type": "tool_result", "content": "It is 42."}]},
]  # fmt: skip


def test_a_failed_call_shows_what_was_kept(session: Session, alice: Person) -> None:
    parameters = {
        "temperature": 0.5,
        "tools": ["read"],
        "tools_total": 9,
        "stream": True,
        "reasoning": {"effort": "low"},
    }
    page = alice.browser.get(f"/calls/{kept(alice, REQUEST, parameters=parameters).request_id}").text
    for words in (
        "Be brief.",
        "Image, image/png, 3 Bytes, not shown",
        "Calls read",
        "It is 42.",
        "read and 8 more",
        "effort low",
    ):
        assert words in page
    assert "This call’s messages" not in page


HOSTILE = "JSON\nit's\n'JSON'\n$(touch pwned) `touch pwned` \\ \x7f \u202e \u009b201~ ! \x00"


def test_the_curl_command_makes_the_same_call(
    app: Flask, session: Session, alice: Person, tmp_path: Path
) -> None:
    if not (curl := shutil.which("curl")):
        pytest.skip("there is no curl")
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    text = HOSTILE.replace("\x00", "")
    parameters = {
        "max_tokens": 20,
        "temperature": 0.5,
        "tools": ["read"],
        "stop": ["'"],
        "other": ["codebuff_metadata"],
    }
    call = kept(
        alice, [{"role": "user", "content": text}], requested_model="stoa/demo", parameters=parameters
    )  # fmt: skip
    page = html.unescape(alice.browser.get(f"/calls/{call.request_id}").text)
    assert "Not kept, so not sent: tools." in page
    [command] = re.findall(r"<code>(curl .*?\nJSON)</code>", page, re.S)
    assert not re.search("[\x7f-\x9f\u202e]", command)
    downloaded = alice.browser.get(f"/calls/{call.request_id}/request.json")
    assert downloaded.json == {
        "model": "stoa/demo", "messages": [{"role": "user", "content": text}],
        "max_tokens": 20, "temperature": 0.5, "stop": ["'"],
    }  # fmt: skip
    with serving(app) as address:
        environment = {"STOA_KEY": alice.token, "PATH": os.path.dirname(curl)}
        done = subprocess.run(
            ["bash", "-c", command.replace("http://localhost:8000", address)],
            cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True,
        )  # fmt: skip
    assert json.loads(done.stdout)["choices"]
    assert list(tmp_path.iterdir()) == []
    session.rollback()
    [billed] = session.scalars(select(Message))
    assert billed.request == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("request_body", "shown", "status"),
    [
        ([{"role": "user", "content": "x" * 100_000}], "--data-binary @stoa-request-", 200),
        ([{"role": "user", "content": str(number)} for number in range(70)], "--data-binary @stoa-request-", 200),
        ([{"role": "note", "content": "3 earlier messages not stored: a call stores its newest 256 KiB."}, {"role": "user", "content": "x"}], "3 earlier messages not stored", 200),
        ({"temperature": "hot", "messages": [{"role": "user", "content": "x"}]}, "JSON", 200),
        ({"odd": 1}, "odd", 404),
        (None, "were not stored", 404),
    ],
)  # fmt: skip
def test_requests_of_every_form_are_shown_and_sent_again(
    session: Session, alice: Person, mallory: Person, request_body: Any, shown: str, status: int
) -> None:
    path = f"/calls/{kept(alice, request_body, 'No.').request_id}"
    assert shown in html.unescape(alice.browser.get(path).text)
    answer = alice.browser.get(f"{path}/request.json")
    assert answer.status_code == status
    if status == 200:
        assert answer.headers["Content-Disposition"].startswith('attachment; filename="stoa-request-')
        assert all(message["role"] != "note" for message in answer.json["messages"])
    assert mallory.browser.get(f"{path}/request.json").status_code == 404
