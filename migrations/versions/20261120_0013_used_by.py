"""What an agent may spawn stands among its words (`models/store/catalogue.py`), for the agents there are, too.

Revision: 0013
Revises: 0012
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

SPAWNED = """
UPDATE agent SET search = agent.search || array_to_tsvector(ARRAY(
    SELECT '@' || substring(named.ref FROM '^[^/@]+/[^/@]+')
    FROM jsonb_array_elements_text(config.data -> 'spawnableAgents') WITH ORDINALITY AS named (ref, number)
    WHERE named.number <= 200 AND octet_length(named.ref) <= 500 AND named.ref ~ '^[^/@]+/[^/@]+@'
))
FROM agent_config AS config
WHERE (config.publisher_id, config.id, config.version) = (agent.publisher_id, agent.id, agent.latest_version)
    AND jsonb_typeof(config.data -> 'spawnableAgents') = 'array'
"""


def upgrade() -> None:
    op.execute(SPAWNED)


def downgrade() -> None:
    op.execute(
        """
        UPDATE agent SET search = ts_delete(search, ARRAY(SELECT word FROM unnest(tsvector_to_array(search)) AS word
            WHERE starts_with(word, '@')))
        WHERE EXISTS (SELECT FROM unnest(tsvector_to_array(search)) AS word WHERE starts_with(word, '@'))
        """
    )
