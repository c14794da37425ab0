"""An account with every kind of ledger entry, and parsers of its statement pages."""

import html
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from models.ledger import Account, CreditEntry, charge, grant, lock_account, revoke, sweep, take_back
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.ledger.stage import grant_type

NOW = (datetime.now(UTC) - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
"""Yesterday at noon, so that no history crosses midnight or lies in the future."""
MONTH = NOW.replace(day=1, hour=0)


@dataclass(frozen=True)
class Row:
    """A row of the statement: text, URL of the cause, amount and balance."""

    text: str
    href: str | None
    amount: int
    balance: int


def spend(
    session: Session, who: Person, amount: int, model: str, at: datetime, *, org: Org | None = None
) -> str:
    """A settled call with its debit, of `org` or of the person's account; returns its request id. Commits."""
    assert who.user
    of = {"org_id": org.id} if org else {}
    message = factories.message(who.user, amount, model=model, finished_at=at, **of)
    call = factories.call(who.user, message=message, model=model, started_at=at, finished_at=at, **of)
    session.execute(
        text("SELECT credit_take(:account, :amount, :cause, :message, :at)"),
        {
            "account": org.id if org else who.account_id,
            "amount": amount,
            "cause": call.request_id,
            "message": message.id,
            "at": at,
        },
    )
    session.commit()
    return call.request_id


def history(session: Session, who: Person) -> dict[str, str]:
    """Entries of all kinds on five days of the last week; returns ids by name. Commits."""
    account, day = who.account, timedelta(days=1)
    start = NOW - 6 * day
    lock_account(account)
    session.commit()

    def give(name: str, amount: int, type: str, **options: Any) -> None:
        kind = grant_type(account, type)
        grant(
            account, amount, kind, operation_id=f"{name}-{account.id}", description=f"The {name}", **options
        )
        session.commit()

    give("gift", 500, "admin", expires_at=start + 2 * day, now=start)
    give("sold", 1000, "purchase", now=start + timedelta(minutes=1))
    ids = {"call": spend(session, who, 120, "lab/big", start + timedelta(hours=1))}
    ids["small"] = spend(session, who, 3, "lab/small", start + day)
    charge(account, 40, cause="search-1", now=start + day + timedelta(minutes=1))
    sweep(now=start + 2 * day + timedelta(minutes=1))
    take_back(f"sold-{account.id}", 300, "refund", now=start + 3 * day)
    take_back(f"sold-{account.id}", 100, "refund", now=start + 3 * day + timedelta(minutes=1))
    session.commit()
    give("wrong", 77, "admin", now=start + 4 * day)
    revoke(f"wrong-{account.id}", "a mistake", now=start + 4 * day + timedelta(minutes=1))
    session.commit()
    ids["last"] = spend(session, who, 9, "lab/100%_odd", NOW - timedelta(minutes=5))
    return ids | {name: f"{name}-{account.id}" for name in ("gift", "sold", "wrong")}


def entries(session: Session, account: Account) -> list[CreditEntry]:
    """All entries of the account, oldest first."""
    query = select(CreditEntry).where(CreditEntry.account_id == account.id).order_by(CreditEntry.id)
    return list(session.scalars(query))


def entry_sum(session: Session, account: Account) -> int:
    """The sum of all entries of the account."""
    query = select(func.sum(CreditEntry.amount)).where(CreditEntry.account_id == account.id)
    return int(session.scalars(query).one() or 0)


def number(written: str) -> int:
    """Parse a number from a page."""
    return int(written.replace(",", "").replace("−", "-"))


def words(written: str) -> str:
    """The text of HTML markup."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", written)).split())


def rows(page: str) -> list[Row]:
    """The rows of a statement page."""
    found = re.findall(
        r'<th role="rowheader" scope="row">(.*?)</th>(?:(?!<tr).)*?data-label="Amount">([^<]+)</td>'
        r'\s*<td[^>]* data-label="Balance">([^<]+)<',
        page,
        re.S,
    )
    made = []
    for head, amount, balance in found:
        link = re.search(r'href="([^"]+)"', head)
        made.append(
            Row(words(head), html.unescape(link[1]) if link else None, number(amount), number(balance))
        )
    return made


def stats(page: str) -> dict[str, int]:
    """The statistics of a page by name."""
    return {
        name: number(value)
        for name, value in re.findall(r"<dt>([^<]+)</dt><dd>([^<]+) <small>credits</small>", page)
    }


def facts(page: str, id: str) -> dict[str, int]:
    """The names and values of the card with the heading `id`."""
    card = page[page.index(f'id="{id}"') :]
    card = card[: card.index("</section>")]
    return {
        words(name): number(value)
        for name, value in re.findall(r"<dt>(.*?)</dt><dd>([^<]+)</dd>", card, re.S)
    }
