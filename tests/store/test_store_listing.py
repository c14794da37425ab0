"""The store page: search, sorting, paging, sitemaps and feeds."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from playwright.sync_api import expect
from sqlalchemy import event, text
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.orgs import Org
from models.store import AgentDay, Publisher
from models.store.catalogue import listing
from models.store.catalogue.listing import words_of
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person, now
from views.store.pages import feeds
from views.store.pages import listing as pages


@pytest.fixture
def harbor(session: OrmSession, alice: Person) -> Publisher:
    return factories.publisher(alice.user, "harbor", name="Harbor Works", verified=True)


@pytest.fixture
def quarry(session: OrmSession, bob: Person) -> Publisher:
    return factories.publisher(bob.user, "quarry", name="Quarry")


def shown(client: FlaskClient, query: str = "", **kw: Any) -> list[str]:
    answer = client.get(f"/store{query}", **kw)
    assert answer.status_code == 200
    return re.findall(r'agents/([a-z0-9-]+)/[0-9.]+">', answer.text)


def create_agents(session: OrmSession, harbor: Publisher, quarry: Publisher) -> None:
    factories.agent(
        harbor, "code-reviewer",
        data={"name": "Code reviewer", "description": "Reads a change", "tags": ["code"], "model": "anthropic/claude"},
        weekly_credits=10, runs=5, unique_users=1,
    )  # fmt: skip
    factories.agent(
        quarry, "sql-explainer",
        data={"description": "Explains a query for a reviewer", "tags": ["data", "code"], "model": "openai/gpt-5.1"},
        weekly_credits=30, runs=1, unique_users=9,
    )  # fmt: skip
    factories.agent(
        quarry, "notes", data={"tags": ["writing"], "model": "openai/gpt-5.1"},
        weekly_credits=20, runs=9, unique_users=4, published_at=now() - timedelta(days=3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("", ["sql-explainer", "notes", "code-reviewer"]),
        ("cost", ["sql-explainer", "notes", "code-reviewer"]),
        ("usage", ["notes", "code-reviewer", "sql-explainer"]),
        ("unique_users", ["sql-explainer", "notes", "code-reviewer"]),
        ("newest", ["sql-explainer", "code-reviewer", "notes"]),
        ("name", ["code-reviewer", "notes", "sql-explainer"]),
        ("nothing", ["sql-explainer", "notes", "code-reviewer"]),
        ("relevance", ["sql-explainer", "notes", "code-reviewer"]),
    ],
)
def test_orders(
    client: FlaskClient,
    session: OrmSession,
    harbor: Publisher,
    quarry: Publisher,
    sort: str,
    order: list[str],
) -> None:
    create_agents(session, harbor, quarry)
    assert shown(client, f"?sort={sort}") == order


def test_with_many_matches_the_most_used_and_exact_names_are_ranked(
    client: FlaskClient, session: OrmSession, harbor: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for id, credits in (("note", 1), ("note-a", 9), ("note-b", 30), ("note-c", 20), ("other", 99)):
        factories.agent(harbor, id, weekly_credits=credits)
    everybody = shown(client, "?search=note")
    assert everybody[0] == "note"
    assert set(everybody) == {"note", "note-a", "note-b", "note-c"}
    monkeypatch.setattr(listing, "RANK_ALL", 3)
    monkeypatch.setattr(listing, "RANKED_SUBSET", 2)
    assert shown(client, "?search=note")[0] == "note"
    assert set(shown(client, "?search=note")) == {"note", "note-b", "note-c"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?search=reviewer", ["code-reviewer", "sql-explainer"]),
        ("?search=REVIEW", ["code-reviewer", "sql-explainer"]),
        ("?search=reviewer+cod", ["code-reviewer", "sql-explainer"]),
        ("?search=code-rev", ["code-reviewer", "sql-explainer"]),
        ("?search=harbor", ["code-reviewer"]),
        ("?search=harbor%2Fcode-reviewer%40", ["code-reviewer"]),
        ("?search=explains", ["sql-explainer"]),
        ("?search=writ", ["notes"]),
        ("?search=%22code+reviewer%22", ["code-reviewer", "sql-explainer"]),
        ("?search=reviewer&sort=cost", ["sql-explainer", "code-reviewer"]),
        ("?search=nothing+like+it", []),
        ("?q=notes", ["notes"]),
        ("?search=%00%27%5C%26%7C%21%28", ["sql-explainer", "notes", "code-reviewer"]),
        ("?search=%F0%9F%92%A9", ["sql-explainer", "notes", "code-reviewer"]),
        ("?tag=code", ["sql-explainer", "code-reviewer"]),
        ("?tag=writing&tag=data", ["sql-explainer", "notes"]),
        ("?publisher=quarry", ["sql-explainer", "notes"]),
        ("?verified=1", ["code-reviewer"]),
        ("?vendor=openai", ["sql-explainer", "notes"]),
        ("?vendor=openai&tag=code&search=query", ["sql-explainer"]),
        ("?tag=%27%3B+drop", []),
    ],
)
def test_searches_and_filters(
    client: FlaskClient,
    session: OrmSession,
    harbor: Publisher,
    quarry: Publisher,
    query: str,
    found: list[str],
) -> None:
    create_agents(session, harbor, quarry)
    assert shown(client, query) == found
    assert shown(client, query, headers={"HX-Request": "true"}) == found


@given(st.text(max_size=80))
@tries(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_search_text_is_answered(app: Flask, search: str) -> None:
    for word in words_of(search):
        assert not set(word) & set("'\\&|!():*<")
    assert app.test_client().get("/store", query_string={"search": search}).status_code == 200


@pytest.mark.parametrize(
    "query", ["?sort=name", "?sort=cost", "?sort=usage", "?sort=newest", "?search=agent"]
)
def test_pages_have_no_gaps_or_repeats(
    client: FlaskClient, session: OrmSession, harbor: Publisher, query: str
) -> None:
    for number in range(53):
        factories.agent(harbor, f"agent-{number:02}", weekly_credits=number // 7, runs=number % 3)
    whole = [(each.publisher_id, each.id) for each in everything(client, query)]
    assert len(whole) == len(set(whole)) == 53
    first = client.get(f"/store{query}")
    assert len(re.findall('class="agent-card"', first.text)) == 24
    href = re.search(r'data-load-more><a class="btn" href="([^"]+)" hx-get="([^"]+)"', first.text)
    assert href
    plain, part = (each.replace("&amp;", "&") for each in href.groups())
    second = shown(client, plain.removeprefix("/store"))
    assert second == [agent_id for _, agent_id in whole[24:48]]
    fragment = client.get(part, headers={"HX-Request": "true"})
    assert 'hx-swap-oob="beforeend:#agents"' in fragment.text
    assert fragment.headers["HX-Replace-Url"].endswith("shown=48")
    assert shown(client, fragment.headers["HX-Replace-Url"].removeprefix("/store")) == [
        agent_id for _, agent_id in whole[:48]
    ]


def everything(client: FlaskClient, query: str) -> list[listing.AgentCard]:
    sort, search = re.search(r"sort=(\w+)", query), re.search(r"search=(\w+)", query)
    requested = listing.ListingQuery(
        sort=sort[1] if sort else "relevance", search=search[1] if search else ""
    )
    found: list[listing.AgentCard] = []
    after = None
    with client.application.app_context():
        while True:
            batch = listing.batch(requested, now().date(), after=after, size=10)
            found += batch.cards
            after = batch.next
            if after is None:
                return found


@pytest.mark.parametrize(
    "key",
    ["x", "WyJjb3N0Il0", "bm90IGpzb24", "WyJjb3N0IiwiYSIsImIiLCJjIl0", "WyJjb3N0IiwxZTMwLCJiIiwiYyJd", "%00"],
)
def test_a_bad_cursor_is_rejected(client: FlaskClient, session: OrmSession, key: str) -> None:
    answer = client.get(f"/store?after={key}")
    assert answer.status_code == 400
    assert "Open the store again" in answer.text


def test_an_empty_store_says_how_to_publish_the_first(client: FlaskClient, session: OrmSession) -> None:
    page = client.get("/store").text
    assert "<title>Agent Store | Stoa</title>" in page
    assert "No agents yet" in page
    assert 'href="/publishers/new"' in page
    assert 'id="find"' not in page


def test_nothing_found_offers_to_clear_the_filters(
    client: FlaskClient, session: OrmSession, harbor: Publisher, quarry: Publisher
) -> None:
    create_agents(session, harbor, quarry)
    page = client.get("/store?search=zebra&verified=1").text
    assert "No matching agents" in page
    assert 'href="/store">Clear filters' in page
    assert "<title>Agent Store – 3 Agents Available | Stoa</title>" in page


def test_deprecated_agents_are_hidden_until_asked_for_and_withdrawn_ones_always(
    client: FlaskClient, session: OrmSession, harbor: Publisher
) -> None:
    factories.agent(harbor, "fresh")
    factories.agent(harbor, "worn", deprecated_at=now(), deprecated_reason="old", successor="harbor/fresh")
    factories.agent_version(harbor, "gone", yanked_reason="broken")
    assert shown(client) == ["fresh"]
    assert shown(client, "?deprecated=1") == ["fresh", "worn"]
    page = client.get("/store?deprecated=1").text
    assert "Deprecated</span>" in page
    assert "harbor/fresh" in page


def test_a_publish_shows_at_once(client: FlaskClient, session: OrmSession, harbor: Publisher) -> None:
    factories.agent(harbor, "one")
    assert shown(client) == ["one"]
    factories.agent(harbor, "two")
    assert sorted(shown(client)) == ["one", "two"]
    assert "node stoa.mjs run harbor/two@1.0.0 " in client.get("/store").text
    factories.agent_version(harbor, "two", "1.1.0")
    assert "node stoa.mjs run harbor/two@1.1.0 " in client.get("/store").text


def test_the_editors_choice_is_of_verified_publishers_and_stands_on_the_plain_page_only(
    client: FlaskClient, session: OrmSession, harbor: Publisher, quarry: Publisher
) -> None:
    factories.agent(quarry, "base2")
    factories.agent(harbor, "base2-max")
    factories.agent(harbor, "base2")
    page = client.get("/store").text
    chosen = page[page.index("choice-h") : page.index("all-h")]
    assert re.findall(r"/publishers/(\w+)/agents/([\w-]+)/", chosen) == [
        ("harbor", "base2"),
        ("harbor", "base2-max"),
    ]
    assert "Editor’s choice" not in client.get("/store?sort=name").text
    assert "Editor’s choice" not in client.get("/store?search=base2").text


def test_the_header_button(
    client: FlaskClient, alice: Person, bob: Person, mallory: Person, acme: Org, session: OrmSession
) -> None:
    factories.publisher(acme, "acme")
    assert "Publish an agent" in client.get("/store").text
    assert 'href="/publishers">My publishers' in alice.browser.get("/store").text
    assert 'href="/publishers/new">Create publisher' in bob.browser.get("/store").text
    assert 'href="/publishers/new">Create publisher' in mallory.browser.get("/store").text


@pytest.mark.parametrize(("query", "most"), [("", 3), ("?tag=code", 2), ("?search=explainer", 3)])
def test_constant_statements_for_any_number_of_cards(
    client: FlaskClient, session: OrmSession, harbor: Publisher, quarry: Publisher, query: str, most: int
) -> None:
    create_agents(session, harbor, quarry)
    asked: list[str] = []

    def note(*args: Any) -> None:
        asked.append(args[2])

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        client.get(f"/store{query}")
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    assert len(asked) == most, asked


def test_a_spark_counts_the_last_thirty_days(
    client: FlaskClient, session: OrmSession, harbor: Publisher
) -> None:
    factories.agent(harbor, "one")
    today = now().date()
    for ago, version, runs in ((0, "1.0.0", 2), (0, "0.9.0", 1), (29, "1.0.0", 6), (30, "1.0.0", 99)):
        session.add(
            AgentDay(
                publisher_id="harbor",
                agent_id="one",
                day=today - timedelta(days=ago),
                version=version,
                runs=runs,
            )
        )
    session.commit()
    (card,) = listing.batch(listing.ListingQuery(), today).cards
    assert card.line == (6, *[0] * 28, 3)


def test_a_single_filter_option_is_hidden_unless_selected(
    client: FlaskClient, session: OrmSession, harbor: Publisher, quarry: Publisher
) -> None:
    factories.agent(harbor, "one", tags=["review"])
    factories.agent(harbor, "two", tags=["review", "safety"])
    page = client.get("/store").text
    assert "<legend>Tag</legend>" in page
    assert "<legend>Publisher</legend>" not in page
    assert "<legend>Publisher</legend>" in client.get("/store?publisher=harbor").text
    factories.agent(quarry, "three")
    assert "<legend>Publisher</legend>" in client.get("/store").text


def test_metadata_for_search_engines(client: FlaskClient, session: OrmSession, harbor: Publisher) -> None:
    factories.agent(harbor)
    page = client.get("/store").text
    assert '<link rel="canonical" href="http://localhost:8000/store">' in page
    assert 'property="og:title"' in page
    assert 'name="twitter:card"' in page
    assert "noindex" not in page
    assert "noindex" in client.get("/store?tag=x").text


def test_the_preview_picture_is_there(client: FlaskClient) -> None:
    answer = client.get("/store/preview.png")
    assert (answer.status_code, answer.mimetype) == (200, "image/png")
    assert answer.data.startswith(b"\x89PNG")
    assert (
        client.get("/store/preview.png", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    )


def test_pages_are_not_cached_across_users(
    client: FlaskClient, alice: Person, session: OrmSession, harbor: Publisher
) -> None:
    factories.agent(harbor)
    assert "alice" not in client.get("/store").text
    assert "alice" in alice.browser.get("/store").text
    assert "alice" not in client.get("/store").text
    assert "Sign in" in client.get("/store").text


# -- sitemap and feeds ---------------------------------------------------------------------------------------

SITEMAP = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
ATOM = "{http://www.w3.org/2005/Atom}"


def locations(client: FlaskClient, path: str) -> list[str]:
    answer = client.get(path)
    assert answer.status_code == 200
    return [str(each.text) for each in ElementTree.fromstring(answer.text).iter(f"{SITEMAP}loc")]


def test_the_sitemap_names_agents_and_publishers(
    client: FlaskClient, session: OrmSession, harbor: Publisher, quarry: Publisher
) -> None:
    factories.agent(harbor, "one")
    factories.agent_version(quarry, "gone", yanked_reason="broken")
    base = "http://localhost:8000"
    assert locations(client, "/sitemap.xml") == [
        f"{base}/",
        f"{base}/store",
        f"{base}/docs/api",
        f"{base}/docs/cli",
        f"{base}/publishers/harbor",
        f"{base}/publishers/harbor/agents/one",
    ]
    assert "Sitemap: http://localhost:8000/sitemap.xml" in client.get("/robots.txt").text


def test_a_large_sitemap_is_split(
    client: FlaskClient, session: OrmSession, harbor: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "MAX_URLS", 4)
    for number in range(7):
        factories.agent(harbor, f"agent-{number}")
    files = locations(client, "/sitemap.xml")
    assert [each.rpartition("/")[2] for each in files] == ["sitemap-1.xml", "sitemap-2.xml", "sitemap-3.xml"]
    found = [each for number in (1, 2, 3) for each in locations(client, f"/sitemap-{number}.xml")]
    assert len(found) == len(set(found)) == 4 + 1 + 7
    assert client.get("/sitemap-4.xml").status_code == 404
    assert client.get("/sitemap-0.xml").status_code == 404


def test_feeds_tell_of_new_versions(
    client: FlaskClient, session: OrmSession, harbor: Publisher, quarry: Publisher
) -> None:
    factories.agent(harbor, "one", data={"name": "A & <b>\x0b", "description": "x"})
    factories.agent_version(harbor, "one", "1.1.0")
    factories.agent_version(harbor, "one", "1.2.0", yanked_reason="broken")
    factories.agent(quarry, "two")
    answer = client.get("/store/feed.atom")
    assert answer.mimetype == "application/atom+xml"
    feed = ElementTree.fromstring(answer.text)
    assert [each.findtext(f"{ATOM}title") for each in feed.iter(f"{ATOM}entry")] == [
        "Two 1.0.0",
        "One 1.1.0",
        "One 1.0.0",
    ]
    again = client.get("/store/feed.atom", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
    own = ElementTree.fromstring(client.get("/publishers/quarry/feed.atom").text)
    assert len(list(own.iter(f"{ATOM}entry"))) == 1
    assert client.get("/publishers/nobody/feed.atom").status_code == 404
    assert client.get("/publishers/%00/feed.atom").status_code == 404


def test_an_empty_feed_is_a_feed(client: FlaskClient, session: OrmSession) -> None:
    assert ElementTree.fromstring(client.get("/store/feed.atom").text).tag == f"{ATOM}feed"


# -- in a browser --------------------------------------------------------------------------------------------


@pytest.fixture
def base(app: Flask) -> Iterator[str]:
    with serving(app) as address:
        yield address


def create_many_agents(session: OrmSession, harbor: Publisher, quarry: Publisher) -> None:
    create_agents(session, harbor, quarry)
    for number in range(60):
        factories.agent(
            quarry, f"agent-{number:02}", data={"description": "Does one thing, and does it well. " * 4, "tags": ["ops"]},
            weekly_credits=number % 4, runs=number, credits=number * 7, weekly_runs=number // 2, last_used=now(),
        )  # fmt: skip
    factories.agent(quarry, "w" * 80, data={"name": "x" * 120}, deprecated_at=now(), weekly_credits=999)
    factories.agent(harbor, "base2")
    session.execute(
        text(
            "INSERT INTO agent_day (publisher_id, agent_id, day, version, runs)"
            " SELECT publisher_id, id, current_date - d, '1.0.0', (d * 7) % 11 FROM agent, generate_series(0, 29) d"
        )
    )
    session.commit()


@pytest.mark.browser
def test_axe_finds_nothing(
    open_page: OpenPage,
    base: str,
    session: OrmSession,
    harbor: Publisher,
    quarry: Publisher,
) -> None:
    with open_page(base, width=390) as page:
        page.goto("/store")
        judge(page, *WIDTHS)
        create_many_agents(session, harbor, quarry)
        for path in ("/store", "/store?search=zebra", "/store?deprecated=1&verified=1&search=x&tag=code"):
            page.goto(path)
            judge(page, *WIDTHS)
        page.get_by_role("button", name="Filters", exact=True).click()
        judge(page)


@pytest.mark.browser
def test_an_agent_is_found_by_typing_and_its_line_copied(
    open_page: OpenPage, base: str, session: OrmSession, harbor: Publisher, quarry: Publisher
) -> None:
    create_many_agents(session, harbor, quarry)
    with open_page(base, width=1440) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto("/runs?", wait_until="commit")
        page.goto("/store")
        page.get_by_role("searchbox", name="Search agents").press_sequentially("explai", delay=20)
        expect(page.locator(".agent-card")).to_have_count(1)
        expect(page).to_have_url(re.compile(r"/store\?search=explai$"))
        card = page.locator(".agent-card")
        card.get_by_role("button", name="Copy the command").click()
        expect(card.locator(".copy.is-done")).to_be_visible()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == (
            "curl -fsSO http://localhost:8000/clients/stoa.mjs &&\n"
            'node stoa.mjs run quarry/sql-explainer@1.0.0 "Introduce yourself."'
        )
        page.get_by_label("Verified publishers").check()
        expect(page.get_by_role("heading", name="No matching agents")).to_be_visible()
        expect(page).to_have_url(re.compile(r"verified=1"))
        page.go_back()
        expect(page.locator(".agent-card")).to_have_count(1)
        expect(page).to_have_url(re.compile(r"/store\?search=explai$"))
        expect(page.get_by_role("searchbox", name="Search agents")).to_have_value("explai")


@pytest.mark.browser
def test_the_keyboard_searches_filters_walks_and_loads_more(
    open_page: OpenPage,
    base: str,
    session: OrmSession,
    harbor: Publisher,
    quarry: Publisher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "INFINITE_SCROLL", 0)
    create_many_agents(session, harbor, quarry)
    with open_page(base, width=1440) as page:
        page.goto("/publishers/quarry/agents/notes/1.0.0")
        page.keyboard.press("/")
        field, cards = (
            page.get_by_role("searchbox", name="Search agents"),
            page.locator("#agents .agent-card h3 a"),
        )
        expect(page).to_have_url(re.compile("/store#search$"))
        expect(field).to_be_focused()
        page.keyboard.type("reviewer/")
        expect(field).to_have_value("reviewer/")
        expect(cards).to_have_count(2)
        page.keyboard.press("ArrowDown")
        expect(cards.nth(0)).to_be_focused()
        page.keyboard.press("ArrowRight")
        expect(cards.nth(1)).to_be_focused()
        page.keyboard.press("/")
        expect(field).to_be_focused()
        page.keyboard.press("Delete")
        expect(page.get_by_label("quarry")).to_have_count(1)
        expect(cards).to_have_count(24)
        page.get_by_role("checkbox", name="quarry").focus()
        page.keyboard.press("Space")
        expect(page.get_by_role("status").first).to_have_text("62 agents")
        expect(page.get_by_role("checkbox", name="quarry")).to_be_focused()
        expect(page.locator("#by-tag-ops + span + .count")).to_have_text("60")
        columns = (
            page.evaluate("getComputedStyle(document.querySelector('#agents')).gridTemplateColumns").count(
                " "
            )
            + 1
        )
        cards.nth(23).focus()
        page.keyboard.press("ArrowDown")
        expect(page.get_by_role("link", name="Load more")).to_be_focused()
        page.keyboard.press("Enter")
        expect(cards).to_have_count(48)
        expect(cards.nth(24)).to_be_focused()
        page.keyboard.press("ArrowUp")
        expect(cards.nth(24 - columns)).to_be_focused()


@pytest.mark.browser
def test_loaded_cards_survive_going_back(
    open_page: OpenPage, base: str, session: OrmSession, harbor: Publisher, quarry: Publisher
) -> None:
    create_many_agents(session, harbor, quarry)
    with open_page(base, width=390) as page:
        page.goto("/store?publisher=quarry")
        expect(page.locator("#agents .agent-card")).to_have_count(24)
        page.get_by_role("link", name="Load more").click()
        expect(page.locator("#agents .agent-card").nth(47)).to_be_visible()
        page.locator("#agents .agent-card").nth(47).scroll_into_view_if_needed()
        page.mouse.wheel(0, 100_000)
        expect(page.locator("#agents .agent-card")).to_have_count(62)
        expect(page).to_have_url(re.compile(r"shown=72"))
        expect(page.get_by_role("link", name="Load more")).to_have_count(0)
        page.locator("#agents .agent-card a").nth(60).click()
        expect(page).to_have_url(re.compile(r"/agents/"))
        page.go_back()
        expect(page.locator("#agents .agent-card")).to_have_count(62)


@pytest.mark.browser
def test_on_a_phone_the_filters_are_a_sheet_that_its_button_closes(
    open_page: OpenPage, base: str, session: OrmSession, harbor: Publisher, quarry: Publisher
) -> None:
    create_many_agents(session, harbor, quarry)
    with open_page(base, width=390) as page:
        page.goto("/store")
        page.get_by_role("button", name="Filters", exact=True).click()
        page.get_by_label("quarry").check()
        show = page.get_by_role("button", name="Show agents")
        expect(show).to_be_in_viewport()
        judge(page)
        show.click()
        expect(show).to_be_hidden()
        expect(page).to_have_url(re.compile("publisher=quarry"))


@pytest.mark.browser
def test_without_script_the_form_and_the_links_do_it(
    open_page: OpenPage, base: str, session: OrmSession, harbor: Publisher, quarry: Publisher
) -> None:
    create_many_agents(session, harbor, quarry)
    with open_page(base, script=False) as page:
        page.goto("/store")
        page.get_by_role("searchbox", name="Search agents").fill("agent")
        page.get_by_label("quarry").check()
        page.get_by_role("button", name="Show agents").click()
        expect(page.locator(".agent-card")).to_have_count(24)
        page.get_by_role("link", name="Load more").click()
        expect(page.get_by_role("link", name="Back to the start")).to_be_visible()
        expect(page.locator(".agent-card")).to_have_count(24)
