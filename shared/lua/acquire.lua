-- Takes or renews slots of one user, in the given order.
--
-- KEYS[1]  the user's slots: sorted set, member = run:attempt, score = end of the lease (seconds, Redis time). Members
--          without an end are no slots but marks: `ready` says that nothing is missing, and goes with a wipe; `doubt:…`
--          that somebody is about to restore
-- ARGV[1]  the user's limit; 0 renews only
-- ARGV[2]  the lease, seconds
-- ARGV[3]  a mark of the caller's, to restore with if there is doubt; empty: it will not restore
-- ARGV[4…] members
-- Answers  one number per member: 1 holds a slot now, 0 does not; or nothing at all: in doubt, restore first
--
-- A lease that has ended frees no slot by itself: its run may go on, at a worker that Redis does not hear. It puts the set
-- in doubt, as a wipe does, and Postgres says what there is.
-- Idempotent per member: who holds a slot keeps it and its lease starts anew, also above a limit that was lowered.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local limit, lease = tonumber(ARGV[1]), tonumber(ARGV[2])
if not redis.call('ZSCORE', KEYS[1], 'ready') or redis.call('ZCOUNT', KEYS[1], '-inf', now) > 0 then
  if ARGV[3] ~= '' then
    redis.call('ZADD', KEYS[1], '+inf', 'doubt:' .. ARGV[3])
    redis.call('PEXPIRE', KEYS[1], math.ceil(lease * 2000))
  end
  return {}
end
local held = redis.call('ZCOUNT', KEYS[1], '-inf', '(+inf')
local answer = {}
for n = 4, #ARGV do
  local known = redis.call('ZSCORE', KEYS[1], ARGV[n])
  if known or held < limit then
    redis.call('ZADD', KEYS[1], now + lease, ARGV[n])
    if not known then held = held + 1 end
    answer[#answer + 1] = 1
  else
    answer[#answer + 1] = 0
  end
end
redis.call('PEXPIRE', KEYS[1], math.ceil(lease * 2000))
return answer
