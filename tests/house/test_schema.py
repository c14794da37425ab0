"""The live catalog against expectations written by hand from the data model documents: first what they say of each
table, then what is our own. A column is `name type`, `!` for NOT NULL, `= default`, and `stored` when PostgreSQL
generates it; what generated columns, checks and cascades do is in `test_schema_behaviour.py`.
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

from models.db import Base

NEW_ID = "(gen_random_uuid())::text"
UTC_NOW = "(now() AT TIME ZONE 'utc'::text)"
COMPLETED = "WHERE (status = 'completed'::agent_run_status)"

ENUMS = {
    "referral_status": "pending completed",
    "agent_run_status": "running completed failed cancelled",
    "agent_step_status": "running completed skipped",
    "api_key_type": "anthropic gemini openai",
    "grant_type": "free referral purchase admin organization subscription referral_legacy ad",
    "org_role": "owner admin member",
    "session_type": "web pat cli",
    "subscription_status": "incomplete trialing active past_due canceled unpaid paused",
}


@dataclass(frozen=True)
class Table:
    """What is expected of one table; `rules` are its keys and checks, `indexes` those that no rule brings along."""

    columns: str
    rules: str
    indexes: dict[str, str] = field(default_factory=dict)


SEEDS = {
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
            "idx_agent_run_ancestors_gin": "gin (ancestor_run_ids)",
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

# What we added to tables of the documents: columns, keys and indexes.
ADDED_COLUMNS = {
    "user": "banned_reason text",
    "session": f"""
        created_at timestamp! = {UTC_NOW}
        name text
        token_hint text!
        cli_auth_hash text
        last_used_at timestamp
        parent text
        cli_collected_at timestamp
        org_id text
        """,
    # the documents give a run no account; it needs one of its own, since a run may have no call that has
    "agent_run": "org_id text",
}
ADDED_RULES = {
    "session": "org_id, userId -> org_member cascade",
    "agent_run": "org_id -> org cascade",
}
ADDED_INDEXES = {
    "agent_run": {
        "idx_agent_run_account": "btree (COALESCE(org_id, user_id), created_at)",
        "idx_agent_run_account_state": "btree (COALESCE(org_id, user_id), status, created_at)",
        "idx_agent_run_account_agent": "btree (COALESCE(org_id, user_id), agent_id, created_at)",
        "idx_agent_run_org": "btree (org_id) WHERE (org_id IS NOT NULL)",
        "idx_agent_run_unsuccessful": (
            "btree (publisher_id, agent_name)"
            " WHERE (status = ANY (ARRAY['failed'::agent_run_status, 'cancelled'::agent_run_status]))"
        ),
    },
    "message": {
        "idx_message_account_finished": "btree (COALESCE(org_id, user_id), finished_at)",
        "idx_message_bodies": (
            "btree (finished_at) WHERE ((request IS NOT NULL) OR (reasoning_text <> ''::text)"
            " OR (response <> 'null'::jsonb))"
        ),
    },
    "account": {"idx_account_user": 'btree ("userId")'},
    "session": {
        "idx_session_user": 'btree ("userId", type)',
        "idx_session_fingerprint": "btree (fingerprint_id)",
    },
    "credit_ledger": {
        "idx_credit_ledger_user": "btree (user_id, type, created_at)",
        "idx_credit_ledger_expiring": "btree (expires_at) WHERE (balance > 0)",
        "idx_credit_ledger_account": "btree (COALESCE(org_id, user_id), ((balance <> 0)))",
    },
    "referral": {"idx_referral_referred": "btree (referred_id)"},
    "org": {"idx_org_owner": "btree (owner_id)"},
    "org_member": {"idx_org_member_user": "btree (user_id)"},
    "publisher": {
        "idx_publisher_user": "btree (user_id)",
        "idx_publisher_org": "btree (org_id)",
        "idx_publisher_created_by": "btree (created_by)",
    },
}

FIGURES = """
        runs bigint! = 0
        failed bigint! = 0
        cancelled bigint! = 0
        credits bigint! = 0
        weekly_runs bigint! = 0
        weekly_credits bigint! = 0
        unique_users bigint! = 0
        durations bigint[]! = array_fill(0, ARRAY[16])
        last_used timestamptz
        own_runs bigint! = 0
        """

OWN = {
    "agent": Table(
        f"""
        publisher_id text!
        id text!
        name text!
        description text
        tags text[]! = '{{}}'::text[]
        model text!
        latest_version text
        versions int! = 0
        readme text
        readme_updated_at timestamptz
        deprecated_at timestamptz
        deprecated_reason text
        successor text
        search tsvector! = ''::tsvector
        created_at timestamptz! = now()
        published_at timestamptz! = now()
        bytes bigint! = 0
        {FIGURES}
        """,
        """
        primary key (publisher_id, id)
        publisher_id -> publisher no action
        """,
        {
            "idx_agent_search": "gin (search)",
            "idx_agent_tags": "gin (tags)",
            "idx_agent_by_cost": "btree (weekly_credits DESC, publisher_id, id)",
            "idx_agent_by_usage": "btree (runs DESC, publisher_id, id)",
            "idx_agent_by_users": "btree (unique_users DESC, publisher_id, id)",
            "idx_agent_by_age": "btree (published_at DESC, publisher_id, id)",
            "idx_agent_by_name": "btree (lower(name), publisher_id, id)",
            "idx_agent_id": "btree (id)",
            "idx_agent_vendor": "btree (split_part(model, '/'::text, 1))",
        },
    ),
    "agent_version": Table(
        f"""
        publisher_id text!
        agent_id text!
        version text!
        published_by text
        credential text!
        published_at timestamptz! = now()
        yanked_at timestamptz
        yanked_by text
        yanked_reason text
        {FIGURES}
        """,
        """
        primary key (publisher_id, agent_id, version)
        published_by -> user set null
        yanked_by -> user set null
        agent_id, publisher_id, version -> agent_config cascade
        agent_id, publisher_id -> agent cascade
        check agent_version_credential_known
        check agent_version_yank_has_reason
        """,
        {"idx_agent_version_published": "btree (published_at)"},
    ),
    "takedown": Table(
        """
        publisher_id text!
        agent_id text! = ''::text
        version text! = ''::text
        reason text!
        actor text!
        at timestamptz! = now()
        """,
        """
        primary key (publisher_id, agent_id, version)
        publisher_id -> publisher cascade
        check takedown_version_has_agent
        """,
    ),
    "remote_picture": Table(
        """
        address text!
        picture text
        problem text
        tries int! = 1
        tried_at timestamptz! = now()
        """,
        "primary key (address)",
    ),
    "agent_run_bill": Table(
        """
        run_id text!
        publisher_id text!
        agent_id text!
        version text!
        user_id text
        status text!
        credits bigint!
        duration_ms bigint!
        created_at timestamptz!
        own bool! = false
        """,
        """
        primary key (run_id)
        run_id -> agent_run no action
        """,
        {
            "idx_agent_run_bill_agent": "btree (publisher_id, agent_id, created_at)",
            "idx_agent_run_bill_created": "btree (created_at)",
        },
    ),
    "agent_run_volume": Table(
        """
        run_id text!
        steps bigint!
        bytes bigint!
        """,
        """
        primary key (run_id)
        run_id -> agent_run cascade
        """,
    ),
    "write_quota": Table(
        """
        user_id text!
        name text!
        used bigint!
        until timestamptz!
        """,
        """
        primary key (user_id, name)
        user_id -> user cascade
        """,
    ),
    "agent_day": Table(
        """
        publisher_id text!
        agent_id text!
        day date!
        version text!
        runs bigint! = 0
        failed bigint! = 0
        cancelled bigint! = 0
        credits bigint! = 0
        own_runs bigint! = 0
        """,
        "primary key (publisher_id, agent_id, day, version)",
    ),
    "agent_user": Table(
        """
        publisher_id text!
        agent_id text!
        version text!
        user_id text!
        runs bigint!
        """,
        "primary key (publisher_id, agent_id, version, user_id)",
    ),
    "store_facet": Table(
        """
        kind text!
        name text!
        agents bigint!
        """,
        "primary key (kind, name)",
    ),
    "store_stamp": Table(
        """
        id bool! = true
        stamp bigint!
        """,
        """
        primary key (id)
        check store_stamp_single
        """,
    ),
    "store_window": Table(
        """
        id bool! = true
        since timestamptz!
        """,
        """
        primary key (id)
        check store_window_single
        """,
    ),
    "credit_account": Table(
        """
        id text!
        user_id text
        org_id text
        carry_micro int! = 0
        created_at timestamptz! = now()
        """,
        """
        primary key (id)
        unique (user_id)
        unique (org_id)
        user_id -> user cascade
        org_id -> org cascade
        check credit_account_carry_micro_fraction
        check credit_account_single_owner
        check credit_account_id_is_owner
        """,
    ),
    "credit_hold": Table(
        """
        request_id text!
        account_id text!
        user_id text!
        run_id text
        model text!
        door text!
        amount bigint!
        worker text!
        state text! = 'live'::text
        created_at timestamptz! = now()
        expires_at timestamptz!
        lost_at timestamptz
        """,
        """
        primary key (request_id)
        account_id -> credit_account cascade
        user_id -> user cascade
        check credit_hold_amount_not_negative
        check credit_hold_state_known
        """,
        {
            "idx_credit_hold_live_account": "btree (account_id) WHERE (state = 'live'::text)",
            "idx_credit_hold_live_expiry": "btree (expires_at) WHERE (state = 'live'::text)",
            "idx_credit_hold_state": "btree (state, lost_at)",
        },
    ),
    "credit_entry": Table(
        """
        id bigint! identity
        account_id text!
        operation_id text!
        kind text!
        amount bigint!
        grant_balance_after bigint!
        balance_after bigint!
        cause text!
        message_id text
        created_at timestamptz! = now()
        """,
        """
        primary key (id)
        check credit_entry_kind_known
        """,
        {
            "idx_credit_entry_account": "btree (account_id, id)",
            "idx_credit_entry_operation": "btree (operation_id)",
            "idx_credit_entry_message": "btree (message_id) WHERE (message_id IS NOT NULL)",
            "idx_credit_entry_other": "btree (account_id, id) WHERE (kind <> 'debit'::text)",
            "idx_credit_entry_charge": (
                "btree (account_id, cause) WHERE ((kind = 'debit'::text) AND (message_id IS NULL))"
            ),
        },
    ),
    "usage_rollup": Table(
        """
        account_id text!
        grain text!
        bucket timestamptz!
        user_id text!
        model text!
        agent_id text! = ''::text
        calls int! = 0
        input_tokens bigint! = 0
        cache_write_tokens bigint! = 0
        cache_read_tokens bigint! = 0
        output_tokens bigint! = 0
        reasoning_tokens bigint! = 0
        cost numeric! = '0'::numeric
        credits bigint! = 0
        latency_ms bigint! = 0
        ttft_ms bigint! = 0
        ttft_calls int! = 0
        latency_hist int[]! = array_fill(0, ARRAY[16])
        """,
        """
        primary key (account_id, agent_id, bucket, grain, model, user_id)
        account_id -> credit_account cascade
        check usage_rollup_grain_known
        check usage_rollup_latency_hist_buckets
        """,
    ),
    "gateway_call": Table(
        """
        request_id text!
        message_id text
        account_id text!
        user_id text!
        run_id text
        key_id text
        door text!
        provider text
        requested_model text!
        model text
        state text!
        http_status int
        error text
        usage_source text
        stream bool! = false
        client_gone bool! = false
        ttft_ms int
        latency_ms int!
        price jsonb
        parts jsonb
        raw_usage jsonb
        flags text[]
        uncached_input_tokens int! = 0
        cache_write_tokens int! = 0
        cache_read_tokens int! = 0
        output_tokens int! = 0
        reasoning_tokens int! = 0
        cost numeric! = '0'::numeric
        micro_credits bigint! = 0
        credits bigint! = 0
        carry_credits bigint! = 0
        started_at timestamptz!
        finished_at timestamptz!
        """,
        """
        primary key (request_id)
        message_id -> message cascade
        account_id -> credit_account cascade
        check gateway_call_state_known
        check gateway_call_usage_source_known
        """,
        {
            "idx_gateway_call_run": "btree (run_id, started_at)",
            "idx_gateway_call_message": "btree (message_id)",
            "idx_gateway_call_account": "btree (account_id, started_at)",
            "idx_gateway_call_member": "btree (user_id) WHERE (user_id <> account_id)",
            "idx_gateway_call_flagged": "btree (finished_at) WHERE (flags IS NOT NULL)",
        },
    ),
    "login_link": Table(
        """
        token_hash text!
        email text!
        next text
        created_at timestamptz! = now()
        expires_at timestamptz!
        used_at timestamptz
        ip text
        identity jsonb
        browser text
        """,
        "primary key (token_hash)",
        {
            "ix_login_link_email": "btree (email)",
            "ix_login_link_expires_at": "btree (expires_at)",
        },
    ),
    "audit_log": Table(
        """
        id bigint! identity
        at timestamptz! = now()
        actor_id text
        actor text!
        action text!
        subject text!
        before jsonb
        after jsonb
        ip text
        request_id text
        """,
        "primary key (id)",
        {
            "idx_audit_log_actor": "btree (actor_id, id)",
            "idx_audit_log_subject": "btree (subject, id)",
        },
    ),
}

TABLES = SEEDS | OWN
SHORT = {
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
    "integer": "int",
    "boolean": "bool",
}
DELETE_RULES = {"a": "no action", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}


@pytest.fixture(scope="module")
def catalog(app: Flask, engine: Engine) -> dict[str, Table]:
    """The live database in the words of the expectations."""
    with engine.connect() as connection:
        return {name: read_table(connection, name) for name in tables_of(connection)}


def tables_of(connection: Connection) -> list[str]:
    found = connection.execute(
        text(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            " AND tablename <> 'alembic_version' AND NOT starts_with(tablename, 'procrastinate_')"
        )
    )
    return sorted(row.tablename for row in found)


def read_table(connection: Connection, name: str) -> Table:
    known = {"table": f'public."{name}"'}
    columns = connection.execute(
        text(
            "SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull, attgenerated, attidentity,"
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
    if row.attidentity:
        return line + " identity"
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


def test_the_tables_are_exactly_these(catalog: dict[str, Table]) -> None:
    assert set(catalog) == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_columns(catalog: dict[str, Table], name: str) -> None:
    assert lines(catalog[name].columns) == lines(TABLES[name].columns) | lines(ADDED_COLUMNS.get(name, ""))


@pytest.mark.parametrize("name", TABLES)
def test_keys_references_and_checks(catalog: dict[str, Table], name: str) -> None:
    assert lines(catalog[name].rules) == keys_sorted(TABLES[name].rules) | lines(ADDED_RULES.get(name, ""))


@pytest.mark.parametrize("name", TABLES)
def test_indexes(catalog: dict[str, Table], name: str) -> None:
    assert catalog[name].indexes == TABLES[name].indexes | ADDED_INDEXES.get(name, {})


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
    with engine.connect() as connection:
        assert connection.execute(text("SELECT extname FROM pg_extension")).scalars().all() == ["plpgsql"]


def test_the_job_queue_is_migrated_to_the_installed_library() -> None:
    """When it fails: freeze the new schema beside the old one and add a migration with procrastinate's own delta."""
    newest = max((Path(__file__).parents[2] / "migrations").glob("procrastinate_*.sql"))
    assert newest.read_text() == SchemaManager.get_schema()
