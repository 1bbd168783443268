-- Ends a flight. ARGV[6]: 'entry', 'answer', 'failed' (its followers are to ask for themselves) or 'left'. ARGV[7]: the value.
-- ARGV[8], ARGV[9]: freshness and life of an entry (ms); the latter is of an answer, too. ARGV[10]: the entry's tag. ARGV[11]: 1 to
-- keep an answer that nobody follows. ARGV[12]: the channel. ARGV[13]: the name in the message.
-- Gives 'ok', the time, 1 if the flight was its leader's still, purges.
if holder ~= fence then
  return {'ok', now, 0, purges}
end
local kind, life = ARGV[6], tonumber(ARGV[9])
redis.call('HDEL', place, 'flight:' .. question)
if kind == 'entry' then
  redis.call('HDEL', place, 'answer:' .. question, 'made:' .. question)
  redis.call('HSET', place, 'entry:' .. question, ARGV[7], 'life:' .. question,
    string.format('%s %d %s %s %s', claimed, now, ARGV[8], ARGV[9], ARGV[10]))
  keep(life)
elseif kind ~= 'left' and (is_followed == '1' or ARGV[11] == '1') then
  redis.call('HDEL', place, 'answer:' .. question)
  redis.call('HSET', place, 'made:' .. question, string.format('%s %d %s', claimed, now, ARGV[9]))
  if kind == 'answer' then
    redis.call('HSET', place, 'answer:' .. question, ARGV[7])
  end
  keep(life)
end
if is_followed == '1' then
  redis.call('PUBLISH', ARGV[12], 'landed ' .. ARGV[13])
end
return {'ok', now, 1, purges}
