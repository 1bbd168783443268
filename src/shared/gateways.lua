-- The gateways that may keep something. KEYS[2]: their hash. Gives: 'ok', the time, and of each its name, the sequence of purges
-- that it has applied, and its silence (ms).
local reply = {'ok', now}
local all = redis.call('HGETALL', KEYS[2])
for i = 2, #all, 2 do
  local applied, seen, name = string.match(all[i], '^(%d+) (%d+) (.*)$')
  if applied then
    reply[#reply + 1] = name
    reply[#reply + 1] = tonumber(applied)
    reply[#reply + 1] = math.max(now - tonumber(seen), 0)
  end
end
return reply
