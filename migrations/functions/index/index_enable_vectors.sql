-- Creates the table of vectors if the extension `vector` can be had; returns whether the table is there. Idempotent.
-- The extension goes into a schema of its own, so that `public` holds our objects only; one that is installed already stays where it is.
CREATE OR REPLACE FUNCTION index_enable_vectors() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    place text;
BEGIN
    IF to_regclass('chunk_vector') IS NOT NULL THEN
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
        IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') THEN
            RETURN false;
        END IF;
        BEGIN
            CREATE SCHEMA IF NOT EXISTS extensions;
            CREATE EXTENSION vector SCHEMA extensions;
        EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_file THEN
            RETURN false;
        END;
    END IF;
    SELECT quote_ident(nspname) INTO place
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector';
    IF to_regtype(place || '.halfvec') IS NULL THEN -- older than 0.7
        RETURN false;
    END IF;
    -- a vector is neither compressed, which is in vain, nor moved out of its row
    EXECUTE format(
        'CREATE TABLE chunk_vector (
            source_id bigint NOT NULL,
            seq integer NOT NULL,
            model text NOT NULL,
            embedding %1$s.halfvec(256) STORAGE PLAIN NOT NULL,
            CONSTRAINT chunk_vector_pk PRIMARY KEY (source_id, seq),
            CONSTRAINT chunk_vector_chunk_fk FOREIGN KEY (source_id, seq)
                REFERENCES chunk (source_id, seq) ON DELETE CASCADE
        );
        CREATE INDEX idx_chunk_vector_embedding ON chunk_vector USING hnsw (embedding %1$s.halfvec_cosine_ops)',
        place
    );
    RETURN true;
END $$;
