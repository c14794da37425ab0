-- Free the idempotency key of a call that is not charged: a retry makes the call.
CREATE OR REPLACE FUNCTION idempotent_release(p_request text) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    DELETE FROM idempotent_call c WHERE c.request_id = p_request AND c.settled_at IS NULL;
END $$;
