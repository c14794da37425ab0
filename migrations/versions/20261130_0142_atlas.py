"""The map of a project: concepts, edges, chunks, diagrams, and what is known of each file.

Revision: 0142
Revises: 0144
"""

from migrations.replacing import replace_function, restore_function, run_script

revision = "0142"
down_revision = "0144"
branch_labels = None
depends_on = None

UP = """
CREATE TABLE code_facts (
    account_id text NOT NULL,
    sha256 text NOT NULL,
    language text NOT NULL,
    version integer NOT NULL,
    lines integer NOT NULL,
    parsed boolean NOT NULL,
    failed boolean NOT NULL,
    package text,
    imports jsonb NOT NULL,
    names text[] NOT NULL,
    facts jsonb NOT NULL,
    CONSTRAINT code_facts_pk PRIMARY KEY (account_id, sha256, language),
    CONSTRAINT code_facts_blob_fk FOREIGN KEY (account_id, sha256) REFERENCES blob (account_id, sha256) ON DELETE CASCADE
);
CREATE INDEX idx_code_facts_names ON code_facts USING gin (names);

CREATE TABLE atlas_index (
    project_id text NOT NULL CONSTRAINT atlas_index_pk PRIMARY KEY
        CONSTRAINT atlas_index_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    source_id bigint NOT NULL CONSTRAINT atlas_index_source_id_fk REFERENCES document_source (id) ON DELETE CASCADE,
    workspace_id text,
    snapshot_id text,
    manifest_hash text NOT NULL,
    tree_hash text NOT NULL,
    version integer NOT NULL,
    history text,
    files integer NOT NULL,
    unread integer NOT NULL,
    left_out integer NOT NULL,
    next_seq integer NOT NULL,
    indexed_at timestamptz NOT NULL,
    CONSTRAINT atlas_index_counts_not_negative CHECK (files >= 0 AND unread >= 0 AND left_out >= 0 AND next_seq >= 0)
);
CREATE INDEX idx_atlas_index_source ON atlas_index (source_id);

CREATE TABLE atlas_concept (
    project_id text NOT NULL CONSTRAINT atlas_concept_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    id text NOT NULL,
    name text NOT NULL,
    layer text NOT NULL,
    type text,
    description text,
    sha256 text,
    importance smallint NOT NULL,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT atlas_concept_pk PRIMARY KEY (project_id, id),
    CONSTRAINT atlas_concept_layer_known CHECK (layer = ANY (ARRAY['narrative', 'capability', 'system', 'module', 'code'])),
    CONSTRAINT atlas_concept_id_length CHECK (octet_length(id) <= 1100)
);
CREATE INDEX idx_atlas_concept_layer ON atlas_concept (project_id, layer, importance);
CREATE INDEX idx_atlas_concept_sha256 ON atlas_concept (project_id, sha256) WHERE sha256 IS NOT NULL;

CREATE TABLE atlas_edge (
    project_id text NOT NULL,
    id text NOT NULL,
    from_concept_id text NOT NULL,
    to_concept_id text NOT NULL,
    type text NOT NULL,
    weight integer,
    evidence jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT atlas_edge_pk PRIMARY KEY (project_id, id),
    CONSTRAINT atlas_edge_type_known CHECK (type = ANY (ARRAY['contains', 'depends_on', 'relates'])),
    CONSTRAINT atlas_edge_from_fk FOREIGN KEY (project_id, from_concept_id)
        REFERENCES atlas_concept (project_id, id) ON DELETE CASCADE,
    CONSTRAINT atlas_edge_to_fk FOREIGN KEY (project_id, to_concept_id)
        REFERENCES atlas_concept (project_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_atlas_edge_from ON atlas_edge (project_id, from_concept_id);
CREATE INDEX idx_atlas_edge_to ON atlas_edge (project_id, to_concept_id);
CREATE INDEX idx_atlas_edge_type ON atlas_edge (project_id, type);

CREATE TABLE atlas_chunk (
    project_id text NOT NULL,
    seq integer NOT NULL,
    concept_id text NOT NULL,
    kind text NOT NULL,
    file_path text,
    symbol text,
    source_hash text NOT NULL,
    CONSTRAINT atlas_chunk_pk PRIMARY KEY (project_id, seq),
    CONSTRAINT atlas_chunk_kind_known CHECK (kind = ANY (ARRAY['code', 'decision'])),
    CONSTRAINT atlas_chunk_concept_fk FOREIGN KEY (project_id, concept_id)
        REFERENCES atlas_concept (project_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_atlas_chunk_concept ON atlas_chunk (project_id, concept_id);

CREATE TABLE atlas_decision_link (
    project_id text NOT NULL,
    id text NOT NULL,
    decision_id text NOT NULL CONSTRAINT atlas_decision_link_decision_id_fk
        REFERENCES project_decision (id) ON DELETE CASCADE,
    concept_id text NOT NULL,
    confidence integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT atlas_decision_link_pk PRIMARY KEY (project_id, id),
    CONSTRAINT atlas_decision_link_confidence_percent CHECK (confidence >= 0 AND confidence <= 100),
    CONSTRAINT atlas_decision_link_concept_fk FOREIGN KEY (project_id, concept_id)
        REFERENCES atlas_concept (project_id, id) ON DELETE CASCADE
);
CREATE INDEX idx_atlas_decision_link_decision ON atlas_decision_link (decision_id);
CREATE INDEX idx_atlas_decision_link_concept ON atlas_decision_link (project_id, concept_id);

CREATE TABLE atlas_diagram (
    project_id text NOT NULL CONSTRAINT atlas_diagram_project_id_fk REFERENCES project (id) ON DELETE CASCADE,
    id text NOT NULL,
    concept_id text,
    type text NOT NULL,
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT atlas_diagram_pk PRIMARY KEY (project_id, id),
    CONSTRAINT atlas_diagram_type_known CHECK (type = ANY (ARRAY['flow', 'dependency', 'component', 'sequence']))
);
CREATE INDEX idx_atlas_diagram_list ON atlas_diagram (project_id, created_at, id);
"""

DOWN = """
DROP TABLE atlas_diagram, atlas_decision_link, atlas_chunk, atlas_edge, atlas_concept, atlas_index, code_facts;
"""


def upgrade() -> None:
    """Apply the migration."""
    run_script(UP)
    replace_function("atlas/atlas_forget_source", revision)


def downgrade() -> None:
    """Revert it."""
    run_script("DELETE FROM atlas_index")
    restore_function("atlas/atlas_forget_source", revision)
    run_script(DOWN)
