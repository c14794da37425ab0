"""Credentials and deployments at providers, against fakes on loopback: verified, sealed, done once, failed with a reason; secrets nowhere."""

import base64
import hashlib
import hmac
import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.core.db import now
from models.core.personal_export import export_files
from models.deployments import (
    Deployment,
    InfrastructureResource,
    ProviderCredential,
    cloudflare_adapter,
    railway_adapter,
)
from models.deployments.provider_credential import token_of
from tests.deployments.deployment_calls import SITE, SiteCalls
from tests.deployments.provider_runs import (
    CREDENTIALS,
    SECRET,
    addresses_answer,
    choose,
    log_of,
    newest,
    reach,
    run_jobs,
    step,
)
from tests.factories import Person
from tests.fakes.deploy_providers import GOOD, FakeProviders, providers
from tests.projects.project_calls import ProjectsApi

__all__ = ["providers"]


@pytest.fixture(autouse=True)
def reached(app: Flask, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server calls the fakes."""
    reach(app, providers, monkeypatch)


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
    assert pier.change(adapter="cloudflare")[0] == 200
    first = pier.push(SITE)
    assert pier.deploy()["error"] == "Add a token of Cloudflare under Connections."
    pier.api("post", CREDENTIALS, {"provider": "cloudflare", "api_token": GOOD})
    assert pier.deploy()["status"] == "deploying"
    run_jobs(session)
    live = newest(session)
    assert (live.state, live.error) == ("live", None)
    worker, _, version = (live.external_id or "").partition("@")
    assert live.url == f"https://{worker}.ada.workers.dev"
    assert providers.served[worker] == [version]
    assert sorted(providers.has.values()) == sorted(each.encode() for each in SITE.values())
    assert providers.workers[worker]["assets"]["jwt"] == "done"
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
    assert newest(session).state == "stopped"


def test_a_status_never_contradicts_what_the_address_answers(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    pier.push(SITE)
    choose(pier, providers, "cloudflare")
    pier.deploy()
    live = step(session)
    (served,) = providers.served.values()
    answers: list[tuple[int | None, str]] = [(500, "it answers 500"), (None, "it cannot be reached")]
    for status, reason in answers:
        addresses_answer(monkeypatch, status)
        pier.deploy()
        row = step(session)
        assert (row.state, row.released_at) == ("failed", None)
        assert reason in (row.error or "")
        assert "It serves the version before again." in (row.error or "")
        assert f"{live.external_id}".endswith(f"@{served[0]}")
        assert session.get_one(Deployment, live.id).state == "live"
    (resource,) = session.scalars(select(InfrastructureResource)).all()
    assert resource.status == "ready"


def test_cloudflare_serves_an_earlier_version_again(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(pier, providers, "cloudflare")
    first = pier.push(SITE)
    pier.deploy()
    one = step(session)
    pier.push(SITE | {"index.html": "two"}, [first])
    pier.deploy()
    two = step(session)
    (served,) = providers.served.values()
    release = f"/infrastructure/deployments/{one.id}/release"
    status, body = pier.api("post", release)
    assert (status, body["deployment"]["status"]) == (200, "deploying")
    assert pier.api("post", release)[1]["deployment"]["id"] == body["deployment"]["id"] != one.id
    uploads = len(providers.has)
    again = step(session)
    assert (again.state, again.external_id, again.snapshot_id) == ("live", one.external_id, one.snapshot_id)
    assert session.get_one(Deployment, two.id).state == "rolled_back"
    assert (served[0], len(providers.has)) == (f"{one.external_id}".partition("@")[2], uploads)
    assert [len(each) for each in providers.versions.values()] == [2]
    told = pier.api("get", f"/infrastructure/deployments/{two.id}/provider-logs")[1]
    assert [each["content"] for each in told["lines"]] == [
        f"The version {served[1]} serves 100 % of requests."
    ]
    addresses_answer(monkeypatch, 503)
    pier.api("post", f"/infrastructure/deployments/{two.id}/release")
    broken = step(session)
    assert broken.state == "failed"
    assert (served[0], session.get_one(Deployment, again.id).state) == (served[2], "live")
    providers.versions[next(iter(providers.versions))].pop()
    addresses_answer(monkeypatch, 200)
    pier.api("post", f"/infrastructure/deployments/{two.id}/release")
    assert step(session).error == "Cloudflare no longer has this version. Deploy its snapshot anew."


def test_a_cloud_continues_what_a_dead_worker_began(
    pier: SiteCalls, session: OrmSession, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    first = pier.push(SITE)
    for place, adapter, fact in (
        ("cloudflare", cloudflare_adapter, "version"),
        ("railway", railway_adapter, "deployment"),
        ("railway", railway_adapter, "resource"),
    ):
        choose(pier, providers, place)
        for _ in range(2):
            pier.deploy()
            noted = adapter.note

            def die(id: str, fact: str = fact, noted: Any = noted, **facts: str) -> None:
                if fact in facts:
                    raise Killed
                noted(id, **facts)

            with monkeypatch.context() as dying:
                dying.setattr(adapter, "note", die)
                with pytest.raises(Killed):
                    step(session)
            assert newest(session).state == "releasing"
            assert step(session, 2).state == "live"
    assert [len(each) for each in providers.versions.values()] == [2]
    railway = providers.railway
    assert (len(railway.uploads), len(railway.projects), len(railway.services)) == (4, 1, 1)
    assert newest(session).snapshot_id == first


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
    assert log_of(pier, newest(session)).count("Live at") == 1


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


def test_secrets_are_in_no_log_answer_row_or_export(
    pier: SiteCalls,
    session: OrmSession,
    providers: FakeProviders,
    alice: Person,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    value = "value-of-a-variable-99"
    pier.api(
        "post", f"/projects/{pier.project}/env-vars", {"key": "TOKEN", "value": value, "is_secret": True}
    )
    pier.push(SITE)
    providers.railway.log = f"TOKEN={value} {GOOD}"
    seen = [str(pier.api("post", CREDENTIALS, {"provider": "cloudflare", "api_token": GOOD}))]
    seen.append(str(pier.api("post", CREDENTIALS, {"provider": "railway", "api_token": GOOD})))
    hook = {"webhook_url": f"{providers.address}/ci", "webhook_secret": SECRET}
    faults: list[tuple[int, dict[str, str]] | str | None] = [None, (500, {}), (401, {}), "garbage"]
    for place in ("webhook", "cloudflare", "railway", "static"):
        seen.append(str(pier.change(adapter=place, **hook)[0]))
        for fault in faults:
            providers.fault = fault
            made = pier.deploy()["deployment_id"]
            step(session, 5)
            path = f"/infrastructure/deployments/{made}"
            seen += [str(pier.api("get", f"{path}{part}")) for part in ("", "/logs", "/provider-logs")]
            page = f"/projects/{pier.project}/ship/deployments/{made}"
            seen += [alice.browser.get(f"{page}{part}").text for part in ("", "/provider")]
    providers.fault = None
    ship = f"/projects/{pier.project}/ship"
    seen += [alice.browser.get(f"{ship}{page}").text for page in ("", "/connections")]
    seen.append(str(pier.api("get", "/action-items")))
    session.rollback()
    tables = "provider_credential infrastructure_resource deployment deployment_log_line"
    seen += [str(session.execute(text(f"SELECT * FROM {each}")).all()) for each in tables.split()]
    seen.append(str(session.execute(text("SELECT args FROM procrastinate_jobs")).all()))
    seen += ["".join(each.chunks(alice.id)) for each in export_files()]
    seen.append(caplog.text)
    for secret in (GOOD, SECRET, value):
        assert [text for text in seen if secret in text] == []
    files = {each.name: "".join(each.chunks(alice.id)) for each in export_files()}
    assert files["deployments.csv"].count(pier.project) == 16
    assert "Variables, by name: TOKEN." in files["deployment_logs.jsonl"]
    assert "127.0.0.1" in files["deployment_settings.csv"]
    assert files["provider_credentials.jsonl"].count('"last_four": "5678"') == 2
    assert "railway" in files["infrastructure_resources.csv"]


def test_an_export_holds_only_what_is_ones_own(
    pier: SiteCalls, session: OrmSession, alice: Person, mallory: Person
) -> None:
    pier.live(SITE)
    names = ("deployments.csv", "deployment_logs.jsonl", "deployment_settings.csv", "deployed_sites.csv")
    for owner in ("person", "organisation"):
        files = {each.name: "".join(each.chunks(mallory.id)) for each in export_files(owner)}  # type: ignore[arg-type]
        assert [name for name in names if pier.project in files[name] or pier.workspace in files[name]] == []
    mine = {each.name: "".join(each.chunks(alice.id)) for each in export_files()}
    assert pier.workspace in mine["deployed_sites.csv"]
