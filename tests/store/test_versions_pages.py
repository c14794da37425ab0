"""Pages of versions: list with provenance, yank, deprecation, diff, preview images, runs."""

import html
import io
import re

import pytest
from flask import Flask
from PIL import Image
from playwright.sync_api import expect
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.core.audit_log import AuditLog
from models.orgs import Org
from models.store import Agent, AgentVersion, Publisher
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person
from tests.store.listings import HOSTILE, create_agent, post
from views.store.pages import previews

AT = "/publishers/harbor/agents/code-reviewer"


def text_of(answer: TestResponse) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


@pytest.fixture
def agent(session: OrmSession, acme: Org) -> Agent:
    """An agent of the organisation acme: alice is its owner, bob a member."""
    return create_agent(session, acme)


def row(session: OrmSession, version: str) -> AgentVersion:
    session.expire_all()
    return session.get_one(AgentVersion, ("harbor", "code-reviewer", version))


def test_only_managers_see_the_buttons(
    agent: Agent, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    for who in (alice, bob, mallory, anonymous):
        answer = who.browser.get(f"{AT}/versions")
        assert answer.status_code == 200
        assert "alice, with an access token" in text_of(answer)
        assert ("Yank" in text_of(answer)) == (who is alice)
        assert ("Deprecate" in text_of(answer)) == (who is alice)


def test_the_list_is_sorted_numerically_and_paged(
    session: OrmSession, agent: Agent, anonymous: Person
) -> None:
    house = session.get_one(Publisher, "harbor")
    for n in range(40):
        factories.agent_version(house, "code-reviewer", f"3.{n}.0")
    first = anonymous.browser.get(f"{AT}/versions")
    found = re.findall(r'<a class="mono" href="[^"]+">([\d.]+)</a>', first.text)
    assert found == [f"3.{n}.0" for n in range(39, 14, -1)]
    second = anonymous.browser.get(f"{AT}/versions?below=3.15.0")
    found = re.findall(r'<a class="mono" href="[^"]+">([\d.]+)</a>', second.text)
    assert found == [*(f"3.{n}.0" for n in range(14, -1, -1)), "2.4.1", "2.4.0", "1.9.0"]
    assert "Back to the newest" in second.text
    for odd in ("x", "1.2", "9" * 50, "1.2.3'", "%00"):
        assert anonymous.browser.get(f"{AT}/versions?below={odd}").status_code == 200


@pytest.mark.parametrize("ending", ["versions", "diff", "diff/1.9.0/2.4.1", "diff/2.4.1/9.9.9"])
def test_what_is_not_there_is_404(agent: Agent, anonymous: Person, ending: str) -> None:
    for base in ("/publishers/harbor/agents/none", "/publishers/nobody/agents/code-reviewer", f"{AT}%00"):
        if ending != "diff":
            assert anonymous.browser.get(f"{base}/{ending}").status_code == 404
    if "9.9.9" in ending:
        assert anonymous.browser.get(f"{AT}/{ending}").status_code == 404


def test_yanking_and_restoring(session: OrmSession, agent: Agent, alice: Person, anonymous: Person) -> None:
    assert "Yank 2.4.1?" in text_of(alice.browser.get(f"{AT}/2.4.1/yank"))
    empty = post(alice, f"{AT}/2.4.1/yank", **{"reason": "  "})
    assert empty.status_code == 422
    assert "Say why" in empty.text
    long = post(alice, f"{AT}/2.4.1/yank", **{"reason": "x" * 501})
    assert (long.status_code, "at most 500" in long.text) == (422, True)
    assert row(session, "2.4.1").yanked_at is None
    sent = post(alice, f"{AT}/2.4.1/yank", **{"reason": HOSTILE})
    assert (sent.status_code, sent.headers["Location"]) == (303, f"{AT}/versions")
    assert row(session, "2.4.1").yanked_by == alice.id
    page = anonymous.browser.get(f"{AT}/versions")
    assert "by alice: " + HOSTILE in html.unescape(page.text)
    assert "<script>alert" not in page.text
    assert anonymous.browser.get(AT).headers["Location"].endswith("2.4.0")
    assert post(alice, f"{AT}/2.4.1/unyank").status_code == 303
    assert row(session, "2.4.1").yanked_at is None
    assert anonymous.browser.get(AT).headers["Location"].endswith("2.4.1")
    actions = [line.action for line in session.query(AuditLog).filter(AuditLog.action.like("store.%"))]
    assert sorted(actions) == ["store.unyank", "store.yank"]


def test_others_cannot_yank(
    session: OrmSession, agent: Agent, bob: Person, mallory: Person, anonymous: Person
) -> None:
    for ending in ("2.4.1/yank", "2.4.1/unyank", "deprecation"):
        for who, status in ((bob, 403), (mallory, 404), (anonymous, 303)):
            answer = post(who, f"{AT}/{ending}", **{"reason": "Mine", "do": "keep"})
            assert answer.status_code == status
            if ending != "2.4.1/unyank":
                assert who.browser.get(f"{AT}/{ending}").status_code == (302 if status == 303 else status)
    assert row(session, "2.4.1").yanked_at is None
    assert agent.deprecated_at is None


def test_yanking_what_is_not_there_is_404(agent: Agent, alice: Person) -> None:
    for version in ("9.9.9", "2.4.1%00", "latest"):
        assert post(alice, f"{AT}/{version}/yank", **{"reason": "Gone"}).status_code == 404
        assert alice.browser.get(f"{AT}/{version}/yank").status_code == 404
        assert post(alice, f"{AT}/{version}/unyank").status_code == 404


def test_deprecating_with_a_successor(
    session: OrmSession, agent: Agent, alice: Person, anonymous: Person
) -> None:
    for data, word in (
        ({"reason": "", "successor": ""}, "Say why"),
        ({"reason": "Old.", "successor": "nobody/none"}, "Agent not found"),
        ({"reason": "Old.", "successor": "harbor/code-reviewer"}, "its own successor"),
        ({"reason": "Old.", "successor": HOSTILE}, "Agent not found"),
    ):
        answer = post(alice, f"{AT}/deprecation", **data)
        assert answer.status_code == 422
        assert word in answer.text
    session.expire_all()
    assert agent.deprecated_at is None
    data = {"reason": "Renamed.", "successor": "harbor/security-check"}
    assert post(alice, f"{AT}/deprecation", **data).status_code == 303
    for address in (f"{AT}/versions", f"{AT}/2.4.0"):
        page = anonymous.browser.get(address)
        assert "This agent is deprecated. Renamed." in text_of(page)
        assert 'href="/publishers/harbor/agents/security-check"' in page.text
    assert "Undo deprecation" in alice.browser.get(f"{AT}/deprecation").text
    assert post(alice, f"{AT}/deprecation", **{"do": "undo"}).status_code == 303
    session.expire_all()
    assert agent.deprecated_at is None


def test_the_diff_is_line_by_line(agent: Agent, anonymous: Person) -> None:
    output = text_of(anonymous.browser.get(f"{AT}/diff/1.9.0/2.4.1"))
    assert "3 fields changed." in output
    assert "removed: Say everything." in output
    assert "added: Be brief: `one` line, ${no} more." in output
    assert "− find_files + spawn_agents + end_turn" in output
    assert "Only the version number changed." in text_of(anonymous.browser.get(f"{AT}/diff/2.4.0/2.4.1"))
    chosen = anonymous.browser.get(f"{AT}/diff?from=2.4.0&to=2.4.1")
    assert chosen.headers["Location"] == f"{AT}/diff/2.4.0/2.4.1"
    assert anonymous.browser.get(f"{AT}/diff").headers["Location"] == f"{AT}/versions"


def test_hostile_prompts_are_escaped_in_the_diff(
    session: OrmSession, agent: Agent, anonymous: Person
) -> None:
    house = session.get_one(Publisher, "harbor")
    data = {"systemPrompt": f"{HOSTILE}\n" * 3, HOSTILE: HOSTILE, "toolNames": [HOSTILE]}
    factories.agent_version(house, "code-reviewer", "3.0.0", data)
    page = anonymous.browser.get(f"{AT}/diff/2.4.1/3.0.0").text
    assert "<script>alert" not in page
    assert "<img" not in page


def test_the_preview_picture(agent: Agent, anonymous: Person) -> None:
    page = anonymous.browser.get(f"{AT}/2.4.1").text
    address = html.unescape(
        re.findall(r'property="og:image" content="http://localhost:8000([^"]+)"', page)[0]
    )
    answer = anonymous.browser.get(address)
    assert answer.mimetype == "image/png"
    picture = Image.open(io.BytesIO(answer.data))
    assert (picture.format, picture.size) == ("PNG", (1200, 630))
    again = anonymous.browser.get(address, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert anonymous.browser.get(f"{AT}/9.9.9/card.png").status_code == 404


@pytest.mark.parametrize(
    "text", ["", "x" * 5000, "日本語", "🚀" * 50, "a\x00b\n\u202ec", "Ümläut Ж α", "word " * 900]
)
def test_any_text_makes_a_preview_image(text: str) -> None:
    picture = Image.open(io.BytesIO(previews.card(text, text, text, text, fallback="agent")))
    assert picture.size == (previews.WIDTH, previews.HEIGHT)
    wall = [picture.getpixel((875, y)) for y in range(picture.height)]
    assert set(wall) == {previews.STONE}, "message run into the colonnade"


def test_a_run_links_to_its_published_agent(session: OrmSession, agent: Agent, mallory: Person) -> None:
    known = factories.run(mallory.user, "harbor/code-reviewer@2.4.1")
    assert f'href="{AT}/2.4.1"' in mallory.browser.get(f"/runs/{known.id}").text
    for name in ("harbor/code-reviewer@9.9.9", "harbor/none@1.0.0", "local-agent"):
        other = factories.run(mallory.user, name)
        page = mallory.browser.get(f"/runs/{other.id}")
        assert page.status_code == 200
        assert "/publishers/" not in page.text
    mine = re.findall(r'href="(/runs\?agent=[^"]+)"', mallory.browser.get(f"{AT}/2.4.1").text)[0]
    listed = mallory.browser.get(mine).text
    assert known.id in listed
    assert len(re.findall(r'<tr [^>]*id="run-', listed)) == 2


def test_the_pages_in_a_browser(agent: Agent, app: Flask, alice: Person, open_page: OpenPage) -> None:
    cookie = alice.browser.get_cookie("next-auth.session-token")
    assert cookie is not None
    with serving(app) as base, open_page(base, width=390, expected=(422,)) as page:
        page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": base}])
        for ending in ("versions", "2.4.1/yank", "deprecation", "diff/1.9.0/2.4.1"):
            page.goto(f"{AT}/{ending}")
            judge(page, *WIDTHS)
        page.goto(f"{AT}/versions")
        page.get_by_role("link", name="Yank 2.4.0").press("Enter")
        page.get_by_label("Reason").fill("It deleted files.")
        page.get_by_role("button", name="Yank 2.4.0").press("Enter")
        page.get_by_role("button", name="Restore 2.4.0").wait_for()
        judge(page, *WIDTHS)
        page.get_by_role("button", name="Restore 2.4.0").press("Enter")
        page.get_by_role("link", name="Yank 2.4.0").wait_for()
        page.get_by_role("link", name="Deprecate").press("Enter")
        page.get_by_label("Use instead").fill("nobody/none")
        page.get_by_label("Reason").fill("Renamed.")
        page.get_by_role("button", name="Deprecate").press("Enter")
        page.get_by_text("Agent not found").wait_for()
        judge(page, *WIDTHS)
        page.get_by_label("Use instead").fill("harbor/security-check")
        page.get_by_role("button", name="Deprecate").press("Enter")
        page.get_by_text("This agent is deprecated.").wait_for()
        judge(page, *WIDTHS)


def test_withdrawing_without_scripts(agent: Agent, app: Flask, alice: Person, open_page: OpenPage) -> None:
    cookie = alice.browser.get_cookie("next-auth.session-token")
    assert cookie is not None
    with serving(app) as base, open_page(base, script=False) as page:
        page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": base}])
        page.goto(f"{AT}/versions")
        page.get_by_role("link", name="Yank 2.4.0").click()
        page.get_by_label("Reason").fill("It deleted files.")
        page.get_by_role("button", name="Yank 2.4.0").click()
        expect(page.get_by_role("button", name="Restore 2.4.0")).to_be_visible()
        page.get_by_label("From", exact=True).select_option("1.9.0")
        page.get_by_role("button", name="Compare").click()
        page.wait_for_url("**/diff/1.9.0/2.4.1")
