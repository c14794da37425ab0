"""Answers of other models to the requests of stored calls, which operators compare.

Revision: 0089
Revises: 0088
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0089"
down_revision = "0088"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE trace_relabel (
    message_id text NOT NULL,
    model text NOT NULL,
    output text NOT NULL,
    request_id text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT trace_relabel_pk PRIMARY KEY (message_id, model),
    CONSTRAINT trace_relabel_message_id_fk FOREIGN KEY (message_id) REFERENCES message (id) ON DELETE CASCADE
);
"""


def upgrade() -> None:
    run_script(UP)
    replace_function("admin/trace_relabel_prune", revision)


def downgrade() -> None:
    restore_function("admin/trace_relabel_prune", revision)
    run_script("DROP TABLE trace_relabel")
