"""The statement: balances, causes and their pages, filters, CSV, days, months, and access control."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from models.billing.statements import statement as statement_module
from models.billing.statements import statement_period as period_module
from models.billing.statements.statement_period import statement_month, statement_months, statement_period
from models.core.db import midnight, now
from models.ledger import Account, CreditEntry, balance, charge, grant, record_head
from models.ledger.entry_positions import START, positions_before
from models.ledger.statement_check import check_statement
from models.orgs import Org
from tests import factories
from tests.billing.stage import Desk
from tests.billing.statements import (
    MONTH,
    NOW,
    Row,
    entries,
    entry_sum,
    facts,
    history,
    number,
    rows,
    spend,
    stats,
    words,
)
from tests.billing.subscribers import Plans
from tests.factories import Person, own_account_only
from tests.ledger.stage import grant_type
from views.billing.pages.statement_pdf import day_lines, summary_rows

TAB = "/profile?tab=statement"
HTMX = {"HX-Request": "true"}
DAY = timedelta(days=1)

both_kinds = pytest.mark.usefixtures("kind")


def statement_of(who: Person) -> str:
    """Start of the addresses of the account's statement."""
    return f"{who.home}/billing/statement" if who.home else "/profile/statement"


def get(who: Person, **query: str) -> str:
    answer = who.browser.get("/profile", query_string={"tab": "statement", **query})
    assert answer.status_code == 200, answer.text
    return str(answer.text)


# --- access ------------------------------------------------------------------------------------------------------------


def addresses(who: Person) -> list[str]:
    return [
        TAB,
        "/profile/statement.csv",
        "/profile/statement.csv?kind=calls",
        f"/profile/statement/{NOW.date()}",
        f"/profile/statement/{NOW:%Y-%m}.pdf",
        f"/profile/statement/grants/gift-{who.account_id}",
    ]


@both_kinds
def test_users_read_only_their_own_statement(
    session: Session, alice: Person, mallory: Person, anonymous: Person
) -> None:
    history(session, alice)
    for path in addresses(alice):
        assert alice.browser.get(path).status_code == 200, path
        gone = anonymous.browser.get(path)
        assert (gone.status_code, gone.location.split("?")[0]) == (302, "/login"), path
        assert anonymous.browser.get(path, headers=HTMX).status_code == 401
        assert alice.browser.post(path).status_code in (400, 405)
        other = mallory.browser.get(path)
        # without entries there are no months
        assert other.status_code == (404 if "grants/" in path or ".pdf" in path else 200), path
        assert "The gift" not in other.text
        assert "lab/" not in other.text
    assert rows(get(mallory, before="999999999")) == []


def test_the_former_address_keeps_its_query(alice: Person) -> None:
    answer = alice.browser.get("/profile/statement?show=in&before=7&from=2026-01-01&tab=usage")
    assert answer.status_code == 302
    assert answer.location == "/profile?before=7&from=2026-01-01&tab=statement&kind=unspent"


