-- Two witnesses, independent of the lease, of transactions that rate the same hour at once.
--
-- probe_seen has a row for each committed chunk: from when the rating statement runs (its
-- snapshot is taken just before) to the last moment before the commit. It sees chunks that
-- change nothing, too.
CREATE TABLE probe_seen (
    run_id text NOT NULL,
    during tstzrange NOT NULL,
    entered timestamptz NOT NULL,
    leaving timestamptz NOT NULL
);

-- Before the statement, whether it writes a row or not. The pause lets others come in.
CREATE FUNCTION probe_enter() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('probe.entered', clock_timestamp()::text, true);
    PERFORM pg_sleep(0.004);
    RETURN NULL;
END $$;
CREATE TRIGGER probe_enter BEFORE INSERT ON rated_usage FOR EACH STATEMENT EXECUTE FUNCTION probe_enter();

-- At COMMIT.
CREATE FUNCTION probe_leave() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(0.002);
    INSERT INTO probe_seen VALUES (NEW.run_id, tstzrange(NEW.chunk_start, NEW.chunk_end),
        current_setting('probe.entered')::timestamptz, clock_timestamp());
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER probe_leave AFTER INSERT ON rating_run_chunk
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION probe_leave();

-- Each hour that a row is written in is locked, without waiting, to the end of the transaction,
-- whether it commits or not. Advisory locks are let go a moment after a commit is seen: only
-- a holder that still has a transaction id is really there.
CREATE FUNCTION probe_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    hour int := extract(epoch FROM CASE TG_OP WHEN 'DELETE' THEN OLD.window_start ELSE NEW.window_start END) / 3600;
    holder text;
    again text;
    alive boolean;
BEGIN
    WHILE NOT pg_try_advisory_xact_lock(1886547810, hour) LOOP
        PERFORM pg_stat_clear_snapshot();
        SELECT virtualtransaction INTO holder FROM pg_locks
        WHERE locktype = 'advisory' AND classid = 1886547810 AND objid = hour::oid AND granted;
        SELECT bool_or(backend_xid IS NOT NULL) INTO alive FROM pg_stat_activity WHERE pid IN (
            SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1886547810
                AND objid = hour::oid AND granted);
        SELECT virtualtransaction INTO again FROM pg_locks
        WHERE locktype = 'advisory' AND classid = 1886547810 AND objid = hour::oid AND granted;
        IF alive AND holder = again THEN
            RAISE EXCEPTION 'two transactions rate the hour % at once', hour USING ERRCODE = 'RP001';
        END IF;
        PERFORM pg_sleep(0.001);
    END LOOP;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER probe_row BEFORE INSERT OR UPDATE OR DELETE ON rated_usage
    FOR EACH ROW EXECUTE FUNCTION probe_row();
