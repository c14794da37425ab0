"""The database of release 0.1: the tables, room by room, the job queue, the functions.

It stands for the twenty-one steps that led there and has the id of the last of them: a database that made these steps is
at this revision by itself. One that stopped before is refused (`migrations/env.py`).

Revision: 0021
Revises:
"""

from pathlib import Path

from migrations.replacing import replace_function, restore_function, run_script

revision = "0021"
down_revision = None
branch_labels = None
depends_on = None

HERE = Path(__file__).parents[1]

# In an order in which every reference finds its table.
ROOMS = ("accounts", "orgs", "ledger", "billing", "runs", "usage", "gateway", "store", "admin")

# In an order in which each finds what it is made of; what a PL/pgSQL body calls need not be there yet.
FUNCTIONS = (
    "accounts/session_slide",
    "ledger/credit_account_lock",
    "ledger/credit_charge",
    "ledger/credit_entry_append_only",
    "ledger/credit_expire",
    "ledger/credit_grant",
    "ledger/credit_hold_extend",
    "ledger/credit_hold_grow",
    "ledger/credit_net",
    "ledger/credit_quota",
    "ledger/credit_revoke",
    "ledger/credit_sweep",
    "ledger/credit_take",
    "ledger/gateway_admit",
    "ledger/gateway_admit_many",
    "ledger/gateway_fail",
    "ledger/gateway_settle",
    "ledger/gateway_settle_many",
    "store/store_agent_key",
    "store/store_bucket",
    "store/store_changed",
    "store/store_count",
    "store/store_counted",
    "store/store_enter",
    "store/store_follow_bills",
    "store/store_follow_call",
    "store/store_follow_deletion",
    "store/store_follow_member",
    "store/store_follow_owner",
    "store/store_follow_run",
    "store/store_tally",
    "store/store_histogram",
    "store/store_is_own",
    "store/store_kind",
    "store/store_move",
    "store/store_own_anew",
    "store/store_recount",
    "store/store_run_lock",
    "store/store_settling",
    "store/store_since",
    "store/store_slide",
    "store/store_sum",
    "store/store_tell",
    "store/store_tell_version",
    "store/store_window_key",
    "store/finished_agent_run",
    "core/audit_log_append_only",
)

DROP_TABLES = """
DROP SEQUENCE store_figures;
DROP TABLE git_eval_results, audit_log;
DROP TABLE remote_picture, takedown, store_stamp, store_window, agent_user, agent_day, agent_run_bill, agent_version,
    agent, agent_config, publisher;
DROP TABLE gateway_call;
DROP TYPE gateway_facts, gateway_ask;
DROP TABLE usage_rollup, message;
DROP TABLE agent_run_volume, agent_step, agent_run;
DROP TYPE agent_step_status, agent_run_status;
DROP TABLE sync_failure, limit_override, subscription, ad_impression, referral;
DROP TYPE subscription_status, referral_status;
DROP TABLE credit_entry, credit_hold, credit_ledger, credit_account;
DROP TYPE grant_type;
DROP TABLE org_feature, org_invite, org_repo, org_member, org;
DROP TYPE org_role;
DROP TABLE write_quota, encrypted_api_keys, login_link, "verificationToken", session, fingerprint, account, "user";
DROP TYPE api_key_type, session_type;
"""

DROP_JOB_QUEUE = """
DROP TABLE procrastinate_events, procrastinate_periodic_defers, procrastinate_jobs, procrastinate_workers CASCADE;
DO $$
DECLARE
    drop_routine text;
BEGIN
    FOR drop_routine IN
        SELECT 'DROP FUNCTION ' || oid::regprocedure FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND starts_with(proname, 'procrastinate_')
    LOOP
        EXECUTE drop_routine;
    END LOOP;
END $$;
DROP TYPE procrastinate_job_to_defer_v1, procrastinate_job_event_type, procrastinate_job_status;
"""


def upgrade() -> None:
    for room in ROOMS:
        run_script((HERE / "release_0_1" / f"{room}.sql").read_text())
    run_script((HERE / "procrastinate_3_10_0.sql").read_text())
    for name in FUNCTIONS:
        replace_function(name, revision)


def downgrade() -> None:
    for name in reversed(FUNCTIONS):
        restore_function(name, revision)
    run_script(DROP_JOB_QUEUE)
    run_script(DROP_TABLES)
