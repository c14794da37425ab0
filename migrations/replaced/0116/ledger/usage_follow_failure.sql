-- Trigger. A call failed or was refused, or was settled after it had been recorded as failed: change the failures of its rollups.
-- Locks only these rows, by hour, day and week. Who records several calls in one statement inserts them in the order of the rollups' key.
CREATE OR REPLACE FUNCTION usage_follow_failure() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    c gateway_call := CASE TG_OP WHEN 'INSERT' THEN NEW ELSE OLD END;
    v_change int := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
BEGIN
    INSERT INTO usage_rollup AS r (account_id, grain, bucket, user_id, model, agent_id, key_id, error, failed)
    SELECT c.account_id, g.grain, date_trunc(g.grain, c.finished_at, 'UTC'), c.user_id, coalesce(c.model, c.requested_model),
        coalesce((SELECT a.agent_id FROM agent_run a WHERE a.id = c.run_id), ''), coalesce(c.key_id, ''),
        coalesce(nullif(left(c.error, 64), ''), 'failed'), v_change
    FROM (VALUES ('hour'), ('day'), ('week')) g (grain)
    ON CONFLICT (account_id, grain, bucket, user_id, model, agent_id, key_id, error) DO UPDATE SET
        failed = r.failed + excluded.failed;
    IF v_change < 0 THEN
        DELETE FROM usage_rollup r USING (VALUES ('hour'), ('day'), ('week')) g (grain)
        WHERE r.account_id = c.account_id AND r.grain = g.grain AND r.bucket = date_trunc(g.grain, c.finished_at, 'UTC')
            AND r.error <> '' AND r.failed = 0;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER usage_call_failed AFTER INSERT ON gateway_call
FOR EACH ROW WHEN (NEW.state = 'failed')
EXECUTE FUNCTION usage_follow_failure();

CREATE TRIGGER usage_call_settled_late AFTER UPDATE OF state ON gateway_call
FOR EACH ROW WHEN (OLD.state = 'failed' AND NEW.state = 'settled')
EXECUTE FUNCTION usage_follow_failure();
