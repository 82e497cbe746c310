-- Takes or renews a lease, in database time.
--
-- :name     what is led
-- :holder   who asks
-- :lease_s  seconds until it is free again
-- Answers   a row if the holder has it now, none if somebody else does.
INSERT INTO leases AS l (name, holder, expires_at)
VALUES (:name, :holder, clock_timestamp() + make_interval(secs => :lease_s))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
    WHERE l.holder = excluded.holder OR l.expires_at < clock_timestamp()
RETURNING 1
