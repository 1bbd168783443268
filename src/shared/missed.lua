-- The purges that a gateway has not applied. KEYS[2]: the list of purges. ARGV[4]: the sequence that it has applied. ARGV[5]: the
-- longest life of anything that is kept (ms). Gives: 'ok', the time, the sequence by then, and names, or '*' for all exports.
local newest = tonumber(redis.call('HGET', fleet, 'purges')) or 0
local applied, at = tonumber(ARGV[4]), newest
local reply = {'ok', now, newest}
local list = redis.call('LRANGE', KEYS[2], 0, -1)
local last = #list
-- From the newest one back, each names the one before it.
while at > applied and now - at <= tonumber(ARGV[5]) do
  local sequence, before, name = string.match(list[last] or '', '^(%d+) (%d+) (%S+)$')
  if tonumber(sequence) ~= at then
    return {'ok', now, newest, '*'}
  end
  reply[#reply + 1] = name
  at, last = tonumber(before), last - 1
end
return reply
