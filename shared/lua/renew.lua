-- Renews slots of one user that are still held, and those whose lease has ended but that nobody has removed.
--
-- KEYS[1]  the user's slots (see acquire.lua)
-- ARGV[1]  the lease, seconds
-- ARGV[2…] members
-- Answers  those that hold no slot: Redis lost them, or they were taken for over
local time = redis.call('TIME')
local ends = tonumber(time[1]) + tonumber(time[2]) / 1000000 + tonumber(ARGV[1])
local missing = {}
for n = 2, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[n]) then
    redis.call('ZADD', KEYS[1], ends, ARGV[n])
  else
    missing[#missing + 1] = ARGV[n]
  end
end
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1]) * 2000))
return missing
