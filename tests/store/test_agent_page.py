"""The agent page: access, content, escaping of hostile text, number of statements."""

import html
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.core.db import db
from models.store import Agent, AgentVersion, Publisher
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person
from tests.store.listings import HOSTILE, create_agent

PAGE = "/publishers/harbor/agents/code-reviewer/2.4.1"


class Elements(HTMLParser):
    """Collects what a browser would execute or fetch in a page, except what the layout loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.dangerous: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            address = (value or "").lower()
            bad = name.startswith("on") or name == "style"
            if bad or (name in ("href", "src") and not address.startswith(("/", "#", "?", "http"))):
                self.dangerous.append(f"{tag} {name}={value}")
        ours = dict(attrs).get("src") or ""
        if tag in ("img", "iframe", "object", "style") or (
            tag == "script" and not ours.startswith("/static/")
        ):
            self.dangerous.append(tag)


def text_of(answer: TestResponse) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


@pytest.fixture
def agent(session: OrmSession, alice: Person) -> Agent:
    assert alice.user is not None
    return create_agent(session, alice.user)


def test_anyone_can_view_the_page(
    agent: Agent, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    for who in (alice, bob, mallory, anonymous):
        answer = who.browser.get(PAGE)
        assert answer.status_code == 200
        output = text_of(answer)
        assert "Code reviewer 2.4.1" in output
        assert 'node stoa.mjs run harbor/code-reviewer@2.4.1 "Introduce yourself."' in output
        saved = "http://localhost:8000/publishers/harbor/agents/code-reviewer/2.4.1/definition.json"
        assert f"curl -fsSo code-reviewer.json {saved}" in output
        assert ("My runs" in output) == bool(who.user)


@pytest.mark.parametrize("ending", ["", "/latest"])
def test_without_version_redirects_to_latest(agent: Agent, anonymous: Person, ending: str) -> None:
    answer = anonymous.browser.get(f"/publishers/harbor/agents/code-reviewer{ending}")
    assert (answer.status_code, answer.headers["Location"]) == (302, PAGE)


@pytest.mark.parametrize(
    "path",
    [
        "/publishers/nobody/agents/code-reviewer",
        "/publishers/harbor/agents/nothing",
        "/publishers/harbor/agents/code-reviewer/9.9.9",
        "/publishers/harbor/agents/code-reviewer/2.4.1%00",
        "/publishers/harbor/agents/code-reviewer/9.9.9/definition.json",
        "/publishers/h%00/agents/code-reviewer",
        "/publishers/harbor/agents/..%2F..%2Fetc/1.0.0",
        f"/publishers/harbor/agents/{'x' * 3000}",
    ],
)
def test_what_is_not_there_is_404(agent: Agent, anonymous: Person, path: str) -> None:
    answer = anonymous.browser.get(path)
    assert (answer.status_code, "Search the store" in answer.text) == (404, True)


def test_the_page_shows_the_definition(agent: Agent, anonymous: Person) -> None:
    output = text_of(anonymous.browser.get(PAGE))
    assert "read_files , spawn_agents , end_turn" in output
    assert "You review changes." in output
    assert "What to review" in output
    assert "quarry/gone@2.0.1 not published" in output
    assert "security-check 1.0.0 advisories 1.0.0" in output
    assert "90.5%" in output
    assert "$0.07 median of 133 runs of 2.4.1 in 30 days; p95 $0.19" in output
    assert "2.9 s median of 133 runs of 2.4.1 in 30 days; p95 1 min 1 s" in output
    assert "What changed in 2.4.1 Compare with 2.4.0 Names the line" in output


def test_the_typescript_is_the_definition(agent: Agent, anonymous: Person) -> None:
    page = html.unescape(anonymous.browser.get(PAGE).text)
    assert "systemPrompt: `You review changes.\nBe brief: \\`one\\` line, \\${no} more.`," in page
    assert 'toolNames: ["read_files", "spawn_agents", "end_turn"],' in page


def test_the_definition_is_a_file(agent: Agent, anonymous: Person) -> None:
    answer = anonymous.browser.get(f"{PAGE}/definition.json")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="harbor-code-reviewer-2.4.1.json"'
    assert json.loads(answer.text)["toolNames"] == ["read_files", "spawn_agents", "end_turn"]
    again = anonymous.browser.get(
        f"{PAGE}/definition.json", headers={"If-None-Match": answer.headers["ETag"]}
    )
    assert again.status_code == 304


def test_large_numbers_are_shown_and_downloaded(
    session: OrmSession, alice: Person, anonymous: Person
) -> None:
    assert alice.user
    numbers = [1e300, 2**64, 2**53 + 1, 0.1]
    acme = factories.publisher(alice.user)
    factories.agent(acme, "great", data={"inputSchema": {"numbers": numbers}})
    page = "/publishers/acme/agents/great/1.0.0"
    assert anonymous.browser.get(page).status_code == 200
    told = anonymous.browser.get(f"{page}/definition.json")
    assert json.loads(told.text, parse_int=float)["inputSchema"]["numbers"] == [float(n) for n in numbers]


def test_hostile_text_is_escaped(session: OrmSession, alice: Person, anonymous: Person) -> None:
    assert alice.user is not None
    prompt = f"{HOSTILE}\n`${{process.exit()}}`\n\u202eabc"
    create_agent(
        session,
        alice.user,
        readme=f"{HOSTILE}\n\n[click](javascript:alert(1)) [data](data:text/html,x)\n\n<a onclick=alert(1)>x</a>",
        data={
            "name": HOSTILE,
            "displayName": HOSTILE,
            "description": HOSTILE,
            "tags": [HOSTILE],
            "systemPrompt": prompt,
            "model": f"x'; rm -rf ~; echo '{HOSTILE}",
            "toolNames": [HOSTILE],
            "inputSchema": {"prompt": {"type": "string", "description": HOSTILE}},
            "spawnerPrompt": HOSTILE,
            "spawnableAgents": [HOSTILE, f"{HOSTILE}/a@1.0.0", "not a reference"],
            HOSTILE: HOSTILE,
        },
    )
    for address in (PAGE, f"{PAGE}?client=curl"):
        page = anonymous.browser.get(address).text
        assert Elements(page).dangerous == []
        assert "49" not in re.findall(r"alert\(1\)&gt;(\d+)", page)
        assert "\u202e" not in page.split("Full definition in TypeScript")[1]
    curl = html.unescape(re.findall(r"<code>(RUN=.*?)</code>", page, re.DOTALL)[0])
    assert "'x'; rm" not in curl
    assert "'\"'\"'; rm -rf" in curl


def test_htmx_receives_only_the_snippet(agent: Agent, anonymous: Person) -> None:
    piece = anonymous.browser.get(f"{PAGE}?client=curl", headers={"HX-Request": "true"}).text
    assert "x-stoa-run-id" in piece
    assert "<html" not in piece
    assert "@codebuff/sdk" in anonymous.browser.get(f"{PAGE}?client=nonsense").text


def test_a_yanked_version_shows_the_reason_and_noindex(
    session: OrmSession, agent: Agent, anonymous: Person
) -> None:
    row = session.get_one(AgentVersion, ("harbor", "code-reviewer", "2.4.1"))
    row.yanked_at, row.yanked_reason = datetime(2026, 11, 19, tzinfo=UTC), "It <b>deleted</b> files."
    agent.latest_version = "2.4.0"
    session.commit()
    answer = anonymous.browser.get(PAGE)
    assert answer.status_code == 200
    assert 'name="robots" content="noindex"' in answer.text
    assert "It <b>deleted</b> files." in text_of(answer)
    assert "It &lt;b&gt;deleted" in answer.text
    found = anonymous.browser.get("/publishers/harbor/agents/code-reviewer")
    assert found.headers["Location"].endswith("/2.4.0")
    agent.latest_version = None
    session.commit()
    found = anonymous.browser.get("/publishers/harbor/agents/code-reviewer")
    assert found.headers["Location"].endswith("/2.4.1")
    assert "noindex" not in anonymous.browser.get(PAGE.replace("2.4.1", "2.4.0")).text


def test_a_deprecated_agent_leads_to_its_successor(
    session: OrmSession, agent: Agent, anonymous: Person
) -> None:
    agent.deprecated_at, agent.deprecated_reason = datetime(2026, 11, 19, tzinfo=UTC), "Renamed."
    agent.successor = "harbor/security-check"
    session.commit()
    page = anonymous.browser.get(PAGE)
    assert "This agent is deprecated. Renamed." in text_of(page)
    assert 'href="/publishers/harbor/agents/security-check"' in page.text


def test_metadata_for_crawlers_and_previews(agent: Agent, anonymous: Person) -> None:
    page = anonymous.browser.get(PAGE.replace("2.4.1", "1.9.0")).text
    assert "<title>Code reviewer by Harbor Tools · Stoa</title>" in page
    assert f'<link rel="canonical" href="http://localhost:8000{PAGE}">' in page
    assert 'property="og:title" content="Code reviewer by Harbor Tools"' in page
    assert '<meta name="description" content="Reads a change' in page


def test_an_unused_agent_without_description(session: OrmSession, alice: Person, anonymous: Person) -> None:
    assert alice.user is not None
    factories.agent(factories.publisher(alice.user), "quiet")
    answer = anonymous.browser.get("/publishers/acme/agents/quiet/1.0.0")
    assert answer.status_code == 200
    assert "It spawns no other agents" in text_of(answer)
    assert "No completed runs in the last 30 days" in text_of(answer)


@pytest.mark.parametrize("nothing", ["", "  ", "\u200b", "\u3164\u2800", "\u00ad\ufe0f"])
def test_an_invisible_name_is_ignored(
    session: OrmSession, alice: Person, anonymous: Person, nothing: str
) -> None:
    assert alice.user
    acme = factories.publisher(alice.user)
    unnamed = factories.agent(
        acme, "unnamed", data={"name": nothing, "displayName": nothing, "tags": [nothing, "b", "a"]}
    )
    assert (unnamed.name, unnamed.tags) == ("unnamed", ["b", "a"])
    assert "<h1>unnamed " in anonymous.browser.get("/publishers/acme/agents/unnamed/1.0.0").text
    for name in ("👩‍🚀", "Ж", "a\u200b", "。"):
        named = factories.agent(acme, f"agent-{ord(name[0])}", data={"name": nothing, "displayName": name})
        assert named.name == name


@pytest.mark.parametrize("spawned", ["text", 7, {"a": 1}, [1, None, {"x": 2}], ["a/b@c"] * 500])
def test_odd_definitions_are_still_shown(
    session: OrmSession, alice: Person, anonymous: Person, spawned: object
) -> None:
    assert alice.user is not None
    data = {"spawnableAgents": spawned, "toolNames": 3, "systemPrompt": None, "inputSchema": [1]}
    factories.agent(factories.publisher(alice.user), "odd", data=data)
    assert anonymous.browser.get("/publishers/acme/agents/odd/1.0.0").status_code == 200


def test_cyclic_and_large_dependency_trees_are_bounded(
    session: OrmSession, alice: Person, anonymous: Person
) -> None:
    assert alice.user is not None
    house = factories.publisher(alice.user)
    names = [f"a{n}" for n in range(12)]
    everyone = [f"acme/{name}@1.0.0" for name in names]
    for name in names:
        factories.agent(house, name, data={"spawnableAgents": everyone})
    answer = anonymous.browser.get("/publishers/acme/agents/a0/1.0.0")
    assert answer.status_code == 200
    assert "spawns itself" in text_of(answer)
    assert len(answer.text) < 200_000


def statements_of(app: Flask, who: Person, path: str) -> list[str]:
    """The SQL statements of one request."""
    asked: list[str] = []
    with app.app_context():
        engine: Engine = db.engine

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        assert who.browser.get(path).status_code == 200
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return asked


def test_the_page_takes_six_statements(agent: Agent, anonymous: Person, app: Flask) -> None:
    asked = statements_of(app, anonymous, PAGE)
    assert len(asked) == 6, asked
    assert not [each for each in asked if re.search(r"\bagent_(run|step)\b", each)]


def test_every_change_shows_at_once(
    session: OrmSession, agent: Agent, alice: Person, anonymous: Person
) -> None:
    assert "Code reviewer" in text_of(anonymous.browser.get(PAGE))
    agent.readme = "# Brand new"
    session.commit()
    assert "Brand new" in text_of(anonymous.browser.get(PAGE))
    house = session.get_one(Publisher, "harbor")
    factories.agent_version(house, "code-reviewer", "2.5.0")
    assert "There is a newer version." in text_of(anonymous.browser.get(PAGE))
    house.name = "Other Tools"
    session.commit()
    assert "by Other Tools" in text_of(anonymous.browser.get(PAGE))
    assert "Edit README" not in anonymous.browser.get(PAGE).text
    assert "Edit README" in alice.browser.get(PAGE).text
    assert "Edit README" not in anonymous.browser.get(PAGE).text


def test_the_page_in_a_browser(agent: Agent, app: Flask, open_page: OpenPage) -> None:
    with serving(app) as base, open_page(base, width=390) as page:
        page.goto(PAGE)
        judge(page, *WIDTHS)
        page.get_by_role("link", name="curl", exact=True).focus()
        page.keyboard.press("Enter")
        page.get_by_text("x-stoa-run-id").wait_for()
        page.locator("summary", has_text="System prompt").focus()
        page.keyboard.press("Enter")
        page.get_by_text("You review changes.").first.wait_for(state="visible")
        judge(page, *WIDTHS)


def test_the_page_without_scripts(agent: Agent, app: Flask, open_page: OpenPage) -> None:
    with serving(app) as base, open_page(base, script=False) as page:
        page.goto(PAGE)
        page.get_by_role("link", name="curl", exact=True).click()
        expect(page.get_by_text("x-stoa-run-id")).to_be_visible()
        page.locator("summary", has_text="System prompt").click()
        expect(page.get_by_text("You review changes.").first).to_be_visible()
