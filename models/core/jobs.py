"""The jobs: each is a line that calls a domain function, enqueued by others or at its times.

A job calls a domain function and does not commit; the worker does. Rooms import this module to enqueue, so a job imports its
domain function only when it runs. The queue and its worker are in `job_queue`.
"""

import logging
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial

import procrastinate

from models.core import job_queue
from models.core.db import db, extension, now
from models.core.job_queue import (
    Backoff,
    Context,
    enqueue,
    enqueue_once,
    pending_state,
    queue,
    run_now,
    transaction,
)
from models.core.settings import get_settings

__all__ = [
    "Backoff",
    "Context",
    "enqueue",
    "enqueue_once",
    "pending_state",
    "queue",
    "run_now",
    "transaction",
    "work",
]

log = logging.getLogger("stoa.jobs")

STALLED_AFTER = 60.0  # seconds without a heartbeat from the worker that holds a job


def work(context: Context, *, wait: bool = True) -> None:
    """Run jobs (`job_queue.work`)."""
    # the crash of the last worker may have killed calls too; the next periodic sweep is up to 20 s away
    job_queue.work(context, first=partial(sweep_credit, 0), wait=wait)


@queue.task(name="mail.deliver", retry=Backoff(5, 30, 120, 600, 1800, 3600, 7200))
def deliver_mail(sealed: str) -> None:
    """Send one message. A repetition may send it twice."""
    from models.core.mail import deliver_sealed

    deliver_sealed(get_settings(), sealed)


@queue.periodic(cron="* * * * * */20")
# No lock: a sweep whose worker was killed would block the next until it is rescued. Concurrent sweeps are safe.
@queue.task(name="billing.sweep", queueing_lock="billing.sweep", retry=Backoff())
def sweep_credit(timestamp: int) -> None:
    """Expire holds of dead workers, and grants past their expiry."""
    from models.ledger import sweep

    sweep(now=now())


@queue.periodic(cron="*/5 * * * *")
@queue.task(name="core.forget_submissions", queueing_lock="core.forget_submissions", retry=Backoff())
def forget_submissions(timestamp: int) -> None:
    """Delete the kept responses of forms, and expired submissions."""
    from models.core import form_submissions

    form_submissions.forget_submissions(now())


@queue.periodic(cron="3 4 * * *")
@queue.task(name="admin.sample_storage", queueing_lock="admin.sample_storage", retry=Backoff(600))
def sample_storage(timestamp: int) -> None:
    """Record the sizes of tables and files for operators."""
    from models.admin import storage_review

    settings = get_settings()
    storage_review.sample_storage(now(), None if settings.stoa_files_url else settings.data_dir / "files")


@queue.periodic(cron="13 4 * * *")
@queue.task(name="core.forget_failures", queueing_lock="core.forget_failures", retry=Backoff(60, 600))
def forget_job_failures(timestamp: int) -> None:
    """Delete the errors of jobs that are gone."""
    from models.core import job_failures

    job_failures.forget_failures()


@queue.periodic(cron="41 * * * *")
@queue.task(name="orgs.erase", queueing_lock="orgs.erase", retry=Backoff(60, 600))
def erase_orgs(timestamp: int) -> None:
    """Enqueue the erasure of organisations that were deleted 14 days ago."""
    from models.orgs.founding import due_for_erasure

    for org_id in due_for_erasure(now()):
        enqueue(erase_one_org, org_id=org_id)


@queue.task(name="orgs.erase_one", retry=Backoff(60, 600, 3600))
def erase_one_org(org_id: str) -> None:
    """Erase a deleted organisation for good; one that was restored meanwhile stays."""
    from models.orgs.founding import erase_org

    erase_org(org_id, now())


@queue.periodic(cron="47 * * * *")
@queue.task(name="accounts.erase", queueing_lock="accounts.erase", retry=Backoff(60, 600))
def erase_accounts(timestamp: int) -> None:
    """Enqueue the erasure of accounts that their users deleted 14 days ago."""
    from models.accounts.account_deletion import due_for_erasure

    for user_id in due_for_erasure(now()):
        enqueue(erase_one_account, user_id=user_id)


