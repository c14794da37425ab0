"""A complete run as the SDK makes it, through the real gateway and the built-in model, and its page."""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from app import create_app
from models.core.db import db
from models.core.settings import Settings, load_settings
from models.gateway import GatewayCall
from models.ledger import CreditEntry
from tests import factories


@pytest.fixture
def fast_app(app: Flask, settings: Settings, postgres_url: str) -> Iterator[Flask]:
    """The application with a built-in model that responds without delay."""
    created = create_app(
        load_settings(
            _env_file=None,
            stoa_data_dir=settings.stoa_data_dir,
            stoa_secret_key=settings.stoa_secret_key.get_secret_value(),
            stoa_demo_delay_ms=0,
        ),
        database_url=postgres_url,
    )
    created.config["TESTING"] = True
    yield created
    with created.app_context():
        db.engine.dispose()
    created.extensions["gateway"].pool.close()


def test_a_run_that_spawns_another_shows_every_call_billed_to_the_credit(
    fast_app: Flask, session: OrmSession
) -> None:
    alice = factories.person(fast_app, "alice")
    assert alice.user is not None
    factories.grant(alice.user, 5000)

    def post(path: str, body: Any) -> Any:
        answer = alice.browser.post(path, data=json.dumps(body), headers=alice.headers)
        assert answer.status_code == 200, answer.text
        return answer

    def call(run_id: str) -> tuple[str, float]:
        body = {
            "model": "stoa/demo",
            "stream": True,
            "messages": [{"role": "user", "content": "Write a page about columns."}],
            "codebuff_metadata": {"run_id": run_id, "client_id": "c"},
        }
        answer = post("/api/v1/chat/completions", body)
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        cost = next(event["usage"]["cost"] for event in reversed(events) if event.get("usage"))
        return events[0]["id"], cost

    runs = "/api/v1/agent-runs"
    top = post(runs, {"action": "START", "agentId": "acme/boss@1.0.0"}).json["runId"]
    first, _ = call(top)
    below = post(runs, {"action": "START", "agentId": "acme/helper@0.1.0", "ancestorRunIds": [top]}).json[
        "runId"
    ]
    second, _ = call(below)
    post(f"{runs}/{below}/steps", {"stepNumber": 1, "messageId": second, "credits": 1})
    done = {"action": "FINISH", "status": "completed", "totalSteps": 1, "directCredits": 1, "totalCredits": 2}
    post(runs, done | {"runId": below})
    post(f"{runs}/{top}/steps", {"stepNumber": 1, "messageId": first, "childRunIds": [below]})
    post(runs, done | {"runId": top})

    charged = session.scalar(select(func.sum(CreditEntry.amount)).where(CreditEntry.kind == "debit"))
    assert charged is not None
    assert charged < -1, "a page of text costs whole credits"
    page = alice.browser.get(f"/runs/{top}").text
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert f"Credits {-charged:,} " in text
    assert re.search(r"Run: boss 1\.0\.0 .*Step: Step 1 .*Model call: stoa/demo .*Run: helper 0\.1\.0 .*Model call: stoa/demo", text)  # fmt: skip
    assert "Completed" in text
    listed = " ".join(re.sub(r"<[^>]+>", " ", alice.browser.get("/runs").text).split())
    assert re.search(rf"boss .*acme · 1\.0\.0 .*Completed .* {-charged:,}", listed)
    assert "helper" not in listed
    billed = session.scalars(select(GatewayCall).where(GatewayCall.run_id == below)).one()
    call_page = alice.browser.get(f"/runs/{below}/calls/{billed.request_id}").text
    for part in (
        "Write a page about columns.",
        "reported by the provider",
        f"{-billed.credits}".replace("-", "−"),
    ):
        assert part in call_page
