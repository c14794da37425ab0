"""What operators see of jobs, proofs and storage: errors of jobs, proofs of the store, sizes by day.

Revision: 0090
Revises: 0089
"""

from migrations.replacing import run_script

revision = "0090"
down_revision = "0089"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE job_failure (
    job_id bigint CONSTRAINT job_failure_pk PRIMARY KEY,
    task text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    error text NOT NULL,
    trace text NOT NULL
);
CREATE INDEX idx_procrastinate_jobs_failed ON procrastinate_jobs (id) WHERE status = 'failed';
ALTER TABLE proof_run ADD COLUMN kind text NOT NULL DEFAULT 'ledger', ADD COLUMN runs bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT proof_run_kind_known CHECK (kind = ANY (ARRAY['ledger'::text, 'store'::text]));
DROP INDEX idx_proof_run_finished;
CREATE INDEX idx_proof_run_finished ON proof_run (kind, id) WHERE finished_at IS NOT NULL;
CREATE TABLE storage_sample (
    day date NOT NULL,
    name text NOT NULL,
    bytes bigint NOT NULL,
    rows bigint NOT NULL,
    CONSTRAINT storage_sample_pk PRIMARY KEY (day, name)
);
"""
DOWN = """
DROP TABLE storage_sample;
DROP INDEX idx_proof_run_finished;
DELETE FROM proof_run WHERE kind <> 'ledger';
ALTER TABLE proof_run DROP COLUMN kind, DROP COLUMN runs;
CREATE INDEX idx_proof_run_finished ON proof_run (id) WHERE finished_at IS NOT NULL;
DROP INDEX idx_procrastinate_jobs_failed;
DROP TABLE job_failure;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