@queue.task(name="accounts.erase_one", retry=Backoff(60, 600, 3600))
def erase_one_account(user_id: str) -> None:
    """Erase a deleted account for good, and say so to its former address; one that was taken back meanwhile stays."""
    from models.accounts.account_deletion import erase_user
    from models.core import mail

    if former := erase_user(user_id, now()):
        mail.send(extension("settings"), mail.composed(former, "account_erased", {}))


@queue.task(name="billing.end_plan_of_deleted", retry=Backoff(30, 120, 600, 3600, 7200))
def end_plan_of_deleted(user_id: str) -> None:
    """Let the plan of a deleted account end with its period."""
    from models.billing import account_closing

    account_closing.end_plan_of_deleted(user_id)


@queue.task(name="billing.forget_cards", retry=Backoff(30, 120, 600, 3600, 7200))
def forget_cards(user_id: str) -> None:
    """Remove the saved cards of an erased account from Stripe."""
    from models.billing import account_closing

    account_closing.forget_cards(user_id)


@queue.periodic(cron="7 0 * * *")
@queue.task(name="ledger.record_head", queueing_lock="ledger.record_head", retry=Backoff(60, 600, 3600))
def record_ledger_head(timestamp: int) -> None:
    """Record the head of the ledger for the day; a repetition does nothing."""
    from models.ledger import record_head

    record_head(now())


@queue.periodic(cron="17 1 * * *")
@queue.task(name="billing.prove", queueing_lock="billing.prove", retry=Backoff(3600))
def prove_ledger(timestamp: int) -> None:
    """Verify all ledger totals and purchases, and record the result for operators."""
    from models.billing import record_ledger_proof

    record_ledger_proof()


@queue.periodic(cron="51 * * * *")
@queue.task(name="assistants.purge", queueing_lock="assistants.purge", retry=Backoff(60, 600))
def purge_assistants(timestamp: int) -> None:
    """Remove the contents of assistants that were deleted long ago."""
    from models.assistants.assistant_editing import purge_assistants as purge

    purged = 1
    while purged:
        with transaction():
            purged = purge(now(), get_settings().stoa_assistant_days)


@queue.periodic(cron="57 1 * * *")
@queue.task(name="store.prove", queueing_lock="store.prove", retry=Backoff(3600))
def prove_store(timestamp: int) -> None:
    """Verify the store's statistics, and record the result for operators."""
    from models.billing import record_store_proof

    record_store_proof()


@queue.periodic(cron="* * * * * */2")
@queue.task(name="store.apply", queueing_lock="store.apply", retry=Backoff())
def apply_runs(timestamp: int) -> None:
    """Update the statistics of agents for finished, settled and deleted runs."""
    from models.store.statistics import counting

    after: int | None = 0
    while after is not None:
        with transaction():
            after = counting.apply_queue(after)


@queue.periodic(cron="* * * * *")
@queue.task(name="store.slide", queueing_lock="store.slide", retry=Backoff())
def slide_store(timestamp: int) -> None:
    """Advance the week of the store's statistics, in steps of one day after a pause."""
    from models.store.statistics import counting

    moment = now()
    since = None
    while since is None or since < moment - timedelta(days=7):
        with transaction():
            since = counting.advance_window(moment)


@queue.periodic(cron="23 0 * * *")
@queue.task(
    name="store.forget_downloads", queueing_lock="store.forget_downloads", retry=Backoff(60, 600, 3600)
)
def forget_downloads(timestamp: int) -> None:
    """Delete who downloaded what before yesterday; the numbers stay."""
    from models.store.catalogue import downloads

    downloads.forget(now())


@queue.periodic(cron="*/5 * * * *")
@queue.task(name="store.refresh_costs", queueing_lock="store.refresh_costs", retry=Backoff())
def refresh_costs(timestamp: int) -> None:
    """Recompute what a run of each agent costs."""
    from models.store.statistics import agent_costs

    agent_costs.refresh(now())


@queue.periodic(cron="*/5 * * * *")
@queue.task(name="runs.end_idle_sessions", queueing_lock="runs.end_idle_sessions", retry=Backoff())
def end_idle_sessions(timestamp: int) -> None:
    """End the runs of sessions of unmodified clients that had no call for a while."""
    from models.runs import client_sessions

    more = True
    while more:
        with transaction():
            more = client_sessions.end_idle_sessions(now())


