-- Keeps a small value of a user for a while, if the user has not too many.
--
-- KEYS[1]  which values the user has: sorted set, member = key, score = its end (seconds, Redis time)
-- KEYS[2]  the value's key
-- ARGV[1]  the value
-- ARGV[2]  seconds that it is kept
-- ARGV[3]  how many the user may have
-- ARGV[4]  seconds that any value may be kept, at most
-- Answers  1; or 0: it is one too many, and nothing has changed
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if not redis.call('ZSCORE', KEYS[1], KEYS[2]) and redis.call('ZCOUNT', KEYS[1], '-inf', '+inf') >= tonumber(ARGV[3]) then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', math.max(1, math.floor(ARGV[2] * 1000)))
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), KEYS[2])
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[4] * 1000))
return 1
