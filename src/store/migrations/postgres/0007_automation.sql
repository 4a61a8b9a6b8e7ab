-- Where users want events posted.
create table webhook_endpoints (
  id uuid primary key,
  created_at timestamptz not null,
  url text not null,
  -- signs each post: whoever posts needs it as it is
  secret text not null,
  headers jsonb not null default '{}',
  -- names of events, or beginnings with *
  events jsonb not null,
  enabled boolean not null default true,
  -- why the gateway has switched it off
  disabled_reason text
);

-- What has happened, in the order it did.
create table outbox (
  seq bigint generated always as identity primary key,
  -- msg_ and a uuid, as its receivers see it
  id text not null unique,
  created_at timestamptz not null default clock_timestamp(),
  kind text not null,
  -- events of one subject arrive in order
  subject text not null,
  -- JSON
  data text not null,
  -- whether its deliveries are written down
  planned boolean not null default false
);
create index outbox_unplanned on outbox (seq) where not planned;
create index outbox_age on outbox (created_at);

-- One event on its way to one receiver.
create table webhook_deliveries (
  id uuid primary key,
  seq bigint not null references outbox (seq) on delete cascade,
  -- an endpoint's id, or a digest of the URL that a policy names
  receiver text not null,
  endpoint_id uuid references webhook_endpoints (id) on delete cascade,
  subject text not null,
  state text not null default 'pending' check (state in ('pending', 'delivered', 'dead')),
  attempts bigint not null default 0,
  next_at timestamptz not null,
  lease_owner text,
  lease_until timestamptz,
  last_status bigint,
  last_error text,
  finished_at timestamptz,
  unique (seq, receiver)
);
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
  created_at timestamptz not null,
  -- sealed with the key and the caller's token: nobody reads it without them. Null while the first
  -- request runs
  answer text
);
create index idempotency_keys_age on idempotency_keys (created_at);

alter table webhook_endpoints enable row level security;
alter table outbox enable row level security;
alter table webhook_deliveries enable row level security;
alter table idempotency_keys enable row level security;
