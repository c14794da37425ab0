"""Every table of the data model: accounts, billing, organisations, store, runs, usage, gateway and admin.

Revision: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NOW = sa.text("now()")
UTC_NOW = sa.text("(now() AT TIME ZONE 'utc'::text)")
NEW_ID = sa.text("(gen_random_uuid())::text")
TIMESTAMPTZ = sa.TIMESTAMP(timezone=True)
DURATION = (
    "CASE WHEN (completed_at IS NOT NULL)"
    " THEN (GREATEST(LEAST((EXTRACT(epoch FROM (completed_at - created_at)) * (1000)::numeric),"
    " (2147483647)::numeric), ('-2147483648'::integer)::numeric))::integer ELSE NULL::integer END"
)
ENUMS = {
    name: postgresql.ENUM(*values, name=name, create_type=False)
    for name, values in {
        "referral_status": ("pending", "completed"),
        "agent_run_status": ("running", "completed", "failed", "cancelled"),
        "agent_step_status": ("running", "completed", "skipped"),
        "api_key_type": ("anthropic", "gemini", "openai"),
        "grant_type": (
            "free",
            "referral",
            "purchase",
            "admin",
            "organization",
            "subscription",
            "referral_legacy",
            "ad",
        ),
        "org_role": ("owner", "admin", "member"),
        "session_type": ("web", "pat", "cli"),
        "subscription_status": (
            "incomplete",
            "trialing",
            "active",
            "past_due",
            "canceled",
            "unpaid",
            "paused",
        ),
    }.items()
}

# The journal and the audit log are append-only. The journal of an account that is erased as a whole may go with
# it: whoever erases says so by `SET LOCAL stoa.erase_account = '<account id>'`.
APPEND_ONLY = """
CREATE FUNCTION credit_entry_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF current_setting('stoa.erase_account', true) = OLD.account_id THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'credit_entry is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER credit_entry_append_only BEFORE UPDATE OR DELETE ON credit_entry
    FOR EACH ROW EXECUTE FUNCTION credit_entry_append_only();
CREATE TRIGGER credit_entry_no_truncate BEFORE TRUNCATE ON credit_entry
    FOR EACH STATEMENT EXECUTE FUNCTION credit_entry_append_only();

