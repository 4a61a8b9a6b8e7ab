-- Where documents come from, and each time that they were fetched.
create table embedding_sources (
  id uuid primary key,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  team text,
  name text not null unique,
  kind text not null check (kind in ('crawl', 'map', 'scrape', 'files')),
  url text,
  include jsonb not null default '[]',
  exclude jsonb not null default '[]',
  -- pages
  page_limit bigint not null,
  -- cron, and the IANA time zone that it is meant in
  schedule text,
  timezone text,
  model text not null,
  -- null: as many as the model makes
  dimensions bigint,
  chunking jsonb not null default '{}',
  -- a run is cut off after so many seconds
  deadline_s bigint not null,
  next_run_at timestamptz
);
create index embedding_sources_due on embedding_sources (next_run_at) where next_run_at is not null;

create table embedding_runs (
  id uuid primary key,
  source_id uuid not null references embedding_sources (id) on delete cascade,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  -- what asked for it
  trigger_kind text not null check (trigger_kind in ('manual', 'schedule', 'webhook')),
  -- looks at every page again, also at those that did not change
  is_full bigint not null default 0,
  state text not null check (state in
    ('queued', 'running', 'succeeded', 'partial', 'failed', 'cancelled')),
  started_at timestamptz,
  finished_at timestamptz,
  -- times that a gateway took it up
  attempts bigint not null default 0,
  -- the crawl's or batches' ids at Firecrawl
  jobs jsonb not null default '[]',
  counts jsonb not null default '{}',
  error text,
  lease_owner text,
  lease_until timestamptz
);
-- One that waits and one that goes on: who comes after them wants what the one that waits will do.
create unique index embedding_runs_queued on embedding_runs (source_id) where state = 'queued';
create unique index embedding_runs_running on embedding_runs (source_id) where state = 'running';
create index embedding_runs_source on embedding_runs (source_id, id);

-- What was uploaded, as Markdown.
create table embedding_files (
  source_id uuid not null references embedding_sources (id) on delete cascade,
  name text not null,
  updated_at timestamptz not null,
  title text not null,
  text text not null,
  primary key (source_id, name)
);

alter table embedding_sources enable row level security;
alter table embedding_runs enable row level security;
alter table embedding_files enable row level security;