@queue.periodic(cron="* * * * *")
@queue.task(name="runs.count_credits", queueing_lock="runs.count_credits", retry=Backoff())
def count_run_credits(timestamp: int) -> None:
    """Add up the credits of the runs of newly settled calls."""
    from models.runs import run_credits

    more = True
    while more:
        with transaction():
            more = run_credits.count_credits()


@queue.periodic(cron="*/15 * * * *")
@queue.task(name="orgs.remind_invites", queueing_lock="orgs.remind_invites", retry=Backoff())
def remind_invites(timestamp: int) -> None:
    """Remind of invitations that end within a day, and note those that expired."""
    from models.orgs import invite_reminders

    for step in (invite_reminders.remind, invite_reminders.note_expired):
        with transaction():
            step(now())


@queue.periodic(cron="51 4 * * *")
@queue.task(name="orgs.check_domains", queueing_lock="orgs.check_domains", retry=Backoff(600, 3600))
def check_domains(timestamp: int) -> None:
    """Look for the records of proven domains."""
    from models.orgs import domain_checks

    domain_checks.check_domains(get_settings(), now())


@queue.periodic(cron="17 3 * * *")
@queue.task(name="accounts.forget_expired", queueing_lock="accounts.forget_expired", retry=Backoff(60, 600))
def forget_expired(timestamp: int) -> None:
    """Delete expired sessions, login links, codes of devices, changes of an address and challenges of passkeys."""
    from models.accounts import credentials, device_grants, email_changes, passkeys

    credentials.delete_expired(now())
    device_grants.forget_grants(now())
    email_changes.delete_expired_changes(now())
    passkeys.forget_challenges(now())


@queue.task(name="accounts.make_data_export", retry=Backoff(30, 300, 1800, 7200))
def make_data_export(export_id: str) -> None:
    """Make the ZIP file of a user's data. A repetition starts again; a finished export stays."""
    from models.accounts import export_making
    from models.core.files import files

    export_making.make_export(export_id, files(get_settings()), get_settings())


@queue.periodic(cron="26 * * * *")
@queue.task(
    name="accounts.remove_data_exports", queueing_lock="accounts.remove_data_exports", retry=Backoff(60, 600)
)
def remove_data_exports(timestamp: int) -> None:
    """End exports that are a week old, and remove their files."""
    from models.accounts import export_making
    from models.core.files import files

    export_making.remove_old(files(get_settings()))


@queue.task(name="billing.handle_event", retry=Backoff(5, 30, 120, 600, 1800, 3600, 7200))
def handle_stripe_event(event_id: str) -> None:
    """Do what a stored event of Stripe's asks for."""
    from models.billing.payments import stripe_events

    stripe_events.apply_event(event_id)


@queue.task(name="billing.resolve_purchase", retry=Backoff(30, 120, 600, 3600, 7200))
def resolve_purchase(purchase_id: str) -> None:
    """Ask Stripe how a purchase ended whose request is over."""
    from models import billing

    billing.resolve(purchase_id)


@queue.task(name="billing.record_tax", retry=Backoff(30, 120, 600, 3600, 7200))
def record_tax(purchase_id: str) -> None:
    """Record the tax of a payment and of its refunds at Stripe Tax."""
    from models import billing
    from models.billing.payments import tax_records

    if billing.enabled():
        tax_records.record_tax(purchase_id)


@queue.task(name="billing.sync_purchase", retry=Backoff(30, 120, 600))
def sync_purchase(purchase_id: str) -> None:
    """Bring a purchase to what Stripe says of its payment, because an operator asks for it."""
    from models.billing.payments import transitions

    transitions.sync(purchase_id)


@queue.periodic(cron="* * * * * */5")
@queue.task(name="billing.sweep_topups", queueing_lock="billing.sweep_topups", retry=Backoff())
def sweep_topups(timestamp: int) -> None:
    """Enqueue the automatic top-ups that are due."""
    from models.billing.topups import topup_charging

    topup_charging.enqueue_due()


