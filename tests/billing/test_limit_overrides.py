"""`flask billing limit-override`: limits of one person in place of those of their plan (contract A.3)."""

from sqlalchemy import text

from models import billing
from models.orgs import Org
from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.factories import Person


def test_an_operator_overrides_the_limits_of_one_person(desk: Desk, alice: Person, acme: Org) -> None:
    plans = Plans(desk)
    weekly = billing.WindowLimit("Week", 168, 3_500)
    plans.subscribed(alice, plans.offer(windows=(billing.WindowLimit("5 hours", 5, 350), weekly)))
    runner = desk.app.test_cli_runner()
    plain = "  5 hours (5-hour session)  0 of 350 credits used\n  Week (weekly)  0 of 3,500 credits used\n"
    for args, status, words in (
        ([], 0, f"has no override: the limits of their plan apply.\n{plain}"),
        (["--remove"], 1, "has no override"),
        (["--block", "500", "--week", "4000"], 1, "A new override needs"),
        (["--block", "500", "--hours", "0", "--week", "4000"], 1, "A block lasts 1 to 8,784 hours"),
        (["--block", "3000000000", "--hours", "2", "--week", "4000"], 1, "Use 1 to 2,000,000,000 credits"),
        (
            ["--block", "500", "--hours", "2", "--week", "4000"],
            0,
            "alice@example.org: 500 credits in 2 hours, 4,000 credits in the next longer window\n"
            "  5 hours (2-hour session)  0 of 500 credits used\n  Week (weekly)  0 of 4,000 credits used\n",
        ),
        (["--block", "600"], 0, "600 credits in 2 hours, 4,000"),
        (["--remove", "--block", "1"], 2, "--remove takes no limits"),
        ([], 0, "600 credits in 2 hours, 4,000"),
        (["--remove"], 0, plain),
    ):
        done = runner.invoke(args=["billing", "limit-override", "alice@example.org", *args])
        assert (done.exit_code, words in done.output) == (status, True), (args, done.output)
    done = runner.invoke(args=["billing", "limit-override", acme.slug, "--remove"])
    assert (done.exit_code, "Plans are for personal accounts" in done.output) == (1, True)
    desk.session.rollback()
    rows = desk.session.execute(
        text("SELECT before, after FROM audit_log WHERE action = 'billing.limit_override' ORDER BY id")
    )
    first, second = ({"block": block, "hours": 2, "week": 4_000} for block in (500, 600))
    assert [tuple(row) for row in rows] == [(None, first), (first, second), (second, None)]
