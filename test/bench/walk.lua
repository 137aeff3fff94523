-- Walks through the cookies of a file, over and over again from an offset on, asking for another path in each lap, and tells
-- what came of it as JSON. Arguments: file, how many of its lines, offset, host, paths with commas between.
local cookies, paths, texts = {}, {}, {}
local at, lap, host = 0, 0, ''

function init(args)
  local count = tonumber(args[2])
  for line in io.lines(args[1]) do
    if #cookies == count then break end
    cookies[#cookies + 1] = line
  end
  local offset = tonumber(args[3])
  at, lap, host = offset % #cookies, math.floor(offset / #cookies), args[4]
  for path in args[5]:gmatch('[^,]+') do
    paths[#paths + 1] = path
    texts[#texts + 1] = {}
  end
end

local function text(path, cookie)
  return wrk.format('GET', path, {
    ['Host'] = host,
    ['Cookie'] = cookie,
    ['X-CSRF'] = '1',
    ['Accept'] = 'application/json',
    ['Accept-Encoding'] = 'gzip, deflate, br',
    ['Accept-Language'] = 'en',
    ['Sec-Fetch-Site'] = 'same-origin',
    ['User-Agent'] = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0',
  })
end

function request()
  at = at + 1
  if at > #cookies then at, lap = 1, lap + 1 end
  local path = lap % #paths + 1
  local made = texts[path][at]
  if not made then
    made = text(paths[path], cookies[at])
    texts[path][at] = made
  end
  return made
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    'RESULT {"requests":%d,"seconds":%f,"bytes":%d,"p50Ms":%f,"p99Ms":%f,"refused":%d,"broken":%d}',
    summary.requests, summary.duration / 1e6, summary.bytes,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
