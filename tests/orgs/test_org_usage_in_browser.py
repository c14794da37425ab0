"""Usage, calls, alerts and webhooks of an organisation in a browser: axe at both widths, and dismissing in place."""

from datetime import timedelta
from decimal import Decimal

from playwright.sync_api import expect

from models.core.db import db, now
from models.orgs import Org, WebhookDelivery, raise_alert
from models.orgs.webhooks import add_webhook, enqueue_delivery
from models.usage.org_usage import count_calls
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge
from tests.factories import Person
from tests.orgs.test_orgs_in_browser import base, enter, shoot

__all__ = ["base"]


def fill(acme: Org, people: tuple[Person, ...]) -> str:
    """Calls of a month, alerts and a webhook with deliveries; returns its id."""
    factories.grant(people[0].user, 22_000, type="organization", org_id=acme.id)  # type: ignore[arg-type]
    with factories.one_commit():
        for number in range(120):
            person = people[number * number % 7 % len(people)]
            message = factories.message(
                person.user,
                org_id=acme.id,
                finished_at=now() - timedelta(hours=6 * number + 0.1),
                credits=10 + number * 37 % 90,
                cost=Decimal("0.31"),
                latency_ms=400 + number * 97 % 4000,
                model=("anthropic/claude-sonnet-4.5", "openai/gpt-5.1", "google/gemini-3-pro")[number % 3],
                agent_id=("acme/reviewer@1.2.0", "acme/fixer@1.0.3", None)[number % 3],
                repo_url=(None, "https://github.com/acme/site", "https://github.com/acme/api")[number % 3],
                client_request_id=f"3f2b9c1e-0000-4000-8000-{number // 12:012}",
            )
            factories.call(person.user, message=message, account_id=acme.id, credits=message.credits)  # type: ignore[arg-type]
    count_calls(acme.id, now())
    raise_alert(
        acme.id,
        "budget_stopped",
        "1",
        "critical",
        "Budget Used Up",
        "Team CI has used its 5,000 credits of November.",
    )
    raise_alert(
        acme.id,
        "unusual_spend",
        "2",
        "warning",
        "Unusual Spend",
        "bob used 6,000 credits in the last 24 hours, 6.7 times the usual day of 900.",
        {"user_id": people[1].id},
    )
    webhook, _ = add_webhook(acme.id, "https://hooks.example.org/stoa/acme")
    for state, status, error in (
        ("delivered", 204, None),
        ("waiting", 500, None),
        ("failed", None, "the connection failed (ConnectTimeoutError)"),
    ):
        delivery: WebhookDelivery = enqueue_delivery(
            webhook, "alert.budget_stopped", {"title": "Budget Used Up"}
        )
        delivery.state, delivery.status, delivery.error, delivery.attempts = state, status, error, 1
    db.session.commit()
    return webhook.id


def test_axe_finds_nothing(
    open_page: OpenPage, base: str, acme: Org, alice: Person, bob: Person, carol: Person
) -> None:
    webhook_id = fill(acme, (alice, bob, carol))
    paths = {
        "usage": "/orgs/acme/usage",
        "calls": f"/orgs/acme/calls?member={bob.id}",
        "alerts": "/orgs/acme/alerts",
        "webhook": f"/orgs/acme/webhooks/{webhook_id}",
    }
    with open_page(base, width=390) as page:
        enter(page, alice)
        for name, path in paths.items():
            page.goto(path)
            shoot(page, name)
            judge(page, *WIDTHS)
        page.goto("/orgs/acme/alerts")
        page.get_by_role("button", name="Dismiss Budget Used Up").click()
        expect(page.get_by_role("button", name="Dismiss Budget Used Up")).to_have_count(0)
        expect(page.get_by_role("button", name="Dismiss Unusual Spend")).to_be_visible()
    with open_page(base, width=390) as page:
        enter(page, bob)
        page.goto("/orgs/acme/usage")
        shoot(page, "usage-own")
