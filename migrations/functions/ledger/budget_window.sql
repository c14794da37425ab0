-- The window that contains p_at, named by its start on the clock of p_zone; weeks start on Monday. Every moment is in one
-- window, also where a change to or from summer time repeats or skips half an hour. A budget in total has one window.
CREATE OR REPLACE FUNCTION budget_window(p_period text, p_at timestamptz, p_zone text) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE p_period WHEN 'total' THEN timestamptz 'epoch' ELSE date_trunc(p_period, p_at, p_zone) END
$$;
