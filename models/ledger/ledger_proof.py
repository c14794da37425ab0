"""Ledger proof: recomputes every stored total from entries and messages, and lists the differences."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.engine import Connection

from models.core.db import db
from models.core.db import now as utc_now
from models.ledger.heads import wrong_heads
from models.ledger.latency import EDGES_MS

MAX_LISTED = 20
"""Differences listed per check; all are counted."""

MAX_SWEEP_DELAY = timedelta(minutes=2)
"""A live hold that expired longer ago than this is a leak."""


@dataclass(frozen=True, slots=True)
class LedgerDifference:
    """A stored value that differs from the recomputed one."""

    subject: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """A ledger invariant: the number of violations, and the first of them."""

    name: str
    differences: list[LedgerDifference]
    count: int


@dataclass(frozen=True, slots=True)
class LedgerProof:
    """The result of `prove`."""

    at: datetime
    checks: list[LedgerCheck]
    accounts: int
    entries: int
    messages: int
    lost_holds: int
    """Calls that neither settled nor failed, for operators to review. Not drift: they wrote nothing."""
    differences: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "differences", sum(check.count for check in self.checks))

    @property
    def clean(self) -> bool:
        """True if nothing differs."""
        return self.differences == 0


_EDGES = "ARRAY[" + ",".join(map(str, EDGES_MS)) + "]"
_HISTOGRAM = (
    "ARRAY["
    + ", ".join(
        f"(count(*) FILTER (WHERE latency_bucket = {index}))::int" for index in range(len(EDGES_MS) + 1)
    )
    + "]"
)
_MEASURES = (
    "calls, input_tokens, cache_write_tokens, cache_read_tokens, output_tokens, reasoning_tokens, cost, credits,"
    " latency_ms, ttft_ms, ttft_calls, latency_hist, latency_max"
)

# Each statement selects subject, expected and found for every difference.
_CHECKS = {
    "a grant's balance is the sum of its entries": """
        WITH entries AS (
            SELECT operation_id, account_id, sum(amount) AS total FROM credit_entry GROUP BY 1, 2
        )
        SELECT coalesce(l.operation_id, j.operation_id), coalesce(j.total, 0), coalesce(l.balance, 0)
        FROM credit_ledger l
        FULL JOIN entries j ON j.operation_id = l.operation_id AND j.account_id = coalesce(l.org_id, l.user_id)
        LEFT JOIN credit_account a ON a.id = j.account_id
        WHERE coalesce(j.total, 0) <> coalesce(l.balance, 0) AND (l.operation_id IS NOT NULL OR a.id IS NOT NULL)
    """,
    "a grant's principal is what its entries granted and took back": """
        WITH entries AS (
            SELECT operation_id, CASE WHEN bool_or(kind = 'revocation' AND cause = 'revocation') THEN 0 ELSE sum(amount) END
                AS granted
            FROM credit_entry WHERE kind IN ('grant', 'revocation', 'reinstatement') GROUP BY 1
        )
        SELECT l.operation_id, coalesce(j.granted, 0), l.principal
        FROM credit_ledger l LEFT JOIN entries j USING (operation_id)
        WHERE l.principal <> coalesce(j.granted, 0)
    """,
    "an account's last balance is the sum of its grants": """
        WITH grants AS (
            SELECT coalesce(org_id, user_id) AS id, sum(balance) AS total FROM credit_ledger GROUP BY 1
        )
        SELECT a.id, coalesce(g.total, 0), coalesce(e.balance_after, 0)
        FROM credit_account a
        LEFT JOIN grants g USING (id)
        LEFT JOIN LATERAL (
            SELECT balance_after FROM credit_entry WHERE account_id = a.id ORDER BY id DESC LIMIT 1
        ) e ON true
        WHERE coalesce(g.total, 0) <> coalesce(e.balance_after, 0)
    """,
    "each entry's balance follows from the one before": """
        WITH chain AS (
            SELECT e.id, e.amount, e.balance_after,
                lag(e.balance_after, 1, 0::bigint) OVER (PARTITION BY e.account_id ORDER BY e.id) AS before
            FROM credit_entry e JOIN credit_account a ON a.id = e.account_id
        )
        SELECT 'entry ' || id, before + amount, balance_after FROM chain WHERE before + amount <> balance_after
    """,
    "each entry's hash is that of itself and the entry before": """
        WITH chain AS (
            SELECT e AS entry, lag(e.hash, 1, decode(repeat('00', 32), 'hex'))
                OVER (PARTITION BY e.account_id ORDER BY e.id) AS before
            FROM credit_entry e
        ), hashed AS (
            SELECT (entry).id, (entry).hash, credit_entry_hash(before, entry) AS expected FROM chain
        )
        SELECT 'entry ' || id, encode(expected, 'hex'), encode(hash, 'hex') FROM hashed WHERE hash <> expected
    """,
    "recorded heads contain the accounts' entries": """
        WITH numbered AS (
            SELECT id, account_id, balance_after, hash, row_number() OVER (PARTITION BY account_id ORDER BY id) AS number
            FROM credit_entry WHERE account_id IN (SELECT account_id FROM ledger_head_leaf)
        ), leaves AS (
            SELECT l.*, e.number, sha256('\\x00'::bytea || convert_to(array_to_json(ARRAY[
                l.account_id, e.id::text, e.number::text, e.balance_after::text, encode(e.hash, 'hex')
            ])::text, 'UTF8')) AS expected
            FROM ledger_head_leaf l LEFT JOIN numbered e ON e.id = l.entry_id AND e.account_id = l.account_id
            WHERE l.account_id IS NOT NULL
        )
        SELECT concat_ws(' ', 'head of', day, 'entry', entry_id), encode(expected, 'hex'), encode(leaf, 'hex')
        FROM leaves WHERE leaf IS DISTINCT FROM expected OR entries <> number
    """,
    "a message's debits are its credits": """
        WITH debits AS (
            SELECT e.message_id, -sum(e.amount) AS total
            FROM credit_entry e JOIN credit_account a ON a.id = e.account_id
            WHERE e.kind = 'debit' AND e.message_id IS NOT NULL GROUP BY 1
        )
        SELECT coalesce(m.id, d.message_id), CASE WHEN m.byok THEN 0 ELSE coalesce(m.credits, 0) END,
            coalesce(d.total, 0)
        FROM message m FULL JOIN debits d ON d.message_id = m.id
        WHERE coalesce(d.total, 0) <> CASE WHEN m.byok THEN 0 ELSE coalesce(m.credits, 0) END
    """,
    "a message matches its gateway call": """
        SELECT coalesce(m.id, 'call ' || c.request_id),
            CASE WHEN m.id IS NULL THEN 'a message' ELSE concat_ws(' ', 'credits', m.credits, 'cost', m.cost) END,
            CASE WHEN c.request_id IS NULL THEN 'no call' ELSE concat_ws(' ', 'credits', c.credits, 'cost', c.cost) END
        FROM message m
        FULL JOIN (SELECT * FROM gateway_call WHERE state = 'settled' AND user_id <> 'test-user-id') c
            ON c.message_id = m.id
        WHERE m.id IS NULL OR c.request_id IS NULL OR m.credits <> c.credits OR m.cost <> c.cost
            OR m.latency_ms IS DISTINCT FROM c.latency_ms OR m.user_id <> c.user_id
            OR coalesce(m.org_id, m.user_id) <> c.account_id OR m.output_tokens <> c.output_tokens
            OR m.input_tokens <> least(
                c.uncached_input_tokens::bigint + c.cache_write_tokens + c.cache_read_tokens, 2147483647)
            OR c.credits <> c.carry_credits + (c.micro_credits + 500000) / 1000000
    """,
    "the carry is the unbilled fraction of small calls": """
        WITH fractions AS (
            SELECT c.account_id AS id, sum(c.micro_credits) - 1000000 * sum(c.carry_credits) AS total
            FROM gateway_call c JOIN message m ON m.id = c.message_id
            WHERE c.state = 'settled' AND c.micro_credits < 500000 AND NOT m.byok
            GROUP BY 1
        )
        SELECT a.id, coalesce(f.total, 0), a.carry_micro
        FROM credit_account a LEFT JOIN fractions f USING (id)
        WHERE coalesce(f.total, 0) <> a.carry_micro
    """,
    "rollups are the sums of messages": f"""
        WITH facts AS MATERIALIZED (
            SELECT c.account_id, date_trunc('hour', m.finished_at) AS hour, c.user_id, m.model,
                coalesce(m.agent_id, '') AS agent_id, coalesce(m.key_id, '') AS key_id, coalesce(c.provider, '') AS provider,
                usage_type(c.door) AS type, width_bucket(c.latency_ms, {_EDGES}) AS latency_bucket,
                c.uncached_input_tokens, c.cache_write_tokens, c.cache_read_tokens, c.output_tokens, c.reasoning_tokens,
                c.cost, CASE WHEN m.byok THEN 0 ELSE m.credits END AS credits, c.latency_ms, c.ttft_ms
            FROM message m JOIN gateway_call c ON c.message_id = m.id AND c.state = 'settled'
            WHERE c.account_id NOT IN (SELECT account_id FROM usage_recounting)
        ),
        sums AS (
            SELECT account_id, grain, date_trunc(grain, hour) AS bucket, user_id, model, agent_id, key_id,
                provider, type, count(*) AS calls,
                sum(uncached_input_tokens) AS input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
                sum(cache_read_tokens) AS cache_read_tokens, sum(output_tokens) AS output_tokens,
                sum(reasoning_tokens) AS reasoning_tokens, sum(cost) AS cost, sum(credits) AS credits,
                sum(latency_ms) AS latency_ms, coalesce(sum(ttft_ms), 0) AS ttft_ms, count(ttft_ms) AS ttft_calls,
                {_HISTOGRAM} AS latency_hist, max(latency_ms) AS latency_max
            FROM facts, (VALUES ('hour'), ('day'), ('week')) AS grains (grain)
            GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
        ),
        stored AS (
            SELECT account_id, grain, bucket AT TIME ZONE 'UTC' AS bucket, user_id, model, agent_id, key_id, provider, type, {_MEASURES}
            FROM usage_rollup WHERE error = '' AND grain IN ('hour', 'day', 'week')
                AND account_id NOT IN (SELECT account_id FROM usage_recounting)
        )
        SELECT concat_ws(' ', account_id, grain, bucket, model, agent_id),
            CASE WHEN s.calls IS NULL THEN 'none' ELSE
                (s.calls, s.input_tokens, s.cache_write_tokens, s.cache_read_tokens, s.output_tokens, s.reasoning_tokens,
                 s.cost, s.credits, s.latency_ms, s.ttft_ms, s.ttft_calls, s.latency_hist, s.latency_max)::text END,
            CASE WHEN k.calls IS NULL THEN 'none' ELSE
                (k.calls, k.input_tokens, k.cache_write_tokens, k.cache_read_tokens, k.output_tokens, k.reasoning_tokens,
                 k.cost, k.credits, k.latency_ms, k.ttft_ms, k.ttft_calls, k.latency_hist, k.latency_max)::text END
        FROM sums s FULL JOIN stored k USING (account_id, grain, bucket, user_id, model, agent_id, key_id, provider, type)
        WHERE s.calls IS NULL OR k.calls IS NULL OR s.calls <> k.calls OR s.input_tokens <> k.input_tokens
            OR s.cache_write_tokens <> k.cache_write_tokens OR s.cache_read_tokens <> k.cache_read_tokens
            OR s.output_tokens <> k.output_tokens OR s.reasoning_tokens <> k.reasoning_tokens OR s.cost <> k.cost
            OR s.credits <> k.credits OR s.latency_ms <> k.latency_ms OR s.ttft_ms <> k.ttft_ms
            OR s.ttft_calls <> k.ttft_calls OR s.latency_hist <> k.latency_hist
            OR s.latency_max <> k.latency_max
    """,  # noqa: S608 - made of constants
    # the agent is that of the run, which may be deleted
    "rollups of failures are the numbers of failed calls": """
        WITH calls AS (
            SELECT c.account_id, g.grain, date_trunc(g.grain, c.finished_at, 'UTC') AS bucket, c.user_id,
                coalesce(c.model, c.requested_model) AS model, coalesce(c.key_id, '') AS key_id,
                coalesce(nullif(left(c.error, 64), ''), 'failed') AS error, count(*) AS failed
            FROM gateway_call c, (VALUES ('hour'), ('day'), ('week')) AS g (grain)
            WHERE c.state = 'failed' AND c.account_id NOT IN (SELECT account_id FROM usage_recounting)
            GROUP BY 1, 2, 3, 4, 5, 6, 7
        ),
        stored AS (
            SELECT account_id, grain, bucket, user_id, model, key_id, error, sum(failed) AS failed FROM usage_rollup
            WHERE error <> '' AND grain IN ('hour', 'day', 'week')
                AND account_id NOT IN (SELECT account_id FROM usage_recounting)
            GROUP BY 1, 2, 3, 4, 5, 6, 7
        )
        SELECT concat_ws(' ', account_id, grain, bucket, model, error), coalesce(c.failed, 0), coalesce(s.failed, 0)
        FROM calls c FULL JOIN stored s USING (account_id, grain, bucket, user_id, model, key_id, error)
        WHERE c.failed IS DISTINCT FROM s.failed
    """,
    # of the last five weeks, since a budget may be older than any window
    "what was spent of a budget is the sum of its messages": """
        SELECT concat_ws(' ', 'budget', b.id, c.subject, c.window_start), c.expected, c.found
        FROM budget b JOIN credit_account a ON a.id = b.account_id
        CROSS JOIN LATERAL (
            SELECT subject, window_start, coalesce(s.spent, 0) AS expected, coalesce(u.spent, 0) AS found
            FROM budget_spent(b, greatest(b.counted_since, now() - interval '35 days')) s FULL JOIN (
                SELECT subject, window_start, spent FROM budget_spend
                WHERE budget_id = b.id AND window_start >= budget_window(
                    b.period, greatest(b.counted_since, now() - interval '35 days'), a.time_zone
                )
            ) u USING (subject, window_start)
        ) c
        WHERE b.ended_at IS NULL AND c.expected <> c.found
    """,
    "the envelopes of a run and its sub-runs hold what their calls cost": """
        WITH RECURSIVE tree AS (
            SELECT run_id AS root, created_at AS since, run_id, spent, closed_at FROM run_budget WHERE parent_run_id IS NULL
            UNION ALL
            SELECT t.root, t.since, e.run_id, e.spent, e.closed_at FROM tree t JOIN run_budget e ON e.parent_run_id = t.run_id
        ), calls AS (
            SELECT t.root, sum(m.credits) AS total
            FROM tree t JOIN agent_run r ON r.envelope_run_id = t.run_id
            JOIN gateway_call c ON c.run_id = r.id AND c.state = 'settled'
            JOIN message m ON m.id = c.message_id AND NOT m.byok AND m.finished_at >= t.since AT TIME ZONE 'UTC'
            GROUP BY 1
        ), envelopes AS (
            SELECT root, sum(spent) FILTER (WHERE closed_at IS NULL OR run_id = root) AS total FROM tree GROUP BY 1
        )
        SELECT 'run ' || e.root, coalesce(c.total, 0), e.total FROM envelopes e LEFT JOIN calls c USING (root)
        WHERE coalesce(c.total, 0) <> e.total
    """,
    "no hold outlives its call or its expiry": """
        SELECT h.request_id, 'no hold', concat_ws(' ', h.state, h.amount, 'until', h.expires_at)
        FROM credit_hold h LEFT JOIN gateway_call c USING (request_id)
        WHERE h.amount < 0 OR c.request_id IS NOT NULL OR (h.state = 'live' AND h.expires_at < :stale)
    """,
}


def prove(*, now: datetime | None = None) -> LedgerProof:
    """Recompute all ledger totals from entries and messages and report differences.

    Reads committed data on its own connection while traffic continues. Each check is one statement, so it sees one
    snapshot; snapshots end with their check, because pinned row versions slow down busy accounts. Takes about as long
    as reading all messages twice.
    """
    now = now or utc_now()
    with db.engine.connect() as connection:
        checks = [_check(connection, name, statement, now) for name, statement in _CHECKS.items()]
        checks.append(_heads_check(connection))
        with _read_only(connection):
            counts = connection.execute(_COUNTS).one()
    return LedgerProof(now, checks, counts.accounts, counts.entries, counts.messages, counts.lost_holds)


_COUNTS = text(
    "SELECT (SELECT count(*) FROM credit_account) AS accounts, (SELECT count(*) FROM credit_entry) AS entries,"
    " (SELECT count(*) FROM message) AS messages,"
    " (SELECT count(*) FROM credit_hold WHERE state = 'lost') AS lost_holds"
)


def _check(connection: Connection, name: str, statement: str, now: datetime) -> LedgerCheck:
    parameters = {"stale": now - MAX_SWEEP_DELAY} if ":stale" in statement else {}
    with _read_only(connection):
        rows = connection.execute(
            text(
                f"SELECT *, count(*) OVER () AS differences FROM ({statement}) AS differing (subject, expected, found)"  # noqa: S608 - constants
                f" LIMIT {MAX_LISTED}"
            ),
            parameters,
        ).all()
    differences = [LedgerDifference(str(row.subject), str(row.expected), str(row.found)) for row in rows]
    return LedgerCheck(name, differences, rows[0].differences if rows else 0)


def _heads_check(connection: Connection) -> LedgerCheck:
    with _read_only(connection):
        wrong = [LedgerDifference(*each) for each in wrong_heads(connection)]
    return LedgerCheck(
        "each recorded head is that of its leaves and the head before", wrong[:MAX_LISTED], len(wrong)
    )


@contextmanager
def _read_only(connection: Connection) -> Iterator[None]:
    with connection.begin():
        for setting in (
            "TRANSACTION READ ONLY",
            "LOCAL statement_timeout = '2h'",
            "LOCAL work_mem = '64MB'",
            "LOCAL random_page_cost = 10",
            "LOCAL max_parallel_workers_per_gather = 2",
        ):
            connection.execute(text(f"SET {setting}"))
        yield
