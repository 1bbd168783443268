-- What wrk asks for, by the first argument after "--", and a JSON line at the end.
--   same                 the URL, over and over
--   close                the same, each on a connection of its own
--   count PATH FIRST N   PATH and an ID after it: FIRST to FIRST + N - 1, then again
--   zipf PATH N          PATH and an ID after it, of 0 to N - 1, by a Zipf draw (exponent 1)
--   post                 a start
--   keys FILE            the URL, with the key of one line of FILE after the other
-- As for all of wrk, `request` must be there when `init` is done.

local function id(first, number)
  return string.format("%s-0000-4000-8000-%012d", first, number)
end

function init(args)
  local mode = args[1]
  if mode == "close" then
    wrk.headers["Connection"] = "close"
  elseif mode == "count" then
    local path, first, count = args[2], args[3], tonumber(args[4])
    local number = -1
    request = function()
      number = (number + 1) % count
      return wrk.format("GET", path .. id(first, number) .. "?version=2024-10-15")
    end
  elseif mode == "zipf" then
    local path, count = args[2], tonumber(args[3])
    local requests, upto, sum = {}, {}, 0
    for rank = 1, count do
      sum = sum + 1 / rank
      upto[rank] = sum
      -- Which entry has which rank has nothing to do with the order in which they were stored.
      local number = (rank * 7919) % count
      requests[rank] = wrk.format("GET", path .. id("00000000", number) .. "?version=2024-10-15")
    end
    math.randomseed(7)
    request = function()
      local drawn, low, high = math.random() * sum, 1, count
      while low < high do
        local middle = math.floor((low + high) / 2)
        if upto[middle] < drawn then low = middle + 1 else high = middle end
      end
      return requests[low]
    end
  elseif mode == "post" then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/vnd.api+json"
    wrk.body = '{"data":{"type":"resource","attributes":{"formats":["csv"],"dataset":"issues","filters":{"introduced":{"from":"2026-01-01T00:00:00Z"}}}}}'
  elseif mode == "keys" then
    local requests, number = {}, 0
    for key in io.lines(args[2]) do
      requests[#requests + 1] = wrk.format("GET", nil, { ["Authorization"] = "token " .. key })
    end
    request = function()
      number = number % #requests + 1
      return requests[number]
    end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "p999_ms": %.3f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
