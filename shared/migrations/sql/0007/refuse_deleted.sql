-- Refuses what would begin something new of a user whose deletion is under way. All else that a user can have hangs on a
-- run, a thread or a document, and needs no look.
--
-- The lock is shared with other writers. Whoever begins a deletion takes it alone: writers from before have committed by
-- then, and are deleted too; those after it find the row, for this query sees what was committed while it waited.
CREATE FUNCTION refuse_deleted() RETURNS trigger
LANGUAGE plpgsql SET search_path = lanewise AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('deletion:' || NEW.user_id, 0));
    IF EXISTS (SELECT FROM deletions d WHERE d.user_id = NEW.user_id) THEN
        RAISE EXCEPTION 'the user is being deleted' USING ERRCODE = 'LW001';
    END IF;
    RETURN NEW;
END $$;
