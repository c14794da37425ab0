-- What a run is counted for came, changed or went: the figures follow, once a statement.
CREATE OR REPLACE FUNCTION store_follow_bills() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_added agent_run_bill[];
    v_removed agent_run_bill[];
BEGIN
    IF current_setting('stoa.store_recount', true) = 'on' THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        SELECT array_agg(ROW(b.run_id, b.publisher_id, b.agent_id, b.version, b.user_id, b.status, b.credits,
            b.duration_ms, b.created_at, b.own)::agent_run_bill) INTO v_added FROM added b;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        SELECT array_agg(ROW(b.run_id, b.publisher_id, b.agent_id, b.version, b.user_id, b.status, b.credits,
            b.duration_ms, b.created_at, b.own)::agent_run_bill) INTO v_removed FROM removed b;
    END IF;
    IF v_added IS NOT NULL OR v_removed IS NOT NULL THEN
        PERFORM store_move(v_added, v_removed);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER store_bills_added AFTER INSERT ON agent_run_bill
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION store_follow_bills();

CREATE TRIGGER store_bills_changed AFTER UPDATE ON agent_run_bill
REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION store_follow_bills();

CREATE TRIGGER store_bills_removed AFTER DELETE ON agent_run_bill
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION store_follow_bills();