def test_owners_and_admins_read_the_statement_of_their_organisation(
    session: Session, acme: Org, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    account = Account(org_id=acme.id)
    grant(account, 700, "organization", operation_id="sold", description="For all", buyer_id=alice.id)
    assert bob.user
    call = spend(session, bob, 30, "lab/shared", now(), org=acme)
    session.commit()
    home = "/orgs/acme/billing/statement"
    pages = [
        home,
        f"{home}/{now().date()}",
        f"{home}/{now():%Y-%m}.pdf",
        f"{home}/grants/sold",
        f"{home}.csv",
        f"{home}.csv?kind=calls",
    ]
    for path in pages:
        statuses = [each.browser.get(path).status_code for each in (alice, bob, mallory, anonymous)]
        assert statuses == [200, 403, 404, 302], path
    session.execute(text("UPDATE org_member SET role = 'admin' WHERE user_id = :id"), {"id": bob.id})
    session.commit()
    assert {bob.browser.get(path).status_code for path in pages} == {200}
    page = alice.browser.get(home).text
    assert stats(page) == {"Settled": 670, "Held": 0, "Available": 670}
    opened = f"/orgs/acme/calls/{call}"
    assert [(row.text, row.href, row.amount) for row in rows(page)] == [
        ("lab/shared", opened, -30),
        ("For all", f"{home}/grants/sold", 700),
    ]
    assert f'href="{home}?kind=calls' not in page
    own = re.findall(r'(?:href|action|hx-get)="(/[^"]*statement[^"]*)"', page)
    assert all(each.startswith(home) for each in own)
    assert alice.browser.get(opened).status_code == 200
    filtered = alice.browser.get(f"{home}?kind=calls", headers=HTMX).text
    assert [row.amount for row in rows(filtered)] == [-30]
    assert f'href="{home}"' in filtered
    assert call not in get(alice)
    check = check_statement(io.StringIO(alice.browser.get(f"{home}.csv").text))
    assert (check.valid, check.account, check.entries) == (True, acme.id, 2)
    assert f'href="{home}"' in alice.browser.get("/orgs/acme/billing").text


# --- the numbers -------------------------------------------------------------------------------------------------------


@both_kinds
def test_settled_held_and_available_are_the_sums_of_entries_and_holds(
    session: Session, alice: Person
) -> None:
    history(session, alice)
    assert alice.user
    for amount in (30, 12):
        factories.hold(alice.user, amount)
    page = get(alice)
    total = entry_sum(session, alice.account)
    expected = {"Settled": total, "Held": 42, "Available": total - 42}
    assert stats(page) == expected
    assert page.count('data-label="Held">') == 2
    sums = facts(page, "sum-h")
    settled = sums.pop("Settled")
    assert sum(sums.values()) == settled == total == balance(alice.account).net_balance
    own = alice.account.user_id is not None
    assert sums == {
        "Bought": 1000 if own else 0,
        "Granted": 577 if own else 1577,
        "Calls": -132,
        "Other charges": -40,
        # 123 and 40 of the gift were spent before it expired
        "Expired": -(500 - 120 - 3 - 40),
        "Taken back": -100 - 77,
    }
    if own:
        assert {
            name: value
            for name, value in stats(alice.browser.get("/profile?tab=billing").text).items()
            if name in expected
        } == expected


@both_kinds
def test_expired_grants_are_written_off_before_the_page_counts(session: Session, alice: Person) -> None:
    expires = now() + timedelta(hours=1)
    grant(alice.account, 50, grant_type(alice.account, "admin"), operation_id="x", expires_at=expires)
    grant(alice.account, 7, grant_type(alice.account, "admin"), operation_id="y")
    session.commit()
    card = facts(get(alice), "expiries-h")
    assert list(card.values()) == [50]
    session.execute(
        text("UPDATE credit_ledger SET expires_at = now() - interval '1 second' WHERE operation_id = 'x'")
    )
    session.commit()
    page = get(alice)
    assert stats(page)["Settled"] == facts(page, "sum-h")["Settled"] == 7
    assert "No credits with an expiry date are left." in page
    assert [row.amount for row in rows(page)] == [-50, 7, 50]


# --- causes ------------------------------------------------------------------------------------------------------------


@both_kinds
def test_every_entry_names_and_links_its_cause(session: Session, alice: Person) -> None:
    ids = history(session, alice)
    found = rows(get(alice))
    gift, sold, wrong = (f"{statement_of(alice)}/grants/{ids[name]}" for name in ("gift", "sold", "wrong"))
    revoked = "The wrong (Revoked: a mistake)"
    assert [(row.text, row.href, row.amount) for row in found] == [
        ("lab/100%_odd", f"{alice.home}/calls/{ids['last']}", -9),
        (f"Revoked by the operator: {revoked}", wrong, -77),
        (revoked, wrong, 77),
        ("Given back after a refund: The sold", sold, 200),
        ("Taken back by a refund: The sold", sold, -300),
        ("Expired: The gift", gift, -337),
        ("Charge search-1", None, -40),
        ("lab/small", f"{alice.home}/calls/{ids['small']}", -3),
        ("lab/big", f"{alice.home}/calls/{ids['call']}", -120),
        ("The sold", sold, 1000),
        ("The gift", gift, 500),
    ]
    for href in {row.href for row in found if row.href}:
        assert alice.browser.get(href).status_code == 200, href
    page = alice.browser.get(gift).text
    assert facts(page, "credits-h") == {"Granted": 500, "Spent": -163, "Expired": -337, "Left": 0}
    page = alice.browser.get(sold).text
    assert facts(page, "credits-h") == {"Granted": 1000, "Spent": -9, "Taken back": -100, "Left": 891}


@own_account_only
@both_kinds
def test_repaid_debt_is_named_on_both_grants(session: Session, alice: Person) -> None:
    account = alice.account
    grant(account, 10, "admin", operation_id="first", description="The first")
    charge(account, 25, cause="too much")
    grant(account, 40, "admin", operation_id="second", description="The second")
    session.commit()
    found = [(row.text, row.href, row.amount) for row in rows(get(alice, kind="debt"))]
    second = "The second (15 credits used to clear existing debt)"
    assert found == [
        ("Debt repaid: The first", "/profile/statement/grants/first", 15),
        (f"Used to repay debt: {second}", "/profile/statement/grants/second", -15),
    ]
    page = alice.browser.get("/profile/statement/grants/second").text
    assert facts(page, "credits-h") == {"Granted": 40, "Spent": 0, "Used to repay debt": -15, "Left": 25}
    today = alice.browser.get(f"/profile/statement/{now().date()}").text
    assert "New credits repaid 15 credits of debt" in today


def test_purchases_refunds_and_disputes_link_to_their_purchase(desk: Desk, alice: Person) -> None:
    bought = desk.bought(alice)
    desk.refund(bought, 400)
    dispute = desk.dispute(bought)
    assert dispute
    desk.deliver_events()
    found = rows(get(alice))
    address = f"/profile/billing/purchases/{bought.id}"
    assert {row.href for row in found if "free" not in row.text.lower()} == {address}
    name = "Direct purchase of 1000 credits"
    assert [(row.text, row.amount) for row in rows(get(alice, kind="purchases"))] == [(name, 1000)]
    taken = rows(get(alice, kind="refunds"))
    assert {row.text for row in taken} <= {
        f"Taken back by a refund: {name}",
        f"Taken back by a dispute: {name}",
    }
    assert sum(row.amount for row in taken) == -1000
    history = alice.browser.get(f"/profile/statement/grants/{bought.id}").text
    assert f'href="{address}"' in history
    month = statement_month(alice.id, f"{now():%Y-%m}", now())
    money = period_module.money_of(alice.id, month)
    assert [(line.name, line.credits, line.cents) for line in money] == [
        ("Payment", 1000, 1000),
        ("Refund", None, -400),
        ("Dispute", None, -600),
    ]
    assert alice.browser.get(f"/profile/statement/{now():%Y-%m}.pdf").data[:5] == b"%PDF-"


def test_a_plans_credits_and_payments_are_on_the_statement(
    desk: Desk, alice: Person, mallory: Person
) -> None:
    plans = Plans(desk)
    plans.subscribed(alice, plans.offer("Pro", 2_000, included_credits=1_000))
    (row,) = rows(get(alice, kind="grants", least="1000"))
    assert (row.text, row.amount) == ("Included in Pro", 1000)
    assert row.href
    page = alice.browser.get(row.href)
    assert 'href="/profile?tab=plan"' in page.text
    assert facts(page.text, "credits-h") == {"Granted": 1000, "Spent": 0, "Left": 1000}
    assert mallory.browser.get(row.href).status_code == 404
    (invoice,) = plans.invoices(alice)
    assert invoice.paid_at
    month = statement_month(alice.id, f"{now():%Y-%m}", now())
    period = statement_period(
        alice.id, min(month.first, invoice.paid_at.date()), max(month.last, invoice.paid_at.date())
    )
    money = period_module.money_of(alice.id, period)
    number = invoice.number or invoice.id
    assert [(line.name, line.id, line.credits, line.cents) for line in money] == [
        ("Plan", number, 1000, 2000)
    ]
    invoice.refunded_cents = 500
    desk.session.commit()
    money = period_module.money_of(alice.id, period)
    assert [(line.name, line.cents) for line in money] == [("Plan", 2000), ("Returned of plan", -500)]
    assert period_module.money_of(mallory.id, period) == []


# --- filters -----------------------------------------------------------------------------------------------------------

FILTERS: list[tuple[dict[str, str], Callable[[Row], bool]]] = [
    ({"kind": "calls"}, lambda row: row.text.startswith("lab/")),
    ({"kind": "charges"}, lambda row: row.text.startswith("Charge")),
    ({"kind": "expiries"}, lambda row: row.text.startswith("Expired")),
    ({"kind": "refunds"}, lambda row: row.text.startswith(("Taken back", "Given back", "Revoked"))),
    ({"kind": "purchases"}, lambda row: row.text == "The sold"),
    ({"kind": "grants"}, lambda row: row.amount in (500, 77)),
    ({"kind": "debt"}, lambda row: False),
    ({"kind": "unspent"}, lambda row: not row.text.startswith(("lab/", "Charge"))),
    ({"least": "120"}, lambda row: abs(row.amount) >= 120),
    ({"least": "1,000"}, lambda row: abs(row.amount) >= 1000),
    ({"q": "LAB/"}, lambda row: row.text.startswith("lab/")),
    ({"q": "100%_odd"}, lambda row: row.text == "lab/100%_odd"),
    ({"q": "100__odd"}, lambda row: False),
    ({"q": "the gift"}, lambda row: "The gift" in row.text),
    ({"q": "search-1"}, lambda row: "search-1" in row.text),
    ({"kind": "calls", "least": "9", "q": "lab"}, lambda row: row.text in ("lab/big", "lab/100%_odd")),
    ({"from": str((NOW - 3 * DAY).date())}, lambda row: row.amount in (-9, -77, 77, 200, -300)),
    ({"to": str((NOW - 6 * DAY).date())}, lambda row: row.amount in (500, 1000) or row.text == "lab/big"),
    ({"from": str(NOW.date()), "kind": "expiries"}, lambda row: False),
]


@both_kinds
def test_filters_show_and_export_exactly_what_matches(session: Session, alice: Person) -> None:
    history(session, alice)
    everything = rows(get(alice))
    assert len(everything) == 11
    for (_, after), (change, before) in pairwise((row.amount, row.balance) for row in reversed(everything)):
        assert after + change == before
    for query, matches in FILTERS:
        if not alice.account.user_id and query.get("kind") in ("purchases", "grants"):
            continue  # an organisation's grants have one type
        expected = [row for row in everything if matches(row)]
        page = alice.browser.get("/profile", query_string={"tab": "statement", **query})
        assert rows(page.text) == expected, query
        fragment = alice.browser.get("/profile", query_string={"tab": "statement", **query}, headers=HTMX)
        assert fragment.text.lstrip().startswith('<section id="entries"')
        assert rows(fragment.text) == expected
        if set(query) & {"kind", "least", "q"}:
            answer = alice.browser.get("/profile/statement.csv", query_string=query)
            assert "filtered" in answer.headers["Content-Disposition"]
            lines = list(csv.DictReader(io.StringIO(answer.text)))
            numbers = [(int(line["amount"]), int(line["balance_after"])) for line in reversed(lines)]
            assert numbers == [(row.amount, row.balance) for row in expected], query
    own = {entry.hash.hex() for entry in entries(session, alice.account)}
    assert {line["hash"] for line in lines} <= own


@both_kinds
def test_a_csv_by_days_is_complete_and_verifies(session: Session, alice: Person) -> None:
    history(session, alice)
    all_entries = entries(session, alice.account)
    middle = (NOW - 4 * DAY).date()
    for query in ({}, {"from": str(middle)}, {"to": str(middle)}, {"from": str(middle), "to": str(middle)}):
        check = check_statement(
            io.StringIO(alice.browser.get("/profile/statement.csv", query_string=query).text)
        )
        assert check.valid, (query, check.problems)
        shown = len(rows(get(alice, **query)))
        assert check.entries == shown
        assert shown if not query else shown <= len(all_entries)
        assert check.closing_balance - check.opening_balance == sum(check.kinds.values())


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"kind": "everything"}, "Choose a kind of the list"),
        ({"from": "2026-13-01"}, "Enter a day such as"),
        ({"to": "1.2.2026"}, "Enter a day such as"),
        ({"from": "2026-02-02", "to": "2026-02-01"}, "or a later day"),
        ({"least": "-1"}, "whole number"),
        ({"least": "9" * 30}, "whole number"),
        ({"q": "x" * 101}, "at most 100 characters"),
        ({"q": "a\x00b"}, "at most 100 characters"),
    ],
)
def test_an_invalid_filter_shows_an_error_at_its_field(
    alice: Person, query: dict[str, str], message: str
) -> None:
    for headers in ({}, HTMX):
        answer = alice.browser.get("/profile", query_string={"tab": "statement", **query}, headers=headers)
        assert answer.status_code == 422
        assert message in words(answer.text)
    assert alice.browser.get("/profile/statement.csv", query_string=query).status_code == 422


