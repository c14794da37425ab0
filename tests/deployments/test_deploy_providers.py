"""Credentials and deployments at providers, against fakes on loopback: verified, sealed, done once, failed with a reason; secrets nowhere."""

import base64
import hashlib
import hmac
import json
import logging
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.core.db import now
from models.deployments import Deployment, InfrastructureResource, ProviderCredential, cloudflare_adapter
from models.deployments.provider_credential import token_of
from tests.deployments.deployment_calls import SITE, SiteCalls
from tests.factories import Person
from tests.fakes.deploy_providers import GOOD, FakeProviders, providers
from tests.projects.project_calls import ProjectsApi

__all__ = ["providers"]

SECRET = "secret-of-the-ci-123"
CREDENTIALS = "/infrastructure/credentials"


@pytest.fixture(autouse=True)
def reached(app: Flask, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server calls the fakes."""
    changed = {
        "cloudflare_base_url": providers.address,
        "railway_base_url": f"{providers.address}/railway",
        "stoa_outgoing_networks": ("127.0.0.0/8",),
    }
    known = app.extensions["settings"].model_copy(update=changed)
    monkeypatch.setitem(app.extensions, "settings", known)
    monkeypatch.setattr(cloudflare_adapter, "PAUSE", 0.0)


def newest(session: OrmSession) -> Deployment:
    session.rollback()
    return session.scalars(select(Deployment).order_by(Deployment.started_at.desc()).limit(1)).one()


def run_jobs(session: OrmSession) -> None:
    session.rollback()
    waiting = "SELECT args FROM procrastinate_jobs WHERE task_name = 'deployments.run' ORDER BY id"
    for args in session.execute(text(waiting)).scalars().all():
        session.rollback()
        jobs.run_deployment(**args)


def test_a_token_is_verified_sealed_replaced_and_forgotten(
    pier: SiteCalls, session: OrmSession, mallory: Person, providers: FakeProviders
) -> None:
    refused = [
        ({"provider": "moon", "api_token": GOOD}, 400, "VALIDATION_FAILED"),
        ({"provider": "cloudflare", "api_token": "bad-token-12345678"}, 400, "INVALID_CREDENTIALS"),
        ({"provider": "railway", "api_token": "bad-token-12345678"}, 400, "INVALID_CREDENTIALS"),
        ({"provider": "cloudflare", "api_token": "with space 1"}, 422, "VALIDATION_ERROR"),
        ({"provider": "cloudflare", "api_token": GOOD, "metadata": "[1]"}, 422, "VALIDATION_ERROR"),
        ({"provider": "cloudflare"}, 422, "VALIDATION_ERROR"),
    ]
    for body, status, code in refused:
        answered = pier.api("post", CREDENTIALS, body)
        assert (answered[0], answered[1]["error"]["code"]) == (status, code), body
    providers.fails = "verify"
    down = pier.api("post", CREDENTIALS, {"provider": "cloudflare", "api_token": GOOD})
    assert (down[0], down[1]["error"]["code"]) == (400, "VALIDATION_FAILED")
    providers.fails = ""
    assert pier.api("get", CREDENTIALS)[1] == {"credentials": []}
    for status in (201, 200):
        body = {"provider": "cloudflare", "api_token": GOOD, "metadata": '{"team": "x"}'}
        assert pier.api("post", CREDENTIALS, body)[0] == status
    assert pier.api("post", CREDENTIALS, {"provider": "railway", "api_token": GOOD})[0] == 201
    listed = pier.api("get", CREDENTIALS)[1]["credentials"]
    assert [(each["provider"], each["last_four"]) for each in listed] == [
        ("cloudflare", "5678"),
        ("railway", "5678"),
    ]
    assert json.loads(listed[0]["metadata"]) == {"account_id": "a1", "account": "Pier", "team": "x"}
    assert GOOD not in str(listed)
    session.rollback()
    row = session.scalars(select(ProviderCredential).where(ProviderCredential.provider == "cloudflare")).one()
    assert GOOD not in row.sealed
    assert token_of(row) == GOOD
    assert ProjectsApi(pier.client, mallory)("get", CREDENTIALS)[1] == {"credentials": []}
    for _ in range(2):
        assert pier.api("delete", f"{CREDENTIALS}/cloudflare") == (200, {"success": True})
    assert len(pier.api("get", CREDENTIALS)[1]["credentials"]) == 1
    assert pier.client.post(f"/v1{CREDENTIALS}", json={}).status_code == 401


def test_cloudflare_gets_only_new_files_and_its_worker_is_destroyed(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloudflare_adapter, "site_status", lambda address: 200)
    assert pier.change(adapter="cloudflare")[0] == 200
    first = pier.push(SITE)
    assert pier.deploy()["error"] == "Add a token of Cloudflare under Connections."
    pier.api("post", CREDENTIALS, {"provider": "cloudflare", "api_token": GOOD})
    assert pier.deploy()["status"] == "deploying"
    run_jobs(session)
    live = newest(session)
    assert (live.state, live.error) == ("live", None)
    assert live.url == f"https://{live.external_id}.ada.workers.dev"
    assert sorted(providers.has.values()) == sorted(each.encode() for each in SITE.values())
    assert providers.workers[live.external_id or ""]["assets"]["jwt"] == "done"
    before = len(providers.has)
    pier.push(SITE | {"index.html": "two"}, [first])
    pier.deploy()
    run_jobs(session)
    assert (newest(session).state, len(providers.has)) == ("live", before + 1)
    (resource,) = pier.api("get", f"/infrastructure/projects/{pier.project}/resources")[1]["resources"]
    assert (resource["type"], resource["status"]) == ("compute:edge", "ready")
    path = f"/infrastructure/projects/{pier.project}/resources/{resource['id']}"
    assert pier.api("delete", path) == (200, {"success": True})
    assert providers.workers == {}
    gone = pier.api("get", path)[1]["resource"]
    assert (gone["status"], gone["error"]) == ("deleted", None)


def test_a_status_never_contradicts_what_the_address_answers(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    pier.push(SITE)
    pier.api("post", CREDENTIALS, {"provider": "cloudflare", "api_token": GOOD})
    pier.change(adapter="cloudflare")
    faults: list[tuple[str, int | None, str]] = [
        ("", 500, "it answers 500"),
        ("", None, "it cannot be reached"),
        ("assets/upload", 200, "Cloudflare answered 500: Out of order."),
        ("assets-upload-session", 200, "Cloudflare answered 500: Out of order."),
    ]
    for fails, status, reason in faults:
        providers.fails, providers.has = fails, {}
        monkeypatch.setattr(cloudflare_adapter, "site_status", lambda _, answer=status: answer)
        pier.deploy()
        run_jobs(session)
        row = newest(session)
        assert row.state == "failed"
        assert reason in (row.error or "")
    assert session.scalars(select(InfrastructureResource)).all() == []


def test_a_ci_is_asked_by_a_signed_request_and_reports(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders
) -> None:
    pier.api(
        "post", f"/projects/{pier.project}/env-vars", {"key": "DATABASE_URL", "value": "postgres://hidden"}
    )
    chosen = {"adapter": "webhook", "webhook_url": f"{providers.address}/ci", "webhook_secret": SECRET}
    assert pier.change(**chosen)[0] == 200
    pier.push(SITE)
    made = pier.deploy()["deployment_id"]
    run_jobs(session)
    assert newest(session).state == "releasing"
    ((body, headers),) = providers.requests
    signed = f"{headers['Webhook-Id']}.{headers['Webhook-Timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert headers["Webhook-Signature"] == f"v1,{mac}"
    data = json.loads(body)["data"]
    assert (data["deployment_id"], data["variables"]) == (made, ["DATABASE_URL"])
    assert b"hidden" not in body
    report = f"/infrastructure/deployments/{made}/status"
    for wrong in (
        {"status": "odd"},
        {"status": "success", "url": "ftp://x"},
        {"status": "failed", "error": "x" * 2_001},
    ):
        assert pier.api("post", report, wrong)[0] == 422
    assert pier.api("post", report, {"status": "deploying"})[0] == 200
    assert pier.api("post", report, {"status": "success", "url": f"{providers.address}/app"})[0] == 200
    assert newest(session).state == "checking"
    providers.fails = "app"
    run_jobs(session)
    row = newest(session)
    assert (row.state, row.error) == (
        "failed",
        "The CI reported success, but the address that it named answers 500.",
    )
    assert pier.api("post", report, {"status": "success"})[0] == 409
    assert pier.api("post", report, {"status": "failed"})[0] == 200
    providers.fails = ""
    pier.deploy()
    run_jobs(session)
    second = newest(session)
    answer = {"status": "success", "url": f"{providers.address}/railway"}
    pier.api("post", f"/infrastructure/deployments/{second.id}/status", answer)
    run_jobs(session)
    assert (newest(session).state, newest(session).url) == ("live", f"{providers.address}/railway")
    providers.ci_status = 503
    pier.deploy()
    run_jobs(session)
    assert newest(session).error == "The CI answered 503."


def test_a_deployment_of_which_nothing_is_heard_fails(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders
) -> None:
    pier.change(adapter="webhook", webhook_url=f"{providers.address}/ci", webhook_secret=SECRET)
    pier.push(SITE)
    pier.deploy()
    run_jobs(session)
    session.execute(update(Deployment).values(started_at=now() - timedelta(hours=2)))
    session.commit()
    jobs.sweep_deployments(timestamp=0)
    session.commit()
    assert newest(session).state == "failed"


def test_secrets_are_in_no_log_answer_or_row(
    pier: SiteCalls,
    session: OrmSession,
    providers: FakeProviders,
    alice: Person,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(cloudflare_adapter, "site_status", lambda address: 200)
    value = "value-of-a-variable-99"
    pier.api(
        "post", f"/projects/{pier.project}/env-vars", {"key": "TOKEN", "value": value, "is_secret": True}
    )
    seen = [str(pier.api("post", CREDENTIALS, {"provider": "cloudflare", "api_token": GOOD}))]
    pier.push(SITE)
    hook = {"webhook_url": f"{providers.address}/ci", "webhook_secret": SECRET}
    for adapter in ("webhook", "cloudflare", "static"):
        seen.append(str(pier.change(adapter=adapter, **hook)))
        made = pier.deploy()["deployment_id"]
        run_jobs(session)
        seen.append(str(pier.api("get", f"/infrastructure/deployments/{made}/logs")))
        seen.append(alice.browser.get(f"/projects/{pier.project}/ship/deployments/{made}").text)
    ship = f"/projects/{pier.project}/ship"
    seen += [alice.browser.get(f"{ship}{page}").text for page in ("", "/settings", "/connections")]
    session.rollback()
    tables = "provider_credential infrastructure_resource deployment_setting deployment deployment_log_line"
    seen += [str(session.execute(text(f"SELECT * FROM {each}")).all()) for each in tables.split()]
    seen.append(str(session.execute(text("SELECT args FROM procrastinate_jobs")).all()))
    seen.append(caplog.text)
    for secret in (GOOD, SECRET, value):
        assert [text for text in seen if secret in text] == []
