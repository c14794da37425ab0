-- When the window that contains p_at ends on the clock of p_zone; NULL for a budget in total.
CREATE OR REPLACE FUNCTION budget_resets(p_period text, p_at timestamptz, p_zone text) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE p_period
        WHEN 'total' THEN NULL
        WHEN 'hour' THEN date_trunc('hour', p_at, p_zone) + interval '1 hour'
        ELSE (date_trunc(p_period, p_at AT TIME ZONE p_zone) + ('1 ' || p_period)::interval) AT TIME ZONE p_zone
    END
$$;
