"""What must happen in Redis in one step, in Lua. All keys of a realm share one hash slot.

Orders and answers are streams with ids 0-1, 0-2, ... (`0-*`, Redis >= 7.0): a reader that finds a
number missing knows that it has missed something.
"""

MAX_ENTRIES = 10_000
"""Of a stream; Redis keeps some more."""
MAX_SWEPT = 1000
"""Revocations that have run out, at one call."""

REVOKE = f"""
-- KEYS ends, revoked, orders. ARGV now, until, room, scope and name, order
-- ends: when each runs out; revoked: the order of each. Who repeats himself takes no more room.
local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1], 'LIMIT', 0, {MAX_SWEPT})
if #over > 0 then
  redis.call('ZREM', KEYS[1], unpack(over))
  redis.call('HDEL', KEYS[2], unpack(over))
end
local known = redis.call('ZSCORE', KEYS[1], ARGV[4])
if not known and redis.call('ZCOUNT', KEYS[1], ARGV[1], '+inf') >= tonumber(ARGV[3]) then
  return 0
end
if not known or tonumber(known) <= tonumber(ARGV[2]) then
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[4])
  redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', {MAX_ENTRIES}, '0-*', 'order', ARGV[5])
return 1
"""

DRAIN = f"""
-- KEYS draining, orders. ARGV SADD or SREM, node, order
redis.call(ARGV[1], KEYS[1], ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', {MAX_ENTRIES}, '0-*', 'order', ARGV[3])
return 1
"""

REPLACE_SECRETS = f"""
-- KEYS secrets, version, orders. ARGV version, sealed secrets
if tonumber(redis.call('GET', KEYS[2]) or '0') + 1 ~= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', {MAX_ENTRIES}, '0-*', 'secrets', ARGV[1])
return 1
"""

ANSWER = f"""
-- KEYS answers. ARGV ticket, node, cut
redis.call('XADD', KEYS[1], 'MAXLEN', '~', {MAX_ENTRIES}, '0-*',
  'ticket', ARGV[1], 'node', ARGV[2], 'cut', ARGV[3])
return 1
"""

CHARGE = """
-- KEYS batch, then one hash a sum. ARGV batch life, usage life, then sent, received, opened a sum
if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[1]) then return 0 end
for i = 2, #KEYS do
  local at = 3 * i - 3
  redis.call('HINCRBY', KEYS[i], 'sent', ARGV[at])
  redis.call('HINCRBY', KEYS[i], 'received', ARGV[at + 1])
  redis.call('HINCRBY', KEYS[i], 'opened', ARGV[at + 2])
  redis.call('EXPIRE', KEYS[i], ARGV[2])
end
return 1
"""
