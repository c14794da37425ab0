"""Members' pages: spending against budgets on the list, a member's limits with their source, and audit entries that name them."""

import re
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.credentials import hash_token
from models.billing import budget_requests
from models.core.audit_log import AuditLog
from models.core.db import now
from models.core.pool import Pool
from models.ledger import Account, Budget, budgets
from models.orgs import Org, OrgTeam
from tests import factories
from tests.factories import Person
from tests.ledger.stage import Payer, admit, call
from tests.ledger.stage import ledger as credit_ledger


@pytest.fixture
def account(acme: Org, alice: Person, session: OrmSession) -> Account:
    """Acme's, which has 5,000 credits."""
    assert alice.user
    factories.grant(alice.user, 5000, "organization", org_id=acme.id)
    return Account(org_id=acme.id)


@pytest.fixture
def limits(account: Account, acme: Org, bob: Person, session: OrmSession) -> dict[str, Budget]:
    """Each member may spend 1,000 a month, bob 100 a day, his team 400 a week, and acme 4,000 a month."""
    team = session.scalars(select(OrgTeam.id).where(OrgTeam.org_id == acme.id)).one()
    made = {
        "each": budgets.create_budget(account, "member", "month", 1000),
        "bob": budgets.create_budget(account, "member", "day", 100, subject=bob.id),
        "team": budgets.create_budget(account, "team", "week", 400, subject=team),
        "account": budgets.create_budget(account, "account", "month", 4000),
    }
    session.commit()
    return made


def spend(postgres_url: str, who: Person, account: Account, credits: int) -> None:
    assert who.user
    key = factories.token(who.user, org_id=account.org_id, name="Laptop")
    payer, pool = Payer(who.id, hash_token(key), account), Pool(postgres_url, 1)
    moment = now()
    credit_ledger.settle(
        pool, admit(pool, payer, credits, now=moment), call(credits, started_at=moment), now=moment
    )
    pool.close()


def row_of(page: str, who: Person) -> str:
    """The row of the list with this member's address."""
    (row,) = [row for row in page.split("<tr")[1:] if f"{who.user.email}" in row]  # type: ignore[union-attr]
    return row.partition("</tr>")[0]


def test_a_member_is_shown_to_themselves_and_to_those_who_see_all(
    acme: Org, limits: dict[str, Budget], alice: Person, bob: Person, carol: Person, dave: Person,
    mallory: Person, anonymous: Person,
) -> None:  # fmt: skip
    both, gone = {bob.id: 200, alice.id: 200, mallory.id: 404}, {bob.id: 404, alice.id: 404, mallory.id: 404}
    sees = [(alice, both), (carol, both), (dave, both), (bob, gone | {bob.id: 200}), (mallory, gone)]
    for person, pages in [*sees, (anonymous, dict.fromkeys(gone, 302))]:
        found = {id: person.browser.get(f"/orgs/acme/team/{id}").status_code for id in pages}
        assert found == pages, person.user
    assert alice.browser.get("/orgs/acme/team/%00").status_code == 404
    may = [(alice, "Budget Remove Save"), (carol, "Budget Remove Save"), (dave, ""), (bob, "Leave")]
    for person, actions in may:
        page = person.browser.get(f"/orgs/acme/team/{bob.id}").text
        shown = re.findall(r">(Budget|Leave|Remove|Save)</(?:a|button)>", page)
        assert " ".join(shown) == actions, person.user
    # admins do not touch owners, and the only owner stays one
    for person in (alice, carol):
        page = person.browser.get(f"/orgs/acme/team/{alice.id}").text
        assert not [word for word in ("/removal", "/role", "/departure") if f'{word}"' in page], person.user


def test_a_members_page_tells_what_limits_them_and_why(
    acme: Org, account: Account, limits: dict[str, Budget], postgres_url: str, session: OrmSession,
    alice: Person, bob: Person,
) -> None:  # fmt: skip
    assert alice.user
    assert bob.user
    spend(postgres_url, bob, account, 90)
    until = now() + timedelta(days=3)
    budget_requests.raise_budget(account, limits["team"].id, 50, ends_at=until, by=alice.user)
    budget_requests.request_more(account, limits["bob"].id, bob.user, 70, reason="Two more reviews")
    session.commit()
    page = alice.browser.get(f"/orgs/acme/team/{bob.id}").text
    for words in (
        "The whole account, a month", "Team Everyone, a week", "Member bob, a month", "as each member",
        "Member bob, a day", "90 of 100", "90 of 450", "Raised by 50", f"until <time datetime=\"{until:%Y-%m-%d}",
        "Two more reviews", f'href="/orgs/acme/budgets/{limits["bob"].id}"', "Laptop",
        f'href="/orgs/acme/usage?member={bob.id}"',
        "<dt>Spent this month</dt><dd>90 <", "<dt>Calls this month</dt><dd>1<",
    ):  # fmt: skip
        assert words in page, words
    assert page.count("as each") == 1


def test_the_list_shows_spending_of_the_tightest_budget(
    acme: Org, account: Account, limits: dict[str, Budget], postgres_url: str, session: OrmSession,
    alice: Person, bob: Person, carol: Person, dave: Person,
) -> None:  # fmt: skip
    spend(postgres_url, bob, account, 90)
    spend(postgres_url, carol, account, 350)
    spend(postgres_url, alice, account, 1000)
    page = alice.browser.get("/orgs/acme/team").text
    shown = [
        (bob, ("<b>90</b>", '<span class="near">90%</span> · 90 of 100 a day', "meter--warn")),
        (carol, ("<b>350</b>", "of 1,000", 'aria-label="350 of 1,000 credits used"')),
        (alice, ("<b>1,000</b>", '<span class="over">used up</span> · 1,000', "meter--full")),
    ]
    for person, words in shown:
        row = row_of(page, person)
        assert [each for each in words if each not in row] == [], row
    assert f'href="/orgs/acme/budgets/{limits["bob"].id}"' in row_of(page, bob)
    new = f"/orgs/acme/budgets/new?target=member:{carol.id}"
    assert f'href="{new}"' in row_of(page, carol)
    assert f'<option value="member:{carol.id}" selected>' in alice.browser.get(new).text
    assert "/budgets/" not in row_of(dave.browser.get("/orgs/acme/team").text, bob)
    own = bob.browser.get("/orgs/acme/team").text
    assert "90 of 100" in row_of(own, bob)
    assert "350" not in own
    for budget in limits.values():
        budgets.end_budget(account, budget.id)
    session.commit()
    assert "no budget" in row_of(alice.browser.get("/orgs/acme/team").text, bob)


def test_audit_entries_name_what_a_budget_limits(
    account: Account, limits: dict[str, Budget], session: OrmSession, alice: Person, bob: Person
) -> None:
    assert alice.user
    budgets.change_budget(
        account, limits["bob"].id, limit_credits=120, warn_percent=80, hard=True, count_byok=False
    )
    budget_requests.raise_budget(account, limits["each"].id, 50, subject=bob.id, by=alice.user)
    session.commit()
    rows = session.scalars(select(AuditLog).order_by(AuditLog.id)).all()
    assert [(row.action, row.subject) for row in rows] == [
        ("budget.created", "each member"), ("budget.created", "member bob"), ("budget.created", "team Everyone"),
        ("budget.created", "account"), ("budget.changed", "member bob"), ("budget.raised", "each member"),
    ]  # fmt: skip
    assert [row.after["subject"] for row in rows] == [None, "bob", "Everyone", None, "bob", "bob"]
    assert rows[1].after["budget_id"] == limits["bob"].id
    page = alice.browser.get("/orgs/acme/audit").text
    assert bob.id not in page
