-- What one gateway has of a limit, and how much more it may have. One hash for a limit and a subject; a
-- field for each gateway that only this gateway writes: what it says that it uses is the truth, so that
-- data which Redis loses comes back by itself. Times are those of Redis, in milliseconds.
--
-- A field: q the number of the gateway's last message, t its time, m by kind of meter: a the amounts,
-- each with the time at which it leaves the window; s the window's beginning; p what is promised, to be
-- used by this gateway alone if Redis goes away.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ask = cjson.decode(ARGV[1])
local LIVES = 15000

for _, seed in ipairs(ask.seeds) do
  local field = { q = 0, t = 0, m = { budget = { a = { { seed[3], seed[4] } }, s = seed[2], p = 0 } } }
  redis.call('HSETNX', KEYS[1], seed[1], cjson.encode(field))
end

local known = redis.call('HGET', KEYS[1], ask.gateway)
known = known and cjson.decode(known) or { q = 0, t = 0, m = {} }
-- A message that was overtaken by a later one says nothing any more.
if known.q >= ask.number then return { now, 1, 0 } end

local uses = {}
for _, meter in ipairs(ask.meters) do
  uses[meter.kind] = { used = 0, promised = 0, start = meter.start }
end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] ~= ask.gateway and all[i] ~= 'told' then
    local field = cjson.decode(all[i + 1])
    local lives = now - field.t < LIVES
    for kind, meter in pairs(field.m) do
      local use = uses[kind]
      if use and use.start == meter.s and (kind ~= 'concurrent' or lives) then
        for _, amount in ipairs(meter.a) do
          -- Calls that run leave no window; all else counts until its time.
          if amount[1] == 0 or amount[1] > now then use.used = use.used + amount[2] end
        end
        if lives then use.promised = use.promised + meter.p end
      end
    end
  end
end

-- What was answered before is not there any more: Redis has lost data, of others perhaps, too.
local lost = 0
if known.q < ask.heard then lost = 1 end

local reply = { now, 0, lost, 0 }
local field = { q = ask.number, t = now, m = {} }
local lasts = 65000
for _, meter in ipairs(ask.meters) do
  local use = uses[meter.kind]
  local claimed, amounts = 0, {}
  for _, amount in ipairs(meter.claim) do
    claimed = claimed + amount[2]
    if amount[1] > 0 then lasts = math.max(lasts, amount[1]) end
    table.insert(amounts, { amount[1] > 0 and now + amount[1] or 0, amount[2] })
  end
  local rest = meter.limit - use.used - use.promised - claimed
  local grant, promise = 0, 0
  if rest > 0 and ask.quiet == 0 and lost == 0 then
    -- A part that is too small for any call would lie there in vain.
    grant = rest >= meter.wanted and meter.wanted or math.floor(rest / meter.least) * meter.least
    rest = rest - grant
    -- Less and less of what is left, so that the last of it is nowhere in vain.
    local share = math.floor(rest / (4 * ask.gateways) / meter.unit) * meter.unit
    local more = math.min(math.floor(meter.extra / meter.unit) * meter.unit, share)
    grant = grant + more
    rest = rest - more
    if ask.idle == 0 then
      promise = math.floor(rest / (2 * ask.gateways) / meter.unit) * meter.unit
    end
  end
  if #amounts > 0 then
    -- The last one is that of the slot that is being filled.
    amounts[#amounts][2] = amounts[#amounts][2] + grant
  end
  field.m[meter.kind] = { a = amounts, s = meter.start, p = promise }
  table.insert(reply, grant)
  table.insert(reply, promise)
  table.insert(reply, use.used)
end
redis.call('HSET', KEYS[1], ask.gateway, cjson.encode(field))
-- Somebody is told of a budget once, whoever finds out.
if ask.tell > 0 then
  local told = redis.call('HGET', KEYS[1], 'told')
  local start, level = 0, 0
  if told then start, level = unpack(cjson.decode(told)) end
  if start ~= ask.start or level < ask.tell then
    redis.call('HSET', KEYS[1], 'told', cjson.encode({ ask.start, ask.tell }))
    reply[4] = 1
  end
end
if redis.call('PTTL', KEYS[1]) < lasts + 60000 then redis.call('PEXPIRE', KEYS[1], lasts + 60000) end
return reply
