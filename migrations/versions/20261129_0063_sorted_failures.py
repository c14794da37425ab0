"""Failed and cancelled runs by cost and by duration: few among many, which the orders of the list would look for row by row. And
no pending lists of runs, which every search for the runs that a run spawned would read: with 4 MB in it, the list took 120 ms."""

from migrations.replacing import run_script

revision = "0063"
down_revision = "0062"
branch_labels = None
depends_on = None

UP = """
CREATE INDEX idx_agent_run_unsuccessful_credits
    ON agent_run ((COALESCE(org_id, user_id)), status, settled_credits, created_at, id)
    WHERE status = ANY (ARRAY['failed'::agent_run_status, 'cancelled'::agent_run_status]);
CREATE INDEX idx_agent_run_unsuccessful_duration
    ON agent_run ((COALESCE(org_id, user_id)), status, duration_ms, created_at, id)
    WHERE status = ANY (ARRAY['failed'::agent_run_status, 'cancelled'::agent_run_status]);
ALTER INDEX idx_agent_run_ancestors_gin SET (fastupdate = off);
ALTER INDEX idx_agent_run_tags_gin SET (fastupdate = off);
SELECT gin_clean_pending_list('idx_agent_run_ancestors_gin'), gin_clean_pending_list('idx_agent_run_tags_gin');
"""
DOWN = """
ALTER INDEX idx_agent_run_tags_gin RESET (fastupdate);
ALTER INDEX idx_agent_run_ancestors_gin RESET (fastupdate);
DROP INDEX idx_agent_run_unsuccessful_duration;
DROP INDEX idx_agent_run_unsuccessful_credits;
"""


def upgrade() -> None:
    run_script(UP)


def downgrade() -> None:
    run_script(DOWN)