@queue.task(name="billing.top_up", retry=Backoff())
def top_up(account_id: str) -> None:
    """Charge an account's automatic top-up. A repetition does nothing while one is open or none is needed."""
    from models.billing.payments import customers
    from models.billing.topups import topup_charging

    if account := customers.account_by_id(account_id):
        topup_charging.top_up(account)


@queue.task(name="billing.send_details", retry=Backoff(30, 120, 600, 3600, 7200))
def send_billing_details(account_id: str) -> None:
    """Send an account's billing details to Stripe."""
    from models.billing.payments import customers

    customers.send_billing_details(account_id)


@queue.task(name="billing.send_email", retry=Backoff(30, 120, 600, 3600, 7200))
def send_customer_email(user_id: str) -> None:
    """Give the Stripe customers of a user, and of the organisations that they own, the user's e-mail address."""
    from models.billing.payments import customers

    customers.send_email(user_id)


@queue.task(name="billing.withdraw_upgrade", retry=Backoff(5, 30, 120, 600, 3600))
def withdraw_upgrade(user_id: str) -> None:
    """Withdraw a person's change of plan that waits for its payment, once a dispute has frozen buying."""
    from models.billing.subscription_plans import subscription_sync
    from models.ledger import Account

    subscription_sync.withdraw_upgrade(Account(user_id=user_id))


@queue.task(name="billing.sync_seats", retry=Backoff(30, 120, 600, 3600, 7200))
def sync_seats(org_id: str) -> None:
    """Pay for as many seats as an organisation has people."""
    from models.billing.subscription_plans import seats

    seats.sync_seats(org_id)


@queue.task(name="billing.end_seats", retry=Backoff(30, 120, 600, 3600, 7200))
def end_seats(org_id: str) -> None:
    """End the subscription of a deleted organisation."""
    from models.billing.subscription_plans import seats

    seats.end_seats_of_deleted(org_id)


@queue.periodic(cron="*/5 * * * *")
@queue.task(name="billing.repair_customers", queueing_lock="billing.repair_customers", retry=Backoff())
def repair_customers(timestamp: int) -> None:
    """Make the customers that Stripe could not make."""
    from models.billing.payments import customers

    customers.repair_customers()


@queue.periodic(cron="37 2 * * *")
@queue.task(name="billing.reconcile", queueing_lock="billing.reconcile", retry=Backoff(600, 3600))
def reconcile_purchases(timestamp: int) -> None:
    """Compare Stripe's payments with the purchases, and repair what is missing."""
    from models import billing

    if billing.enabled():
        billing.reconcile()


@queue.periodic(cron="27 3 * * *")
@queue.task(name="billing.forget_events", queueing_lock="billing.forget_events", retry=Backoff(60, 600))
def forget_stripe_events(timestamp: int) -> None:
    """Empty Stripe's events that were handled long ago."""
    from models.billing.payments import stripe_events

    stripe_events.forget_payloads(now=now())


@queue.periodic(cron="*/10 * * * *")
@queue.task(name="billing.release_referrals", queueing_lock="billing.release_referrals", retry=Backoff())
def release_referrals(timestamp: int) -> None:
    """Pay the referral rewards whose hold is over."""
    from models.billing.referral_program import referrals

    moment = now()
    with transaction():
        due = referrals.due_referrals(now=moment)
    for user_id in due:
        with transaction():
            referrals.release_referral(user_id, free_credits=get_settings().stoa_free_credits, now=moment)


@queue.periodic(cron="33 * * * *")
@queue.task(
    name="billing.announce_expiring", queueing_lock="billing.announce_expiring", retry=Backoff(60, 600)
)
def announce_expiring_keys(timestamp: int) -> None:
    """Enqueue the e-mails about API keys that expire in 7 days or 1 day."""
    from models.billing import key_expiry_mails

    key_expiry_mails.announce_expiring(now())


@queue.task(name="billing.send_mail", retry=Backoff(5, 30, 120, 600, 1800, 3600, 7200))
def send_billing_mail(mail_id: str) -> None:
    """Render a recorded billing e-mail and hand it to the mail queue."""
    from models.billing import mails

    mails.send_recorded(mail_id)