CREATE FUNCTION audit_log_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION audit_log_append_only();
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_append_only();
"""


def upgrade() -> None:
    for enum in ENUMS.values():
        labels = ", ".join(f"'{label}'" for label in enum.enums)
        op.execute(f"CREATE TYPE {enum.name} AS ENUM ({labels})")
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("actor_id", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(), nullable=True),
        sa.Column("after", postgresql.JSONB(), nullable=True),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_log_pk")),
    )
    op.create_index("idx_audit_log_actor", "audit_log", ["actor_id", "id"], unique=False)
    op.create_index("idx_audit_log_subject", "audit_log", ["subject", "id"], unique=False)
    op.create_table(
        "credit_entry",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("operation_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("grant_balance_after", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "(kind = ANY (ARRAY['grant'::text, 'debit'::text, 'expiry'::text, 'revocation'::text, 'debt_cleared'::text]))",
            name=op.f("credit_entry_kind_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("credit_entry_pk")),
    )
    op.create_index("idx_credit_entry_account", "credit_entry", ["account_id", "id"], unique=False)
    op.create_index(
        "idx_credit_entry_message",
        "credit_entry",
        ["message_id"],
        unique=False,
        postgresql_where=sa.text("(message_id IS NOT NULL)"),
    )
    op.create_index("idx_credit_entry_operation", "credit_entry", ["operation_id"], unique=False)
    op.create_table(
        "fingerprint",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("sig_hash", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("fingerprint_pk")),
    )
    op.create_table(
        "git_eval_results",
        sa.Column("id", sa.Text(), server_default=NEW_ID, nullable=False),
        sa.Column("cost_mode", sa.Text(), nullable=True),
        sa.Column("reasoner_model", sa.Text(), nullable=True),
        sa.Column("agent_model", sa.Text(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(), nullable=True),
        sa.Column("cost", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("is_public", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("git_eval_results_pk")),
    )
    op.create_table(
        "login_link",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("next", sa.Text(), nullable=True),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("expires_at", TIMESTAMPTZ, nullable=False),
        sa.Column("used_at", TIMESTAMPTZ, nullable=True),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("login_link_pk")),
    )
    op.create_index(op.f("ix_login_link_email"), "login_link", ["email"], unique=False)
    op.create_index(op.f("ix_login_link_expires_at"), "login_link", ["expires_at"], unique=False)
    op.create_table(
        "sync_failure",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("last_attempt_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("retry_count", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("sync_failure_pk")),
    )
    op.create_index(
        "idx_sync_failure_retry",
        "sync_failure",
        ["retry_count", "last_attempt_at"],
        unique=False,
        postgresql_where=sa.text("(retry_count < 5)"),
    )
    op.create_table(
        "user",
        sa.Column("id", sa.Text(), server_default=NEW_ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password", sa.Text(), nullable=True),
        sa.Column("emailVerified", sa.TIMESTAMP(), nullable=True),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("stripe_customer_id", sa.Text(), nullable=True),
        sa.Column("stripe_price_id", sa.Text(), nullable=True),
        sa.Column(
            "next_quota_reset",
            sa.TIMESTAMP(),
            server_default=sa.text("((now() AT TIME ZONE 'utc'::text) + '1 mon'::interval)"),
            nullable=True,
        ),
        sa.Column("created_at", sa.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.Column(
            "referral_code",
            sa.Text(),
            server_default=sa.text("('ref-'::text || gen_random_uuid())"),
            nullable=True,
        ),
        sa.Column("referral_limit", sa.Integer(), server_default=sa.text("5"), nullable=False),
        sa.Column("discord_id", sa.Text(), nullable=True),
        sa.Column("handle", sa.Text(), nullable=True),
        sa.Column("auto_topup_enabled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("auto_topup_threshold", sa.Integer(), nullable=True),
        sa.Column("auto_topup_amount", sa.Integer(), nullable=True),
        sa.Column("banned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("fallback_to_a_la_carte", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("user_pk")),
        sa.UniqueConstraint("discord_id", name=op.f("user_discord_id_unique")),
        sa.UniqueConstraint("email", name=op.f("user_email_unique")),
        sa.UniqueConstraint("handle", name=op.f("user_handle_unique")),
        sa.UniqueConstraint("referral_code", name=op.f("user_referral_code_unique")),
        sa.UniqueConstraint("stripe_customer_id", name=op.f("user_stripe_customer_id_unique")),
    )
    op.create_table(
        "verificationToken",
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("expires", sa.TIMESTAMP(), nullable=False),
        sa.PrimaryKeyConstraint("identifier", "token", name=op.f("verificationToken_pk")),
    )
    op.create_table(
        "account",
        sa.Column("userId", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("providerAccountId", sa.Text(), nullable=False),
        sa.Column("refresh_token", sa.Text(), nullable=True),
        sa.Column("access_token", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.Integer(), nullable=True),
        sa.Column("token_type", sa.Text(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=True),
        sa.Column("id_token", sa.Text(), nullable=True),
        sa.Column("session_state", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["userId"], ["user.id"], name=op.f("account_userId_fk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("provider", "providerAccountId", name=op.f("account_pk")),
    )
    op.create_index("idx_account_user", "account", ["userId"], unique=False)
    op.create_table(
        "ad_impression",
        sa.Column("id", sa.Text(), server_default=NEW_ID, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("ad_text", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("cta", sa.Text(), server_default=sa.text("''::text"), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("favicon", sa.Text(), nullable=False),
        sa.Column("click_url", sa.Text(), nullable=False),
        sa.Column("imp_url", sa.Text(), nullable=False),
        sa.Column("payout", sa.Numeric(precision=10, scale=6), nullable=False),
        sa.Column("credits_granted", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("grant_operation_id", sa.Text(), nullable=True),
        sa.Column("served_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("impression_fired_at", TIMESTAMPTZ, nullable=True),
        sa.Column("clicked_at", TIMESTAMPTZ, nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("ad_impression_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("ad_impression_pk")),
        sa.UniqueConstraint("imp_url", name=op.f("ad_impression_imp_url_unique")),
    )
    op.create_index("idx_ad_impression_user", "ad_impression", ["user_id", "served_at"], unique=False)
    op.create_table(
        "agent_run",
        sa.Column("id", sa.Text(), server_default=NEW_ID, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column(
            "publisher_id",
            sa.Text(),
            sa.Computed(
                "CASE WHEN (agent_id ~ '^[^/@]+/[^/@]+@[^/@]+$'::text) THEN split_part(agent_id, '/'::text, 1) ELSE NULL::text END",
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column(
            "agent_name",
            sa.Text(),
            sa.Computed(
                "CASE WHEN (agent_id ~ '^[^/@]+/[^/@]+@[^/@]+$'::text) THEN split_part(split_part(agent_id, '/'::text, 2), '@'::text, 1) ELSE agent_id END",
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column(
            "agent_version",
            sa.Text(),
            sa.Computed(
                "CASE WHEN (agent_id ~ '^[^/@]+/[^/@]+@[^/@]+$'::text) THEN split_part(agent_id, '@'::text, 2) ELSE NULL::text END",
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column("ancestor_run_ids", sa.ARRAY(sa.Text()), nullable=True),
        sa.Column(
            "root_run_id",
            sa.Text(),
            sa.Computed("COALESCE(ancestor_run_ids[1], id)", persisted=True),
            nullable=True,
        ),
        sa.Column(
            "parent_run_id",
            sa.Text(),
            sa.Computed("ancestor_run_ids[array_length(ancestor_run_ids, 1)]", persisted=True),
            nullable=True,
        ),
        sa.Column(
            "depth",
            sa.Integer(),
            sa.Computed("COALESCE(array_length(ancestor_run_ids, 1), 1)", persisted=True),
            nullable=True,
        ),
        sa.Column(
            "duration_ms",
            sa.Integer(),
            sa.Computed(
                DURATION,
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column("total_steps", sa.Integer(), server_default=sa.text("0"), nullable=True),
        sa.Column("direct_credits", sa.Numeric(), server_default=sa.text("'0'::numeric"), nullable=True),
        sa.Column("total_credits", sa.Numeric(), server_default=sa.text("'0'::numeric"), nullable=True),
        sa.Column(
            "status",
            ENUMS["agent_run_status"],
            server_default=sa.text("'running'::agent_run_status"),
            nullable=False,
        ),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("completed_at", TIMESTAMPTZ, nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("agent_run_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("agent_run_pk")),
    )
    op.create_index("idx_agent_run_agent_id", "agent_run", ["agent_id", "created_at"], unique=False)
    op.create_index(
        "idx_agent_run_ancestors_gin", "agent_run", ["ancestor_run_ids"], unique=False, postgresql_using="gin"
    )
    op.create_index(
        "idx_agent_run_completed_publisher_agent",
        "agent_run",
        ["publisher_id", "agent_name"],
        unique=False,
        postgresql_where=sa.text("(status = 'completed'::agent_run_status)"),
    )
    op.create_index(
        "idx_agent_run_completed_recent",
        "agent_run",
        ["created_at", "publisher_id", "agent_name"],
        unique=False,
        postgresql_where=sa.text("(status = 'completed'::agent_run_status)"),
    )
    op.create_index(
        "idx_agent_run_completed_user",
        "agent_run",
        ["user_id"],
        unique=False,
        postgresql_where=sa.text("(status = 'completed'::agent_run_status)"),
    )
    op.create_index(
        "idx_agent_run_completed_version",
        "agent_run",
        ["publisher_id", "agent_name", "agent_version", "created_at"],
        unique=False,
        postgresql_where=sa.text("(status = 'completed'::agent_run_status)"),
    )
    op.create_index("idx_agent_run_parent", "agent_run", ["parent_run_id"], unique=False)
    op.create_index("idx_agent_run_publisher", "agent_run", ["publisher_id", "created_at"], unique=False)
    op.create_index("idx_agent_run_root", "agent_run", ["root_run_id"], unique=False)
    op.create_index(
        "idx_agent_run_status",
        "agent_run",
        ["status"],
        unique=False,
        postgresql_where=sa.text("(status = 'running'::agent_run_status)"),
    )
    op.create_index("idx_agent_run_user_id", "agent_run", ["user_id", "created_at"], unique=False)
    op.create_table(
        "encrypted_api_keys",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("type", ENUMS["api_key_type"], nullable=False),
        sa.Column("api_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("encrypted_api_keys_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "type", name=op.f("encrypted_api_keys_pk")),
    )
    op.create_table(
        "limit_override",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("credits_per_block", sa.Integer(), nullable=False),
        sa.Column("block_duration_hours", sa.Integer(), nullable=False),
        sa.Column("weekly_credit_limit", sa.Integer(), nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("limit_override_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("limit_override_pk")),
    )
    op.create_table(
        "org",
        sa.Column("id", sa.Text(), server_default=NEW_ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("stripe_customer_id", sa.Text(), nullable=True),
        sa.Column("stripe_subscription_id", sa.Text(), nullable=True),
        sa.Column("current_period_start", TIMESTAMPTZ, nullable=True),
        sa.Column("current_period_end", TIMESTAMPTZ, nullable=True),
        sa.Column("auto_topup_enabled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("auto_topup_threshold", sa.Integer(), nullable=False),
        sa.Column("auto_topup_amount", sa.Integer(), nullable=False),
        sa.Column("credit_limit", sa.Integer(), nullable=True),
        sa.Column("billing_alerts", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("usage_alerts", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("weekly_reports", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["user.id"], name=op.f("org_owner_id_fk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("org_pk")),
        sa.UniqueConstraint("slug", name=op.f("org_slug_unique")),
        sa.UniqueConstraint("stripe_customer_id", name=op.f("org_stripe_customer_id_unique")),
    )
    op.create_index("idx_org_owner", "org", ["owner_id"], unique=False)
    op.create_table(
        "referral",
        sa.Column("referrer_id", sa.Text(), nullable=False),
        sa.Column("referred_id", sa.Text(), nullable=False),
        sa.Column(
            "status",
            ENUMS["referral_status"],
            server_default=sa.text("'pending'::referral_status"),
            nullable=False,
        ),
        sa.Column("credits", sa.Integer(), nullable=False),
        sa.Column("is_legacy", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.Column("completed_at", sa.TIMESTAMP(), nullable=True),
        sa.ForeignKeyConstraint(
            ["referred_id"], ["user.id"], name=op.f("referral_referred_id_fk"), ondelete="NO ACTION"
        ),
        sa.ForeignKeyConstraint(
            ["referrer_id"], ["user.id"], name=op.f("referral_referrer_id_fk"), ondelete="NO ACTION"
        ),
        sa.PrimaryKeyConstraint("referrer_id", "referred_id", name=op.f("referral_pk")),
    )
    op.create_index("idx_referral_referred", "referral", ["referred_id"], unique=False)
    op.create_table(
        "session",
        sa.Column("sessionToken", sa.Text(), nullable=False),
        sa.Column("userId", sa.Text(), nullable=False),
        sa.Column("expires", sa.TIMESTAMP(), nullable=False),
        sa.Column("fingerprint_id", sa.Text(), nullable=True),
        sa.Column(
            "type", ENUMS["session_type"], server_default=sa.text("'web'::session_type"), nullable=False
        ),
        sa.Column("created_at", sa.TIMESTAMP(), server_default=UTC_NOW, nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("token_hint", sa.Text(), nullable=False),
        sa.Column("cli_auth_hash", sa.Text(), nullable=True),
        sa.Column("last_used_at", sa.TIMESTAMP(), nullable=True),
        sa.ForeignKeyConstraint(
            ["fingerprint_id"],
            ["fingerprint.id"],
            name=op.f("session_fingerprint_id_fk"),
            ondelete="NO ACTION",
        ),
        sa.ForeignKeyConstraint(["userId"], ["user.id"], name=op.f("session_userId_fk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sessionToken", name=op.f("session_pk")),
    )
    op.create_index("idx_session_fingerprint", "session", ["fingerprint_id"], unique=False)
    op.create_index("idx_session_user", "session", ["userId", "type"], unique=False)
    op.create_table(
        "subscription",
        sa.Column("stripe_subscription_id", sa.Text(), nullable=False),
        sa.Column("stripe_customer_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("stripe_price_id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Integer(), nullable=True),
        sa.Column("scheduled_tier", sa.Integer(), nullable=True),
        sa.Column(
            "status",
            ENUMS["subscription_status"],
            server_default=sa.text("'active'::subscription_status"),
            nullable=False,
        ),
        sa.Column("billing_period_start", TIMESTAMPTZ, nullable=False),
        sa.Column("billing_period_end", TIMESTAMPTZ, nullable=False),
        sa.Column("cancel_at_period_end", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("canceled_at", TIMESTAMPTZ, nullable=True),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("subscription_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("stripe_subscription_id", name=op.f("subscription_pk")),
    )
    op.create_index("idx_subscription_customer", "subscription", ["stripe_customer_id"], unique=False)
    op.create_index(
        "idx_subscription_status",
        "subscription",
        ["status"],
        unique=False,
        postgresql_where=sa.text("(status = 'active'::subscription_status)"),
    )
    op.create_index("idx_subscription_user", "subscription", ["user_id"], unique=False)
    op.create_table(
        "agent_step",
        sa.Column("id", sa.Text(), server_default=NEW_ID, nullable=False),
        sa.Column("agent_run_id", sa.Text(), nullable=False),
        sa.Column("step_number", sa.Integer(), nullable=False),
        sa.Column(
            "duration_ms",
            sa.Integer(),
            sa.Computed(
                DURATION,
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column("credits", sa.Numeric(), server_default=sa.text("'0'::numeric"), nullable=False),
        sa.Column("child_run_ids", sa.ARRAY(sa.Text()), nullable=True),
        sa.Column(
            "spawned_count",
            sa.Integer(),
            sa.Computed("array_length(child_run_ids, 1)", persisted=True),
            nullable=True,
        ),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column(
            "status",
            ENUMS["agent_step_status"],
            server_default=sa.text("'completed'::agent_step_status"),
            nullable=False,
        ),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("completed_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["agent_run_id"], ["agent_run.id"], name=op.f("agent_step_agent_run_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("agent_step_pk")),
    )
    op.create_index(
        "idx_agent_step_children_gin", "agent_step", ["child_run_ids"], unique=False, postgresql_using="gin"
    )
    op.create_index("idx_agent_step_run_id", "agent_step", ["agent_run_id"], unique=False)
    op.create_index("unique_step_number_per_run", "agent_step", ["agent_run_id", "step_number"], unique=True)
    op.create_table(
        "credit_account",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("org_id", sa.Text(), nullable=True),
        sa.Column("carry_micro", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "((carry_micro >= 0) AND (carry_micro < 1000000))",
            name=op.f("credit_account_carry_micro_fraction"),
        ),
        sa.CheckConstraint("(id = COALESCE(user_id, org_id))", name=op.f("credit_account_id_is_owner")),
        sa.CheckConstraint("(num_nonnulls(user_id, org_id) = 1)", name=op.f("credit_account_single_owner")),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("credit_account_org_id_fk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("credit_account_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("credit_account_pk")),
        sa.UniqueConstraint("org_id", name=op.f("credit_account_org_id_unique")),
        sa.UniqueConstraint("user_id", name=op.f("credit_account_user_id_unique")),
    )
    op.create_table(
        "credit_ledger",
        sa.Column("operation_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("principal", sa.BigInteger(), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("type", ENUMS["grant_type"], nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("expires_at", TIMESTAMPTZ, nullable=True),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("org_id", sa.Text(), nullable=True),
        sa.Column("stripe_subscription_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("credit_ledger_org_id_fk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("credit_ledger_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("operation_id", name=op.f("credit_ledger_pk")),
    )
    op.create_index(
        "idx_credit_ledger_active_balance",
        "credit_ledger",
        ["user_id", "balance", "expires_at", "priority", "created_at"],
        unique=False,
        postgresql_where=sa.text("((balance <> 0) AND (expires_at IS NULL))"),
    )
    op.create_index(
        "idx_credit_ledger_expiring",
        "credit_ledger",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("(balance > 0)"),
    )
    op.create_index("idx_credit_ledger_org", "credit_ledger", ["org_id"], unique=False)
    op.create_index(
        "idx_credit_ledger_user", "credit_ledger", ["user_id", "type", "created_at"], unique=False
    )
    op.create_table(
        "message",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.TIMESTAMP(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=True),
        sa.Column("client_request_id", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("request", postgresql.JSONB(), nullable=True),
        sa.Column(
            "last_message",
            postgresql.JSONB(),
            sa.Computed("(request -> '-1'::integer)", persisted=True),
            nullable=True,
        ),
        sa.Column("reasoning_text", sa.Text(), nullable=True),
        sa.Column("response", postgresql.JSONB(), nullable=False),
        sa.Column("input_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cache_creation_input_tokens", sa.Integer(), nullable=True),
        sa.Column("cache_read_input_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reasoning_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=False),
        sa.Column("cost", sa.Numeric(precision=100, scale=20), nullable=False),
        sa.Column("credits", sa.Integer(), nullable=False),
        sa.Column("byok", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("latency_ms", sa.Integer(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("org_id", sa.Text(), nullable=True),
        sa.Column("repo_url", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["org_id"], ["org.id"], name=op.f("message_org_id_fk"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("message_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("message_pk")),
    )
    op.create_index("message_finished_at_user_id_idx", "message", ["finished_at", "user_id"], unique=False)
    op.create_index("message_org_id_finished_at_idx", "message", ["org_id", "finished_at"], unique=False)
    op.create_index("message_org_id_idx", "message", ["org_id"], unique=False)
    op.create_index("message_user_id_idx", "message", ["user_id"], unique=False)
    op.create_table(
        "org_feature",
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSONB(), nullable=True),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("org_feature_org_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("org_id", "feature", name=op.f("org_feature_pk")),
    )
    op.create_index("idx_org_feature_active", "org_feature", ["org_id", "is_active"], unique=False)
    op.create_table(
        "org_invite",
        sa.Column("id", sa.Text(), server_default=NEW_ID, nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("role", ENUMS["org_role"], nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("invited_by", sa.Text(), nullable=False),
        sa.Column("expires_at", TIMESTAMPTZ, nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("accepted_at", TIMESTAMPTZ, nullable=True),
        sa.Column("accepted_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["accepted_by"], ["user.id"], name=op.f("org_invite_accepted_by_fk"), ondelete="NO ACTION"
        ),
        sa.ForeignKeyConstraint(
            ["invited_by"], ["user.id"], name=op.f("org_invite_invited_by_fk"), ondelete="NO ACTION"
        ),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("org_invite_org_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("org_invite_pk")),
        sa.UniqueConstraint("token", name=op.f("org_invite_token_unique")),
    )
    op.create_index("idx_org_invite_email", "org_invite", ["org_id", "email"], unique=False)
    op.create_index("idx_org_invite_expires", "org_invite", ["expires_at"], unique=False)
    op.create_index("idx_org_invite_token", "org_invite", ["token"], unique=False)
    op.create_table(
        "org_member",
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("role", ENUMS["org_role"], nullable=False),
        sa.Column("joined_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("org_member_org_id_fk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("org_member_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("org_id", "user_id", name=op.f("org_member_pk")),
    )
    op.create_index("idx_org_member_user", "org_member", ["user_id"], unique=False)
    op.create_table(
        "org_repo",
        sa.Column("id", sa.Text(), server_default=NEW_ID, nullable=False),
        sa.Column("org_id", sa.Text(), nullable=False),
        sa.Column("repo_url", sa.Text(), nullable=False),
        sa.Column("repo_name", sa.Text(), nullable=False),
        sa.Column("repo_owner", sa.Text(), nullable=True),
        sa.Column("approved_by", sa.Text(), nullable=False),
        sa.Column("approved_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.ForeignKeyConstraint(
            ["approved_by"], ["user.id"], name=op.f("org_repo_approved_by_fk"), ondelete="NO ACTION"
        ),
        sa.ForeignKeyConstraint(["org_id"], ["org.id"], name=op.f("org_repo_org_id_fk"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("org_repo_pk")),
    )
    op.create_index("idx_org_repo_active", "org_repo", ["org_id", "is_active"], unique=False)
    op.create_index("idx_org_repo_unique", "org_repo", ["org_id", "repo_url"], unique=False)
    op.create_table(
        "publisher",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("verified", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("bio", sa.Text(), nullable=True),
        sa.Column("avatar_url", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("org_id", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "(((user_id IS NOT NULL) AND (org_id IS NULL)) OR ((user_id IS NULL) AND (org_id IS NOT NULL)))",
            name=op.f("publisher_single_owner"),
        ),
        sa.ForeignKeyConstraint(
            ["created_by"], ["user.id"], name=op.f("publisher_created_by_fk"), ondelete="NO ACTION"
        ),
        sa.ForeignKeyConstraint(
            ["org_id"], ["org.id"], name=op.f("publisher_org_id_fk"), ondelete="NO ACTION"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("publisher_user_id_fk"), ondelete="NO ACTION"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("publisher_pk")),
    )
    op.create_index("idx_publisher_org", "publisher", ["org_id"], unique=False)
    op.create_index("idx_publisher_user", "publisher", ["user_id"], unique=False)
    op.create_table(
        "agent_config",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("publisher_id", sa.Text(), nullable=False),
        sa.Column(
            "major",
            sa.Integer(),
            sa.Computed("(split_part(version, '.'::text, 1))::integer", persisted=True),
            nullable=True,
        ),
        sa.Column(
            "minor",
            sa.Integer(),
            sa.Computed("(split_part(version, '.'::text, 2))::integer", persisted=True),
            nullable=True,
        ),
        sa.Column(
            "patch",
            sa.Integer(),
            sa.Computed("(split_part(version, '.'::text, 3))::integer", persisted=True),
            nullable=True,
        ),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["publisher_id"],
            ["publisher.id"],
            name=op.f("agent_config_publisher_id_fk"),
            ondelete="NO ACTION",
        ),
        sa.PrimaryKeyConstraint("id", "version", "publisher_id", name=op.f("agent_config_pk")),
    )
    op.create_index("idx_agent_config_publisher", "agent_config", ["publisher_id"], unique=False)
    op.create_table(
        "credit_hold",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("door", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'live'::text"), nullable=False),
        sa.Column("created_at", TIMESTAMPTZ, server_default=NOW, nullable=False),
        sa.Column("expires_at", TIMESTAMPTZ, nullable=False),
        sa.Column("lost_at", TIMESTAMPTZ, nullable=True),
        sa.CheckConstraint(
            "(state = ANY (ARRAY['live'::text, 'lost'::text]))", name=op.f("credit_hold_state_known")
        ),
        sa.CheckConstraint("(amount >= 0)", name=op.f("credit_hold_amount_not_negative")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_account.id"], name=op.f("credit_hold_account_id_fk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("credit_hold_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("credit_hold_pk")),
    )
    op.create_index(
        "idx_credit_hold_live_account",
        "credit_hold",
        ["account_id"],
        unique=False,
        postgresql_where=sa.text("(state = 'live'::text)"),
    )
    op.create_index(
        "idx_credit_hold_live_expiry",
        "credit_hold",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("(state = 'live'::text)"),
    )
    op.create_index("idx_credit_hold_state", "credit_hold", ["state", "lost_at"], unique=False)
    op.create_table(
        "gateway_call",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("door", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("requested_model", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("usage_source", sa.Text(), nullable=True),
        sa.Column("stream", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("client_gone", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("ttft_ms", sa.Integer(), nullable=True),
        sa.Column("latency_ms", sa.Integer(), nullable=False),
        sa.Column("price", postgresql.JSONB(), nullable=True),
        sa.Column("uncached_input_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cache_write_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cache_read_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("output_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reasoning_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cost", sa.Numeric(), server_default=sa.text("'0'::numeric"), nullable=False),
        sa.Column("micro_credits", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("credits", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("carry_credits", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("started_at", TIMESTAMPTZ, nullable=False),
        sa.Column("finished_at", TIMESTAMPTZ, nullable=False),
        sa.CheckConstraint(
            "(state = ANY (ARRAY['settled'::text, 'failed'::text]))", name=op.f("gateway_call_state_known")
        ),
        sa.CheckConstraint(
            "(usage_source = ANY (ARRAY['provider'::text, 'counted'::text, 'estimated'::text]))",
            name=op.f("gateway_call_usage_source_known"),
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message.id"], name=op.f("gateway_call_message_id_fk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user.id"], name=op.f("gateway_call_user_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("gateway_call_pk")),
    )
    op.create_index("idx_gateway_call_message", "gateway_call", ["message_id"], unique=False)
    op.create_index("idx_gateway_call_run", "gateway_call", ["run_id", "started_at"], unique=False)
    op.create_index("idx_gateway_call_user", "gateway_call", ["user_id", "started_at"], unique=False)
    op.create_table(
        "usage_rollup",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("grain", sa.Text(), nullable=False),
        sa.Column("bucket", TIMESTAMPTZ, nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Text(), server_default=sa.text("''::text"), nullable=False),
        sa.Column("calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cost", sa.Numeric(), server_default=sa.text("'0'::numeric"), nullable=False),
        sa.Column("credits", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("latency_ms", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("ttft_ms", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("ttft_calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "latency_hist",
            sa.ARRAY(sa.Integer()),
            server_default=sa.text("array_fill(0, ARRAY[16])"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(grain = ANY (ARRAY['hour'::text, 'day'::text]))", name=op.f("usage_rollup_grain_known")
        ),
        sa.CheckConstraint(
            "(cardinality(latency_hist) = 16)", name=op.f("usage_rollup_latency_hist_buckets")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_account.id"], name=op.f("usage_rollup_account_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "account_id", "grain", "bucket", "user_id", "model", "agent_id", name=op.f("usage_rollup_pk")
        ),
    )
    op.get_bind().exec_driver_sql(APPEND_ONLY, execution_options={"no_parameters": True})


def downgrade() -> None:
    for table in (
        "usage_rollup",
        "gateway_call",
        "credit_hold",
        "agent_config",
        "publisher",
        "org_repo",
        "org_member",
        "org_invite",
        "org_feature",
        "message",
        "credit_ledger",
        "credit_account",
        "agent_step",
        "subscription",
        "session",
        "referral",
        "org",
        "limit_override",
        "encrypted_api_keys",
        "agent_run",
        "ad_impression",
        "account",
        "verificationToken",
        "user",
        "sync_failure",
        "login_link",
        "git_eval_results",
        "fingerprint",
        "credit_entry",
        "audit_log",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION credit_entry_append_only()")
    op.execute("DROP FUNCTION audit_log_append_only()")
    for enum in ENUMS.values():
        op.execute(f"DROP TYPE {enum.name}")
