-- Asks for the lines of a file (path, blank, cookie header) one after the other and over again, from an offset on, and
-- tells what came of it as JSON. Arguments: file, how many of its lines, offset, host.
local requests, at = {}, 0

function init(args)
  local file, count = args[1], tonumber(args[2])
  at = tonumber(args[3]) % count
  for line in io.lines(file) do
    if #requests == count then break end
    local path, cookie = line:match('^(%S+) (.*)$')
    requests[#requests + 1] = wrk.format('GET', path, {
      ['Host'] = args[4],
      ['Cookie'] = cookie,
      ['X-CSRF'] = '1',
      ['Accept'] = 'application/json',
      ['Accept-Encoding'] = 'gzip, deflate, br',
      ['Accept-Language'] = 'en',
      ['Sec-Fetch-Site'] = 'same-origin',
      ['User-Agent'] = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0',
    })
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
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