@queue.periodic(cron="* * * * *")
@queue.task(name="billing.watch_budgets", queueing_lock="billing.watch_budgets", retry=Backoff())
def watch_budgets(timestamp: int) -> None:
    """Raise the alerts of organisations' budgets."""
    from models.billing import budget_alerts

    budget_alerts.watch_budgets()


@queue.periodic(cron="29 4 * * *")
@queue.task(name="gateway.reseal_keys", queueing_lock="gateway.reseal_keys", retry=Backoff(600, 3600))
def reseal_provider_keys(timestamp: int) -> None:
    """Bind provider keys that an earlier release encrypted to their owner."""
    from models.gateway import provider_keys

    provider_keys.reseal_provider_keys()


@queue.periodic(cron="*/10 * * * *")
@queue.task(
    name="ledger.prune_idempotent_calls",
    queueing_lock="ledger.prune_idempotent_calls",
    retry=Backoff(60, 600),
)
def prune_idempotent_calls(timestamp: int) -> None:
    """Delete the answers that are no longer replayed."""
    from models import ledger

    pruned, moment = True, now()
    while pruned:
        with transaction():
            pruned = bool(ledger.prune_idempotent_calls(moment))


@queue.periodic(cron="38 3 * * *")
@queue.task(name="ledger.prune_budgets", queueing_lock="ledger.prune_budgets", retry=Backoff(600, 3600))
def prune_budgets(timestamp: int) -> None:
    """Forget what was spent of budgets in windows that are long over."""
    from models.ledger import budget_pruning

    budget_pruning.prune_spending(now())


@queue.periodic(cron="46 3 * * *")
@queue.task(name="gateway.prune_responses", queueing_lock="gateway.prune_responses", retry=Backoff(600, 3600))
def prune_responses(timestamp: int) -> None:
    """Delete kept responses that have not been continued for long."""
    from models.gateway.response_state.stored_response import BEGINNING
    from models.gateway.response_state.stored_response import prune_responses as prune

    start: datetime | None = BEGINNING
    while start is not None:
        with transaction():
            start = prune(now(), get_settings().stoa_response_days, start=start)
    from models.threads.response_turn_start import prune_response_turns

    pruned = 1
    while pruned:
        with transaction():
            pruned = prune_response_turns(now(), get_settings().stoa_response_days)


@queue.periodic(cron="52 3 * * *")
@queue.task(name="threads.purge", queueing_lock="threads.purge", retry=Backoff(600, 3600))
def purge_threads(timestamp: int) -> None:
    """Delete threads for good that were deleted long ago."""
    from models.threads.purging import purge_deleted

    purged = 1
    while purged:
        with transaction():
            purged = purge_deleted(now() - timedelta(days=get_settings().stoa_deleted_thread_days))


@queue.periodic(cron="* * * * *")
@queue.task(name="billing.watch_balances", queueing_lock="billing.watch_balances", retry=Backoff())
def watch_balances(timestamp: int) -> None:
    """Enqueue low balance e-mails."""
    from models.billing import low_balance

    low_balance.watch_balances()


@queue.periodic(cron="22 3 * * *")
@queue.task(name="billing.forget_addresses", queueing_lock="billing.forget_addresses", retry=Backoff(60, 600))
def forget_client_addresses(timestamp: int) -> None:
    """Erase client addresses of old purchases."""
    from models.billing.payments import trust

    trust.forget_addresses()


@queue.periodic(cron="34 3 * * *")
@queue.task(name="orgs.expire_audit", queueing_lock="orgs.expire_audit", retry=Backoff(60, 600))
def expire_audit(timestamp: int) -> None:
    """Remove entries of audit logs whose organisation's retention has passed."""
    from models.orgs.audit_retention import expire_audit_logs

    expire_audit_logs(now())


@queue.task(name="orgs.send_alert", retry=Backoff(5, 30, 120, 600, 1800, 3600, 7200))
def send_alert(alert_id: str) -> None:
    """Enqueue the e-mails and webhook deliveries of an alert."""
    from models.orgs import alert_delivery

    alert_delivery.send_alert(alert_id)


@queue.task(name="orgs.deliver_webhook", retry=Backoff(60, 120, 600))
def deliver_webhook(delivery_id: str) -> None:
    """Send one webhook delivery; a failed one enqueues its next attempt itself."""
    from models.orgs import webhook_sending

    webhook_sending.deliver_event(delivery_id)


