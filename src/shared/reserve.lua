-- Grants requests of one ledger. KEYS[2]: the ledger, a hash: a ring of the times of the last grants, by their numbers.
-- ARGV[4]: grants wanted. ARGV[5]: a hold to begin (ms), -1 to end it, 0 for neither. ARGV[6]: the ledger's name in messages.
-- ARGV[7]: the channel. ARGV[8]: the limits "MOST:MS:PACED,..." for a ledger that begins. ARGV[9]: the part of the limits, in
-- thousandths, that the caller may use.
-- Gives: 'ok', grants, time until the next may fit (ms), time left of a hold, time for which the ledger is shut, the time.
local ledger, name = KEYS[2], ARGV[6]
local state = redis.call('HMGET', ledger, 'epoch', 'limits', 'shut', 'next')
if state[1] ~= epoch then
  local longest = 0
  for length in string.gmatch(ARGV[8], ':(%d+):') do
    longest = math.max(longest, tonumber(length))
  end
  state = {epoch, ARGV[8], now + longest, 0}
  redis.call('DEL', ledger)
  redis.call('HSET', ledger, 'epoch', epoch, 'limits', ARGV[8], 'shut', string.format('%d', now + longest))
end
local windows, ring = {}, 1
for most, length, paced in string.gmatch(state[2], '(%d+):(%d+):(%d)') do
  local part = math.floor(tonumber(most) * tonumber(ARGV[9]) / 1000)
  windows[#windows + 1] = {most = part, length = tonumber(length), paced = paced == '1'}
  ring = math.max(ring, tonumber(most))
end
local shut, next = tonumber(state[3]), tonumber(state[4]) or 0
local function granted_at(number)
  return tonumber(redis.call('HGET', ledger, number % ring))
end

-- A hold: nothing before its end, then one probe, and another one only if the first has had no result for 5 s.
local field = 'hold:' .. name
local hold = tonumber(redis.call('HGET', fleet, field))
local told = tonumber(ARGV[5])
if told > 0 then
  hold = math.max(hold or 0, now + told)
  redis.call('PUBLISH', ARGV[7], name .. ' ' .. string.format('%d', hold - now))
elseif told < 0 and hold and hold <= now + 5000 then
  -- A later 429 than the one that was probed holds on.
  hold = nil
  redis.call('HDEL', fleet, field)
  redis.call('PUBLISH', ARGV[7], name .. ' 0')
end
local wanted = tonumber(ARGV[4])
local is_probing = hold and hold <= now
if is_probing then
  wanted = math.min(wanted, 1)
end

-- The time at which the next grant is within a window.
local function free_in(window)
  if window.most == 0 then
    return now + window.length
  end
  local sent = next - window.most
  local free = sent >= 0 and granted_at(sent) + window.length or 0
  local half = next - math.ceil(window.most / 2)
  if not window.paced or half < 0 or granted_at(half) + window.length <= now then
    return free
  end
  -- More than half is used: what is left is spread until the first of these leaves the window.
  local low, high = math.max(sent, 0), half
  while low < high do
    local middle = math.floor((low + high) / 2)
    if granted_at(middle) + window.length <= now then
      low = middle + 1
    else
      high = middle
    end
  end
  local left = window.most - (next - low)
  local until_free = granted_at(low) + window.length - now
  local apart = math.max(window.length / window.most, until_free / (left + 1))
  return math.max(free, math.floor(granted_at(next - 1) + apart))
end

local granted, free = 0, math.max(shut, hold or 0)
while granted < wanted and free <= now do
  for _, window in ipairs(windows) do
    free = math.max(free, free_in(window))
  end
  if free <= now then
    redis.call('HSET', ledger, next % ring, string.format('%d', now))
    next, granted = next + 1, granted + 1
  end
end
if granted > 0 then
  redis.call('HSET', ledger, 'next', string.format('%d', next))
  if is_probing then
    hold = now + 5000
    free = math.max(free, hold)
  end
end
if hold then
  redis.call('HSET', fleet, field, string.format('%d', hold))
end
return {'ok', granted, math.max(free - now, 0), math.max((hold or 0) - now, 0), math.max(shut - now, 0), now}
