-- Names that lead to tuned models. Times are milliseconds since 1970.
create table aliases (
  name text primary key,
  -- counts changes: who writes says which one it has read
  version integer not null,
  created_at integer not null,
  updated_at integer not null,
  -- {"model","prune","job_id","dataset_id"}: gets the calls that the canary does not
  serving text not null,
  -- the same and the terms of the trial; null where there is none
  canary text,
  -- what served before, for a rollback
  previous text,
  -- what became of the last canary
  outcome text
) strict;

-- What was done with them, and why.
create table alias_events (
  id text primary key,
  alias text not null,
  created_at integer not null,
  -- canary_started, share_changed, promoted, rolled_back, deleted
  kind text not null,
  data text not null default '{}'
) strict;
create index alias_events_alias on alias_events (alias, id);

alter table interactions add column alias text;
-- the model that the call was meant for; `model` is another where that one failed
alter table interactions add column alias_arm text;
create index interactions_alias on interactions (alias, created_at) where alias is not null;
create index feedback_time on feedback (created_at);
