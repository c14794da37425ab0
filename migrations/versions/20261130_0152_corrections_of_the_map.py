"""What people correct on the map of a project.

Revision: 0152
Revises: 0151
"""

from migrations.replacing import run_script

revision = "0152"
down_revision = "0151"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE atlas_correction (
    id text NOT NULL CONSTRAINT atlas_correction_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT atlas_correction_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    subject text NOT NULL,
    other text NOT NULL,
    field text NOT NULL,
    value text,
    before text,
    current boolean NOT NULL,
    user_id text CONSTRAINT atlas_correction_user_id_fk REFERENCES "user" (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT atlas_correction_field_known CHECK (field = ANY (ARRAY['name', 'description', 'type', 'related'])),
    CONSTRAINT atlas_correction_pairs_are_related CHECK ((field = 'related') = (other <> '')),
    CONSTRAINT atlas_correction_subject_length CHECK (octet_length(subject) <= 1400 AND octet_length(other) <= 1100),
    CONSTRAINT atlas_correction_value_length CHECK (length(value) <= 2000 AND value <> '')
);
CREATE UNIQUE INDEX idx_atlas_correction_current ON atlas_correction (project_id, subject, other, field) WHERE current;
CREATE INDEX idx_atlas_correction_project ON atlas_correction (project_id, created_at, id);
CREATE INDEX idx_atlas_correction_user ON atlas_correction (user_id);
"""
DOWN = """
DROP TABLE atlas_correction;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
