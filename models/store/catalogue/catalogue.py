"""What lists and searches read of an agent: its row in `agent`, made anew from its versions and its publisher."""

from collections.abc import Collection

from sqlalchemy import select, text

from models.core.db import db
from models.store.tables import StoreStamp

_TAKE = text(
    "SELECT FROM agent WHERE publisher_id = :publisher AND (:all OR id = ANY (:ids)) ORDER BY id FOR NO KEY UPDATE"
)
_SEEN = (
    r"[^\s\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800"
    r"\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
"""Finds a character that can be seen: a name or tag that has none would be a link to nothing."""
_PASSED_OVER = """(version.yanked_at IS NOT NULL OR EXISTS (
        SELECT FROM takedown AS down WHERE down.publisher_id = version.publisher_id
            AND down.agent_id IN ('', version.agent_id) AND down.version IN ('', version.version)
    ))"""
# Each agent is found by key and each definition read once, whatever PostgreSQL believes of the tables: with figures from
# before a publisher's first agents it looked through all of them for each. (`|| ''` keeps it from the index of publishers.)
_REFRESH = text(
    f"""
WITH chosen AS MATERIALIZED (
    SELECT agent.id, picked.*
    FROM agent CROSS JOIN LATERAL (
        SELECT
            version.version,
            CASE WHEN NOT {_PASSED_OVER} THEN version.version END AS latest_version,
            count(*) OVER () AS versions,
            max(version.published_at) OVER () AS published_at
        FROM agent_version AS version
        WHERE version.publisher_id = agent.publisher_id AND version.agent_id = agent.id
        ORDER BY {_PASSED_OVER}, CAST(string_to_array(version.version, '.') AS int[]) DESC
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
    """Bring the rows of these agents of a publisher (of all, without ids) in line with their versions.

    Call it after versions were added, withdrawn, taken down or brought back, and after the publisher's name changed. What an
    agent shows is its highest version that is neither yanked nor taken down; when all are, the highest of all, and
    `latest_version` is null, which keeps it out of every list. In `search` are the first 2,000 characters of the
    description; hyphens, slashes and underscores count as spaces, as in `listing.words_of`; beside the words stands
    `@publisher/agent` for each of the first two hundred agents it may spawn, which no search for words can find.
    """
    db.session.flush()
    ids = list(agent_ids or ())
    which = {"publisher": publisher_id, "all": agent_ids is None, "ids": ids, "seen": _SEEN}
    # in the order of whoever counts runs of several agents (migrations/functions/store)
    db.session.execute(_TAKE, which)
    db.session.execute(_REFRESH, which)


def stamp() -> int:
    """Differs whenever a publisher, an agent or a version does, figures aside. One statement."""
    return db.session.scalar(select(StoreStamp.stamp)) or 0
