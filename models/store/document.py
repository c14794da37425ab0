"""What `GET /api/agents` and its metrics answer, written by the database as JSON text (contract 4, A.5).

Ten thousand agents would hold a worker up for a second; the database writes them while the worker does other things.
"""

import json

from sqlalchemy import text

from models.db import Database
from models.store.reading import no_publisher
from models.store.tables import Publisher


def _instant(column: str) -> str:
    return f"""to_json(to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))"""


def _dollars(credits: str) -> str:
    return f"({credits}::float8 / 100)"


def _each(runs: str) -> str:
    return f"(CASE WHEN {runs} = 0 THEN 0 ELSE credits::float8 / {runs} / 100 END)"


MOST_TEXT = 200_000
"""Bytes of names, descriptions and tags that the list has of one publisher."""
MOST_VERSIONS = 50
"""Versions of an agent that `version_stats` tells, the most used ones."""
PAGE = 100

_NEWEST = """
    SELECT agent.*, config.created_at AS made_at, coalesce(nullif(config.data ->> 'name', ''), agent.id) AS shown_name
    FROM agent JOIN agent_config AS config
        ON (config.id, config.version, config.publisher_id) = (agent.id, agent.latest_version, agent.publisher_id)
"""
_FIGURES = f"""'"usage_count":' || runs
        || ',"weekly_runs":' || weekly_runs
        || ',"weekly_spent":' || {_dollars("weekly_credits")}
        || ',"total_spent":' || {_dollars("credits")}
        || ',"avg_cost_per_invocation":' || {_each("runs")}
        || ',"unique_users":' || unique_users
        || coalesce(',"last_used":' || {_instant("last_used")}, '')"""
_ELEMENT = f"""'{{"id":' || to_json(shown.id)
        || ',"name":' || to_json(shown_name)
        || coalesce(',"description":' || to_json(description), '')
        || ',"publisher":' || json_build_object('id', publisher.id, 'name', publisher.name,
            'verified', publisher.verified, 'avatar_url', publisher.avatar_url)
        || ',"version":' || to_json(latest_version)
        || ',"created_at":' || {_instant("made_at")}
        || ',' || {_FIGURES}
        || ',"version_stats":{{' || coalesce(told, '') || '}},"tags":' || to_json(tags) || '}}'
"""
_JOINED = """
    FROM shown JOIN publisher ON publisher.id = shown.publisher_id
    LEFT JOIN stats ON (stats.publisher_id, stats.agent_id) = (shown.publisher_id, shown.id)
"""


def _stats(which: str) -> str:
    """`version_stats` of the agents for which `which` holds."""
    return f"""
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
    FROM (
        SELECT *, row_number() OVER (
            PARTITION BY publisher_id, agent_id ORDER BY weekly_runs DESC, runs DESC, published_at DESC, version
        ) AS place
        FROM agent_version WHERE runs > 0 AND {which}
    ) AS version
    WHERE place <= {MOST_VERSIONS} GROUP BY publisher_id, agent_id
"""  # noqa: S608


# The latest version of each agent, joined to its publisher; of one publisher's agents with one `data.name`, the newest; and
# of a publisher's agents the most used, so that the list stays small whatever one publisher does.
_AGENTS = text(
    f"""
    WITH newest AS ({_NEWEST}), named AS (
        SELECT DISTINCT ON (publisher_id, shown_name) * FROM newest
        ORDER BY publisher_id, shown_name, made_at DESC, id
    ), placed AS (
        SELECT *, row_number() OVER most_used AS place, sum(
            octet_length(shown_name || coalesce(description, '') || array_to_string(tags, ''))
        ) OVER most_used AS size
        FROM named
        WINDOW most_used AS (
            PARTITION BY publisher_id ORDER BY weekly_credits DESC, runs DESC, made_at DESC, id
            ROWS UNBOUNDED PRECEDING
        )
    ), shown AS (SELECT * FROM placed WHERE place <= :most AND size <= {MOST_TEXT}),
    stats AS ({_stats("true")})
    SELECT string_agg({_ELEMENT}, ',' ORDER BY weekly_credits DESC, made_at DESC, shown.publisher_id, shown.id)
    {_JOINED}
    """  # noqa: S608
)

_OF_PUBLISHER = text(
    f"""
    WITH shown AS (
        {_NEWEST} WHERE agent.publisher_id = :publisher AND agent.id > :after ORDER BY agent.id LIMIT {PAGE + 1}
    ), stats AS ({_stats("publisher_id = :publisher AND agent_id IN (SELECT id FROM shown)")})
    SELECT shown.id, {_ELEMENT} {_JOINED} ORDER BY shown.id
    """  # noqa: S608
)

_METRICS = text(
    f"""
    SELECT string_agg(
        to_json(publisher_id || '/' || id) || ':{{' || {_FIGURES} || '}}',
        ',' ORDER BY weekly_credits DESC, publisher_id, id
    )
    FROM (
        SELECT *, row_number() OVER (
            PARTITION BY publisher_id ORDER BY weekly_credits DESC, runs DESC, published_at DESC, id
        ) AS place
        FROM agent WHERE runs > 0 AND latest_version IS NOT NULL
    ) AS agent
    WHERE place <= :most
    """  # noqa: S608
)


def agents(database: Database, most: int) -> str:
    """The agents that have a version to run, by what was spent on it in seven days: a JSON array. Dollars are credits
    by 100; only versions that ran have figures. Of one publisher no more than `most`, nor than 200 kB of words."""
    return f"[{database.execute(_AGENTS, {'most': most}).scalar_one() or ''}]"


def agents_of(database: Database, publisher_id: str, after: str = "") -> str:
    """A page of a publisher's agents by id, those after the id `after`, each as the list has it: a JSON object with
    `agents` and `next`, the id to go on after, null where none follow. Raises NotFound."""
    wrong = "\x00" in publisher_id + after
    if wrong or database.get(Publisher, publisher_id) is None:
        raise no_publisher(publisher_id)
    rows = database.execute(_OF_PUBLISHER, {"publisher": publisher_id, "after": after}).all()
    further = rows[PAGE - 1].id if len(rows) > PAGE else None
    return f'{{"agents":[{",".join(told for _, told in rows[:PAGE])}],"next":{json.dumps(further)}}}'


def metrics(database: Database, most: int) -> str:
    """The figures alone, of agents that ran: a JSON object by `publisher/agent`. Of one publisher no more than `most`."""
    return f"{{{database.execute(_METRICS, {'most': most}).scalar_one() or ''}}}"
