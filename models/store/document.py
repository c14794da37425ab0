"""What `GET /api/agents` and its metrics answer, written by the database as JSON text (contract 4, A.5).

Ten thousand agents would hold a worker up for a second; the database writes them while the worker does other things.
"""

from sqlalchemy import text

from models.db import Database


def _instant(column: str) -> str:
    return f"""to_json(to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))"""


def _dollars(credits: str) -> str:
    return f"({credits}::float8 / 100)"


def _each(runs: str) -> str:
    return f"(CASE WHEN {runs} = 0 THEN 0 ELSE credits::float8 / {runs} / 100 END)"


# The latest version of each agent, joined to its publisher; of one publisher's agents with one `data.name`, the newest.
_AGENTS = text(
    f"""
    WITH newest AS (
        SELECT agent.*, config.created_at AS made_at,
            coalesce(nullif(config.data ->> 'name', ''), agent.id) AS shown_name
        FROM agent JOIN agent_config AS config
            ON (config.id, config.version, config.publisher_id)
                = (agent.id, agent.latest_version, agent.publisher_id)
    ), shown AS (
        SELECT DISTINCT ON (publisher_id, shown_name) * FROM newest
        ORDER BY publisher_id, shown_name, made_at DESC, id
    ), stats AS (
        SELECT publisher_id, agent_id, string_agg(
            to_json(version) || ':{{"weekly_runs":' || weekly_runs
            || ',"weekly_dollars":' || {_dollars("weekly_credits")}
            || ',"total_dollars":' || {_dollars("credits")}
            || ',"total_invocations":' || runs
            || ',"avg_cost_per_run":' || {_each("runs")}
            || ',"unique_users":' || unique_users
            || coalesce(',"last_used":' || {_instant("last_used")}, '') || '}}',
            ',' ORDER BY version
        ) AS told
        FROM agent_version WHERE runs > 0 GROUP BY publisher_id, agent_id
    )
    SELECT string_agg(
        '{{"id":' || to_json(shown.id)
        || ',"name":' || to_json(shown_name)
        || coalesce(',"description":' || to_json(description), '')
        || ',"publisher":' || json_build_object('id', publisher.id, 'name', publisher.name,
            'verified', publisher.verified, 'avatar_url', publisher.avatar_url)
        || ',"version":' || to_json(latest_version)
        || ',"created_at":' || {_instant("made_at")}
        || ',"usage_count":' || runs
        || ',"weekly_runs":' || weekly_runs
        || ',"weekly_spent":' || {_dollars("weekly_credits")}
        || ',"total_spent":' || {_dollars("credits")}
        || ',"avg_cost_per_invocation":' || {_each("runs")}
        || ',"unique_users":' || unique_users
        || coalesce(',"last_used":' || {_instant("last_used")}, '')
        || ',"version_stats":{{' || coalesce(told, '') || '}}'
        || ',"tags":' || to_json(tags) || '}}',
        ',' ORDER BY weekly_credits DESC, made_at DESC, shown.publisher_id, shown.id
    )
    FROM shown JOIN publisher ON publisher.id = shown.publisher_id
    LEFT JOIN stats ON (stats.publisher_id, stats.agent_id) = (shown.publisher_id, shown.id)
    """  # noqa: S608
)

_METRICS = text(
    f"""
    SELECT string_agg(
        to_json(publisher_id || '/' || id) || ':{{"usage_count":' || runs
        || ',"weekly_runs":' || weekly_runs
        || ',"weekly_spent":' || {_dollars("weekly_credits")}
        || ',"total_spent":' || {_dollars("credits")}
        || ',"avg_cost_per_invocation":' || {_each("runs")}
        || ',"unique_users":' || unique_users
        || coalesce(',"last_used":' || {_instant("last_used")}, '') || '}}',
        ',' ORDER BY weekly_credits DESC, publisher_id, id
    )
    FROM agent WHERE runs > 0 AND latest_version IS NOT NULL
    """  # noqa: S608
)


def agents(database: Database) -> str:
    """Every agent that has a version to run, by what was spent on it in seven days: a JSON array. Dollars are credits
    by 100; only versions that ran have figures."""
    return f"[{database.execute(_AGENTS).scalar_one() or ''}]"


def metrics(database: Database) -> str:
    """The figures alone, of agents that ran: a JSON object by `publisher/agent`."""
    return f"{{{database.execute(_METRICS).scalar_one() or ''}}}"
