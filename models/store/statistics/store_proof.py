"""The proof of the store: compares all stored statistics with queries over the runs and their calls."""

from dataclasses import dataclass

from sqlalchemy import text

from models.core.db import db
from models.store.statistics import counting
from models.store.statistics.durations import EDGES_MS


@dataclass(frozen=True, slots=True)
class StoreDifference:
    """A row of statistics that differs. `subject` is a run, version, day or user of the agent."""

    publisher_id: str
    agent_id: str
    subject: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """One check and its differences."""

    name: str
    differences: list[StoreDifference]


@dataclass(frozen=True, slots=True)
class StoreProof:
    """The result of `prove`. `runs` is the number of counted runs, `waiting` of queued ones."""

    checks: list[StoreCheck]
    agents: int
    versions: int
    runs: int
    waiting: int

    @property
    def differences(self) -> list[StoreDifference]:
        """The differences of all checks."""
        return [difference for check in self.checks for difference in check.differences]


_WEEKLY = "kind = 'completed' AND created_at >= (SELECT since FROM store_window)"
_EDGES = ",".join(map(str, EDGES_MS))
_HISTOGRAM = (
    "ARRAY["
    + ",".join(
        f"count(*) FILTER (WHERE kind = 'completed' AND bucket = {index})"
        for index in range(len(EDGES_MS) + 1)
    )
    + "]"
)
_COLUMNS = (
    "runs",
    "failed",
    "cancelled",
    "credits",
    "weekly_runs",
    "weekly_credits",
    "unique_users",
    "durations",
    "last_used",
    "own_runs",
)
_SUMS = f"""
    count(*) FILTER (WHERE kind = 'completed') AS runs,
    count(*) FILTER (WHERE kind = 'failed') AS failed,
    count(*) FILTER (WHERE kind = 'cancelled') AS cancelled,
    coalesce(sum(credits) FILTER (WHERE kind = 'completed'), 0)::bigint AS credits,
    count(*) FILTER (WHERE {_WEEKLY}) AS weekly_runs,
    coalesce(sum(credits) FILTER (WHERE {_WEEKLY}), 0)::bigint AS weekly_credits,
    count(DISTINCT user_id) FILTER (WHERE kind = 'completed') AS unique_users,
    {_HISTOGRAM} AS durations,
    max(created_at) FILTER (WHERE kind = 'completed') AS last_used,
    count(*) FILTER (WHERE kind = 'own') AS own_runs
"""

_RUNS = f"""
    billed AS (
        SELECT c.run_id, coalesce(sum(c.credits) FILTER (WHERE NOT coalesce(m.byok, false)), 0)::bigint AS credits
        FROM gateway_call c LEFT JOIN message m ON m.id = c.message_id
        WHERE c.state = 'settled' AND c.run_id IS NOT NULL
        GROUP BY 1
    ),
    counted AS (
        SELECT b.run_id FROM billed b
        UNION
        SELECT r.id
        FROM billed b JOIN agent_run below ON below.id = b.run_id, unnest(below.ancestor_run_ids) AS above (id)
        JOIN agent_run r USING (id)
        WHERE r.user_id = below.user_id
    ),
    people AS (
        SELECT p.id AS publisher_id, p.user_id FROM publisher p WHERE p.user_id IS NOT NULL
        UNION
        SELECT p.id, m.user_id FROM publisher p JOIN org_member m USING (org_id)
    ),
    waiting AS (
        SELECT q.run_id FROM store_queue q
        UNION
        SELECT above.id FROM store_queue q JOIN agent_run r ON r.id = q.run_id, unnest(r.ancestor_run_ids) AS above (id)
    ),
    facts AS (
        SELECT r.id AS run_id, r.publisher_id, r.agent_name AS agent_id, r.agent_version AS version, r.user_id,
            r.status::text AS status, coalesce(b.credits, 0) AS credits,
            greatest(coalesce(r.duration_ms, 0), 0)::bigint AS duration_ms, r.created_at,
            p.user_id IS NOT NULL AS own
        FROM counted c
        JOIN agent_run r ON r.id = c.run_id
        JOIN agent a ON a.publisher_id = r.publisher_id AND a.id = r.agent_name
        LEFT JOIN billed b ON b.run_id = r.id
        LEFT JOIN people p ON p.publisher_id = r.publisher_id AND p.user_id = r.user_id
        LEFT JOIN waiting w ON w.run_id = r.id
        WHERE r.status <> 'running' AND r.agent_id <> 'test-agent' AND w.run_id IS NULL
        UNION ALL
        -- queued runs are still counted as they were
        SELECT b.* FROM agent_run_bill b JOIN waiting USING (run_id)
    ),
    runs AS (
        SELECT *, width_bucket(duration_ms, ARRAY[{_EDGES}]::bigint[]) AS bucket,
            CASE WHEN own THEN 'own' ELSE status END AS kind
        FROM facts
    )
"""  # noqa: S608 - constants

_ZEROS = "ROW(0, 0, 0, 0, 0, 0, 0, array_fill(0::bigint, ARRAY[16]), NULL::timestamptz, 0)"


