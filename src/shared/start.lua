-- Equal starts. KEYS[2]: the hash of a start's key. ARGV[6]: 'find' or 'put'. ARGV[7]: the beginning of the names of exports' hashes, in
-- which a start counts: the purge of an export forgets its start, and so does a failure that any gateway reads.
-- To find: ARGV[8]: greatest age (ms). ARGV[9]: the same for a start whose export has not been seen as finished.
-- To put: ARGV[8]: the name of its export. ARGV[9]: the value. ARGV[10]: its age (ms). ARGV[11]: the version that it asked for. ARGV[12]: the
-- number of purges before it was sent. ARGV[13]: its life (ms).
-- Gives 'ok', the time, purges, the value found, its age, the name of the export of the newest start if that has failed.
local function export_of(name)
  local hash = ARGV[7] .. name
  local begun = redis.call('HMGET', hash, 'epoch', 'seq')
  if begun[1] and (begun[1] ~= epoch or (tonumber(begun[2]) or 0) < purged_all) then
    redis.call('DEL', hash)
    begun[1] = false
  end
  return hash, not begun[1]
end
local kept = redis.call('HMGET', place, 'start', 'start_made', 'start_export')
if ARGV[6] == 'find' then
  if not kept[1] then
    return {'ok', now, purges, '', 0, ''}
  end
  local hash = export_of(kept[3])
  local made, finished = string.match(redis.call('HGET', hash, 'started') or '', '^(%d+) (%d) ')
  local age = now - kept[2]
  local is_good = made == kept[2] and age >= 0 and age <= tonumber(ARGV[8])
  if is_good and (finished == '1' or (finished == '0' and age <= tonumber(ARGV[9]))) then
    return {'ok', now, purges, kept[1], age, ''}
  end
  return {'ok', now, purges, '', 0, finished == '2' and kept[3] or ''}
end
local made = now - tonumber(ARGV[10])
if tonumber(ARGV[12]) ~= purges or (kept[2] and tonumber(kept[2]) > made) then
  return {'ok', now, purges}
end
made = string.format('%d', made)
local life = tonumber(ARGV[13])
local hash, is_first = export_of(ARGV[8])
for _, one in ipairs({{place, is_new}, {hash, is_first}}) do
  if one[2] then
    redis.call('HSET', one[1], 'epoch', epoch, 'seq', string.format('%d', purges))
  end
end
redis.call('HSET', place, 'start', ARGV[9], 'start_made', made, 'start_export', ARGV[8])
keep(life)
redis.call('HSET', hash, 'started', made .. ' 0 ' .. ARGV[11])
if redis.call('PTTL', hash) < life then
  redis.call('PEXPIRE', hash, ARGV[13])
end
return {'ok', now, purges}
