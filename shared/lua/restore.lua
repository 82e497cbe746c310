-- Puts back what live runs of a user hold, whatever the limit: they run already, or are on their way.
--
-- KEYS[1]  the user's slots (see acquire.lua)
-- ARGV[1]  the lease, seconds
-- ARGV[2]  the mark of the caller, if these are all live runs of the user, read after it was set: then nothing is in doubt
--          any more, and other ended leases are over. Empty: these are some of them
-- ARGV[3…] members
-- Answers  how many were missing; -1: the mark is gone, because of a wipe or since another caller was faster
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
if ARGV[2] ~= '' and not redis.call('ZSCORE', KEYS[1], 'doubt:' .. ARGV[2]) then return -1 end
local missing = 0
for n = 3, #ARGV do
  missing = missing + redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[n])
end
if ARGV[2] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '+inf', '+inf')
  redis.call('ZADD', KEYS[1], '+inf', 'ready')
end
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1]) * 2000))
return missing
