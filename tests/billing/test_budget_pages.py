"""Budgets on pages and by key: who may do what, requests and raises, the trial, and `GET /v1/key`."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.credentials import hash_token
from models.accounts.users import User
from models.billing import budget_alerts, budget_requests
from models.billing.mails import BillingMail
from models.core import jobs
from models.core.audit_log import AuditLog
from models.core.db import db, now
from models.core.errors import Invalid
from models.core.pool import Pool
from models.ledger import Account, Budget, BudgetRequest, budgets, lock_account
from models.orgs import Org, edit_org
from tests import factories
from tests.factories import Person
from tests.ledger.stage import Payer, admit, call
from tests.ledger.stage import ledger as credit_ledger
from tests.orgs.forms import send

FORM = {"target": "member", "period": "day", "limit_credits": "1,000", "warn_percent": "80", "kind": "hard"}


@pytest.fixture
def limited(session: OrmSession, acme: Org, alice: Person) -> Budget:
    """A member of acme, which has 1,000 credits, may spend 100 a day."""
    assert alice.user is not None
    factories.grant(alice.user, 1000, "organization", org_id=acme.id)
    made = budgets.create_budget(Account(org_id=acme.id), "member", "day", 100)
    session.commit()
    return made


def statuses(cast: dict[str, Person], ask: Any) -> dict[str, int]:
    return {name: ask(person).status_code for name, person in cast.items()}


def test_each_role_sees_and_changes_what_it_may(
    session: OrmSession, cast: dict[str, Person], acme: Org, limited: Budget
) -> None:
    base, limit = f"/orgs/{acme.slug}/budgets", f"/orgs/{acme.slug}/budgets/{limited.id}"
    reads = {"alice": 200, "bob": 200, "carol": 200, "dave": 200, "mallory": 404, "anonymous": 302}
    manages = {"alice": 303, "bob": 403, "carol": 303, "dave": 403, "mallory": 404, "anonymous": 303}
    asks = {"alice": 303, "bob": 303, "carol": 303, "dave": 403, "mallory": 404, "anonymous": 303}
    for path in (base, limit):
        assert statuses(cast, lambda person, path=path: person.browser.get(path)) == reads
    forms = manages | {"alice": 200, "carol": 200, "anonymous": 302}
    assert statuses(cast, lambda person: person.browser.get(f"{base}/new")) == forms
    amounts = {"limit_credits": "120", "warn_percent": "80"}
    assert statuses(cast, lambda person: send(person, limit, **(amounts))) == manages
    assert statuses(cast, lambda person: send(person, f"{limit}/raises", **({"amount": "5"}))) == manages
    assert statuses(cast, lambda person: send(person, f"{limit}/requests", **({"amount": "5"}))) == asks
    request = session.scalars(select(BudgetRequest.id).where(BudgetRequest.user_id == cast["bob"].id)).one()
    for name, status in manages.items():
        answer = send(cast[name], f"{base}/requests/{request}", **({"decision": "decline"}))
        assert answer.status_code == status
    # a budget of another account is not there, whoever asks
    theirs = factories.org(cast["mallory"].user, "Other")  # type: ignore[arg-type]
    assert cast["alice"].browser.get(f"/orgs/{theirs.slug}/budgets/{limited.id}").status_code == 404
    assert cast["mallory"].browser.get(f"/orgs/{theirs.slug}/budgets/{limited.id}").status_code == 404
    assert cast["alice"].browser.get(f"/profile/budgets/{limited.id}").status_code == 404
    links = {"alice": 303, "bob": 303, "carol": 303, "dave": 303, "mallory": 404, "anonymous": 302}
    assert statuses(cast, lambda person: person.browser.get(f"/budgets/{limited.id}")) == links
    created = {"alice": 303, "bob": 403, "carol": 422, "dave": 403, "mallory": 404, "anonymous": 303}
    new = FORM | {"period": "month"}
    # the second one is there already
    assert statuses(cast, lambda person: send(person, f"{base}/new", **(new))) == created
    ended = {"anonymous": 303, "mallory": 404, "dave": 403, "bob": 403, "carol": 303, "alice": 404}
    for name, status in ended.items():
        assert send(cast[name], f"{limit}/end").status_code == status, name
    session.rollback()
    actions = set(session.scalars(select(AuditLog.action).where(AuditLog.org_id == acme.id)))
    assert {
        "budget.created",
        "budget.changed",
        "budget.raised",
        "budget.requested",
        "budget_request.declined",
        "budget.ended",
    } <= actions


def test_a_person_has_budgets_of_their_own(session: OrmSession, alice: Person, mallory: Person) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 100)
    made = send(alice, "/profile/budgets/new", **(FORM | {"target": "account"}))
    assert made.status_code == 303
    assert "The whole account" in alice.browser.get("/profile?tab=budgets").text
    assert send(alice, "/profile/budgets/new", **(FORM)).status_code == 422  # no members here
    (budget,) = budgets.budgets_of(alice.account)
    assert mallory.browser.get(f"/profile/budgets/{budget.id}").status_code == 404
    clock = send(alice, "/profile/budgets/clock", **({"time_zone": "Europe/Berlin"}))
    assert clock.status_code == 303
    session.rollback()
    assert budgets.time_zone_of(alice.account) == "Europe/Berlin"
    send(alice, "/profile/budgets/clock", **({"time_zone": "Moon/Crater"}))
    assert budgets.time_zone_of(alice.account) == "Europe/Berlin"
    link = alice.browser.get(f"/budgets/{budget.id}")
    assert link.headers["Location"] == f"/profile/budgets/{budget.id}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit_credits": "lots"},
        {"limit_credits": "-5"},
        {"period": "year"},
        {"target": "galaxy"},
        {"target": "key:nobody"},
        {"warn_percent": "0"},
    ],
)
def test_a_wrong_form_keeps_its_input(alice: Person, acme: Org, wrong: dict[str, str]) -> None:
    answer = send(alice, f"/orgs/{acme.slug}/budgets/new", **(FORM | wrong))
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
    assert 'value="1,000"' in answer.text or "limit_credits" in wrong


def test_from_a_refusal_to_the_next_call(
    app: Flask, session: OrmSession, postgres_url: str, acme: Org, alice: Person, bob: Person, limited: Budget
) -> None:
    """Bob's key asks by the id in the refusal; alice gets an e-mail with the evidence and approves; the next call passes."""
    assert bob.user is not None
    key = factories.token(bob.user, org_id=acme.id)
    headers = {"authorization": f"Bearer {key}"}
    caller = Payer(bob.id, hash_token(key), Account(org_id=acme.id))
    pool = Pool(postgres_url, 2)
    moment = now()
    run = factories.run(bob.user, "acme/reviewer@1.0.0", org_id=acme.id)
    spent = admit(pool, caller, 90, now=moment, run_id=run.id)
    credit_ledger.settle(pool, spent, call(90), now=moment)
    refused = admit(pool, caller, 20, now=moment).budget
    assert refused is not None
    ask = {"budgetId": refused.budget_id, "amount": 50, "reason": "Two more reviews", "runId": run.id}
    client = app.test_client()
    answer = client.post("/api/v1/budget-requests", json=ask, headers=headers)
    assert (answer.status_code, answer.json["amount"]) == (201, 50)
    again = client.post("/api/v1/budget-requests", json=ask | {"amount": 60}, headers=headers)
    assert again.json["id"] == answer.json["id"]
    session.rollback()
    request = session.scalars(select(BudgetRequest)).one()
    assert request.evidence["spent"] == 90
    assert request.evidence["stopped_at"]
    assert [(each["id"], each["credits"]) for each in request.evidence["runs"]] == [(run.id, 90)]
    page = alice.browser.get(f"/orgs/{acme.slug}/budgets").text
    assert "bob</span> asks for 60 credits" in page
    assert "Two more reviews" in page
    mail = session.scalars(select(BillingMail).where(BillingMail.user_id == alice.id)).first()
    assert mail is not None
    jobs.send_billing_mail(mail_id=mail.id)
    session.commit()
    approve = {"decision": "approve", "amount": "30", "ends": "day", "answer": "Sure"}
    send(alice, f"/orgs/{acme.slug}/budgets/requests/{request.id}", **(approve))
    admitted = admit(pool, caller, 20, now=moment + timedelta(seconds=5))
    assert admitted.outcome == "admitted"
    decided = session.scalars(select(BillingMail).where(BillingMail.user_id == bob.id)).one()
    assert decided.facts["granted"] == "30 credits"
    jobs.send_billing_mail(mail_id=decided.id)
    session.commit()
    # alerts of the warning level and of the refusal, once
    assert (budget_alerts.watch_budgets(), budget_alerts.watch_budgets()) == (2, 0)
    session.commit()
    # it cannot be decided twice
    late = send(alice, f"/orgs/{acme.slug}/budgets/requests/{request.id}", **(approve))
    assert late.status_code == 303
    session.rollback()
    assert budgets.effective_limits(caller.account, user_id=bob.id)[0].raised == 30
    pool.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"amount": 0}, 400),
        ({"budgetId": "none"}, 404),
        ({"amount": "ten"}, 400),
        ({"reason": "x" * 1001}, 400),
        ({"runId": "none"}, 422),
    ],
)
def test_a_wrong_request_says_why(
    client: FlaskClient,
    session: OrmSession,
    acme: Org,
    bob: Person,
    limited: Budget,
    body: dict[str, Any],
    status: int,
) -> None:
    assert bob.user is not None
    headers = {"authorization": f"Bearer {factories.token(bob.user, org_id=acme.id)}"}
    good = {"budgetId": limited.id, "amount": 5}
    path = "/api/v1/budget-requests"
    assert client.post(path, json=good | body, headers=headers).status_code == status
    # who asks is checked first; another account's budget is not there
    assert client.post(path, json=good | body).status_code == 401
    assert client.post(path, json=good, headers=bob.headers).status_code == 404


