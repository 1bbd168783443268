-- Renews the lease of a flight. ARGV[6]: the lease (ms). Gives 'ok', the time, and 1 if the flight is its leader's still.
if holder ~= fence then
  return {'ok', now, 0}
end
lead(claimed, tonumber(ARGV[6]), is_followed)
return {'ok', now, 1}
