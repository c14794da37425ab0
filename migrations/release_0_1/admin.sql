-- What operators did, and evaluations.

CREATE TABLE audit_log (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    actor_id text,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    before jsonb,
    after jsonb,
    ip text,
    request_id text,
    CONSTRAINT audit_log_pk PRIMARY KEY (id)
);
CREATE INDEX idx_audit_log_actor ON audit_log (actor_id, id);
CREATE INDEX idx_audit_log_subject ON audit_log (subject, id);

CREATE TABLE git_eval_results (
    id text NOT NULL DEFAULT gen_random_uuid()::text,
    cost_mode text,
    reasoner_model text,
    agent_model text,
    metadata jsonb,
    cost int NOT NULL DEFAULT 0,
    is_public boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT git_eval_results_pk PRIMARY KEY (id)
);
