-- Takes or renews slots of one user, oldest run first.
--
-- KEYS[1]  the user's slots: sorted set, member = run id, score = end of the lease (seconds, Redis time)
-- ARGV[1]  the user's limit
-- ARGV[2]  the lease, seconds
-- ARGV[3…] run ids, oldest first
-- Answers  one number per run id: 1 holds a slot now, 0 does not
--
-- Idempotent per run: a run that holds a slot keeps it and its lease starts anew, also above a limit that was lowered.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local limit, lease = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local held = redis.call('ZCARD', KEYS[1])
local answer = {}
for n = 3, #ARGV do
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
