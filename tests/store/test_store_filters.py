"""The filters of the store: their numbers of agents, and the cost of a run."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models.core import jobs
from models.core.db import db
from models.store import Agent, AgentRunBill
from models.store.catalogue import facets, listing
from models.store.catalogue.listing import ListingQuery
from models.store.statistics import agent_costs
from tests import factories
from tests.factories import Person, now

FILTERS = [
    ListingQuery(),
    ListingQuery(deprecated=True),
    ListingQuery(verified=True),
    ListingQuery(tags=("code",)),
    ListingQuery(tags=("code", "data"), vendors=("openai",)),
    ListingQuery(publishers=("harbor",), costs=("10", "more")),
    ListingQuery(search="note", verified=True, vendors=("openai", "x-ai")),
    ListingQuery(search="note", costs=("1",), deprecated=True),
    ListingQuery(tags=("nothing",)),
    ListingQuery(licenses=("MIT",), verified=True),
    ListingQuery(licenses=("MIT", "Ours alone"), tags=("code",)),
]


@pytest.fixture
def agents(session: OrmSession, alice: Person, bob: Person) -> None:
    """Twenty-four agents of all kinds, most with runs."""
    owners = [
        factories.publisher(alice.user, "harbor", verified=True),
        factories.publisher(bob.user, "quarry"),
    ]
    for number in range(24):
        name = f"{('note', 'plan', 'test')[number % 3]}-{number}"
        tags = [("code", "data", "text")[number % 3], f"kind-{number % 2}"]
        model = ("openai/gpt-5", "anthropic/claude", "x-ai/grok-4", "own")[number % 4]
        kw = {"deprecated_at": now(), "deprecated_reason": "old"} if number % 7 == 6 else {}
        data: dict[str, object] = {"tags": tags, "model": model}
        if number % 4:
            data["license"] = ("MIT", "Ours alone")[number % 2]
        factories.agent(owners[number // 5 % 2], name, data=data, **kw)
        if number % 5:
            bill(session, owners[number // 5 % 2].id, name, [(1, 8, 90, 700)[number * 5 // 7 % 4]])
    agent_costs.refresh(now())
    session.commit()
    with session.get_bind().connect() as connection:  # type: ignore[union-attr]
        assert connection.execute(text("SELECT count(*) FROM agent_run_cost")).scalar()


def bill(
    session: OrmSession, publisher: str, agent: str, credits: list[int], version: str = "1.0.0", **kw: object
) -> None:
    """Completed runs of a version with these credits."""
    for index, cost in enumerate(credits):
        values = {
            "run_id": f"{publisher}-{agent}-{version}-{index}-{len(kw)}-{kw.get('status', '')}{kw.get('own', '')}",
            "publisher_id": publisher, "agent_id": agent, "version": version, "user_id": "u", "status": "completed",
            "credits": cost, "duration_ms": 5, "created_at": now() - timedelta(days=1),
        }  # fmt: skip
        session.add(AgentRunBill(**(values | kw)))
    session.commit()


@pytest.mark.usefixtures("agents")
@pytest.mark.parametrize("query", FILTERS, ids=str)
def test_each_number_is_what_the_option_alone_would_show_beside_the_other_filters(
    app: Flask, query: ListingQuery
) -> None:
    def shown(**changes: object) -> int:
        return len(listing.batch(replace(query, **changes), now().date(), size=100).cards)  # type: ignore[arg-type]

    with app.app_context():
        options = facets.filter_options(query)
        assert options.agents == shown()
        assert options.verified == shown(verified=True)
        assert options.deprecated == shown(deprecated=True) - shown(deprecated=False)
        for name in ("tags", "publishers", "vendors", "licenses", "costs"):
            counts = dict(getattr(options, name))
            assert counts == {value: shown(**{name: (value,)}) for value in counts}, name
            assert 0 not in counts.values()
        whole = facets.filter_options(ListingQuery())
        assert (options.available, options.outdated) == (whole.agents, whole.deprecated) == (21, 3)


@pytest.mark.usefixtures("agents")
def test_the_page_shows_the_numbers_and_a_search_brings_new_ones(client: FlaskClient) -> None:
    def number(page: str, option: str) -> str:
        found = re.search(rf'id="by-{option}"><span>[^<]*</span><span class="count">([\d,]+)<', page)
        return found[1] if found else ""

    page = client.get("/store?tag=code").text
    part = client.get("/store?tag=code", headers={"HX-Request": "true"}).text
    assert '<div hx-swap-oob="innerHTML:#filters">' in part
    for option in ("tag-code", "tag-data", "vendor-openai", "verified", "license-Ours%20alone"):
        assert number(page, option) == number(part, option) != ""
    assert number(page, "tag-data") == number(client.get("/store").text, "tag-data")
    assert number(page, "vendor-openai") != number(client.get("/store").text, "vendor-openai")
    assert client.get("/store?cost=17&cost=\x00").status_code == 200


@pytest.mark.parametrize(
    ("bills", "version", "expected"),
    [
        ([("1.0.0", [3, 1, 2], {})], "1.0.0", "median of 3 runs of 1.0.0 in 30 days"),
        ([("1.0.0", [7], {})], "1.0.0", "median of 1 run of 1.0.0 in 30 days"),
        ([("0.9.0", [7, 9], {})], "1.0.0", "median of 2 runs of all versions in 30 days"),
        ([("1.0.0", [7], {"own": True})], "1.0.0", ""),
        ([("1.0.0", [7], {"status": "failed"})], "1.0.0", ""),
        ([("1.0.0", [7], {"created_at": now() - timedelta(days=31)})], "1.0.0", ""),
    ],
)
def test_a_figure_says_its_period_and_version(
    client: FlaskClient, session: OrmSession, alice: Person,
    bills: list[tuple[str, list[int], dict[str, object]]], version: str, expected: str,
) -> None:  # fmt: skip
    factories.agent(factories.publisher(alice.user, "harbor"), "note", version)
    for of, credits, kw in bills:
        bill(session, "harbor", "note", credits, of, **kw)
    with client.application.app_context():
        jobs.refresh_costs(timestamp=0)
        db.session.commit()
    card = client.get("/store").text
    assert (expected in card) if expected else ("median of" not in card)
    page = client.get(f"/publishers/harbor/agents/note/{version}").text
    if "all versions" in expected or not expected:
        assert f"no runs of {version} in 30 days" in page
    else:
        assert expected in page


def test_the_median_and_p95_are_values_that_occurred_and_go_with_their_runs(
    app: Flask, session: OrmSession, alice: Person
) -> None:
    factories.agent(factories.publisher(alice.user, "harbor"), "note")
    bill(session, "harbor", "note", list(range(1, 101)))
    with app.app_context():
        jobs.refresh_costs(timestamp=0)
        db.session.commit()
        cost = agent_costs.of_version("harbor", "note", "1.0.0")
        assert cost
        assert (cost.runs, cost.median, cost.p95) == (100, 50, 95)
        assert (cost.median_ms, cost.p95_ms) == (5, 5)
        session.execute(text("DELETE FROM agent_run_bill"))
        session.commit()
        jobs.refresh_costs(timestamp=0)
        db.session.commit()
        assert agent_costs.of_version("harbor", "note", "1.0.0") is None


def test_the_landing_page_shows_the_store_as_it_is(
    client: FlaskClient, session: OrmSession, alice: Person
) -> None:
    empty = client.get("/").text
    assert "No agents are published on this server yet" in empty
    assert "stoa.mjs publish agents/" in empty
    harbor = factories.publisher(alice.user, "harbor")
    for name, day in (("first", 1), ("second", 2)):
        factories.agent(harbor, name, published_at=now() - timedelta(days=day))
    page = client.get("/").text
    assert (
        "2 agents by 1 publisher on this server, with no completed and billed runs in the last 7 days" in page
    )
    assert page.index(">First<") < page.index(">Second<")
    agent = session.get_one(Agent, ("harbor", "second"))
    agent.weekly_runs, agent.weekly_credits = 1, 5
    session.commit()
    page = client.get("/").text
    assert "with 1 completed and billed run in the last 7 days. The most used of these days:" in page
    assert page.index(">Second<") < page.index(">First<")
