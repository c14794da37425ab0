"""What models say about the parts of a project, with the lines that say it.

Revision: 0151
Revises: 0157
"""

from migrations.replacing import run_script

revision = "0151"
down_revision = "0157"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE atlas_words (
    project_id text NOT NULL CONSTRAINT atlas_words_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    subject text NOT NULL,
    sentences jsonb NOT NULL,
    cited jsonb NOT NULL,
    cut integer NOT NULL,
    model text,
    request_id text,
    run_id text,
    micro_credits bigint,
    snapshot_id text,
    asked_by text CONSTRAINT atlas_words_asked_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    written_at timestamptz,
    writing_id text,
    writing_until timestamptz,
    problem text,
    CONSTRAINT atlas_words_pk PRIMARY KEY (project_id, subject),
    CONSTRAINT atlas_words_subject_length CHECK (octet_length(subject) <= 1400),
    CONSTRAINT atlas_words_counts_not_negative CHECK (cut >= 0 AND (micro_credits IS NULL OR micro_credits >= 0)),
    CONSTRAINT atlas_words_written_by_a_model CHECK ((written_at IS NULL) = (model IS NULL)),
    CONSTRAINT atlas_words_writing_until_then CHECK ((writing_id IS NULL) = (writing_until IS NULL))
);
CREATE INDEX idx_atlas_words_asked_by ON atlas_words (asked_by);
"""
DOWN = """
DROP TABLE atlas_words;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