def _compare(table: str, keys: str, id: str, subject: str) -> str:
    """A query for rows of `table` that differ from the sums of its runs, or from zero without runs."""
    counted = ", ".join(f"s.{column}" for column in _COLUMNS)
    stored = ", ".join(f"k.{column}" for column in _COLUMNS)
    same = " AND ".join(f"s.{key} = k.{key if key != 'agent_id' else id}" for key in keys.split(", "))
    expected = f"CASE WHEN s.publisher_id IS NULL THEN {_ZEROS} ELSE ROW({counted}) END"
    return f"""
        WITH {_RUNS}, sums AS (SELECT {keys}, {_SUMS} FROM runs GROUP BY {keys})
        SELECT k.publisher_id, k.{id}, {subject}, ({expected})::text, ROW({stored})::text
        FROM {table} k LEFT JOIN sums s ON {same}
        WHERE ({expected})::text <> ROW({stored})::text
        ORDER BY 1, 2, 3
    """  # noqa: S608 - constants


def _compare_rows(table: str, keys: str, measures: str, sums: str, subject: str, runs: str = "runs") -> str:
    """A query for rows of `table` that differ from the expected rows, missing and extra rows included."""
    counted = ", ".join(f"s.{measure}" for measure in measures.split(", "))
    stored = ", ".join(f"k.{measure}" for measure in measures.split(", "))
    return f"""
        WITH {_RUNS}, sums AS (SELECT {keys}, {sums} FROM {runs})
        SELECT coalesce(s.publisher_id, k.publisher_id), coalesce(s.agent_id, k.agent_id), {subject},
            CASE WHEN s.present THEN ROW({counted})::text ELSE 'none' END,
            CASE WHEN k.present THEN ROW({stored})::text ELSE 'none' END
        FROM sums s FULL JOIN (SELECT *, true AS present FROM {table}) k USING ({keys})
        WHERE s.present IS NULL OR k.present IS NULL OR ROW({counted}) IS DISTINCT FROM ROW({stored})
        ORDER BY 1, 2, 3
    """  # noqa: S608 - constants


_CHECKS = {
    "bills of runs match the runs and their settled calls": _compare_rows(
        "agent_run_bill",
        "run_id",
        "publisher_id, agent_id, version, user_id, status, credits, duration_ms, created_at, own",
        "publisher_id, agent_id, version, user_id, status, credits, duration_ms, created_at, own, true AS present",
        "'run ' || run_id",
    ),
    "statistics of agents match their runs": _compare("agent", "publisher_id, agent_id", "id", "'agent'"),
    "statistics of versions match their runs": _compare(
        "agent_version", "publisher_id, agent_id, version", "agent_id", "'version ' || k.version"
    ),
    "statistics of days match their runs": _compare_rows(
        "agent_day",
        "publisher_id, agent_id, day, version",
        "runs, failed, cancelled, credits, own_runs",
        "count(*) FILTER (WHERE kind = 'completed') AS runs, count(*) FILTER (WHERE kind = 'failed') AS failed,"
        " count(*) FILTER (WHERE kind = 'cancelled') AS cancelled,"
        " coalesce(sum(credits) FILTER (WHERE kind = 'completed'), 0)::bigint AS credits,"
        " count(*) FILTER (WHERE kind = 'own') AS own_runs, true AS present",
        "concat('day ', day, ' of ', version)",
        "(SELECT *, (created_at AT TIME ZONE 'UTC')::date AS day FROM runs) AS dated GROUP BY 1, 2, 3, 4",
    ),
    "runs of users match their completed runs": _compare_rows(
        "agent_user",
        "publisher_id, agent_id, version, user_id",
        "runs",
        "count(*) AS runs, true AS present",
        "concat('user ', user_id, ' of ', coalesce(nullif(version, ''), 'all versions'))",
        "(SELECT r.publisher_id, r.agent_id, v.version, r.user_id FROM runs r,"
        " LATERAL (VALUES (r.version), ('')) AS v (version)"
        " WHERE r.kind = 'completed' AND r.user_id IS NOT NULL) AS used GROUP BY 1, 2, 3, 4",
    ),
}


def prove() -> StoreProof:
    """Compare all statistics with queries over the rows, in one snapshot of the database. Queued runs are expected as they
    were last counted, since a run changes and is queued in one transaction.

    Uses its own REPEATABLE READ, read-only connection: sees committed data, takes no locks, does not block traffic. Reads the
    runs of the store and all calls five times.
    """
    with db.session.get_bind().engine.connect() as connection, connection.begin():
        for setting in (
            "TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
            "LOCAL statement_timeout = '2h'",
            "LOCAL work_mem = '64MB'",
        ):
            connection.execute(text(f"SET {setting}"))
        checks = [
            StoreCheck(name, [StoreDifference(*map(str, row)) for row in connection.execute(text(statement))])
            for name, statement in _CHECKS.items()
        ]
        agents, versions, runs, waiting = connection.execute(
            text(
                "SELECT (SELECT count(*) FROM agent), (SELECT count(*) FROM agent_version),"
                " (SELECT count(*) FROM agent_run_bill), (SELECT count(DISTINCT run_id) FROM store_queue)"
            )
        ).one()
    return StoreProof(checks, agents, versions, runs, waiting)


def repair(publisher_id: str, agent_id: str) -> None:
    """Recount an agent, without a statement timeout. Commit after it."""
    db.session.execute(text("SET LOCAL statement_timeout = 0"))
    counting.recount(publisher_id, agent_id)
