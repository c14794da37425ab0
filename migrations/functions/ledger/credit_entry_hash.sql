-- SHA-256 of an entry and the hash of the account's entry before it (32 zero bytes before the first): of the UTF-8 text of
-- a JSON array of strings and nulls without spaces (RFC 8785), which models/ledger/statement_check.py builds as well.
CREATE OR REPLACE FUNCTION credit_entry_hash(p_previous bytea, e credit_entry) RETURNS bytea
LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(array_to_json(ARRAY[
        encode(p_previous, 'hex'), e.account_id, e.id::text,
        to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        e.kind, e.amount::text, e.grant_balance_after::text, e.balance_after::text, e.operation_id, e.cause, e.message_id
    ])::text, 'UTF8'))
$$;