def test_a_key_reads_its_limits(
    client: FlaskClient, session: OrmSession, acme: Org, alice: Person, bob: Person, limited: Budget
) -> None:
    assert bob.user is not None
    edit_org(acme, {"credit_limit": 400})
    session.commit()
    headers = {"authorization": f"Bearer {factories.token(bob.user, org_id=acme.id, name='ci')}"}
    data = client.get("/v1/key", headers=headers).json["data"]
    assert (data["label"], data["limit"], data["limit_remaining"]) == ("ci", 100, 100)
    found = [(each["level"], each["source"], each["limit"], each["free"]) for each in data["limits"]]
    assert found == [
        ("wallet", "balance", 1000, 1000),
        ("account", "credit_limit", 400, 400),
        ("member", "budget", 100, 100),
    ]
    own = client.get("/v1/key", headers=bob.headers).json["data"]
    assert (own["limit"], own["limit_remaining"], len(own["limits"])) == (None, 0, 1)
    assert client.get("/v1/key").status_code == 401
    assert client.get("/v1/key", headers={"authorization": "Bearer cb-pat-none"}).status_code == 401


def test_a_trial_names_the_calls_it_would_have_refused(
    session: OrmSession, postgres_url: str, acme: Org, alice: Person, bob: Person, limited: Budget
) -> None:
    assert bob.user is not None
    caller = Payer(bob.id, hash_token(factories.token(bob.user, org_id=acme.id)), Account(org_id=acme.id))
    pool = Pool(postgres_url, 2)
    start = now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
    # 40 + 50 fit into 100; 30 does not, 10 does; the next day starts anew
    for minutes, credits in ((1, 40), (2, 50), (3, 30), (4, 10), (1440, 30)):
        at = start + timedelta(minutes=minutes)
        credit_ledger.settle(
            pool, admit(pool, caller, credits, now=at, model="m"), call(credits, started_at=at), now=at
        )
    pool.close()
    page = alice.browser.get(
        f"/orgs/{acme.slug}/budgets/new", query_string=FORM | {"limit_credits": "100", "trial": "1"}
    )
    assert page.status_code == 200
    text = " ".join(page.text.split())
    assert "<dt>Calls</dt><dd>5</dd>" in text
    assert "<dt>Refused</dt><dd>1</dd>" in text
    assert "<dt>Credits not spent</dt><dd>30</dd>" in text
    assert text.count(">bob<") == 2
    wrong = FORM | {"limit_credits": "none", "trial": "1"}
    assert alice.browser.get(f"/orgs/{acme.slug}/budgets/new", query_string=wrong).status_code == 422


