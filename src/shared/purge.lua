-- Purges an export, or all of them, and tells all gateways. KEYS[2]: the list of purges. KEYS[3]: all that is kept of the export; none
-- for all of them. ARGV[4]: the sequence that the caller has applied. ARGV[5]: the export's name, or '*'. ARGV[6]: the channel.
-- ARGV[7]: most purges in the list. Gives: 'ok', the time, the sequence of this purge.
local name = ARGV[5]
-- A server that has lost its data learns from the caller which purges there were. Numbers are times, so that none comes twice.
local before = math.max(tonumber(redis.call('HGET', fleet, 'purges')) or 0, tonumber(ARGV[4]))
local sequence = string.format('%d', math.max(before + 1, now))
redis.call('HSET', fleet, 'purges', sequence)
if name == '*' then
  redis.call('HSET', fleet, 'purged_all', sequence)
else
  redis.call('DEL', KEYS[3])
end
redis.call('RPUSH', KEYS[2], string.format('%s %d %s', sequence, before, name))
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[7]), -1)
redis.call('PUBLISH', ARGV[6], 'purge ' .. sequence .. ' ' .. name)
return {'ok', now, tonumber(sequence)}
