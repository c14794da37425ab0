"""Demo plans for a server with the Stripe simulator: the tiers of the contract (A.3)."""

from sqlalchemy import select

from models import billing
from models.billing import NewPlan, Plan, WindowLimit
from models.core.db import db

TIERS = {100: ("Strong", 350, 3_500), 200: ("Stronger", 1_050, 10_500), 500: ("Strongest", 2_800, 28_000)}
"""By monthly price in dollars: name, credits per five-hour block, and credits per week."""


def offer_plans() -> int:
    """Create the plans if the server has never had a plan. Returns their number. Flushes."""
    if db.session.scalar(select(Plan.id).limit(1)) is not None:
        return 0
    for dollars, (name, block, week) in TIERS.items():
        billing.create_plan(
            NewPlan(
                name,
                dollars * 100,
                description="A demo plan, paid with play money",
                windows=(WindowLimit("5 hours", 5, block), WindowLimit("week", 168, week)),
                tier=dollars,
                sort=dollars,
            )
        )
    return len(TIERS)
