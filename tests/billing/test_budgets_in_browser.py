"""Pages of budgets in a browser: axe at both widths, as an admin, as a member, and for a person's own account."""

from datetime import timedelta

from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.accounts.credentials import hash_token
from models.billing import budget_requests
from models.core.db import now
from models.core.pool import Pool
from models.ledger import Account, budgets, lock_account
from models.ledger import settle as settle_call
from models.orgs import Org
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge
from tests.factories import Person
from tests.ledger.stage import Payer, admit, call
from tests.orgs.test_orgs_in_browser import enter, shoot
from tests.server import serving


def test_axe_finds_nothing(
    app: Flask,
    open_page: OpenPage,
    session: OrmSession,
    postgres_url: str,
    acme: Org,
    alice: Person,
    bob: Person,
) -> None:
    assert alice.user is not None
    assert bob.user is not None
    factories.grant(alice.user, 20_000, "organization", org_id=acme.id)
    account = Account(org_id=acme.id)
    lock_account(account)
    acme.credit_limit = 10_000
    member = budgets.create_budget(account, "member", "day", 500)
    budgets.create_budget(account, "team", "week", 2_000, hard=False)
    budgets.create_budget(account, "agent", "total", 700, subject="acme/reviewer")
    run = factories.run(bob.user, "acme/reviewer@1.2.0", org_id=acme.id)
    session.commit()
    key = factories.token(bob.user, org_id=acme.id)
    pool = Pool(postgres_url, 2)
    for days, credits in ((2, 400), (2, 300), (0, 440)):
        at = now() - timedelta(days=days)
        admission = admit(
            pool, Payer(bob.id, hash_token(key), account), credits, now=at, run_id=run.id, model="north/large"
        )
        if admission.outcome == "admitted":
            settle_call(pool, admission, call(credits, started_at=at), now=at)
    pool.close()
    budget_requests.request_more(
        account, member.id, bob.user, 300, reason="Two large reviews are left.", run_id=run.id
    )
    budget_requests.raise_budget(account, member.id, 50, by=alice.user)
    factories.grant(alice.user, 100)
    own = budgets.create_budget(Account(user_id=alice.id), "account", "month", 100)
    session.commit()
    trial = "target=member&period=day&limit_credits=350&warn_percent=80&kind=hard&trial=1"
    pages = {
        "list": (alice, "/orgs/acme/budgets"),
        "budget": (alice, f"/orgs/acme/budgets/{member.id}"),
        "trial": (alice, f"/orgs/acme/budgets/new?{trial}"),
        "own": (alice, "/profile?tab=budgets"),
        "own-budget": (alice, f"/profile/budgets/{own.id}"),
        "member-list": (bob, "/orgs/acme/budgets"),
        "member-budget": (bob, f"/orgs/acme/budgets/{member.id}"),
    }
    with serving(app) as base, open_page(base) as page:
        for name, (person, path) in pages.items():
            enter(page, person)
            page.goto(path)
            shoot(page, name)
            judge(page, *WIDTHS)
