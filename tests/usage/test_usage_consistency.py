"""After random histories, the page, the API, the export, the statement and the ledger agree on all numbers."""

import csv
import io
import random
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from models.accounts.credentials import hash_token
from models.billing.statements.statement_period import statement_month, statement_months
from models.core.pool import Pool
from models.ledger import (
    Admission,
    AdmissionRequest,
    CallFailure,
    CreditEntry,
    Settlement,
    admit,
    charge,
    fail,
    grant,
    prove,
    revoke,
    settle,
    sweep,
)
from models.ledger.entry_positions import START
from models.usage import Message
from tests.factories import Person
from tests.ledger.stage import grant_type

pytestmark = pytest.mark.usefixtures("kind")

MARGIN = Decimal("0.055")


@pytest.fixture
def gateway(postgres_url: str) -> Iterator[Pool]:
    pool = Pool(postgres_url, 2)
    yield pool
    pool.close()


def run_history(
    rng: random.Random, session: Session, gateway: Engine, person: Person, moments: list[datetime]
) -> None:
    """Run random ledger operations on an account, one at each of `moments`."""
    account = person.account
    grants: list[str] = []
    waiting: list[Admission] = []
    for moment in moments:
        operation = rng.choices(
            ["call", "failed", "grant", "charge", "revoke", "sweep", "wait"], [60, 5, 6, 3, 1, 3, 2]
        )[0]
        if operation in ("call", "failed", "wait"):
            admission = admit(
                gateway,
                AdmissionRequest(
                    token_hash=hash_token(person.token),
                    request_id=uuid.uuid4().hex,
                    hold=rng.randrange(1, 30),
                    model="m",
                ),
                worker="test",
                free_credits=500,
                now=moment,
            )
            if admission.outcome != "admitted":
                continue
            if operation == "call":
                settle(gateway, admission, finished(rng, moment), now=moment)
            elif operation == "failed":
                failure = CallFailure(requested_model="m", started_at=moment, latency_ms=3, error="refused")
                fail(gateway, admission, failure, now=moment)
            else:
                waiting.append(admission)
        elif operation == "grant":
            kind = grant_type(account, rng.choice(["purchase", "admin", "referral"]))
            ends = rng.choice([None, moment + timedelta(days=rng.randrange(1, 20))])
            operation_id = f"{kind}-{uuid.uuid4().hex}"
            grant(
                account,
                rng.randrange(1, 400),
                kind,
                operation_id=operation_id,
                expires_at=ends,
                now=moment,
            )
            grants.append(operation_id)
            session.commit()
        elif operation == "charge":
            charge(account, rng.randrange(1, 20), cause=uuid.uuid4().hex, now=moment)
            session.commit()
        elif operation == "sweep":
            sweep(now=moment)
            session.commit()
        elif grants:
            try:
                revoke(rng.choice(grants), "test", now=moment)
                session.commit()
            except Exception:
                session.rollback()
    for admission in waiting:
        settle(gateway, admission, finished(rng, moments[-1]), now=moments[-1])


def finished(rng: random.Random, moment: datetime) -> Settlement:
    latency = rng.randrange(1, 90_000)
    return Settlement(
        provider="demo",
        requested_model="m",
        model=f"lab/model-{rng.randrange(10)}",
        usage_source=rng.choice(["provider", "counted", "estimated"]),
        uncached_input_tokens=rng.randrange(5000),
        cache_write_tokens=rng.choice([0, 300]),
        cache_read_tokens=rng.choice([0, 4000]),
        output_tokens=rng.randrange(100, 900),
        reasoning_tokens=rng.randrange(100),
        cost=Decimal(rng.choice([0, 3, 900, 20_000, 400_000])) / 10**6 * rng.randrange(1, 5),
        margin=MARGIN,
        latency_ms=latency,
        started_at=moment - timedelta(milliseconds=latency),
        response="text",
        byok=rng.random() < 0.1,
        ttft_ms=rng.choice([None, 200]),
        stream=True,
    )


def number(text: str) -> int:
    return int(text.replace(",", "").replace("−", "-"))


def totals_of(page: str, label: str) -> dict[str, str]:
    """The total row of the table labelled `label`, by column."""
    table = page[page.index(f'aria-label="{label}"') :]
    foot = table[table.index("<tfoot") : table.index("</tfoot>")]
    return dict(re.findall(r'data-label="([^"]+)">(?:<a [^>]*>)?([^<]*)<', foot))