@pytest.mark.parametrize("before", ["abc", "-1", "1e9", "9" * 30, "٣", "1;drop table"])
def test_an_invalid_cursor(alice: Person, before: str) -> None:
    query = {"tab": "statement", "before": before}
    assert alice.browser.get("/profile", query_string=query).status_code == 422


@both_kinds
def test_more_of_the_statement_comes_as_rows(session: Session, alice: Person) -> None:
    for n in range(120):
        charge(alice.account, 1, cause=f"cause-{n}")
    session.commit()
    pages = list(all_pages(alice, TAB))
    assert [len(page) for page in pages] == [50, 50, 20]
    assert len({row.text for page in pages for row in page}) == 120


@both_kinds
def test_a_page_scans_a_bounded_number_of_entries(
    session: Session, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statement_module, "SCAN", 10)
    monkeypatch.setattr(statement_module, "SCAN_TEXT", 10)
    monkeypatch.setattr(statement_module, "BATCH", 7)
    for n in range(35):
        spend(session, alice, 500 if n % 12 == 0 else 1, "lab/rare" if n % 12 == 0 else "lab/x", NOW)
    for query in ("least=500", "q=lab/rare"):
        pages = list(all_pages(alice, f"{TAB}&{query}"))
        assert len(pages) == 4
        assert [row.amount for page in pages for row in page] == [-500] * 3
        text = alice.browser.get(f"/profile/statement.csv?{query}").text
        assert [line["amount"] for line in csv.DictReader(io.StringIO(text))] == ["-500"] * 3
    assert "Searched back to" in get(alice, least="501")


