-- Keeps `user_streams.queued`, so that neither a quota nor a position costs more the longer a queue is. The stream's row
-- is locked after the run's, as everywhere.
CREATE FUNCTION count_queued() RETURNS trigger
LANGUAGE plpgsql SET search_path = lanewise AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO user_streams AS s (user_id, head, queued)
        SELECT user_id, 0, count(*) FROM added WHERE status = 'queued' GROUP BY user_id ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE SET queued = s.queued + excluded.queued;
    ELSE
        UPDATE user_streams s SET queued = s.queued + CASE WHEN TG_OP = 'UPDATE' AND NEW.status = 'queued' THEN 1 ELSE -1 END
        WHERE s.user_id = OLD.user_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER count_queued_added AFTER INSERT ON runs REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_queued();
CREATE TRIGGER count_queued_changed AFTER UPDATE ON runs
    FOR EACH ROW WHEN ((OLD.status = 'queued') <> (NEW.status = 'queued')) EXECUTE FUNCTION count_queued();
CREATE TRIGGER count_queued_removed AFTER DELETE ON runs
    FOR EACH ROW WHEN (OLD.status = 'queued') EXECUTE FUNCTION count_queued();
