-- What was said in a call, where it may be kept, and what people think of it.
alter table interactions add column response_id text;
-- [{"upstream","model","outcome"}] in the order of the tries
alter table interactions add column attempt_log jsonb not null default '[]';
-- full: with bodies; metadata: without; off: the bill alone, which no list shows
alter table interactions add column capture text not null default 'metadata';
-- train: may become training data; else null
alter table interactions add column consent text;
-- how many values of each type were replaced in the bodies
alter table interactions add column redaction jsonb not null default '{}';
-- what routing saw of the request: `weir policy replay` decides again by it
alter table interactions add column facts jsonb not null default '{}';
-- when the bodies, and all that tells whose they are, go
alter table interactions add column expires_at timestamptz;
-- when they went: by `keep`, or because somebody asked; the bill stays
alter table interactions add column erased_at timestamptz;
create index interactions_response on interactions (response_id) where response_id is not null;
create index interactions_key on interactions (key_name, created_at);
create index interactions_expiry on interactions (expires_at) where expires_at is not null;

-- Bodies, compressed (zstd), here or under a key in the object store.
create table interaction_bodies (
  interaction_id uuid primary key,
  request bytea,
  response bytea,
  request_object text,
  response_object text
);

-- Verdicts. `target` is an interaction's id, an answer's id, or a session; it may not be there yet.
create table feedback (
  id uuid primary key,
  created_at timestamptz not null,
  target text not null,
  name text not null,
  -- JSON: true, 0.8, "text" or {"demonstration": message}
  value jsonb not null,
  key_name text not null
);
create index feedback_target on feedback (target, name, created_at);

-- Whose words were erased: what comes of them later, from a spool, goes the same way.
create table erasures (
  id uuid primary key,
  -- user (a keyed hash), key, session
  kind text not null,
  subject text not null,
  requested_at timestamptz not null,
  report jsonb not null default '{}'
);
create index erasures_subject on erasures (kind, subject);

-- Supabase: what its API could reach is closed; the gateway owns the tables and is not bound by it.
alter table interactions enable row level security;
alter table interaction_bodies enable row level security;
alter table feedback enable row level security;
alter table erasures enable row level security;
revoke all on schema gateway from public;