def all_pages(who: Person, link: str | None) -> Iterator[list[Row]]:
    """The rows of all pages, the later ones as htmx loads them."""
    headers: dict[str, str] = {}
    while link:
        answer = who.browser.get(link, headers=headers).text
        assert not headers or answer.lstrip().startswith("<tr")
        yield rows(answer)
        more = re.search(r'hx-get="([^"]+)" hx-target="closest tr"', answer)
        link, headers = more and more[1].replace("&amp;", "&"), HTMX


# --- days and months ---------------------------------------------------------------------------------------------------


@both_kinds
def test_a_day_is_explained_in_sentences_and_adds_up(session: Session, alice: Person) -> None:
    ids = history(session, alice)
    own = alice.account.user_id is not None
    seen: dict[str, str] = {}
    closing = 0
    for back in range(7, -1, -1):
        day = (NOW - back * DAY).date()
        page = alice.browser.get(f"/profile/statement/{day}").text
        shown = stats(page)
        assert shown["Opening balance"] == closing
        closing = shown["Closing balance"]
        assert shown["Opening balance"] + shown["Change"] == closing
        if 'id="causes-h"' in page:
            table = page[page.index('id="causes-h"') :]
            table = table[: table.index("</table>")]
            amounts = [number(each) for each in re.findall(r'data-label="Credits">([^<]+)<', table)]
            assert sum(amounts[:-1]) == amounts[-1] == shown["Change"]
        seen[page] = words(page[page.index('<div class="prose">') : page.index('<dl class="stats">')])
    assert closing == entry_sum(session, alice.account)
    explanations = " ".join(seen.values())
    for sentence in (
        "Nothing was added or spent. Your balance stayed at 0 credits.",
        "1 call cost 120 credits.",
        "You bought 1,000 credits in 1 purchase. 500 credits came with 1 grant."
        if own
        else "1,500 credits came with 2 grants.",
        "1 other charge cost 40 credits.",
        "337 credits expired unused, of 1 grant.",
        "100 credits were taken back by refunds, disputes or the operator, in 2 movements.",
        "Your balance ended where it began",
    ):
        assert sentence in explanations, sentence
    assert f'href="{alice.home}/calls/{ids["call"]}"' in "".join(seen)
    for wrong in ("2026-13-01", "today", "9999-01-01", str((now() + 2 * DAY).date()), "1999-01-01"):
        assert alice.browser.get(f"/profile/statement/{wrong}").status_code == 404


