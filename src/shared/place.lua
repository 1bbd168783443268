-- The beginning of the scripts for what is kept of one export, or of one start. KEYS[2]: its hash. ARGV[4]: the question, which
-- is part of the names of fields. ARGV[5]: the fence of a flight. What an earlier epoch left, or a purge of everything
-- has overtaken, is deleted first: the ages in it may be wrong, or it is not to be had any more.
local place, question, fence = KEYS[2], ARGV[4], ARGV[5]
local marks = redis.call('HMGET', fleet, 'purges', 'purged_all')
local purges, purged_all = tonumber(marks[1]) or 0, tonumber(marks[2]) or 0
local begun = redis.call('HMGET', place, 'epoch', 'seq')
local is_new = not begun[1]
if begun[1] and (begun[1] ~= epoch or (tonumber(begun[2]) or 0) < purged_all) then
  redis.call('DEL', place)
  is_new = true
end
-- The hash lives for `length` (ms) at least.
local function keep(length)
  if redis.call('PTTL', place) < length then
    redis.call('PEXPIRE', place, string.format('%d', length))
  end
end
-- The flight of the question: its fence, when it was claimed, when its lease ends, 1 if others follow it.
local holder, claimed, ends, is_followed = string.match(redis.call('HGET', place, 'flight:' .. question) or '', '^(%S+) (%d+) (%d+) (%d)$')
local function lead(at, lease, followed)
  redis.call('HSET', place, 'flight:' .. question, string.format('%s %s %d %s', fence, at, now + lease, followed))
  keep(lease)
end
