"""Data for a walk through all pages: the demo with a few days of runs, and one row of everything that has a page of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from unittest import mock

from sqlalchemy import select

from models import demo
from models.accounts import Session, User, devices, magic_links
from models.accounts.account_settings import identity_id
from models.accounts.credentials import hash_token
from models.accounts.email_changes import request_change
from models.accounts.passkeys import Passkey
from models.accounts.users import OAuthAccount
from models.admin.git_evals import GitEvalResults
from models.atlas import index_project
from models.billing import create_plan
from models.billing.mails import unsubscribe_token
from models.billing.payments.billing_details import save_billing_details
from models.core.db import db
from models.core.jobs import transaction
from models.core.pool import Pool
from models.demo import demo_org, demo_people
from models.gateway.price_imports import propose, read_prices
from models.gateway.provider_keys import ProviderKeyForm, add_provider_key
from models.index import Document
from models.index.chunking import chunked
from models.index.document_sources import write_source
from models.ledger import Account, budgets
from models.ledger.account_stops import AccountStop
from models.orgs import Org, invites
from models.runners.account_runner import create_runner
from models.runs.run_share import share_run
from models.store import Agent
from models.store.catalogue.agent_page import versions_of
from tests import factories
from tests.assistants.assistant_rows import assistant_rows
from tests.atlas.words_rows import words_rows
from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.billing.test_plans import PRO
from tests.deployments.deployment_rows import deployment_rows
from tests.factories import Person, now
from tests.insights.insight_rows import insight_rows
from tests.insights.item_run_rows import run_rows
from tests.orgs.org_rows import rows_of
from tests.projects.project_rows import project_rows
from tests.threads.thread_rows import thread_rows

DEMO_DAYS = 4
"""A month of runs takes three seconds more."""
ADDRESS = {"name": "Ada & Co", "line1": "1 Main St", "city": "Oslo", "postal_code": "0150", "country": "NO"}
WORDS = "A long answer with a line of code that does not wrap: " + "x" * 200


@dataclass(frozen=True)
class PageWorld:
    """People by role, and the ids for the arguments of routes."""

    people: dict[str, User]
    own: dict[str, str]
    """Ids for routes of the demo user's account and for public ones, by argument, or by the part of the path before it and the
    argument (`org_rows.path_of`)."""
    acme: dict[str, str]
    """Ids for routes of the organisation `acme`, which has one of everything."""


def build(desk: Desk, people: Mapping[str, User], acme: Org) -> PageWorld:
    """Create and commit the data. The demo user has a plan, cards, a purchase and an organisation; `newcomer` has nothing but an
    empty organisation `newco`. `people` are alice, bob, carol and root."""
    pool = Pool(desk.app.config["SQLALCHEMY_DATABASE_URI"], 1)
    try:
        with mock.patch.object(demo, "DAYS", DEMO_DAYS):
            demo.seed(pool, desk.settings, commit=db.session.commit)
    finally:
        pool.close()
    with factories.one_commit():
        org_rows = rows_of(acme, people["alice"], people["bob"], people["carol"])
        delia = db.session.get_one(User, demo.USER_ID)
        runs = _runs(delia)
        own = _public(desk, delia, acme) | runs | _account(delia) | _threads(delia, runs["run_id"])
        newcomer = factories.user("newcomer")
        factories.org(newcomer, "Newco")
        result = factories.save(
            GitEvalResults(agent_model="stoa/demo", details={"repo": "acme/web", "rate": 0.8})
        )
    for ids in (own, org_rows):
        index_project(transaction, ids["project_id"])
    entries, source = read_prices(b'["stoa/demo"]\ninput = 4\noutput = 15\n', "prices.toml")
    prices = propose(entries, source, "root@example.org")
    db.session.commit()
    own |= _money(desk, delia) | {"evals/id": result.id, "prices/id": str(prices.id)}
    noor = db.session.get_one(User, demo_people.id_of(demo_org.OWNER))
    cast = {"person": delia, "owner": people["alice"], "founder": noor, "newcomer": newcomer}
    return PageWorld(cast | {"operator": people["root"]}, own, org_rows | {"day": own["day"]})


def _money(desk: Desk, delia: User) -> dict[str, str]:
    """Two plans of which the demo user has one, a card, and a purchase with a refund."""
    plans = Plans(desk)
    who = Person(delia.id, delia, desk.app.test_client(), "", {})
    who.browser.set_cookie("next-auth.session-token", factories.token(delia, type="web"))
    pro = desk.run(create_plan, PRO)
    best = plans.offer("Max", 10_000, sort=1, windows=PRO.windows)
    desk.run(save_billing_details, Account(user_id=delia.id), ADDRESS, [])
    plans.subscribed(who, pro)
    bought = desk.bought(who)
    refund = desk.refund(bought, 400)
    desk.deliver_events()
    db.session.rollback()
    return {
        "purchases/id": bought.id,
        "operation": bought.id,
        "refund": refund["id"],
        "method": desk.stripe.client().v1.payment_methods.list({"customer": desk.customer(who)}).data[0].id,
        "plans/id": pro.id,
        "providers/name": "stoa",
        "models/name": "stoa/demo",
        "plan": best.id,
        "grants/operation_id": "demo-grant",
        "grants/id": "demo-grant",
        "accounts/id": delia.id,
        "day": f"{now():%Y-%m-%d}",
        "month": f"{now():%Y-%m}",
    }


def _public(desk: Desk, delia: User, acme: Org) -> dict[str, str]:
    code = devices.issue_code(desk.settings.secret_key, "marsh-laptop", now()).text
    link = magic_links.issue("ada@example.org", next=f"/onboard?auth_code={code}", now=now())
    sent = invites.invite(acme, "ada@example.org", "member", db.session.get_one(User, acme.owner_id), now())
    agent = db.session.scalars(select(Agent).where(Agent.publisher_id == "delia")).first()
    assert agent is not None
    versions = [each.version.version for each in versions_of(agent)]
    return {
        "auth_code": code,
        "login/link/token": link.rpartition("/")[2],
        "invites/token": sent.token,
        "emails/unsubscribe/token": unsubscribe_token(delia.id, "balance"),
        "code": delia.referral_code or "",
        "publisher_id": "delia",
        "agent_id": agent.id,
        "version": agent.latest_version or "",
        "before": versions[-1],
        "diff/before/after": versions[0],
        "after": versions[0],
    }


def _runs(delia: User) -> dict[str, str]:
    """A run that waits for nothing, one that failed, a call with tools, and a link to share."""
    begun = now() - timedelta(minutes=9)
    run = factories.run(
        delia, "harbor/code-reviewer@2.4.1", status="failed", error_message="The provider was not available.",
        created_at=begun, completed_at=begun + timedelta(minutes=2, seconds=25),
    )  # fmt: skip
    factories.run(delia, "delia/standup@1.0.0", created_at=begun)
    tools = [{"id": "a", "function": {"name": "read_files", "arguments": '{"paths": ["README.md"]}'}}]
    message = factories.message(
        delia, 27, request=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": WORDS}],
        response={"content": WORDS, "tool_calls": tools}, reasoning_text="Read first.", client_id="client-1",
    )  # fmt: skip
    call = factories.call(
        delia, message=message, run_id=run.id, ttft_ms=900, price={"input": "3", "output": "15"},
        output_tokens=1290, started_at=begun, finished_at=begun + timedelta(minutes=2), latency_ms=120_000,
    )  # fmt: skip
    factories.call(
        delia, run_id=run.id, state="failed", error="The provider did not respond within 300 seconds.",
        usage_source=None, http_status=504, started_at=begun + timedelta(minutes=2), latency_ms=25_000,
    )  # fmt: skip
    share = share_run(run, delia, "week", with_messages=True)
    stop = factories.save(
        AccountStop(
            account_id=delia.id,
            stopped_by_name="Delia Marsh",
            stopped_at=begun,
            resumed_at=now(),
            resumed_by_name="Delia Marsh",
        )
    )
    lost = factories.hold(delia, state="lost")
    return {
        "run_id": run.id,
        "admin/calls/request_id": lost.request_id,
        "request_id": call.request_id,
        "number": "0",
        "client_id": "client-1",
        "shared/token": share.token,
        "stop_id": str(stop.id),
    }


def _document(delia: User) -> dict[str, str]:
    """A document of two pages, of which one is a picture."""
    words = f"# Pipes\n{WORDS}\n"
    starts, chunks = chunked("page", [words, ""])
    report = {"unit": "page", "parts": 2, "characters": len(words), "tokens": 40, "chunks": 1}
    report |= {"notes": ["Page 2 is a picture: no text."], "pictures": [2]}
    sha256 = "0" * 64
    source = write_source(delia.id, sha256, unit="page", part_starts=starts, chunks=chunks, report=report)
    row = Document(
        id=f"file-{'0' * 32}", account_id=delia.id, user_id=delia.id, scope_kind="account", scope_id=delia.id,
        name="pipes.pdf", media_type="application/pdf", bytes=2_000_000, sha256=sha256, state="ready",
        source_id=source.id, report=report,
    )  # fmt: skip
    return {"documents/id": factories.save(row).id}


def _threads(delia: User, run_id: str) -> dict[str, str]:
    account = Account(user_id=delia.id)
    project = project_rows(delia.id, account, run_id)
    return (
        thread_rows(delia.id, account)
        | assistant_rows(delia.id, account)
        | project
        | deployment_rows(delia.id, account, project)
        | insight_rows(project)
        | run_rows(project)
        | words_rows(project)
    )


def _account(delia: User) -> dict[str, str]:
    key = factories.token(delia, name="Laptop of the long-distance reviewer")
    browser = factories.token(delia, type="web")
    factories.fingerprint("codecane-cli-8f3k2j1m")
    factories.token(delia, type="cli", fingerprint_id="codecane-cli-8f3k2j1m")
    row = db.session.get_one(Session, hash_token(browser))
    token, _ = request_change(delia, "new@example.org", by=row, now=now())
    passkey = factories.save(
        Passkey(
            user_id=delia.id, credential_id=b"1", public_key=b"1", sign_count=0, transports=[], name="Phone"
        )
    )
    linked = OAuthAccount(user_id=delia.id, type="oauth", provider="github", provider_account_id="7")
    factories.save(linked)
    budget = budgets.create_budget(Account(user_id=delia.id), "account", "month", 5_000, created_by=delia.id)
    form = ProviderKeyForm("openai", "Research", "sk-of-delia-1234", models=["openai/*"], priority=1)
    provider = factories.save(add_provider_key(Account(user_id=delia.id), delia.id, form))
    runner, _ = create_runner(delia, Account(user_id=delia.id), name="Laptop of delia", by=None, now=now())
    return _document(delia) | {
        "runner_id": runner.id,
        "key_id": hash_token(key),
        "keys/identifier": hash_token(key),
        "sessions/identifier": hash_token(browser),
        "sign-ins/identifier": identity_id(linked),
        "profile/email/token": token,
        "passkeys/identifier": passkey.id,
        "budget_id": budget.id,
        "provider-keys/key_id": provider.id,
    }
