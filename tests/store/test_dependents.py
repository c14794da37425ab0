"""Dependents: the agents that spawn an agent, as its page lists them."""

import html
import re
from datetime import UTC, datetime

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.store import Publisher
from models.store.catalogue import catalogue
from models.store.publishing import dependencies
from models.store.publishing.spawning import FullReference
from tests import factories
from tests.factories import Person

PAGE = "/publishers/acme/agents/picker/1.0.0"


@pytest.fixture
def acme(session: OrmSession, alice: Person) -> Publisher:
    assert alice.user is not None
    made = factories.publisher(alice.user)
    factories.agent(made, "picker")
    return made


def spawning(session: OrmSession, of: Publisher, id: str, *names: str, version: str = "1.0.0") -> None:
    factories.agent_version(of, id, version, {"spawnableAgents": list(names)})


def dependents(session: OrmSession, agent: str = "picker", limit: int = 8) -> dependencies.Dependents:
    session.rollback()
    return dependencies.dependents_of("acme", agent, limit)


def test_references_to_any_version_count(session: OrmSession, acme: Publisher, bob: Person) -> None:
    assert bob.user is not None
    other = factories.publisher(bob.user, "other")
    spawning(session, acme, "reviewer", "acme/picker@1.0.0", "acme/picker@0.9.0")
    spawning(session, other, "mine", "acme/picker@0.9.0", version="2.1.0")
    spawning(session, other, "picker", "other/mine@2.1.0")
    spawning(session, acme, "pick", "acme/picker-two@1.0.0")
    found = dependents(session)
    assert found.total == 2
    assert found.top == [
        FullReference("acme", "reviewer", "1.0.0"),
        FullReference("other", "mine", "2.1.0"),
    ]


def test_the_latest_version_decides(session: OrmSession, acme: Publisher) -> None:
    spawning(session, acme, "reviewer", "acme/picker@1.0.0")
    assert dependents(session).total == 1
    spawning(session, acme, "reviewer", version="1.1.0")
    assert dependents(session).total == 0
    spawning(session, acme, "reviewer", "acme/picker@1.0.0", version="1.2.0")
    assert [str(each) for each in dependents(session).top] == ["acme/reviewer@1.2.0"]


def test_an_agent_with_nothing_to_run_and_the_agent_itself_do_not_count(
    session: OrmSession, acme: Publisher
) -> None:
    spawning(session, acme, "picker", "acme/picker@1.0.0", version="1.1.0")
    factories.agent_version(
        acme, "gone", data={"spawnableAgents": ["acme/picker@1.0.0"]}, yanked_reason="Leaks."
    )
    assert dependents(session).total == 0


def test_the_most_used_are_named_and_all_are_counted(session: OrmSession, acme: Publisher) -> None:
    for number in range(5):
        data = {"spawnableAgents": ["acme/picker@1.0.0"]}
        factories.agent(acme, f"n{number}", data=data, weekly_runs=number)
    found = dependents(session, limit=2)
    assert found.total == 5
    assert [each.agent for each in found.top] == ["n4", "n3"]


@pytest.mark.parametrize("spawned", ["text", 7, {"a": 1}, [1, None, {"x": 2}, "", "@", "a/b", "a/b@c/d@e"]])
def test_malformed_references_are_ignored(session: OrmSession, acme: Publisher, spawned: object) -> None:
    factories.agent(acme, "odd", data={"spawnableAgents": spawned})
    assert dependents(session).total == 0


def test_many_and_long_references_fit_into_the_index(session: OrmSession, acme: Publisher) -> None:
    names = [f"acme/{'x' * 3_000}@1.0.0", "acme/picker@1.0.0"]
    names += [f"acme/{number}{'y' * 200}@1.0.0" for number in range(10_000)]
    spawning(session, acme, "crowd", *names)
    assert dependents(session).total == 1


@pytest.mark.parametrize("name", ["it's", "back\\slash", "'", "a:*", "x & y | !z", "<->"])
def test_no_name_breaks_the_query(session: OrmSession, acme: Publisher, name: str) -> None:
    spawning(session, acme, "reviewer", f"acme/{name}@1.0.0")
    assert dependents(session, name).total == 1
    assert dependents(session).total == 0


@pytest.mark.parametrize("search", ["@acme/picker", "acme/picker", "@", "@acme"])
def test_a_search_does_not_find_an_agent_by_what_it_spawns(
    session: OrmSession, acme: Publisher, anonymous: Person, search: str
) -> None:
    other = factories.publisher(factories.user("carol"), "other", name="Other")
    spawning(session, other, "reviewer", "acme/picker@1.0.0")
    page = anonymous.browser.get("/store", query_string={"search": search}).text
    assert ("other/reviewer" in page) == (search == "@")


def test_the_page_names_them_at_once(session: OrmSession, acme: Publisher, anonymous: Person) -> None:
    assert "Used by" not in anonymous.browser.get(PAGE).text
    for number in range(9):
        spawning(session, acme, f"n{number}", "acme/picker@1.0.0")
    page = anonymous.browser.get(PAGE).text
    card = re.sub(r"<[^>]+>", " ", page.split('id="used-by"')[1].split("</section>")[0])
    output = " ".join(html.unescape(card).split())
    assert "9 agents acme/n0 1.0.0" in output
    assert output.endswith("and 1 more")
    assert 'href="/publishers/acme/agents/n0"' in page


def test_a_rename_of_the_publisher_keeps_them(session: OrmSession, acme: Publisher) -> None:
    spawning(session, acme, "reviewer", "acme/picker@1.0.0")
    acme.name, acme.updated_at = "Other", datetime(2026, 1, 1, tzinfo=UTC)
    catalogue.refresh("acme")
    session.commit()
    assert dependents(session).total == 1
