-- Renews the slots that runs of one user hold, for their present owner.
--
-- KEYS[1]  the user's slots (see acquire.lua)
-- ARGV[1]  the lease, seconds
-- ARGV[2…] run ids
-- Answers  the number of slots that were missing. They are added again, whatever the limit: the runs are running.
local time = redis.call('TIME')
local score = tonumber(time[1]) + tonumber(time[2]) / 1000000 + tonumber(ARGV[1])
local missing = 0
for n = 2, #ARGV do
  missing = missing + redis.call('ZADD', KEYS[1], score, ARGV[n])
end
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1]) * 2000))
return missing
