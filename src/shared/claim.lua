-- Finds the answer to a question, or has its asker lead or follow a flight. ARGV[6]: the lease (ms). ARGV[7], ARGV[8]: greatest
-- age (ms) of an entry and of another answer, from its claim; -1 for none. ARGV[9]: least life left of an entry (ms).
-- ARGV[10]: the tag of the entry that is known. ARGV[11]: the claim of a flight that was followed, 0 for none: all that was
-- claimed since is taken. ARGV[12]: 1 to follow.
-- Gives 'ok', the time, and one of: 'entry', value, ages since its claim and its landing, freshness left, life left · 'answer',
-- value, both ages · 'failed': the flight that was followed · 'wait', its claim · 'busy' · 'lead', purges.
local since = tonumber(ARGV[11])
local kept = redis.call('HMGET', place, 'life:' .. question, 'made:' .. question)
local function is_taken(asked, oldest)
  local age = now - asked
  return age >= 0 and (age <= tonumber(oldest) or (since > 0 and tonumber(asked) >= since))
end

local asked, landed, fresh, life, tag = string.match(kept[1] or '', '^(%d+) (%d+) (%d+) (%d+) (%S+)$')
if asked and tag ~= ARGV[10] and is_taken(asked, ARGV[7]) then
  local age = now - landed
  local value = redis.call('HGET', place, 'entry:' .. question)
  if value and fresh - age > 0 and life - age > tonumber(ARGV[9]) then
    return {'ok', now, 'entry', value, now - asked, age, fresh - age, life - age}
  end
end

local asked, landed, life = string.match(kept[2] or '', '^(%d+) (%d+) (%d+)$')
if asked and now - landed < tonumber(life) and is_taken(asked, ARGV[8]) then
  local value = redis.call('HGET', place, 'answer:' .. question)
  if value then
    return {'ok', now, 'answer', value, now - asked, now - landed}
  end
  if since > 0 and tonumber(asked) >= since then
    return {'ok', now, 'failed'}
  end
end

if holder and holder ~= fence and tonumber(ends) > now then
  if ARGV[12] ~= '1' then
    return {'ok', now, 'busy'}
  end
  if is_followed ~= '1' then
    redis.call('HSET', place, 'flight:' .. question, string.format('%s %s %s 1', holder, claimed, ends))
  end
  return {'ok', now, 'wait', tonumber(claimed)}
end

if is_new then
  redis.call('HSET', place, 'epoch', epoch, 'seq', string.format('%d', purges))
end
-- Who followed a leader that was lost is about to look again.
lead(string.format('%d', now), tonumber(ARGV[6]), holder and is_followed or '0')
return {'ok', now, 'lead', purges}
