-- What was said in a call, where it may be kept, and what people think of it.
alter table interactions add column response_id text;
-- [{"upstream","model","outcome"}] in the order of the tries
alter table interactions add column attempt_log text not null default '[]';
-- full: with bodies; metadata: without; off: the bill alone, which no list shows
alter table interactions add column capture text not null default 'metadata';
-- train: may become training data; else null
alter table interactions add column consent text;
-- how many values of each type were replaced in the bodies
alter table interactions add column redaction text not null default '{}';
-- what routing saw of the request: `weir policy replay` decides again by it
alter table interactions add column facts text not null default '{}';
-- when the bodies, and all that tells whose they are, go
alter table interactions add column expires_at integer;
-- when they went: by `keep`, or because somebody asked; the bill stays
alter table interactions add column erased_at integer;
create index interactions_response on interactions (response_id) where response_id is not null;
create index interactions_key on interactions (key_name, created_at);
create index interactions_expiry on interactions (expires_at) where expires_at is not null;

-- Bodies, compressed (zstd), here or under a key in the object store.
create table interaction_bodies (
  interaction_id text primary key,
  request blob,
  response blob,
  request_object text,
  response_object text
) strict;

-- Verdicts. `target` is an interaction's id, an answer's id, or a session; it may not be there yet.
create table feedback (
  id text primary key,
  created_at integer not null,
  target text not null,
  name text not null,
  -- JSON: true, 0.8, "text" or {"demonstration": message}
  value text not null,
  key_name text not null
) strict;
create index feedback_target on feedback (target, name, created_at);

-- Whose words were erased: what comes of them later, from a spool, goes the same way.
create table erasures (
  id text primary key,
  -- user (a keyed hash), key, session
  kind text not null,
  subject text not null,
  requested_at integer not null,
  report text not null default '{}'
) strict;
create index erasures_subject on erasures (kind, subject);