@both_kinds
def test_months_continue_each_other_and_their_lines_add_up(
    session: Session, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = alice.account
    last = MONTH - timedelta(days=1)
    kind = grant_type(account, "purchase")
    grant(account, 5000, kind, operation_id="old", now=MONTH - timedelta(days=40))
    session.commit()
    for n in range(9):
        spend(session, alice, 10 + n, f"lab/{n}", last.replace(hour=3))
    # booked after midnight with an earlier time, because it waited for the account's lock
    spend(session, alice, 1, "lab/first", MONTH)
    spend(session, alice, 2, "lab/late", MONTH - timedelta(seconds=2))
    spend(session, alice, 4, "lab/next", MONTH + timedelta(seconds=1))
    for n in range(4):
        grant(
            account, 10, grant_type(account, "admin"), operation_id=f"g{n}", now=MONTH + timedelta(minutes=n)
        )
    session.commit()
    moment = NOW
    months = statement_months(account.id, moment)
    assert months[0] == MONTH.date()
    assert len(months) in (2, 3)
    monkeypatch.setattr(period_module, "MAX_CHANGES", 3)
    opening = START
    for month in reversed(months):
        period = statement_month(account.id, f"{month:%Y-%m}", moment)
        assert period.opening == opening
        opening = period.closing
        lines = list(day_lines(account.id, period))
        days = [line for line in lines if line.balance is not None]
        causes = [line for line in lines if line.balance is None]
        assert sum(line.amount for line in causes) == period.change
        rest = period.unlisted.amount
        assert sum(line.amount for line in days) + rest == period.change
        assert not days or days[-1].balance == period.closing.balance
        assert sum(number(value.lstrip("+")) for _, value in summary_rows(period)) == period.change
        assert all(period.first <= each.day <= period.last for each in period.debits)
    assert opening.balance == entry_sum(session, account)
    current = statement_month(account.id, f"{MONTH:%Y-%m}", moment)
    assert (current.calls.count, current.calls.amount) == (3, -7)
    assert current.unlisted.count == 1
    before = statement_month(account.id, f"{last:%Y-%m}", moment)
    assert [line.name for line in day_lines(account.id, before)][-1] == "3 other models, 3 calls"
    assert "Monthly statements" in get(alice)
    record_head()
    session.commit()
    for month in months:
        answer = alice.browser.get(f"/profile/statement/{month:%Y-%m}.pdf")
        assert (answer.status_code, answer.mimetype, answer.data[:5]) == (200, "application/pdf", b"%PDF-")
    for wrong in ("1999-01", f"{MONTH + timedelta(days=70):%Y-%m}", "2026-1", "x", "2026-13"):
        assert alice.browser.get(f"/profile/statement/{wrong}.pdf").status_code == 404, wrong


def test_positions_match_a_linear_search(session: Session, alice: Person) -> None:
    account = alice.account
    grant(account, 100, "purchase", operation_id="g", now=NOW - 9 * DAY)
    offsets = [0, 5, 5, 9, 7, 20, 18, 19, 21, 40, 40, 39, 60]  # seconds, in the order of booking
    for n, offset in enumerate(offsets):
        charge(account, 1, cause=f"c{n}", now=NOW - DAY + timedelta(seconds=offset))
    session.commit()
    booked = entries(session, account)
    moments = [NOW - 10 * DAY, NOW - 2 * DAY, *(NOW - DAY + timedelta(seconds=n) for n in range(-1, 63)), NOW]

    def before(moment: object) -> tuple[int, int, str]:
        position = (START.id, START.balance, START.hash)
        for entry in booked:
            if entry.created_at >= moment:  # type: ignore[operator]
                break
            position = (entry.id, entry.balance_after, entry.hash.hex())
        return position

    found = positions_before(account.id, moments)
    assert [(each.id, each.balance, each.hash) for each in found] == [before(moment) for moment in moments]
    assert positions_before("nobody", moments[:2]) == [START, START]
    assert positions_before(account.id, []) == []
    days = statement_period(account.id, midnight((NOW - DAY).date()).date(), NOW.date())
    assert days.change == days.charges.amount == -len(offsets)
    assert session.get(CreditEntry, days.closing.id) is not None
