"""The rows in `agent` that lists and searches read, derived from an agent's versions and publisher."""

from collections.abc import Collection

from sqlalchemy import select, text

from models.core.db import db
from models.store.tables import StoreStamp

_LOCK = text(
    "SELECT FROM agent WHERE publisher_id = :publisher AND (:all OR id = ANY (:ids)) ORDER BY id FOR NO KEY UPDATE"
)
_VISIBLE_CHARACTER = (
    r"[^\s\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800"
    r"\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
"""Matches a visible character. A name or tag without one would be an empty link."""
_HIDDEN = """(version.yanked_at IS NOT NULL OR EXISTS (
        SELECT FROM takedown AS down WHERE down.publisher_id = version.publisher_id
            AND down.agent_id IN ('', version.agent_id) AND down.version IN ('', version.version)
    ))"""
# Written so that each agent is found by key and each definition read once, even with outdated planner statistics, with which
# PostgreSQL scanned all of a publisher's agents for each one. (`|| ''` prevents use of the publisher index.)
_REFRESH = text(
    f"""
WITH chosen AS MATERIALIZED (
    SELECT agent.id, picked.*
    FROM agent CROSS JOIN LATERAL (
        SELECT
            version.version,
            CASE WHEN NOT {_HIDDEN} THEN version.version END AS latest_version,
            count(*) OVER () AS versions,
            max(version.published_at) OVER () AS published_at
        FROM agent_version AS version
        WHERE version.publisher_id = agent.publisher_id AND version.agent_id = agent.id
        ORDER BY {_HIDDEN}, CAST(string_to_array(version.version, '.') AS int[]) DESC
        LIMIT 1
    ) AS picked
    WHERE agent.publisher_id = :publisher AND (:all OR agent.id = ANY (:ids))
), shown AS MATERIALIZED (
    SELECT
        config.id,
        CASE WHEN config.data ->> 'name' ~ :seen THEN config.data ->> 'name'
            WHEN config.data ->> 'displayName' ~ :seen THEN config.data ->> 'displayName'
            ELSE config.id END AS name,
        config.data ->> 'description' AS description,
        CASE WHEN jsonb_typeof(config.data -> 'tags') = 'array'
            THEN ARRAY(SELECT tag FROM jsonb_array_elements_text(config.data -> 'tags') AS tag WHERE tag ~ :seen)
            ELSE '{{}}' END AS tags,
        coalesce(config.data ->> 'model', '') AS model,
        CASE WHEN config.data ->> 'license' ~ :seen AND length(config.data ->> 'license') <= 100
            THEN config.data ->> 'license' END AS license,
        config.data -> 'spawnableAgents' AS spawnable,
        chosen.latest_version,
        chosen.versions,
        chosen.published_at
    FROM chosen JOIN agent_config AS config
        ON config.id = chosen.id AND config.version = chosen.version AND config.publisher_id || '' = :publisher
)
UPDATE agent SET
    name = shown.name,
    description = shown.description,
    tags = shown.tags,
    model = shown.model,
    license = shown.license,
    latest_version = shown.latest_version,
    versions = shown.versions,
    published_at = shown.published_at,
    search = setweight(to_tsvector('simple', agent.id || ' ' || translate(agent.id, '-', ' ')), 'A')
        || setweight(to_tsvector('simple', translate(shown.name, '-/_', '   ')), 'A')
        || setweight(to_tsvector('simple', publisher.id || ' ' || translate(publisher.id, '-', ' ')), 'B')
        || setweight(to_tsvector('simple', translate(publisher.name, '-/_', '   ')), 'B')
        || setweight(to_tsvector('simple', translate(array_to_string(shown.tags, ' '), '-/_', '   ')), 'B')
        || setweight(to_tsvector('simple', translate(left(coalesce(shown.description, ''), 2000), '-/_', '   ')), 'C')
        || array_to_tsvector(ARRAY(
            SELECT '@' || substring(named.ref FROM '^[^/@]+/[^/@]+') FROM jsonb_array_elements_text(
                CASE jsonb_typeof(shown.spawnable) WHEN 'array' THEN shown.spawnable ELSE '[]' END
            ) WITH ORDINALITY AS named (ref, number)
            WHERE named.number <= 200 AND octet_length(named.ref) <= 500 AND named.ref ~ '^[^/@]+/[^/@]+@'
        ))
FROM publisher, shown
WHERE publisher.id = :publisher AND agent.publisher_id = publisher.id AND agent.id = shown.id
"""  # noqa: S608
)


def refresh(publisher_id: str, agent_ids: Collection[str] | None = None) -> None:
    """Refresh the rows of these agents of a publisher (all of them without ids) from their versions. Locks the rows, flushes.

    Call after versions were added, yanked, taken down or restored, and after the publisher was renamed. A row shows the
    highest version that is neither yanked nor taken down. If there is none, it shows the highest of all, and
    `latest_version` is null, which hides the agent from every list. `search` indexes the first 2,000 characters of the
    description, with hyphens, slashes and underscores as spaces, like `listing.words_of`. It also has `@publisher/agent` for
    each of the first 200 agents it can spawn, which no text search matches.
    """
    db.session.flush()
    ids = list(agent_ids or ())
    which = {"publisher": publisher_id, "all": agent_ids is None, "ids": ids, "seen": _VISIBLE_CHARACTER}
    # in the lock order of migrations/functions/store/README.md
    db.session.execute(_LOCK, which)
    db.session.execute(_REFRESH, which)


def store_version() -> int:
    """A number that changes with every change of a publisher, agent or version, except statistics. One statement."""
    return db.session.scalar(select(StoreStamp.stamp)) or 0
