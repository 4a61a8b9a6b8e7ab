-- Notes that a gateway lives, and counts those that do. An empty name only counts; `-name` leaves.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leaves = string.sub(ARGV[1], 1, 1) == '-'
if leaves then
  redis.call('ZREM', KEYS[1], string.sub(ARGV[1], 2))
else
  redis.call('ZADD', KEYS[1], now, ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 10000)
redis.call('PEXPIRE', KEYS[1], 60000)
return { now, redis.call('ZCARD', KEYS[1]) }
