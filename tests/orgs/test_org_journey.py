"""A journey through an organisation in Chromium: invite, spend, be refused, ask, be allowed, leave; and the books agree."""

import re
from collections.abc import Iterator

import httpx
import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models import ledger
from models.core.db import db
from models.core.mail import Email
from models.ledger import Account, ledger_proof
from models.orgs import Org
from models.usage import Message
from tests import factories
from tests.chromium import OpenPage, serving
from tests.factories import Person

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

REPOSITORY = "https://github.com/acme/app"
ACTIONS = (
    *("organization.created", "invite.sent", "member.joined", "repository.added"),
    *("budget.created", "budget.requested", "budget_request.approved", "key.moved", "member.removed"),
)
"""What the audit log must tell."""


@pytest.fixture
def base(app: Flask) -> Iterator[str]:
    with serving(app) as address:
        yield address


def signed_in(page: Page, who: Person) -> None:
    """Let the browser act as somebody else."""
    assert who.user
    page.context.clear_cookies()
    page.context.add_cookies([factories.browser_cookie(who.user)])


def chat(base: str, key: str, **metadata: str) -> httpx.Response:
    """Call a model as the Codebuff SDK does in a repository."""
    body = {
        "model": "stoa/demo",
        "messages": [{"role": "user", "content": "word " * 20_000}],
        "codebuff_metadata": metadata,
    }
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{base}/api/v1/chat/completions", json=body, headers=headers, timeout=60)


def start_run(base: str, key: str, **hints: str) -> str:
    body = {"action": "START", "agentId": "acme/reviewer", "ancestorRunIds": [], **hints}
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{base}/api/v1/agent-runs", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["runId"])


def link_of(message: Email, path: str) -> str:
    found = re.search(rf"{path}[^\s]+", message.text)
    assert found, message.text
    return found[0]


def test_the_whole_journey_of_an_organisation(
    base: str,
    open_page: OpenPage,
    session: OrmSession,
    outbox: list[Email],
    alice: Person,
    bob: Person,
    mallory: Person,
) -> None:
    with open_page(base) as page:
        signed_in(page, alice)
        page.goto("/orgs/new")
        page.get_by_label("Name").fill("Acme")
        page.get_by_role("button", name="Create organisation").click()
        expect(page.get_by_role("heading", level=1, name="Acme")).to_be_visible()
        acme = session.scalars(select(Org)).one()
        ledger.grant(Account(org_id=acme.id), 1000, "organization", operation_id="first")
        db.session.commit()

        invite(page, "bob@example.org", "mallory@example.org")
        links = {message.to: link_of(message, "/invites/") for message in outbox}
        for who in (bob, mallory):
            signed_in(page, who)
            page.goto(links[f"{who.user.name}@example.org" if who.user else ""])
            page.get_by_role("button", name="Accept the invitation").click()
            expect(page.get_by_role("heading", level=1, name="Acme")).to_be_visible()

        signed_in(page, alice)
        page.goto("/orgs/acme/repositories")
        page.get_by_label("Add a repository").fill(REPOSITORY)
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_text("acme/app").first).to_be_visible()
        budget(page, "mallory", 3)

        run = start_run(base, bob.token, repoUrl=REPOSITORY)
        paid = chat(base, bob.token, run_id=run, repo_url=REPOSITORY, client_id="sdk")
        assert paid.status_code == 200, paid.text
        spent_by_bob = spent(session, acme)
        assert spent_by_bob > 0

        run = start_run(base, mallory.token, repoUrl=REPOSITORY)
        refused = chat(base, mallory.token, run_id=run, repo_url=REPOSITORY, client_id="sdk")
        assert refused.status_code == 402, refused.text
        assert "budget" in refused.text.lower()

        signed_in(page, mallory)
        ask_for_more(page, base, refused, 500)
        signed_in(page, alice)
        page.goto("/orgs/acme/budgets")
        page.get_by_label("Lasts").first.select_option(label="for a day")
        page.get_by_role("button", name="Approve").click()
        allowed = chat(base, mallory.token, run_id=run, repo_url=REPOSITORY, client_id="sdk")
        assert allowed.status_code == 200, allowed.text
        assert spent(session, acme) > spent_by_bob

        page.goto("/orgs/acme/usage")
        for name in ("bob", "mallory"):
            expect(page.get_by_text(name).first).to_be_visible()
        key = key_for(base, bob, acme)
        remove(page, "bob")
        moved = chat(base, key, run_id=start_run(base, key), client_id="sdk")
        assert moved.status_code == 200, moved.text
        own = start_run(base, bob.token)
        assert chat(base, bob.token, run_id=own, orgId=acme.id).status_code in (403, 404)

        page.goto("/orgs/acme/audit")
        body = page.locator("main").inner_text()
        for action in ACTIONS:
            assert action in body, action
    assert_books(session, acme)


def invite(page: Page, *emails: str) -> None:
    page.goto("/orgs/acme/invites/new")
    page.get_by_label("Addresses").fill("\n".join(emails))
    page.get_by_role("button", name="Send invitations").click()
    expect(page.get_by_text(f"{len(emails)} of {len(emails)} invited")).to_be_visible()


def budget(page: Page, member: str, credits: int) -> None:
    """Limit a member's month."""
    page.goto("/orgs/acme/budgets/new")
    options = page.get_by_label("Limits").locator("option").all_inner_texts()
    page.get_by_label("Limits").select_option(label=next(each for each in options if member in each))
    page.get_by_label("Limit", exact=True).fill(str(credits))
    page.get_by_role("button", name="Create budget").click()
    expect(page.get_by_text(f"{credits:,} credits").first).to_be_visible()


def ask_for_more(page: Page, base: str, refused: httpx.Response, credits: int) -> None:
    """Follow the link of the refusal, and ask."""
    found = re.search(r"/budgets/[\w-]+", refused.text)
    assert found, refused.text
    page.goto(found[0])
    page.get_by_label("Amount").fill(str(credits))
    page.get_by_label("Reason").fill("The release is today")
    page.get_by_role("button", name="Send request").click()
    expect(page.get_by_text("Request sent").first).to_be_visible()


def key_for(base: str, who: Person, org: Org) -> str:
    """A key of the organisation that the member creates."""
    answer = who.browser.post(f"/api/orgs/{org.id}/keys", json={"name": "laptop"})
    assert answer.status_code in (200, 201), answer.text
    return str((answer.json or {})["secret"])


def remove(page: Page, name: str) -> None:
    """Remove a member; their key moves to a new service account."""
    page.goto("/orgs/acme/team")
    page.get_by_role("row", name=name).get_by_role("link", name="Remove").click()
    fate = page.get_by_label("What becomes of laptop")
    options = fate.locator("option").all_inner_texts()
    fate.select_option(label=next(each for each in options if "new service account" in each))
    page.get_by_role("button", name=f"Remove {name}").click()
    expect(page.get_by_text("Nightly").or_(page.get_by_text("service account")).first).to_be_visible()


def spent(session: OrmSession, org: Org) -> int:
    session.rollback()
    query = select(Message.credits).where(Message.org_id == org.id)
    return sum(session.scalars(query))


def assert_books(session: OrmSession, org: Org) -> None:
    """The statement's sum is the balance, and the books prove."""
    session.rollback()
    account = Account(org_id=org.id)
    entries = session.scalar(
        text("SELECT sum(amount) FROM credit_entry WHERE account_id = :id"), {"id": account.id}
    )
    settled = ledger.balance(account)
    assert (settled.net_balance, settled.held) == (entries, 0)
    assert settled.net_balance == 1000 - spent(session, org)
    assert ledger_proof.prove().clean
