"""The tables of the compatible data model, compared with the live catalog. Other tables and added columns are defined by the
models alone, which `flask db check` compares.

A column is `name type`, `!` for NOT NULL, `= default`, and `stored` when PostgreSQL generates it; generated columns, checks
and cascades are tested in `test_schema_behaviour.py`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from procrastinate.schema import SchemaManager
from sqlalchemy import Enum, text
from sqlalchemy.engine import Connection, Engine

from models.core.db import Base

NEW_ID = "(gen_random_uuid())::text"
UTC_NOW = "(now() AT TIME ZONE 'utc'::text)"
COMPLETED = "WHERE (status = 'completed'::agent_run_status)"

ENUMS = {
    "referral_status": "pending completed",
    "agent_run_status": "running completed failed cancelled",
    "agent_step_status": "running completed skipped",
    "api_key_type": "anthropic gemini openai",
    "grant_type": "free referral purchase admin organization subscription referral_legacy ad plan",
    "org_role": "owner admin member billing viewer service",
    "session_type": "web pat cli",
    "subscription_status": "incomplete trialing active past_due canceled unpaid paused",
}


@dataclass(frozen=True)
class Table:
    """An expected table; `rules` are its keys and checks, `indexes` those without a constraint."""

    columns: str
    rules: str
    indexes: dict[str, str] = field(default_factory=dict)


TABLES = {
    "user": Table(
        f"""
        id text! = {NEW_ID}
        name text
        email text!
        password text
        emailVerified timestamp
        image text
        stripe_customer_id text
        stripe_price_id text
        next_quota_reset timestamp = ({UTC_NOW} + '1 mon'::interval)
        created_at timestamp! = {UTC_NOW}
        referral_code text = ('ref-'::text || gen_random_uuid())
        referral_limit int! = 5
        discord_id text
        handle text
        auto_topup_enabled bool! = false
        auto_topup_threshold int
        auto_topup_amount int
        banned bool! = false
        fallback_to_a_la_carte bool! = false
        """,
        """
        primary key (id)
        unique (email)
        unique (stripe_customer_id)
        unique (referral_code)
        unique (discord_id)
        unique (handle)
        """,
    ),
    "account": Table(
        """
        userId text!
        type text!
        provider text!
        providerAccountId text!
        refresh_token text
        access_token text
        expires_at int
        token_type text
        scope text
        id_token text
        session_state text
        """,
        """
        primary key (provider, providerAccountId)
        userId -> user cascade
        """,
    ),
    "session": Table(
        """
        sessionToken text!
        userId text!
        expires timestamp!
        fingerprint_id text
        type session_type! = 'web'::session_type
        """,
        """
        primary key (sessionToken)
        userId -> user cascade
        fingerprint_id -> fingerprint no action
        """,
    ),
    "fingerprint": Table(
        f"""
        id text!
        sig_hash text
        created_at timestamp! = {UTC_NOW}
        """,
        "primary key (id)",
    ),
    "verificationToken": Table(
        """
        identifier text!
        token text!
        expires timestamp!
        """,
        "primary key (identifier, token)",
    ),
    "encrypted_api_keys": Table(
        """
        user_id text!
        type api_key_type!
        api_key text!
        """,
        """
        primary key (user_id, type)
        user_id -> user cascade
        """,
    ),
    "credit_ledger": Table(
        """
        operation_id text!
        user_id text!
        principal bigint!
        balance bigint!
        type grant_type!
        description text
        priority int!
        expires_at timestamptz
        created_at timestamptz! = now()
        org_id text
        stripe_subscription_id text
        """,
        """
        primary key (operation_id)
        user_id -> user cascade
        org_id -> org cascade
        """,
        {
            "idx_credit_ledger_active_balance": (
                "btree (user_id, balance, expires_at, priority, created_at)"
                " WHERE ((balance <> 0) AND (expires_at IS NULL))"
            ),
            "idx_credit_ledger_org": "btree (org_id)",
        },
    ),
    "referral": Table(
        f"""
        referrer_id text!
        referred_id text!
        status referral_status! = 'pending'::referral_status
        credits int!
        is_legacy bool! = false
        created_at timestamp! = {UTC_NOW}
        completed_at timestamp
        """,
        """
        primary key (referrer_id, referred_id)
        referrer_id -> user no action
        referred_id -> user no action
        """,
    ),
    "sync_failure": Table(
        """
        id text!
        provider text!
        created_at timestamptz! = now()
        last_attempt_at timestamptz! = now()
        retry_count int! = 1
        last_error text!
        """,
        "primary key (id)",
        {"idx_sync_failure_retry": "btree (retry_count, last_attempt_at) WHERE (retry_count < 5)"},
    ),
    "org": Table(
        f"""
        id text! = {NEW_ID}
        name text!
        slug text!
        description text
        owner_id text!
        stripe_customer_id text
        stripe_subscription_id text
        current_period_start timestamptz
        current_period_end timestamptz
        auto_topup_enabled bool! = false
        auto_topup_threshold int!
        auto_topup_amount int!
        credit_limit int
        billing_alerts bool! = true
        usage_alerts bool! = true
        weekly_reports bool! = false
        created_at timestamptz! = now()
        updated_at timestamptz! = now()
        """,
        """
        primary key (id)
        unique (slug)
        unique (stripe_customer_id)
        owner_id -> user cascade
        """,
    ),
    "org_member": Table(
        """
        org_id text!
        user_id text!
        role org_role!
        joined_at timestamptz! = now()
        """,
        """
        primary key (org_id, user_id)
        org_id -> org cascade
        user_id -> user cascade
        """,
    ),
    "org_repo": Table(
        f"""
        id text! = {NEW_ID}
        org_id text!
        repo_url text!
        repo_name text!
        repo_owner text
        approved_by text!
        approved_at timestamptz! = now()
        is_active bool! = true
        """,
        """
        primary key (id)
        org_id -> org cascade
        approved_by -> user no action
        """,
        {
            "idx_org_repo_active": "btree (org_id, is_active)",
            "idx_org_repo_unique": "btree (org_id, repo_url)",
        },
    ),
    "org_invite": Table(
        f"""
        id text! = {NEW_ID}
        org_id text!
        email text!
        role org_role!
        token text!
        invited_by text!
        expires_at timestamptz!
        created_at timestamptz! = now()
        accepted_at timestamptz
        accepted_by text
        """,
        """
        primary key (id)
        unique (token)
        org_id -> org cascade
        invited_by -> user no action
        accepted_by -> user no action
        """,
        {
            "idx_org_invite_token": "btree (token)",
            "idx_org_invite_email": "btree (org_id, email)",
            "idx_org_invite_expires": "btree (expires_at)",
        },
    ),
    "org_feature": Table(
        """
        org_id text!
        feature text!
        config jsonb
        is_active bool! = true
        created_at timestamptz! = now()
        updated_at timestamptz! = now()
        """,
        """
        primary key (org_id, feature)
        org_id -> org cascade
        """,
        {"idx_org_feature_active": "btree (org_id, is_active)"},
    ),
    "git_eval_results": Table(
        f"""
        id text! = {NEW_ID}
        cost_mode text
        reasoner_model text
        agent_model text
        metadata jsonb
        cost int! = 0
        is_public bool! = false
        created_at timestamptz! = now()
        """,
        "primary key (id)",
    ),
    "publisher": Table(
        """
        id text!
        name text!
        email text
        verified bool! = false
        bio text
        avatar_url text
        user_id text
        org_id text
        created_by text!
        created_at timestamptz! = now()
        updated_at timestamptz! = now()
        """,
        """
        primary key (id)
        user_id -> user no action
        org_id -> org no action
        created_by -> user no action
        check publisher_single_owner
        """,
    ),
    "agent_config": Table(
        """
        id text!
        version text!
        publisher_id text!
        major int stored
        minor int stored
        patch int stored
        data jsonb!
        created_at timestamptz! = now()
        updated_at timestamptz! = now()
        """,
        """
        primary key (id, publisher_id, version)
        publisher_id -> publisher no action
        """,
        {"idx_agent_config_publisher": "btree (publisher_id)"},
    ),
    "agent_run": Table(
        f"""
        id text! = {NEW_ID}
        user_id text
        agent_id text!
        publisher_id text stored
        agent_name text stored
        agent_version text stored
        ancestor_run_ids text[]
        root_run_id text stored
        parent_run_id text stored
        depth int stored
        duration_ms int stored
        total_steps int = 0
        direct_credits numeric = '0'::numeric
        total_credits numeric = '0'::numeric
        status agent_run_status! = 'running'::agent_run_status
        error_message text
        created_at timestamptz! = now()
        completed_at timestamptz
        """,
        """
        primary key (id)
        user_id -> user cascade
        """,
        {
            "idx_agent_run_user_id": "btree (user_id, created_at)",
            "idx_agent_run_parent": "btree (parent_run_id)",
            "idx_agent_run_root": "btree (root_run_id)",
            "idx_agent_run_agent_id": "btree (agent_id, created_at)",
            "idx_agent_run_publisher": "btree (publisher_id, created_at)",
            "idx_agent_run_status": "btree (status) WHERE (status = 'running'::agent_run_status)",
            "idx_agent_run_ancestors_gin": "gin (ancestor_run_ids) WITH (fastupdate=off)",
            "idx_agent_run_completed_publisher_agent": f"btree (publisher_id, agent_name) {COMPLETED}",
            "idx_agent_run_completed_recent": f"btree (created_at, publisher_id, agent_name) {COMPLETED}",
            "idx_agent_run_completed_version": (
                f"btree (publisher_id, agent_name, agent_version, created_at) {COMPLETED}"
            ),
            "idx_agent_run_completed_user": f"btree (user_id) {COMPLETED}",
        },
    ),
    "agent_step": Table(
        f"""
        id text! = {NEW_ID}
        agent_run_id text!
        step_number int!
        duration_ms int stored
        credits numeric! = '0'::numeric
        child_run_ids text[]
        spawned_count int stored
        message_id text
        status agent_step_status! = 'completed'::agent_step_status
        error_message text
        created_at timestamptz! = now()
        completed_at timestamptz! = now()
        """,
        """
        primary key (id)
        agent_run_id -> agent_run cascade
        """,
        {
            "unique_step_number_per_run": "unique btree (agent_run_id, step_number)",
            "idx_agent_step_run_id": "btree (agent_run_id)",
            "idx_agent_step_children_gin": "gin (child_run_ids)",
        },
    ),
    "message": Table(
        """
        id text!
        finished_at timestamp!
        client_id text
        client_request_id text
        model text!
        agent_id text
        request jsonb
        last_message jsonb stored
        reasoning_text text
        response jsonb!
        input_tokens int! = 0
        cache_creation_input_tokens int
        cache_read_input_tokens int! = 0
        reasoning_tokens int
        output_tokens int!
        cost numeric(100,20)!
        credits int!
        byok bool! = false
        latency_ms int
        user_id text
        org_id text
        repo_url text
        """,
        """
        primary key (id)
        user_id -> user cascade
        org_id -> org cascade
        """,
        {
            "message_user_id_idx": "btree (user_id)",
            "message_finished_at_user_id_idx": "btree (finished_at, user_id)",
            "message_org_id_idx": "btree (org_id)",
            "message_org_id_finished_at_idx": "btree (org_id, finished_at)",
        },
    ),
    "subscription": Table(
        """
        stripe_subscription_id text!
        stripe_customer_id text!
        user_id text
        stripe_price_id text!
        tier int
        scheduled_tier int
        status subscription_status! = 'active'::subscription_status
        billing_period_start timestamptz!
        billing_period_end timestamptz!
        cancel_at_period_end bool! = false
        canceled_at timestamptz
        created_at timestamptz! = now()
        updated_at timestamptz! = now()
        """,
        """
        primary key (stripe_subscription_id)
        user_id -> user cascade
        """,
        {
            "idx_subscription_customer": "btree (stripe_customer_id)",
            "idx_subscription_user": "btree (user_id)",
            "idx_subscription_status": "btree (status) WHERE (status = 'active'::subscription_status)",
        },
    ),
    "limit_override": Table(
        """
        user_id text!
        credits_per_block int!
        block_duration_hours int!
        weekly_credit_limit int!
        created_at timestamptz! = now()
        updated_at timestamptz! = now()
        """,
        """
        primary key (user_id)
        user_id -> user cascade
        """,
    ),
    "ad_impression": Table(
        f"""
        id text! = {NEW_ID}
        user_id text!
        ad_text text!
        title text!
        cta text! = ''::text
        url text!
        favicon text!
        click_url text!
        imp_url text!
        payout numeric(10,6)!
        credits_granted int! = 0
        grant_operation_id text
        served_at timestamptz! = now()
        impression_fired_at timestamptz
        clicked_at timestamptz
        """,
        """
        primary key (id)
        unique (imp_url)
        user_id -> user cascade
        """,
        {"idx_ad_impression_user": "btree (user_id, served_at)"},
    ),
}

SHORT = {
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
    "integer": "int",
    "boolean": "bool",
}
DELETE_RULES = {"a": "no action", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}


@pytest.fixture(scope="module")
def catalog(app: Flask, engine: Engine) -> dict[str, Table]:
    """The live database in the format of the expectations."""
    with engine.connect() as connection:
        return {name: read_table(connection, name) for name in TABLES}


def read_table(connection: Connection, name: str) -> Table:
    known = {"table": f'public."{name}"'}
    columns = connection.execute(
        text(
            "SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull, attgenerated,"
            " pg_get_expr(adbin, adrelid) AS expression"
            " FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
            " WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped"
        ),
        known,
    )
    rules = connection.execute(
        text(
            "SELECT contype, conname, confdeltype, target.relname AS target,"
            " ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey)"
            "       ORDER BY attname) AS columns"
            " FROM pg_constraint LEFT JOIN pg_class target ON target.oid = confrelid"
            " WHERE conrelid = CAST(:table AS regclass) AND contype NOT IN ('n', 't')"
        ),
        known,
    )
    indexes = connection.execute(
        text(
            "SELECT index.relname AS name, indisunique, pg_get_indexdef(indexrelid) AS definition"
            " FROM pg_index JOIN pg_class index ON index.oid = indexrelid"
            " WHERE indrelid = CAST(:table AS regclass)"
            " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND conrelid = indrelid)"
        ),
        known,
    )
    return Table(
        "\n".join(column_line(row) for row in columns),
        "\n".join(rule_line(row) for row in rules),
        {
            row.name: ("unique " if row.indisunique else "") + row.definition.split(" USING ", 1)[1]
            for row in indexes
        },
    )


def column_line(row: Any) -> str:
    base, brackets = re.fullmatch(r"(.*?)((?:\[\])?)", row.type).groups()  # type: ignore[union-attr]
    line = f"{row.attname} {SHORT.get(base, base)}{brackets}" + ("!" if row.attnotnull else "")
    if row.attgenerated:
        return line + {"s": " stored", "v": " virtual"}[row.attgenerated]
    return line + (f" = {row.expression}" if row.expression else "")


def rule_line(row: Any) -> str:
    columns = ", ".join(row.columns)
    if row.contype == "f":
        return f"{columns} -> {row.target} {DELETE_RULES[row.confdeltype]}"
    if row.contype == "c":
        return f"check {row.conname}"
    return f"{ {'p': 'primary key', 'u': 'unique'}[row.contype] } ({columns})"


def lines(block: str) -> set[str]:
    return {line.strip() for line in block.splitlines() if line.strip()}


def keys_sorted(rules: str) -> set[str]:
    """Rules with the columns of each key in alphabetical order, as the catalog query gives them."""
    return {
        re.sub(r"\((.*)\)", lambda found: f"({', '.join(sorted(found[1].split(', ')))})", line)
        for line in lines(rules)
    }


@pytest.mark.parametrize("name", TABLES)
def test_columns(catalog: dict[str, Table], name: str) -> None:
    assert lines(TABLES[name].columns) - lines(catalog[name].columns) == set()


@pytest.mark.parametrize("name", TABLES)
def test_keys_references_and_checks(catalog: dict[str, Table], name: str) -> None:
    assert keys_sorted(TABLES[name].rules) - lines(catalog[name].rules) == set()


@pytest.mark.parametrize("name", TABLES)
def test_indexes(catalog: dict[str, Table], name: str) -> None:
    assert TABLES[name].indexes.items() <= catalog[name].indexes.items()


def test_enums_hold_these_values_in_this_order(app: Flask, engine: Engine) -> None:
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT typname, string_agg(enumlabel, ' ' ORDER BY enumsortorder) AS labels"
                " FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid"
                " WHERE NOT starts_with(typname, 'procrastinate_') GROUP BY typname"
            )
        )
        assert {row.typname: row.labels for row in found} == ENUMS


def test_the_models_know_the_same_values() -> None:
    named = {
        column.type.name: " ".join(column.type.enums)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, Enum)
    }
    assert named == ENUMS


def test_no_extension_is_needed_beyond_plpgsql(app: Flask, engine: Engine) -> None:
    """`vector` may be there, in a schema of its own: documents are searched by vectors too then. Nothing needs it:
    `tests/index/test_without_vectors.py` searches without."""
    query = "SELECT extname, extnamespace::regnamespace::text AS schema FROM pg_extension"
    with engine.connect() as connection:
        found = {row.extname: row.schema for row in connection.execute(text(query))}
    assert found.pop("plpgsql") == "pg_catalog"
    assert found in ({}, {"vector": "extensions"})


def test_the_job_queue_is_migrated_to_the_installed_library() -> None:
    """When it fails: freeze the new schema beside the old one and add a migration with procrastinate's own delta."""
    newest = max((Path(__file__).parents[2] / "migrations").glob("procrastinate_*.sql"))
    assert newest.read_text() == SchemaManager.get_schema()
