"""The traffic of sites: counted by day, limited for each site with a time to come back, shown on the page and the wire."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.core.db import now
from models.deployments import SiteTraffic, site_traffic
from models.deployments.site_traffic import SiteMeter
from tests.deployments.deployment_calls import INDEX, SITE, SiteCalls, fetch
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
def meter(app: Flask, session: OrmSession) -> Callable[..., SiteMeter]:
    """A meter with limits of its own."""

    def make(**limits: Any) -> SiteMeter:
        known = {"stoa_workers": 1, "stoa_site_requests_per_second": 0, "stoa_site_bytes_per_day": 0}
        return SiteMeter(app.app_context, app.extensions["settings"].model_copy(update=known | limits))

    return make


def test_requests_and_bytes_are_added_up_and_shown(
    app: Flask, pier: SiteCalls, session: OrmSession, alice: Person, mallory: Person
) -> None:
    host = pier.live(SITE)
    home = f"/projects/{pier.project}/ship"
    assert "Traffic of the site" not in alice.browser.get(home).text
    first = fetch(pier.client, host)
    first.close()
    for path, method, headers in (
        ("/", "GET", {"If_None_Match": first.headers["ETag"]}),
        ("/", "HEAD", {}),
        ("/nothing", "GET", {}),
        ("/style.css", "GET", {"Range": "bytes=0-1"}),
    ):
        fetch(pier.client, host, path, method, **headers).close()
    fetch(pier.client, f"nothing-here.{host.partition('.')[2]}").close()
    for _ in range(2):
        app.extensions["site_meter"].flush()
    session.rollback()
    (row,) = session.query(SiteTraffic)
    missing = len("There is nothing here.\n")
    assert (row.requests, row.bytes, row.refused) == (5, len(INDEX) + missing + 2, 0)
    path = f"/infrastructure/workspaces/{pier.workspace}/traffic"
    days = pier.api("get", path)[1]["traffic"]
    assert len(days) == 7
    assert days[0] == {"day": now().date().isoformat(), "requests": 5, "bytes": row.bytes, "refused": 0}
    assert [len(pier.api("get", f"{path}?days={text}")[1]["traffic"]) for text in ("0", "2", "999", "x")] == [
        1,
        2,
        90,
        7,
    ]
    assert ProjectsApi(pier.client, mallory)("get", path)[0] == 404
    assert pier.client.get(f"/v1{path}").status_code == 401
    assert "Traffic of the site" in alice.browser.get(home).text


def test_a_site_beyond_its_requests_says_when_to_come_back(
    app: Flask,
    pier: SiteCalls,
    session: OrmSession,
    meter: Callable[..., SiteMeter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = pier.live(SITE)
    limited = meter(stoa_site_requests_per_second=1)
    assert app.wsgi_app.__class__.__name__ == "_SiteHosts"
    monkeypatch.setattr(app.wsgi_app, "_meter", limited)
    monkeypatch.setattr(site_traffic, "time", SimpleNamespace(monotonic=lambda: 100.0))
    statuses = [fetch(pier.client, host).status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    refused = fetch(pier.client, host)
    assert refused.headers["Retry-After"] == "1"
    assert refused.text == "Too many requests for this site. Try again in a second.\n"
    assert refused.headers["Cache-Control"] == "no-store"
    other = fetch(pier.client, f"nothing-here.{host.partition('.')[2]}")
    assert other.status_code == 404
    monkeypatch.setattr(site_traffic, "time", SimpleNamespace(monotonic=lambda: 101.0))
    assert [fetch(pier.client, host).status_code for _ in range(2)] == [200, 429]
    limited.flush()
    session.rollback()
    (row,) = session.query(SiteTraffic)
    assert (row.requests, row.refused) == (6, 4)


def test_a_site_that_served_its_bytes_is_back_at_midnight(
    pier: SiteCalls, session: OrmSession, meter: Callable[..., SiteMeter]
) -> None:
    name = pier.live(SITE).partition(".")[0]
    first, second = meter(stoa_site_bytes_per_day=100), meter(stoa_site_bytes_per_day=100)

    def serve(worker: SiteMeter, size: int, moment: datetime) -> int | None:
        refusal = worker.admit(name, moment)
        if refusal is not None:
            assert refusal.reason == "bytes"
            return refusal.seconds
        body = worker.counted(name, [b"x" * size])
        list(body)
        body.close()  # type: ignore[attr-defined]
        return None

    today = now().replace(hour=23, minute=59, second=0, microsecond=0)
    assert serve(first, 60, today) is None
    assert serve(second, 60, today) is None
    for worker in (first, second):
        worker.flush()
    # the one that added its bytes last knows of both
    assert serve(second, 60, today) == 60
    assert serve(first, 1, today) is None
    first.flush()
    assert serve(first, 1, today) == 60
    assert serve(first, 60, today + timedelta(minutes=1)) is None
    assert first.admit("x" * 64, NOON) is None


def test_counts_survive_a_database_that_is_away(
    pier: SiteCalls, session: OrmSession, meter: Callable[..., SiteMeter], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = pier.live(SITE).partition(".")[0]
    counted = meter()
    counted.admit(name)

    def away() -> Any:
        raise OSError

    with monkeypatch.context() as broken:
        broken.setattr(counted, "_context", away)
        counted.flush()
    counted.admit(name)
    counted.flush()
    session.rollback()
    assert [row.requests for row in session.query(SiteTraffic)] == [2]


def test_a_worker_counts_a_bounded_number_of_sites(
    meter: Callable[..., SiteMeter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_traffic, "MAX_SITES", 3)
    counted = meter(stoa_site_requests_per_second=1)
    for number in range(9):
        assert counted.admit(f"site-{number}") is None
    assert len(counted._uses) == 3


def test_old_traffic_is_forgotten(pier: SiteCalls, session: OrmSession) -> None:
    pier.live(SITE)
    for days in (1, 95):
        day = now().date() - timedelta(days=days)
        session.add(
            SiteTraffic(
                workspace_id=pier.workspace, project_id=pier.project, day=day, requests=1, bytes=1, refused=0
            )
        )
    session.commit()
    jobs.sweep_deployments(timestamp=0)
    session.commit()
    assert session.query(SiteTraffic).count() == 1