@queue.periodic(cron="* * * * *")
@queue.task(name="usage.count_orgs", queueing_lock="usage.count_orgs", retry=Backoff())
def count_org_usage(timestamp: int) -> None:
    """Count the calls of organisations that ended more than five minutes ago."""
    from models.usage import org_usage

    moment = now()
    with transaction():
        due = org_usage.orgs_to_count(moment)
    for org_id in due:
        more = True
        while more:
            with transaction():
                more = org_usage.count_calls(org_id, moment)


@queue.periodic(cron="* * * * *")
@queue.task(name="gateway.count_providers", queueing_lock="gateway.count_providers", retry=Backoff())
def count_providers(timestamp: int) -> None:
    """Count the calls of each provider that ended more than a minute ago."""
    from models.gateway import provider_health

    names = list(extension("gateway").routes.providers)
    more = True
    while more:
        with transaction():
            more = provider_health.count_calls(names, now())


@queue.periodic(cron="*/5 * * * *")
@queue.task(name="usage.recount_accounts", queueing_lock="usage.recount_accounts", retry=Backoff(600))
def recount_accounts(timestamp: int) -> None:
    """Count rollups from before they had keys, errors, providers and types anew, a day of an account in each transaction."""
    from models.usage import rollup_recount

    more = True
    while more:
        with transaction():
            more = rollup_recount.recount_next_day()


@queue.task(name="deployments.follow_head", retry=Backoff(5, 60, 600))
def deploy_moved_head(operation_id: str) -> None:
    """Deploy a workspace whose head moved."""
    from models.deployments import auto_deploying

    auto_deploying.deploy_operation(operation_id)


@queue.task(name="deployments.run", retry=Backoff(5, 60, 600))
def run_deployment(id: str) -> None:
    """Deploy to a provider; a repetition continues."""
    from models.deployments import provider_deploying

    provider_deploying.run_deployment(id)


@queue.task(name="deployments.build", retry=Backoff(5, 60, 600))
def build_deployment(id: str) -> None:
    """Build a deployment and release it; a repetition builds again."""
    from models.deployments import build_running

    build_running.run_build(id)


@queue.periodic(cron="*/5 * * * *")
@queue.task(name="deployments.sweep", queueing_lock="deployments.sweep", retry=Backoff(60, 600))
def sweep_deployments(timestamp: int) -> None:
    """Let deployments fail of which nothing was heard for too long, and forget old traffic of sites."""
    from models.deployments import process_release, provider_deploying, site_traffic

    provider_deploying.fail_silent(now())
    process_release.fail_unstarted(now())
    site_traffic.forget_traffic(now())


@queue.periodic(cron="*/5 * * * *")
@queue.task(name="usage.count_zones", queueing_lock="usage.count_zones", retry=Backoff(600))
def count_zones(timestamp: int) -> None:
    """Count the past days of accounts in the time zones in which they are viewed."""
    from models.usage import zone_rollups

    moment = now()
    with transaction():
        due = zone_rollups.zones_to_count(moment)
    for account_id, time_zone in due:
        more = True
        while more:
            with transaction():
                more = zone_rollups.count_days(account_id, time_zone, moment)


@queue.periodic(cron="42 2 * * *")
@queue.task(name="usage.recount_orgs", queueing_lock="usage.recount_orgs", retry=Backoff(600))
def recount_org_usage(timestamp: int) -> None:
    """Count the calls of the last two days anew, in case one was stored late."""
    from models.usage import org_usage

    moment = now()
    with transaction():
        counted = org_usage.counted_orgs(moment - timedelta(days=2))
    for org_id in counted:
        with transaction():
            org_usage.recount(org_id, moment - timedelta(days=2))


@queue.periodic(cron="* * * * *")
@queue.task(name="orgs.watch", queueing_lock="orgs.watch", retry=Backoff())
def watch_orgs(timestamp: int) -> None:
    """Open and close the alerts of organisations about balance, usage and credit limit."""
    from models.orgs import Org
    from models.usage import alert_watch

    moment = now()
    with transaction():
        due = alert_watch.orgs_to_watch(moment)
    for org_id in due:
        with transaction():
            alert_watch.watch_org(db.session.get_one(Org, org_id), now=moment)


