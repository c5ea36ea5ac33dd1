-- One step of one tenant's account; the same sums as llmos_gateway/limits/ledger.py, which a test compares it with.
--
-- KEYS  1 counters: hash of START, USED and HELD of each window
--       2 open:     hash, a request's number -> "minute day month amount spent before"
--       3 leases:   sorted set, number -> when its gateway counts as dead, in ms
--       4 closed:   hash like 2, of requests whose lease ran out, and of charges made once
--       5 graves:   sorted set, a number in 4 -> when it is forgotten, in ms
-- ARGV  1 step, 2 now in ms (empty: this server's clock), 3 lease in ms, then what the step needs.
--
-- Amounts are totals of the whole request. `before` is what was settled when it grew, so that a step whose answer was
-- lost, or that comes late, changes no sum.
local counters, open, leases, closed, graves = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local WINDOWS = {'minute', 'day', 'month'}
local KEEP_S, KEEP_CLOSED_MS, MAX_AHEAD_S = 35 * 86400, 86400000, 3600

local now_ms = tonumber(ARGV[2])
if not now_ms then
  local time = redis.call('TIME')
  now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local lease_ms = tonumber(ARGV[3])

local function text(number) return string.format('%.0f', number) end

-- Howard Hinnant's days_from_civil and its inverse, for days from 1970 on.
local function find_month(second)
  local z = math.floor(second / 86400) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  return (math.floor(second / 86400) - day + 1) * 86400
end

local second = math.floor(now_ms / 1000)
local state = redis.call('HMGET', counters, 'minute.start', 'minute.used', 'minute.held', 'day.start', 'day.used',
  'day.held', 'month.start', 'month.used', 'month.held')
local starts = {second - second % 60, second - second % 86400, find_month(second)}
local used, held = {0, 0, 0}, {0, 0, 0}
for i = 1, 3 do
  local start = tonumber(state[3 * i - 2])
  if start and start >= starts[i] and start <= now_ms / 1000 + MAX_AHEAD_S then
    starts[i], used[i], held[i] = start, tonumber(state[3 * i - 1]), tonumber(state[3 * i])
  end
end

local function add(record, more_used, more_held)
  for i = 1, 3 do
    if record[i] == starts[i] then
      used[i], held[i] = used[i] + more_used, held[i] + more_held
    end
  end
end

local function parse(packed)
  if not packed then return nil end
  local record = {}
  for word in string.gmatch(packed, '%S+') do record[#record + 1] = tonumber(word) end
  return record
end

local function pack(record)
  local words = {}
  for i = 1, 6 do words[i] = text(record[i]) end
  return table.concat(words, ' ')
end

-- Ends a request with what it has used in all.
local function close(number, total)
  local record = parse(redis.call('HGET', open, number))
  if record then
    add(record, total - record[6] - record[4], -record[4])
    redis.call('HDEL', open, number)
    redis.call('ZREM', leases, number)
    return
  end
  record = parse(redis.call('HGET', closed, number))
  if record then
    add(record, total - record[6] - record[4], 0)
    redis.call('HDEL', closed, number)
    redis.call('ZREM', graves, number)
  end
end

local function bury(number, packed)
  redis.call('HSET', closed, number, packed)
  redis.call('ZADD', graves, text(now_ms + KEEP_CLOSED_MS), number)
end

local function expire()
  for _, number in ipairs(redis.call('ZRANGEBYSCORE', graves, '-inf', text(now_ms), 'LIMIT', 0, 100)) do
    redis.call('HDEL', closed, number)
    redis.call('ZREM', graves, number)
  end
  for _, number in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', text(now_ms), 'LIMIT', 0, 100)) do
    local record = parse(redis.call('HGET', open, number))
    if record then
      add(record, record[5] - record[4], -record[4])
      record[4] = record[5]
      bury(number, pack(record))
      redis.call('HDEL', open, number)
    end
    redis.call('ZREM', leases, number)
  end
end

local function hold(number, amount, before)
  redis.call('HSET', open, number, pack({starts[1], starts[2], starts[3], amount, 0, before}))
  redis.call('ZADD', leases, text(now_ms + lease_ms), number)
end

local function save()
  redis.call('HSET', counters, 'minute.start', text(starts[1]), 'minute.used', text(used[1]), 'minute.held',
    text(held[1]), 'day.start', text(starts[2]), 'day.used', text(used[2]), 'day.held', text(held[2]),
    'month.start', text(starts[3]), 'month.used', text(used[3]), 'month.held', text(held[3]))
  for i = 1, #KEYS do redis.call('EXPIRE', KEYS[i], KEEP_S) end
end

-- Answers of all steps: status, amount, bound, is_brief, is_never, running, and start, used, held of each window.
local function answer(status, amount, bound, is_brief, is_never)
  save()
  return {status, amount, bound, is_brief and 1 or 0, is_never and 1 or 0, redis.call('HLEN', open),
    starts[1], used[1], held[1], starts[2], used[2], held[2], starts[3], used[3], held[3]}
end

local function take(number, is_enforced, limits, concurrency, least, most, before, is_new)
  local running = redis.call('HLEN', open)
  local is_full = is_new and concurrency and running >= concurrency
  if is_full and is_enforced then return answer('refused', 0, 'concurrency', true, false) end
  local bound, is_brief, is_never, room = '', true, false, most
  for i = 1, 3 do
    local limit = limits[i]
    if limit then
      room = math.min(room, limit - used[i])
      if limit - used[i] < least then
        bound = WINDOWS[i]
        is_brief = is_brief and limit - (used[i] - held[i]) >= least
        is_never = is_never or least > limit
      end
    end
  end
  if bound ~= '' and is_enforced then
    local outcome = answer('refused', 0, bound, is_brief, is_never)
    if not is_new then hold(number, 0, before) end
    return outcome
  end
  local amount = is_enforced and room or most
  add(starts, amount, amount)
  hold(number, amount, before)
  if bound == '' and is_full then bound = 'concurrency' end
  return answer('granted', amount, bound, false, false)
end

local step, number = ARGV[1], ARGV[4]
expire()
if step == 'reserve' or step == 'grow' then
  local limits = {tonumber(ARGV[6]) or false, tonumber(ARGV[7]) or false, tonumber(ARGV[8]) or false}
  local spent = tonumber(ARGV[12])
  if step == 'grow' then close(number, spent) end
  return take(number, ARGV[5] == '1', limits, tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), spent,
    step == 'reserve')
elseif step == 'settle' then
  close(number, tonumber(ARGV[5]))
elseif step == 'report' then
  for i = 4, #ARGV, 2 do
    local record = parse(redis.call('HGET', open, ARGV[i]))
    if record then
      record[5] = tonumber(ARGV[i + 1]) - record[6]
      redis.call('HSET', open, ARGV[i], pack(record))
      redis.call('ZADD', leases, text(now_ms + lease_ms), ARGV[i])
    end
  end
elseif step == 'forget' then
  if redis.call('HLEN', open) == 0 then
    redis.call('DEL', unpack(KEYS))
    return {'done', 0, '', 0, 0, 0, starts[1], 0, 0, starts[2], 0, 0, starts[3], 0, 0}
  end
elseif step == 'charge' then
  if not redis.call('HGET', closed, number) then
    bury(number, '')
    add({tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])}, tonumber(ARGV[8]), 0)
  end
end
return answer('done', 0, '', false, false)
