-- Where users want events posted.
create table webhook_endpoints (
  id text primary key,
  created_at integer not null,
  url text not null,
  -- signs each post: whoever posts needs it as it is
  secret text not null,
  headers text not null default '{}',
  -- names of events, or beginnings with *
  events text not null,
  enabled integer not null default 1,
  -- why the gateway has switched it off
  disabled_reason text
) strict;

-- What has happened, in the order it did.
create table outbox (
  seq integer primary key autoincrement,
  -- msg_ and a uuid, as its receivers see it
  id text not null unique,
  created_at integer not null default (cast(unixepoch('subsec') * 1000 as integer)),
  kind text not null,
  -- events of one subject arrive in order
  subject text not null,
  -- JSON
  data text not null,
  -- whether its deliveries are written down
  planned integer not null default 0
) strict;
create index outbox_unplanned on outbox (seq) where planned = 0;
create index outbox_age on outbox (created_at);

-- One event on its way to one receiver.
create table webhook_deliveries (
  id text primary key,
  seq integer not null references outbox (seq) on delete cascade,
  -- an endpoint's id, or a digest of the URL that a policy names
  receiver text not null,
  endpoint_id text references webhook_endpoints (id) on delete cascade,
  subject text not null,
  state text not null default 'pending' check (state in ('pending', 'delivered', 'dead')),
  attempts integer not null default 0,
  next_at integer not null,
  lease_owner text,
  lease_until integer,
  last_status integer,
  last_error text,
  finished_at integer,
  unique (seq, receiver)
) strict;
create index webhook_deliveries_due on webhook_deliveries (receiver, next_at) where state = 'pending';
create index webhook_deliveries_order on webhook_deliveries (receiver, subject, seq) where state = 'pending';
create index webhook_deliveries_list on webhook_deliveries (receiver, state, id);
create index webhook_deliveries_open on webhook_deliveries (receiver, state) where state <> 'delivered';
create index webhook_deliveries_endpoint on webhook_deliveries (endpoint_id);

-- Requests that came with an Idempotency-Key, and what was answered.
create table idempotency_keys (
  -- digests of the caller, the route and the key, and of the request
  key_hash text primary key,
  request_hash text not null,
  created_at integer not null,
  -- sealed with the key and the caller's token: nobody reads it without them. Null while the first
  -- request runs
  answer text
) strict;
create index idempotency_keys_age on idempotency_keys (created_at);
