"""Deployments to the providers on loopback, step by step."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.deployments import Deployment, cloudflare_adapter, railway_adapter
from tests.deployments.deployment_calls import SiteCalls
from tests.fakes.deploy_providers import GOOD, FakeProviders

SECRET = "secret-of-the-ci-123"
CREDENTIALS = "/infrastructure/credentials"
PLACES = ("cloudflare", "railway", "webhook")


def reach(app: Flask, providers: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server call the fakes, and believe that their addresses answer."""
    changed = {
        "cloudflare_base_url": providers.address,
        "railway_base_url": f"{providers.address}/railway",
        "stoa_outgoing_networks": ("127.0.0.0/8",),
    }
    known = app.extensions["settings"].model_copy(update=changed)
    monkeypatch.setitem(app.extensions, "settings", known)
    monkeypatch.setattr(cloudflare_adapter, "PAUSE", 0.0)
    addresses_answer(monkeypatch, 200)


def addresses_answer(
    monkeypatch: pytest.MonkeyPatch, status: int | None, headers: dict[str, str] | None = None
) -> None:
    """Let the public addresses of providers answer so; None: they cannot be reached."""
    answer = None if status is None else SimpleNamespace(status_code=status, headers=headers or {})
    reached: Callable[[str], Any] = lambda _: answer  # noqa: E731
    for adapter in (cloudflare_adapter, railway_adapter):
        monkeypatch.setattr(adapter, "public_answer", reached)


def choose(pier: SiteCalls, providers: FakeProviders, place: str) -> None:
    """Let the workspace deploy to a provider, with its credential."""
    hook = {"webhook_url": f"{providers.address}/ci", "webhook_secret": SECRET}
    assert pier.change(adapter=place, **(hook if place == "webhook" else {}))[0] == 200
    if place != "webhook":
        assert pier.api("post", CREDENTIALS, {"provider": place, "api_token": GOOD})[0] in (200, 201)


def newest(session: OrmSession) -> Deployment:
    session.rollback()
    return session.scalars(select(Deployment).order_by(Deployment.started_at.desc()).limit(1)).one()


def run_jobs(session: OrmSession) -> None:
    """Run each job of a deployment that was ever enqueued; those that ended are left alone."""
    session.rollback()
    waiting = "SELECT args FROM procrastinate_jobs WHERE task_name = 'deployments.run' ORDER BY id"
    for args in session.execute(text(waiting)).scalars().all():
        session.rollback()
        jobs.run_deployment(**args)


def step(session: OrmSession, count: int = 1) -> Deployment:
    """Run the job of the newest deployment so often; how it stands."""
    for _ in range(count):
        id = newest(session).id
        session.rollback()
        jobs.run_deployment(id=id)
    return newest(session)


def log_of(pier: SiteCalls, row: Deployment) -> str:
    """The lines of its log."""
    log = pier.api("get", f"/infrastructure/deployments/{row.id}/logs")[1]["log"]
    return "\n".join(each["content"] for each in log["entries"])
