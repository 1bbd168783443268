-- The state of a named export, and the lease of it. KEYS[2]: its hash. ARGV[4]: the caller. ARGV[5]: 'look', 'take' (the lease too),
-- 'leave' (it ends) or 'put'. ARGV[6]: the lease (ms). ARGV[7]: the caller's last fence, 0 for none. ARGV[8], ARGV[9]: to put, the version
-- that it saw and the new value. ARGV[10]: life of the hash (ms). ARGV[11]: a row without a holder is left to its last one for so long (ms).
-- Gives 'ok', the time, 1 if the lease is the caller's (or the value was put), its fence, the version, the value, its age (ms; -1 if that is not known).
local row, caller, act, last = KEYS[2], ARGV[4], ARGV[5], tonumber(ARGV[7])
local kept = redis.call('HMGET', row, 'epoch', 'holder', 'ends', 'fence', 'version', 'value', 'put', 'begun')
if kept[1] ~= epoch then
  -- The times of an earlier epoch may be wrong: the age of the state is not known any more, and its holder has a new lease.
  local ends = kept[3] == '0' and 0 or now + tonumber(ARGV[6])
  redis.call('HSET', row, 'epoch', epoch, 'begun', string.format('%d', now), 'ends', string.format('%d', ends))
  redis.call('HDEL', row, 'put')
  kept[3], kept[7], kept[8] = ends, false, now
end
redis.call('PEXPIRE', row, ARGV[10])
local holder, ends, fence, version = kept[2], tonumber(kept[3]) or 0, tonumber(kept[4]) or 0, tonumber(kept[5]) or 0
local is_ours = holder == caller
if act == 'put' then
  if not is_ours or fence ~= last or version ~= tonumber(ARGV[8]) then
    return {'ok', now, 0, fence, version}
  end
  version = math.max(version + 1, now)
  redis.call('HSET', row, 'version', string.format('%d', version), 'value', ARGV[9], 'put', string.format('%d', now))
  return {'ok', now, 1, fence, version}
end
local is_free = is_ours or (holder and ends <= now)
if not holder then
  is_free = last > 0 or now - tonumber(kept[8]) >= tonumber(ARGV[11])
end
local is_held = is_ours and act ~= 'leave'
if act == 'leave' and is_ours then
  redis.call('HSET', row, 'ends', '0')
elseif act == 'take' and is_free then
  if not is_ours then
    fence = (not holder and last > 0) and last or math.max(fence + 1, now)
  end
  is_held = true
  redis.call('HSET', row, 'holder', caller, 'ends', string.format('%d', now + tonumber(ARGV[6])), 'fence', string.format('%d', fence))
end
return {'ok', now, is_held and 1 or 0, fence, version, kept[6] or '', kept[7] and math.max(now - kept[7], 0) or -1}