def test_nul_in_forms_is_dropped(
    acme: Org, limited: Budget, alice: Person, bob: Person, session: OrmSession
) -> None:
    path = "/orgs/acme/budgets"
    assert send(alice, f"{path}/new", **FORM | {"target": "agent:a/b\0"}).status_code == 303
    assert send(alice, f"{path}/new", **FORM | {"target": "key:\0"}).status_code < 500
    asked = send(bob, f"{path}/{limited.id}/requests", amount="5", reason="more\0", subject="\0")
    assert asked.status_code == 303
    session.rollback()
    row = session.query(BudgetRequest).one()
    assert row.reason == "more"
    decided = send(alice, f"{path}/requests/{row.id}", decision="approve", amount="5", answer="no\0pe")
    assert decided.status_code == 303
    assert bob.browser.get(f"{path}/{limited.id}?subject=%00").status_code < 500


def test_requests_at_once_are_one_request(
    app: Flask, session: OrmSession, acme: Org, bob: Person, limited: Budget
) -> None:
    """Two tabs ask at once: the second waits for the first and replaces it."""
    account, asked = Account(org_id=acme.id), threading.Barrier(2)
    upsert = budget_requests._upsert_request

    def ask(amount: int) -> str:
        with app.app_context():
            user = db.session.get_one(User, bob.id)
            made = budget_requests.request_more(account, limited.id, user, amount)
            db.session.commit()
            return made.id

    def meet(request: BudgetRequest) -> BudgetRequest:
        asked.wait(60)
        return upsert(request)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as threads:
        patch.setattr(budget_requests, "_upsert_request", meet)
        first, second = threads.map(ask, (5, 6))
    assert first == second
    assert session.scalars(select(BudgetRequest)).one().amount in (5, 6)


