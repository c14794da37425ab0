-- An organisation's credit limit is a budget of its account, each month. Its time zone is the clock of all its budgets: when
-- that changes, their windows do, and are counted anew.
CREATE OR REPLACE FUNCTION budget_follow_org() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_id text := 'credit-limit-' || NEW.id;
BEGIN
    IF TG_OP = 'INSERT' AND NEW.credit_limit IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM credit_account_lock(NULL, NEW.id);
    UPDATE credit_account SET time_zone = NEW.time_zone WHERE id = NEW.id AND time_zone <> NEW.time_zone;
    IF FOUND THEN
        PERFORM budget_fill(b.id, now()) FROM budget b WHERE b.account_id = NEW.id AND b.ended_at IS NULL;
    END IF;
    UPDATE budget SET ended_at = now() WHERE id = v_id AND ended_at IS NULL AND NEW.credit_limit IS NULL;
    IF NEW.credit_limit IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE budget SET limit_credits = greatest(NEW.credit_limit, 0) WHERE id = v_id AND ended_at IS NULL;
    IF NOT FOUND THEN
        INSERT INTO budget AS b (id, account_id, level, period, limit_credits)
        VALUES (v_id, NEW.id, 'account', 'month', greatest(NEW.credit_limit, 0))
        ON CONFLICT (id) DO UPDATE SET limit_credits = excluded.limit_credits, ended_at = NULL;
        PERFORM budget_fill(v_id, now());
    END IF;
    RETURN NULL;
END $$;

-- When the limit or the time zone is set.
CREATE TRIGGER budget_follow_org AFTER INSERT OR UPDATE OF credit_limit, time_zone ON org
FOR EACH ROW EXECUTE FUNCTION budget_follow_org();
