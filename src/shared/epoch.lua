-- The beginning of all scripts: the time, and the epoch, which ends where the ledgers may not tell the truth any more.
-- KEYS[1]: the fleet, a hash. ARGV: format, longest gap between two calls (ms), 1 for a caller that saw the clock run ahead.
-- `knows_process` is set before: true for a script that grants nothing. Its connection has begun with a beat, which looks.
local fleet = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept = redis.call('HMGET', fleet, 'format', 'process', 'now', 'epoch', 'split', 'purges', 'purged_all')
local process = knows_process and kept[2] or string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local last, epoch, split = tonumber(kept[3]), kept[4], kept[5]
-- Another format is left alone while somebody calls by it.
local is_other = kept[1] and kept[1] ~= ARGV[1]
if is_other and last and now >= last and now - last <= tonumber(ARGV[2]) then
  return {'format', kept[1]}
end
if is_other or ARGV[3] == '1' or kept[2] ~= process or not last or not epoch or now < last or now - last > tonumber(ARGV[2]) then
  epoch = process .. '-' .. now .. '-' .. (tonumber(string.match(epoch or '', '%d+$')) or 0) + 1
  redis.call('DEL', fleet)
  redis.call('HSET', fleet, 'format', ARGV[1], 'process', process, 'epoch', epoch)
  if split then
    redis.call('HSET', fleet, 'split', split)
  end
  -- Purges outlive an epoch.
  redis.call('HSET', fleet, 'purges', kept[6] or '0', 'purged_all', kept[7] or '0')
end
redis.call('HSET', fleet, 'now', string.format('%d', now))