def test_runs_of_others_are_not_named(
    session: OrmSession, acme: Org, alice: Person, bob: Person, mallory: Person
) -> None:
    """A request, and the page of a budget of runs, know the runs of the member that the organisation pays for."""
    account = Account(org_id=acme.id)
    made = budgets.create_budget(account, "run", "total", 100)
    mine = factories.run(bob.user, "acme/reviewer@1.0.0", org_id=acme.id)
    child = factories.run(bob.user, "acme/reviewer@1.0.0", org_id=acme.id, parent=mine)
    hers = factories.run(alice.user, "acme/reviewer@1.0.0", org_id=acme.id)
    elsewhere = factories.run(mallory.user, "acme/reviewer@1.0.0")
    assert bob.user
    for run in (mine, child):
        budget_requests.request_more(account, made.id, bob.user, 5, subject=run.id, run_id=run.id)
    for run in (hers, elsewhere):
        for named in ({"subject": run.id}, {"subject": mine.id, "run_id": run.id}):
            with pytest.raises(Invalid):
                budget_requests.request_more(account, made.id, bob.user, 5, **named)
    assert [(each.subject, each.run_id) for each in session.scalars(select(BudgetRequest))] == [
        (mine.id, mine.id)
    ]
    assert budget_requests.limit_for(account, made, alice.id, subject=mine.id) is not None
    assert budget_requests.limit_for(account, made, alice.id, subject=elsewhere.id) is None


def test_the_credit_limit_and_its_budget_are_changed_at_once(
    app: Flask, session: OrmSession, acme: Org, alice: Person, limited: Budget
) -> None:
    """Both lock the account before the organisation, so neither waits for what the other has."""
    edit_org(acme, {"credit_limit": 400})
    session.commit()
    org_id, locked, edits = acme.id, threading.Event(), threading.Event()

    def change_budget() -> None:
        with app.app_context():
            account = Account(org_id=org_id)
            lock_account(account)
            locked.set()
            edits.wait(60)
            facts: dict[str, Any] = {"warn_percent": 80, "hard": True, "count_byok": False}
            budgets.change_budget(account, f"credit-limit-{org_id}", limit_credits=500, **facts)
            db.session.commit()

    def edit() -> None:
        with app.app_context():
            org = db.session.get_one(Org, org_id)
            locked.wait(60)
            edits.set()
            edit_org(org, {"credit_limit": 600, "time_zone": "Europe/Berlin"})
            db.session.commit()

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(change_budget), threads.submit(edit)]:
            done.result()
    session.rollback()
    assert budgets.budget_of(Account(org_id=org_id), f"credit-limit-{org_id}").limit_credits == 600