@queue.periodic(cron="12 * * * *")
@queue.task(name="orgs.watch_hourly", queueing_lock="orgs.watch_hourly", retry=Backoff(60))
def watch_orgs_hourly(timestamp: int) -> None:
    """Warn organisations of unusual spend and of invitations that expire."""
    from models.orgs import Org
    from models.orgs.org import living_org_ids
    from models.usage import alert_watch

    moment = now()
    with transaction():
        due = living_org_ids()
    for org_id in due:
        with transaction():
            org = db.session.get_one(Org, org_id)
            alert_watch.watch_spend(org, moment)
            alert_watch.watch_invites(org, moment)


@queue.periodic(cron="52 5 * * *")
@queue.task(name="billing.watch_cards", queueing_lock="billing.watch_cards", retry=Backoff(600, 3600))
def watch_cards(timestamp: int) -> None:
    """Warn organisations whose card expires within 30 days."""
    from models import billing
    from models.billing import org_money_alerts

    if not billing.enabled():
        return
    moment = now()
    with transaction():
        customers = org_money_alerts.orgs_with_cards()
    for org_id, customer_id in customers:
        card = org_money_alerts.default_card_of(customer_id)
        with transaction():
            org_money_alerts.alert_expiring_card(org_id, card, moment)


@queue.periodic(cron="*/15 * * * *")
@queue.task(name="orgs.weekly_reports", queueing_lock="orgs.weekly_reports", retry=Backoff(60, 600))
def send_weekly_reports(timestamp: int) -> None:
    """Enqueue the weekly reports that are due: Monday, eight o'clock, in each organisation's time zone."""
    from models.orgs import Org
    from models.usage import weekly_report

    moment = now()
    with transaction():
        due = weekly_report.orgs_to_report(moment)
    for org_id in due:
        with transaction():
            weekly_report.send_report(db.session.get_one(Org, org_id), moment)


@queue.periodic(cron="32 3 * * *")
@queue.task(name="orgs.forget_deliveries", queueing_lock="orgs.forget_deliveries", retry=Backoff(60, 600))
def forget_deliveries(timestamp: int) -> None:
    """Delete old webhook deliveries."""
    from models.orgs import webhook_sending

    webhook_sending.forget_deliveries(now())


@queue.periodic(cron="47 3 * * *")
@queue.task(name="store.forget_pictures", queueing_lock="store.forget_pictures", retry=Backoff(60, 600))
def forget_pictures(timestamp: int) -> None:
    """Delete unused pictures."""
    from models.core.files import files
    from models.store import publishers
    from models.store.catalogue import pictures, remote_pictures

    with transaction():
        remote_pictures.delete_unused(now())

    def used(addresses: Collection[str]) -> set[str]:
        with transaction():
            return publishers.pictures_in_use(addresses)

    pictures.delete_unused(files(get_settings()), used, now())


@queue.periodic(cron="* * * * *")
@queue.task(name="store.fetch_pictures", queueing_lock="store.fetch_pictures", retry=Backoff())
def fetch_pictures(timestamp: int) -> None:
    """Fetch avatars from other servers."""
    from models.core.files import files
    from models.store.catalogue import remote_pictures

    if get_settings().stoa_remote_avatars:
        remote_pictures.fetch_due(transaction, files(get_settings()), now())


@queue.periodic(cron="* * * * *")
@queue.task(name="jobs.rescue", queueing_lock="jobs.rescue", retry=Backoff(), pass_context=True)
async def rescue_stalled(context: procrastinate.JobContext, timestamp: int) -> None:
    """Restart the jobs of dead workers."""
    manager = context.app.job_manager
    for job in await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_AFTER):
        log.warning("job %s (%s) lost its worker, restarting", job.task_name, job.id)
        await manager.retry_job(job)


@queue.periodic(cron="* * * * * */20")
# No lock, as for the sweep of credit. Concurrent sweeps are safe.
@queue.task(name="runners.sweep", queueing_lock="runners.sweep", retry=Backoff())
def sweep_runners(timestamp: int) -> None:
    """Lease work of runners that are gone again, or end it."""
    from models.runners import work_queue

    work_queue.sweep_work()
    work_queue.forget_work()


