DROP TRIGGER store_call_billed ON gateway_call;
DROP TRIGGER store_runs_removed ON agent_run;
DROP TRIGGER store_run_changed ON agent_run;
DROP TRIGGER store_run_added ON agent_run;
DROP TRIGGER store_bills_removed ON agent_run_bill;
DROP TRIGGER store_bills_changed ON agent_run_bill;
DROP TRIGGER store_bills_added ON agent_run_bill;
DROP FUNCTION store_follow_call, store_follow_deletion, store_follow_run, store_follow_bills, store_slide, store_enter,
    store_recount, store_tell, store_move, store_count, store_since, store_window_key, store_agent_key, store_run_lock;
ALTER TABLE agent_run_bill
    DROP CONSTRAINT agent_run_bill_run_id_fk,
    ADD CONSTRAINT agent_run_bill_run_id_fkey FOREIGN KEY (run_id) REFERENCES agent_run (id) ON DELETE CASCADE;
ALTER TABLE agent_run_bill RESET (fillfactor);
ALTER TABLE agent_version RESET (fillfactor);
ALTER TABLE agent_day RESET (fillfactor);
ALTER TABLE agent_user RESET (fillfactor);
DROP INDEX idx_agent_run_unsuccessful;
DROP VIEW finished_agent_run;
DROP FUNCTION store_sum;
DROP AGGREGATE store_histogram (int, bigint);
DROP FUNCTION store_tally, store_bucket;
