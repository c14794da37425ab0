"""Action items, next steps and decisions of projects.

Revision: 0138
Revises: 0130
"""

from migrations.replacing import run_script

revision = "0138"
down_revision = "0130"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE action_item (
    id text NOT NULL CONSTRAINT action_item_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT action_item_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    workspace_id text NOT NULL,
    type text NOT NULL,
    severity text NOT NULL DEFAULT 'info',
    title text NOT NULL,
    description text,
    affected_files jsonb NOT NULL DEFAULT '[]',
    suggested_prompt text,
    metadata jsonb NOT NULL DEFAULT '{}',
    status text NOT NULL DEFAULT 'pending',
    source text NOT NULL DEFAULT 'analysis',
    analyser text NOT NULL,
    rule text NOT NULL,
    fingerprint text NOT NULL,
    assignee_id text CONSTRAINT action_item_assignee_id_fk REFERENCES "user" (id) ON DELETE SET NULL,
    assigned_agent text,
    snoozed_until timestamptz,
    dismissed_reason text,
    dismissed_by text CONSTRAINT action_item_dismissed_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    resolved_at timestamptz,
    created_by text CONSTRAINT action_item_created_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT action_item_workspace_fk FOREIGN KEY (project_id, workspace_id)
        REFERENCES workspace (project_id, id) ON DELETE CASCADE,
    CONSTRAINT action_item_type_known
        CHECK (type = ANY (ARRAY['refactoring', 'security', 'test_coverage', 'build_failure'])),
    CONSTRAINT action_item_severity_known CHECK (severity = ANY (ARRAY['info', 'warning', 'critical'])),
    CONSTRAINT action_item_status_known
        CHECK (status = ANY (ARRAY['pending', 'running', 'ready', 'applied', 'dismissed', 'resolved'])),
    CONSTRAINT action_item_source_known CHECK (source = ANY (ARRAY['analysis', 'import', 'manual'])),
    CONSTRAINT action_item_title_length CHECK (title <> '' AND length(title) <= 200),
    CONSTRAINT action_item_fingerprint_length CHECK (fingerprint <> '' AND length(fingerprint) <= 200),
    CONSTRAINT action_item_one_assignee CHECK (assignee_id IS NULL OR assigned_agent IS NULL),
    CONSTRAINT action_item_resolved_at_set CHECK ((status = 'resolved') = (resolved_at IS NOT NULL)),
    CONSTRAINT action_item_reason_of_dismissed CHECK (status = 'dismissed' OR dismissed_reason IS NULL),
    CONSTRAINT action_item_files_list CHECK (jsonb_typeof(affected_files) = 'array')
);
CREATE UNIQUE INDEX idx_action_item_fingerprint ON action_item (workspace_id, fingerprint);
CREATE INDEX idx_action_item_project ON action_item (project_id, status, created_at, id);
CREATE INDEX idx_action_item_workspace ON action_item (workspace_id, status);
CREATE INDEX idx_action_item_assignee ON action_item (assignee_id);
CREATE INDEX idx_action_item_created_by ON action_item (created_by);
CREATE INDEX idx_action_item_dismissed_by ON action_item (dismissed_by);

CREATE TABLE next_step (
    id text NOT NULL CONSTRAINT next_step_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT next_step_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    title text NOT NULL,
    title_key text NOT NULL,
    description text,
    rationale text,
    category text NOT NULL DEFAULT 'feature',
    priority integer NOT NULL DEFAULT 2,
    effort text,
    status text NOT NULL DEFAULT 'pending',
    helpful_count integer NOT NULL DEFAULT 0,
    not_helpful_count integer NOT NULL DEFAULT 0,
    model text,
    generated_at timestamptz NOT NULL DEFAULT now(),
    acted_on_at timestamptz,
    CONSTRAINT next_step_category_known
        CHECK (category = ANY (ARRAY['feature', 'validation', 'launch', 'technical', 'user_research'])),
    CONSTRAINT next_step_effort_known CHECK (effort IS NULL OR effort = ANY (ARRAY['small', 'medium', 'large'])),
    CONSTRAINT next_step_status_known
        CHECK (status = ANY (ARRAY['pending', 'started', 'completed', 'dismissed'])),
    CONSTRAINT next_step_priority_range CHECK (priority >= 1 AND priority <= 3),
    CONSTRAINT next_step_counts_not_negative CHECK (helpful_count >= 0 AND not_helpful_count >= 0),
    CONSTRAINT next_step_title_length CHECK (title <> '' AND length(title) <= 140)
);
CREATE UNIQUE INDEX idx_next_step_title ON next_step (project_id, title_key);
CREATE INDEX idx_next_step_project ON next_step (project_id, generated_at, id);
CREATE INDEX idx_next_step_status ON next_step (project_id, status);

CREATE TABLE project_decision (
    id text NOT NULL CONSTRAINT project_decision_pk PRIMARY KEY,
    project_id text NOT NULL CONSTRAINT project_decision_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    conversation_id text,
    message_id text CONSTRAINT project_decision_message_id_fk REFERENCES thread_message (id) ON DELETE SET NULL,
    decision text NOT NULL,
    decision_key text NOT NULL,
    rationale text,
    category text,
    quote text,
    state text NOT NULL DEFAULT 'proposed',
    superseded_by_id text CONSTRAINT project_decision_superseded_by_id_fk
        REFERENCES project_decision (id) ON DELETE SET NULL,
    found_by text NOT NULL,
    model text,
    reviewed_by text CONSTRAINT project_decision_reviewed_by_fk REFERENCES "user" (id) ON DELETE SET NULL,
    reviewed_at timestamptz,
    decided_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT project_decision_category_known CHECK (category IS NULL
        OR category = ANY (ARRAY['architecture', 'scope', 'tech_choice', 'approach', 'process', 'product'])),
    CONSTRAINT project_decision_state_known
        CHECK (state = ANY (ARRAY['proposed', 'accepted', 'rejected', 'superseded'])),
    CONSTRAINT project_decision_found_by_known CHECK (found_by = ANY (ARRAY['rules', 'model', 'person'])),
    CONSTRAINT project_decision_decision_length CHECK (decision <> '' AND length(decision) <= 240),
    CONSTRAINT project_decision_quoted CHECK (found_by = 'person' OR quote IS NOT NULL),
    CONSTRAINT project_decision_model_named CHECK ((found_by = 'model') = (model IS NOT NULL)),
    CONSTRAINT project_decision_superseded_by_another CHECK (superseded_by_id IS NULL OR state = 'superseded'),
    CONSTRAINT project_decision_not_by_itself CHECK (superseded_by_id <> id)
);
CREATE UNIQUE INDEX idx_project_decision_key ON project_decision (project_id, decision_key);
CREATE INDEX idx_project_decision_project ON project_decision (project_id, decided_at, id);
CREATE INDEX idx_project_decision_superseded_by ON project_decision (superseded_by_id);
CREATE INDEX idx_project_decision_message ON project_decision (message_id);
CREATE INDEX idx_project_decision_reviewed_by ON project_decision (reviewed_by);
CREATE INDEX idx_project_decision_conversation ON project_decision (conversation_id);
"""

DOWN = "DROP TABLE project_decision, next_step, action_item;"


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)


def downgrade() -> None:
    """Revert it."""
    run_script(DOWN)