def usage_pages_agree(session: Session, alice: Person) -> None:
    """The usage page and the export agree with the messages and the ledger."""
    for by in ("model", "agent"):
        page = alice.browser.get(f"/profile?tab=usage&by={by}").text
        calls = list(csv.DictReader(io.StringIO(alice.browser.get("/profile/usage.csv").text)))
        messages = session.execute(
            select(
                func.count(), func.sum(Message.credits).filter(~Message.byok), func.sum(Message.cost)
            ).where(Message.user_id == alice.id)
        ).one()
        debits = -session.scalars(
            select(func.sum(CreditEntry.amount)).where(
                CreditEntry.account_id == alice.account_id,
                CreditEntry.kind == "debit",
                CreditEntry.message_id.is_not(None),
            )
        ).one()

        foot = totals_of(page, f"Usage by {by}")
        headline = re.search(r'class="chart__total">([^<]+) <small>credits,', page)
        assert headline is not None
        spent = number(headline[1])
        assert spent > 0
        assert spent == number(foot["Credits"]) == messages[1] == debits
        assert spent == sum(int(call["credits"]) for call in calls)
        assert number(foot["Calls"]) == len(calls) == messages[0]
        assert sum(Decimal(call["cost_usd"]) for call in calls) == messages[2]


@pytest.mark.parametrize("seed", range(4))
def test_page_api_export_statement_and_ledger_agree(
    session: Session, gateway: Engine, alice: Person, seed: int
) -> None:
    rng = random.Random(seed)
    now = datetime.now(UTC)
    moments = sorted(now - timedelta(seconds=rng.randrange(1, 29 * 86_400)) for _ in range(150))
    moments[-40:] = [now - timedelta(seconds=200 - 4 * n) for n in range(40)]
    assert alice.user is not None
    alice.user.created_at = now - timedelta(days=40)
    alice.user.next_quota_reset = now - timedelta(days=35)
    session.commit()
    run_history(rng, session, gateway, alice, moments)
    sweep()
    session.commit()

    if not alice.home:
        usage_pages_agree(session, alice)
    last = session.scalars(
        select(CreditEntry.balance_after)
        .where(CreditEntry.account_id == alice.account_id)
        .order_by(CreditEntry.id.desc())
        .limit(1)
    ).one()
    statement = alice.browser.get("/profile?tab=statement").text
    key = alice.browser.post("/api/v1/usage", json={"fingerprintId": "x"}, headers=alice.headers).json
    assert key["remainingBalance"] == max(0, last)
    if not alice.home:
        api = alice.browser.get("/api/user/usage").json
        balance = totals_of(alice.browser.get("/profile?tab=usage").text, "Balance by kind")
        assert number(balance["Available"]) == api["balance"]["netBalance"] == last
        assert number(balance["Granted"]) - number(balance["Spent"]) == last
        assert (key["remainingBalance"], key["usage"]) == (
            api["balance"]["totalRemaining"],
            api["usageThisCycle"],
        )
    settled, held, available = (number(text) for text in re.findall(r"<dd>([^<]+) <small>credits", statement))
    assert (settled, held, available) == (last, 0, last)
    card = statement[statement.index('id="sum-h"') :]
    sums = [number(text) for text in re.findall(r"<dd>([^<]+)</dd>", card[: card.index("</section>")])]
    assert sum(sums[:-1]) == sums[-1] == last
    opening = START
    for month in reversed(statement_months(alice.account_id, now)):
        period = statement_month(alice.account_id, f"{month:%Y-%m}", now)
        assert period.opening == opening
        opening = period.closing
        parts = [*period.debits, *period.movements.values()]
        assert sum(part.amount for part in parts) == period.change
        assert sum(line.amount for line in period.changes) == period.change - sum(
            part.amount for part in period.debits
        )
    assert opening.balance == last
    proof = prove()
    assert proof.clean, proof


def test_statement_entries_add_up_to_the_balances(session: Session, gateway: Engine, alice: Person) -> None:
    rng = random.Random(99)
    now = datetime.now(UTC)
    assert alice.user is not None
    alice.user.next_quota_reset = now - timedelta(days=3)
    session.commit()
    run_history(rng, session, gateway, alice, [now - timedelta(seconds=500 - n) for n in range(360)])

    seen: list[tuple[int, int]] = []
    link: str | None = f"{alice.home}/billing/statement" if alice.home else "/profile?tab=statement"
    pages = 0
    while link:
        page = alice.browser.get(link).text
        pages += 1
        cells = re.findall(
            r'data-label="Amount">([+−]?[\d,]+)</td>\s*<td[^>]* data-label="Balance">([^<]+)<', page
        )
        seen += [(number(change), number(after)) for change, after in cells]
        more = re.search(r'class="btn" href="(/[^"]*statement[^"]*before[^"]+)"', page)
        link = more[1].replace("&amp;", "&") if more else None

    assert pages > 2
    assert len(seen) == session.scalars(select(func.count()).select_from(CreditEntry)).one()
    for (change, after), (_, before) in zip(seen, [*seen[1:], (0, 0)], strict=True):
        assert before + change == after
