-- Puts back what a user's live runs hold, whatever the limit: they run already, or are on their way.
--
-- KEYS[1]  the user's slots (see acquire.lua)
-- ARGV[1]  the lease, seconds
-- ARGV[2]  1 if these are all of the user's: then nothing is in doubt any more, and other ended leases are over
-- ARGV[3…] members
-- Answers  how many were missing
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local missing = 0
for n = 3, #ARGV do
  missing = missing + redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[n])
end
if ARGV[2] == '1' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  redis.call('ZADD', KEYS[1], '+inf', 'ready')
end
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1]) * 2000))
return missing