@queue.task(name="index.parse", retry=Backoff(5, 30, 120, 600, 3600), priority=-1)
def parse_document(document_id: str) -> None:
    """Make the text of an uploaded document. Takes up to two minutes of a worker: other jobs come first, and an account has one at a time."""
    from models.index import document_parsing

    document_parsing.parse_document(transaction, document_id)


@queue.task(name="index.embed", queueing_lock="index.embed", retry=Backoff(60, 600, 3600))
def embed_documents(timestamp: int = 0) -> None:
    """Make the vectors that texts lack."""
    from models.index import document_parsing

    document_parsing.embed_missing(transaction)


@queue.periodic(cron="36 * * * *")
@queue.task(name="index.purge", queueing_lock="index.purge", retry=Backoff(60, 600))
def purge_documents(timestamp: int) -> None:
    """Remove deleted documents, and the texts and files that no document has any more."""
    from models.core.files import files
    from models.index import document_purge

    document_purge.purge_documents(transaction, files(get_settings()), now())


@queue.periodic(cron="44 3 * * *")
@queue.task(name="projects.collect", queueing_lock="projects.collect", retry=Backoff(600, 3600))
def collect_projects(timestamp: int) -> None:
    """Remove projects past their recovery, old previews of syncs, bytes that nothing names, and join small packs."""
    from models.core.files import files
    from models.projects import project_editing, project_purge
    from models.projects.snapshots import blob_garbage
    from models.projects.sync import sync_preview

    settings = get_settings()
    with transaction():
        sync_preview.forget_previews(now())
        project_purge.forget_projects(project_editing.due_projects(now(), settings.stoa_deleted_project_days))
    blob_garbage.collect_all(transaction, files(settings), now())


@queue.periodic(cron="* * * * * */30")
@queue.task(name="insights.fail_left_runs", queueing_lock="insights.fail_left_runs", retry=Backoff())
def fail_left_runs(timestamp: int) -> None:
    """End runs of action items whose turn is gone, and give back what runs have cost that failed on our side."""
    from models.insights import item_run_ending

    with transaction():
        item_run_ending.fail_left_runs()
    for run_id in item_run_ending.owed_runs():
        with transaction():
            item_run_ending.return_charges(run_id)


@queue.task(name="conversations.return_late_charges", retry=Backoff(60, 600, 3600))
def return_late_charges(turn_id: str, tries: int) -> None:
    """Give back what calls of a turn that failed on our side cost after its end, and look again later."""
    from models.conversations import turn_reversal

    turn_reversal.return_late(turn_id, tries)


@queue.task(name="insights.analyse", retry=Backoff(60, 600, 3600), priority=-1)
def analyse_workspace(workspace_id: str) -> None:
    """Look for what is to be mended in the files of a workspace. Takes up to two minutes of a worker: other jobs come first, and a
    workspace has one at a time."""
    from models.insights import analysing

    analysing.analyse_workspace(transaction, workspace_id)


@queue.task(name="insights.extract_decisions", retry=Backoff(60, 600), priority=-1)
def extract_decisions(turn_id: str) -> None:
    """Look for decisions in the conversation of a turn that has ended. A repetition asks no model again."""
    from models.insights import decision_extracting

    decision_extracting.extract_after_turn(transaction, turn_id)


@queue.task(name="atlas.index", retry=Backoff(5, 60, 600), priority=-1)
def index_atlas(project_id: str) -> None:
    """Bring the map of a project up to its files, then make the vectors that are missing. Takes up to minutes for thousands of new files."""
    from models.atlas import atlas_indexing

    atlas_indexing.follow_files(transaction, project_id)


@queue.periodic(cron="*/20 * * * *")
@queue.task(name="runners.sweep_sandboxes", queueing_lock="runners.sweep_sandboxes", retry=Backoff(60, 600))
def sweep_sandboxes(timestamp: int) -> None:
    """Remove trees that sandboxes of this machine kept for too long, what dead workers left there, and the homes of agents whose conversation is gone."""
    from models.conversations import kept_homes
    from models.runners import sweep_sandboxes

    sweep_sandboxes(get_settings())
    kept_homes.sweep(get_settings())
