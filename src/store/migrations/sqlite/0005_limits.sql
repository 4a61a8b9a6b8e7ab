-- What is used of limits, so that a restart does not refill them. Each process has rows of its own.
create table limit_counters (
  limit_name text not null,
  -- a key's name, a team, a digest of a user, a tag's value
  subject text not null,
  kind text not null check (kind in ('requests', 'tokens', 'budget')),
  -- the process that counted
  gateway text not null,
  window_name text not null check (window_name in ('minute', 'hour', 'day', 'week', 'month')),
  -- of a minute: when this was written
  starts_at integer not null,
  ends_at integer not null,
  -- a decimal number; of a budget in picodollars
  used text not null,
  primary key (limit_name, subject, kind, gateway)
) strict;
create index limit_counters_end on limit_counters (ends_at);
