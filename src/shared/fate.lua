-- Notes what became of an export that a start began. KEYS[2]: the export's hash. ARGV[6]: 'finished', 'failed' or 'unknown'.
-- ARGV[7]: the version that an export was unknown to. Gives 'ok', the time.
local made, version = string.match(redis.call('HGET', place, 'started') or '', '^(%d+) %d (%S*)$')
if made and ARGV[6] == 'finished' then
  redis.call('HSET', place, 'started', made .. ' 1 ' .. version)
elseif made and (ARGV[6] == 'failed' or version == ARGV[7]) then
  redis.call('HSET', place, 'started', made .. ' 2 ' .. version)
end
return {'ok', now}
