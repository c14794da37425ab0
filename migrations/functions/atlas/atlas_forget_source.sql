-- The chunks that a project is searched by end with its index: no other row names them.
CREATE OR REPLACE FUNCTION atlas_forget_source() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM document_source WHERE id = OLD.source_id;
    RETURN NULL;
END $$;

CREATE TRIGGER atlas_forget_source AFTER DELETE ON atlas_index
    FOR EACH ROW EXECUTE FUNCTION atlas_forget_source();
