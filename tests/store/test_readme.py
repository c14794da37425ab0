"""Writing an agent's README: permissions, rejected texts, edit conflicts."""

import html
import re

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy.orm import Session as OrmSession

from models.core.audit_log import AuditLog
from models.orgs import Org, OrgMember
from models.store import Agent
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person
from tests.store.listings import HOSTILE, README, create_agent, post

EDIT = "/publishers/harbor/agents/code-reviewer/edit"
PAGE = "/publishers/harbor/agents/code-reviewer/2.4.1"


@pytest.fixture
def agent(session: OrmSession, acme: Org) -> Agent:
    """An agent of the organisation acme: alice is its owner, bob a member."""
    return create_agent(session, acme)


def seen(who: Person) -> str:
    return html.unescape(re.findall(r'name="seen" value="([^"]*)"', who.browser.get(EDIT).text)[0])


def test_who_may_publish_may_write_it(
    session: OrmSession,
    agent: Agent,
    acme: Org,
    alice: Person,
    bob: Person,
    mallory: Person,
    anonymous: Person,
) -> None:
    assert alice.browser.get(EDIT).status_code == 200
    assert bob.browser.get(EDIT).status_code == 403
    assert mallory.browser.get(EDIT).status_code == 404
    assert anonymous.browser.get(EDIT).headers["Location"].startswith("/login?next=")
    for who, status in ((bob, 403), (mallory, 404), (anonymous, 303)):
        sent = post(who, EDIT, **{"readme": "Mine", "seen": ""})
        assert sent.status_code == status
    session.expire_all()
    assert agent.readme == README
    answer = post(alice, EDIT, **{"readme": "# New\r\n\r\nwords\x00", "seen": ""})
    assert (answer.status_code, answer.headers["Location"]) == (
        303,
        "/publishers/harbor/agents/code-reviewer",
    )
    session.expire_all()
    assert agent.readme == "# New\n\nwords"
    assert "<h2>New</h2>" in anonymous.browser.get(PAGE).text
    assert session.query(AuditLog).filter_by(action="store.readme").count() == 1
    session.get_one(OrgMember, (acme.id, bob.id)).role = "admin"
    session.commit()
    assert bob.browser.get(EDIT).status_code == 200


@pytest.mark.parametrize("path", ["/publishers/harbor/agents/none/edit", "/publishers/nobody/agents/x/edit", "/publishers/harbor/agents/x%00/edit"])  # fmt: skip
def test_what_is_not_there_is_404(agent: Agent, alice: Person, path: str) -> None:
    assert alice.browser.get(path).status_code == 404
    assert post(alice, path, **{"readme": "x", "seen": ""}).status_code == 404


@pytest.mark.parametrize(
    ("text", "word"),
    [("a" * 50_001, "the limit is 50,000"), ("[" * 3_000, "brackets"), ("*" * 6_000, "characters like")],
)
@pytest.mark.parametrize("do", ["save", "preview"])
def test_too_much_is_refused_and_kept_in_the_form(
    session: OrmSession, agent: Agent, alice: Person, text: str, word: str, do: str
) -> None:
    answer = post(alice, EDIT, **{"readme": text, "seen": "", "do": do})
    assert answer.status_code == 422
    assert word in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert text in answer.text
    session.expire_all()
    assert agent.readme == README


def test_a_preview_saves_nothing_and_runs_nothing(session: OrmSession, agent: Agent, alice: Person) -> None:
    answer = post(alice, EDIT, **{"readme": f"# Soon\n\n{HOSTILE}", "seen": "", "do": "preview"})
    assert answer.status_code == 200
    assert "<h2>Soon</h2>" in answer.text
    assert "<script>alert" not in answer.text
    session.expire_all()
    assert agent.readme == README


def test_edit_conflicts_are_detected(session: OrmSession, agent: Agent, alice: Person) -> None:
    before = seen(alice)
    assert post(alice, EDIT, **{"readme": "First", "seen": before}).status_code == 303
    late = post(alice, EDIT, **{"readme": "Second", "seen": before})
    assert late.status_code == 422
    assert "This README changed since you opened it" in late.text
    assert ">First</code>" in late.text
    assert "\nSecond</textarea>" in late.text
    session.expire_all()
    assert agent.readme == "First"
    now_seen = html.unescape(re.findall(r'name="seen" value="([^"]*)"', late.text)[0])
    assert post(alice, EDIT, **{"readme": "Second", "seen": now_seen}).status_code == 303
    session.expire_all()
    assert agent.readme == "Second"


def test_an_empty_readme_is_removed(
    session: OrmSession, agent: Agent, alice: Person, anonymous: Person
) -> None:
    assert post(alice, EDIT, **{"readme": "  \n ", "seen": ""}).status_code == 303
    session.expire_all()
    assert agent.readme is None
    assert "Reviews a change and says what is wrong with it." in anonymous.browser.get(PAGE).text


@pytest.mark.parametrize(("script", "width"), [(True, 390), (False, 1440)])
def test_writing_in_a_browser(
    agent: Agent, app: Flask, alice: Person, open_page: OpenPage, script: bool, width: int
) -> None:
    cookie = alice.browser.get_cookie("next-auth.session-token")
    assert cookie is not None
    with serving(app) as base, open_page(base, script=script, width=width, expected=(422,)) as page:
        page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": base}])
        page.goto(EDIT)
        field = page.get_by_label("Markdown")
        field.fill("# Fresh\n\n" + "x" * 50_001)
        page.get_by_role("button", name="Preview").click()
        page.get_by_text("the limit is 50,000").wait_for()
        page.get_by_label("Markdown").fill("# Fresh\n\n[here](https://example.org)")
        page.get_by_role("button", name="Preview").press("Enter")
        page.get_by_role("heading", name="Preview").wait_for()
        if script:
            judge(page, *WIDTHS)
        page.get_by_role("button", name="Save").press("Enter")
        page.wait_for_url("**/2.4.1")
        expect(page.get_by_role("heading", name="Fresh")).to_be_visible()


def test_only_managers_see_the_edit_link(
    session: OrmSession, agent: Agent, alice: Person, bob: Person, mallory: Person
) -> None:
    assert "Edit README" in alice.browser.get(PAGE).text
    assert "Edit README" not in bob.browser.get(PAGE).text
    assert "Edit README" not in mallory.browser.get(PAGE).text
