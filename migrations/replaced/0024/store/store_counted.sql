-- Figures moved: the sequence says so to whoever keeps pages of them.
CREATE OR REPLACE FUNCTION store_counted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('store_figures');
    RETURN NULL;
END $$;

CREATE TRIGGER store_counted AFTER INSERT OR UPDATE OR DELETE ON agent_run_bill
FOR EACH STATEMENT EXECUTE FUNCTION store_counted();

CREATE TRIGGER store_counted AFTER INSERT OR UPDATE OR DELETE ON store_window
FOR EACH STATEMENT EXECUTE FUNCTION store_counted();
