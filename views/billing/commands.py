"""`flask billing`: what an operator sees and does of purchases, Stripe's events, and their reconciliation."""

import re
from datetime import UTC, datetime
from typing import Any

import click
from flask import Flask

from models import billing
from models.billing.payments import customers, stripe_events
from models.billing.payments.purchase import STATES, dollars
from models.billing.payments.trust import LEVELS
from models.billing.subscription_plans.plans import INTERVALS
from models.core.audit_log import record
from models.core.db import db
from models.core.errors import NotFound
from views.ledger.commands import account_of_name, commands, operator


def init_app(app: Flask) -> None:
    """Register Stripe's client. The commands belong to the ledger's group `flask billing`."""
    app.extensions["stripe"] = billing.connect(app.extensions["settings"])


@commands.command("purchases")
@click.argument("name", required=False)
@click.option("--state", type=click.Choice(STATES))
@click.option("--in-doubt", is_flag=True, help="Only those whose outcome Stripe should have reported by now.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
def purchases_command(name: str | None, state: str | None, in_doubt: bool, limit: int) -> None:
    """List purchases, newest first: of all, or of the account of NAME (an e-mail address, or an organisation's slug)."""
    account = account_of_name(name)[0] if name else None
    listed = billing.listed_purchases(account=account, state=state, in_doubt=in_doubt, limit=limit)
    for purchase, email in listed:
        facts = [
            _moment(purchase.created_at),
            purchase.id,
            email,
            purchase.state,
            purchase.kind,
            f"{purchase.credits:,} credits",
            dollars(purchase.amount_cents),
        ]
        if purchase.taken_back:
            facts.append(f"{purchase.taken_back:,} taken back")
        if purchase.fraud_warning_id:
            facts.append("reported as fraud")
        if purchase.failure_code:
            facts.append(f"{purchase.failure_code}: {purchase.failure_message}")
        facts.append(purchase.stripe_payment_intent_id or purchase.stripe_checkout_session_id or "-")
        click.echo("  ".join(facts))
    if not listed:
        click.echo("There is no such purchase.")


@commands.command("events")
@click.option("--all", "everything", is_flag=True, help="Also those that were worked without trouble.")
@click.option("--retry", metavar="EVENT_ID", help="Work one again that is not handled.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
def events_command(everything: bool, retry: str | None, limit: int) -> None:
    """List Stripe's events that wait, failed or did not fit the books, and webhooks that were refused, newest first."""
    if retry:
        if not stripe_events.retry_event(retry):
            raise NotFound("There is no event with this id that is not handled.")
        record("billing.retry_event", retry, actor=operator())
        db.session.commit()
        click.echo(f"{retry} is worked again.")
        return
    events = stripe_events.stripe_events(troubled=not everything, limit=limit)
    for event in events:
        state = {
            "ignored": f"ignored: {event.ignored}",
            "failed": f"failed {event.attempts} times: {event.error}",
            "waiting": "waits",
        }.get(event.state, event.state)
        click.echo(
            f"{_moment(event.received_at)}  {event.id}  {event.type}  {event.object_id or '-'}  {state}"
        )
    refusals = stripe_events.webhook_refusals()
    for refusal in refusals:
        click.echo(f"{refusal.day}  refused {refusal.count:,} times: {refusal.reason}")
    if not events and not refusals:
        click.echo("No event is in trouble, and none was refused.")


@commands.command("reconcile")
@click.option("--days", type=click.IntRange(1, 365), default=7, show_default=True)
def reconcile_command(days: int) -> None:
    """Compare Stripe's payments of the last days with the purchases, and its subscriptions with ours, and repair what is
    missing; exit 1 if something cannot be repaired."""
    found = billing.reconcile(days)
    for finding in found.findings:
        done = "repaired" if finding["repaired"] else "NOT REPAIRED"
        click.echo(f"{done}  {finding['purchase_id']}  {finding['what']}")
    click.echo(
        f"{found.checked:,} payments since {_moment(found.since)}: "
        + (f"{len(found.findings):,} differed." if found.findings else "Stripe and the purchases agree.")
    )
    if found.open_findings:
        raise SystemExit(1)


@commands.command("plans")
@click.option("--all", "everything", is_flag=True, help="Also retired plans and versions.")
def plans_command(everything: bool) -> None:
    """List the plans on offer, with their limits and numbers of subscribers."""
    plans = billing.listed_plans(active=None if everything else True)
    counts = billing.subscriber_counts()
    for plan in plans:
        models = "all models" if plan.models is None else "models " + ", ".join(plan.models)
        windows = [f"{window.credits:,} credits per {window.name}" for window in plan.windows]
        count = counts.get(plan.id, 0)
        facts = [
            plan.id,
            f"{plan.name} version {plan.version}",
            f"{dollars(plan.price_cents)} a {plan.interval}",
            *windows,
            *([f"{plan.included_credits:,} credits included"] if plan.included_credits else []),
            models,
            *([f"{plan.requests_per_minute:,} requests per minute"] if plan.requests_per_minute else []),
            "retired" if not plan.active else "public" if plan.public else "hidden",
            f"{count:,} subscriber{'' if count == 1 else 's'}",
        ]
        click.echo("  ".join(facts))
    if not plans:
        click.echo("There is no plan.")


class WindowParam(click.ParamType[billing.WindowLimit]):
    """A limit of a plan, as in `5 hours=5:350` or `month=period:14000`."""

    name = "name=hours:credits"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> billing.WindowLimit:
        """Parse it; fail with a usage error if it is invalid."""
        found = re.fullmatch(r"(.+)=(\d{1,6}|period):(\d{1,15})", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is no window: use '5 hours=5:350' or 'month=period:14000'.", param, ctx)
        hours = None if found[2] == "period" else int(found[2])
        return billing.WindowLimit(found[1], hours, int(found[3]))


@commands.command("plan-create")
@click.argument("name")
@click.argument("price_cents", type=int)
@click.option("--interval", type=click.Choice(INTERVALS), default="month", show_default=True)
@click.option("--description", default="")
@click.option("--feature", "features", multiple=True, help="A line of what it offers; repeat it.")
@click.option(
    "--model", "models", multiple=True, help="A pattern of model names, as in 'openai/*'; none: all."
)
@click.option(
    "--window",
    "windows",
    multiple=True,
    type=WindowParam(),
    help="A limit, as in '5 hours=5:350'; repeat it.",
)
@click.option("--included", default=0, help="Credits for each paid period.")
@click.option("--requests-per-minute", type=int)
@click.option("--seats", type=int)
@click.option("--tier", type=int, help="Dollars per month by which older clients know it.")
@click.option("--hidden", is_flag=True, help="Not on the page of prices.")
@click.option("--sort", default=0, help="Lower ones come first.")
def plan_create_command(
    name: str,
    price_cents: int,
    interval: str,
    description: str,
    features: tuple[str, ...],
    models: tuple[str, ...],
    windows: tuple[billing.WindowLimit, ...],
    included: int,
    requests_per_minute: int | None,
    seats: int | None,
    tier: int | None,
    hidden: bool,
    sort: int,
) -> None:
    """Offer the plan NAME for PRICE_CENTS US cents."""
    plan = billing.create_plan(
        billing.NewPlan(
            name,
            price_cents,
            interval=interval,
            description=description,
            features=features,
            models=models or None,
            windows=windows,
            included_credits=included,
            requests_per_minute=requests_per_minute,
            seats=seats,
            tier=tier,
            public=not hidden,
            sort=sort,
        )
    )
    record(
        "billing.plan_create", plan.id, actor=operator(), after={"name": plan.name, "version": plan.version}
    )
    db.session.commit()
    click.echo(
        f"{plan.id}: {plan.name} version {plan.version}, {dollars(plan.price_cents)} a {plan.interval}"
    )


@commands.command("plan-retire")
@click.argument("plan_id")
def plan_retire_command(plan_id: str) -> None:
    """Sell the plan PLAN_ID no more; its subscribers keep it."""
    plan = billing.get_plan(plan_id)
    billing.retire_plan(plan)
    record("billing.plan_retire", plan.id, actor=operator())
    db.session.commit()
    count = billing.subscriber_counts().get(plan.id, 0)
    click.echo(
        f"{plan.name} is retired. {count:,} {'subscriber keeps' if count == 1 else 'subscribers keep'} it."
    )


@commands.command("failures")
@click.option("--retry", metavar="ID", help="Let one be tried five more times.")
def failures_command(retry: str | None) -> None:
    """List what could not be told to Stripe, such as new customers; a job tries each five times."""
    if retry:
        customers.retry_failure(retry)
        record("billing.retry_failure", retry, actor=operator())
        db.session.commit()
        click.echo(f"{retry} is tried again.")
        return
    failures = customers.sync_failures()
    for failure in failures:
        click.echo(
            f"{_moment(failure.last_attempt_at)}  {failure.id}  {failure.provider}  tried {failure.retry_count}"
            f" times  {failure.last_error}"
        )
    if not failures:
        click.echo("Nothing failed.")


@commands.command("frozen")
def frozen_command() -> None:
    """List the accounts that cannot buy because of disputes, and the banned customers."""
    frozen, banned = billing.frozen_buyers(), billing.banned_buyers()
    for buyer in frozen:
        freeze = buyer.freeze
        why = "lost" if freeze.lost else "open"
        click.echo(
            f"{_moment(freeze.since)}  {buyer.name}  {buyer.disputes:,} disputed, the first {why}:"
            f" {dollars(freeze.amount_cents)}  {freeze.payment_id}"
        )
    for user in banned:
        click.echo(f"banned  {user.email}  {user.banned_reason or '-'}")
    if not frozen and not banned:
        click.echo("Nobody is frozen or banned.")


@commands.command("unfreeze")
@click.argument("name")
def unfreeze_command(name: str) -> None:
    """Let the account of NAME buy again although it disputes payments, or lost them."""
    account, name = account_of_name(name)
    cleared = billing.clear_freeze(account)
    if not cleared:
        raise NotFound(f"Nothing keeps {name} from buying.")
    record("billing.unfreeze", account.id, actor=operator(), after={"disputes": cleared})
    db.session.commit()
    click.echo(
        f"{name} may buy again: {cleared:,} {'dispute is' if cleared == 1 else 'disputes are'} cleared."
    )


@commands.command("limits")
@click.argument("name")
@click.option(
    "--level",
    type=click.Choice([*(level.name for level in LEVELS), "auto"]),
    help="Set the trust level; auto: by age and paid history.",
)
def limits_command(name: str, level: str | None) -> None:
    """Show how often and how much the account of NAME may buy in 24 hours, and what is used; set its trust level."""
    account, name = account_of_name(name)
    if level is not None:
        billing.set_trust_level(account, None if level == "auto" else level)
        record("billing.limits", account.id, actor=operator(), after={"level": level})
        db.session.commit()
    limits = billing.buying_limits(account)
    origin = "set by an operator" if limits.set_by_operator else "by age and paid history"
    count = "no limit" if limits.max_purchases is None else f"of {limits.max_purchases:,}"
    amount = "no limit" if limits.max_cents is None else f"of {dollars(limits.max_cents)}"
    click.echo(f"{name}: level {limits.level.name} ({origin})")
    click.echo(
        f"  account age   {limits.age.days:,} days\n"
        f"  paid history  {dollars(limits.paid_cents)}, older than 7 days, less refunds and disputes\n"
        f"  purchases     {limits.purchases:,} in 24 hours, {count}\n"
        f"  amount        {dollars(limits.cents)} in 24 hours, {amount}\n"
        f"  declines      {limits.declines:,} in 24 hours"
    )
    if limits.next_purchase_at is not None:
        click.echo(f"  can buy again after {_moment(limits.next_purchase_at)}")


@commands.command("limit-override")
@click.argument("name")
@click.option("--block", type=int, help="Credits of a block, the shortest window of a plan.")
@click.option("--hours", type=int, help="Hours that a block lasts.")
@click.option("--week", type=int, help="Credits of the next longer window, which is a week in most plans.")
@click.option("--remove", is_flag=True, help="Let the limits of the plan apply again.")
def limit_override_command(
    name: str, block: int | None, hours: int | None, week: int | None, remove: bool
) -> None:
    """Show or set the limits of the person NAME in place of those of their plan. An option that is left out keeps its value."""
    account, name = account_of_name(name)
    given = any(each is not None for each in (block, hours, week))
    if remove and given:
        raise click.UsageError("--remove takes no limits.")
    before = _override_facts(billing.limit_override(account))
    if remove and not billing.remove_limit_override(account):
        raise NotFound(f"{name} has no override.")
    if given:
        billing.set_limit_override(account, block=block, hours=hours, week=week)
    found = billing.limit_override(account)
    if remove or given:
        after = _override_facts(found)
        record("billing.limit_override", account.id, actor=operator(), before=before, after=after)
        db.session.commit()
    if found is None:
        click.echo(f"{name} has no override: the limits of their plan apply.")
    else:
        click.echo(
            f"{name}: {found.credits_per_block:,} credits in {found.block_duration_hours:,} hours,"
            f" {found.weekly_credit_limit:,} credits in the next longer window"
        )
    for window in billing.windows_of(account):
        click.echo(f"  {window.name} ({window.label})  {window.used:,} of {window.limit:,} credits used")


def _override_facts(found: billing.LimitOverride | None) -> dict[str, int] | None:
    if found is None:
        return None
    return {
        "block": found.credits_per_block,
        "hours": found.block_duration_hours,
        "week": found.weekly_credit_limit,
    }


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
