-- A member says that it lives. ARGV[4]: its id. ARGV[5]: its split. ARGV[6]: silence after which a member is gone (ms).
-- KEYS[2]: the gateways, a hash. ARGV[7]: the sequence of purges that it has applied, -1 when it leaves. ARGV[8]: its name for people.
-- ARGV[9]: the silence after which a gateway keeps nothing more that was not purged (ms).
-- Gives: 'ok', its place among the members of the split in force (0: it has another split), their number, the time, the sequence
-- of purges, and pairs of a ledger's name and the time left of its hold.
local id, silent, members, holds = ARGV[4], tonumber(ARGV[6]), {}, {}
local is_in_force = split == ARGV[5]
local has_others = false
local all = redis.call('HGETALL', fleet)
local me = {id = id, joined = now, split = ARGV[5]}
for i = 1, #all, 2 do
  local field, value = all[i], all[i + 1]
  local member, ledger = string.match(field, '^member:(.+)$'), string.match(field, '^hold:(.+)$')
  if member then
    local joined, seen, its = string.match(value, '^(%d+) (%d+) (.*)$')
    joined, seen = tonumber(joined), tonumber(seen)
    if not joined or seen > now then
      redis.call('HDEL', fleet, field)
    elseif member == id then
      me.joined = its == ARGV[5] and joined or now
    elseif now - seen > silent then
      redis.call('HDEL', fleet, field)
    else
      members[#members + 1] = {id = member, joined = joined, split = its}
      has_others = has_others or its == split
    end
  elseif ledger and tonumber(value) > now then
    holds[#holds + 1] = ledger
    holds[#holds + 1] = tonumber(value) - now
  end
end
if not is_in_force and not has_others then
  -- Nobody of another split is left. What was granted by it is unknown to the new one.
  if split then
    epoch = epoch .. '1'
    redis.call('HSET', fleet, 'epoch', epoch)
  end
  split, is_in_force = ARGV[5], true
  redis.call('HSET', fleet, 'split', split)
end
redis.call('HSET', fleet, 'member:' .. id, string.format('%d %d %s', me.joined, now, me.split))
local place, count = 1, 1
for _, member in ipairs(members) do
  if member.split == split then
    count = count + 1
    if member.joined < me.joined or (member.joined == me.joined and member.id < id) then
      place = place + 1
    end
  end
end
if not is_in_force then
  place, count = 0, #members + 1
end

-- A server that has lost its data learns from the members which purges there were.
local applied, purges = tonumber(ARGV[7]), tonumber(redis.call('HGET', fleet, 'purges')) or 0
if applied > purges then
  purges = applied
  redis.call('HSET', fleet, 'purges', ARGV[7])
end
if applied < 0 then
  redis.call('HDEL', KEYS[2], id)
else
  redis.call('HSET', KEYS[2], id, string.format('%d %d %s', applied, now, ARGV[8]))
end
-- One that is silent may be cut off, and serve what it keeps: it is forgotten when nothing of that is left.
local gateways = redis.call('HGETALL', KEYS[2])
for i = 1, #gateways, 2 do
  local seen = tonumber(string.match(gateways[i + 1], '^%d+ (%d+) ')) or 0
  if now - seen > tonumber(ARGV[9]) then
    redis.call('HDEL', KEYS[2], gateways[i])
  end
end

local reply = {'ok', place, count, now, purges}
for _, value in ipairs(holds) do
  reply[#reply + 1] = value
end
return reply
