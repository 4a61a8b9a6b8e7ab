-- Names that lead to tuned models.
create table aliases (
  name text primary key,
  -- counts changes: who writes says which one it has read
  version bigint not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  -- {"model","prune","job_id","dataset_id"}: gets the calls that the canary does not
  serving jsonb not null,
  -- the same and the terms of the trial; null where there is none
  canary jsonb,
  -- what served before, for a rollback
  previous jsonb,
  -- what became of the last canary
  outcome jsonb
);

-- What was done with them, and why.
create table alias_events (
  id uuid primary key,
  alias text not null,
  created_at timestamptz not null,
  -- canary_started, share_changed, promoted, rolled_back, deleted
  kind text not null,
  data jsonb not null default '{}'
);
create index alias_events_alias on alias_events (alias, id);

alter table interactions add column alias text;
-- the model that the call was meant for; `model` is another where that one failed
alter table interactions add column alias_arm text;
create index interactions_alias on interactions (alias, created_at) where alias is not null;
create index feedback_time on feedback (created_at);

alter table aliases enable row level security;
alter table alias_events enable row level security;
