-- Where documents come from, and each time that they were fetched.
create table embedding_sources (
  id text primary key,
  created_at integer not null,
  updated_at integer not null,
  team text,
  name text not null unique,
  kind text not null check (kind in ('crawl', 'map', 'scrape', 'files')),
  url text,
  include text not null default '[]',
  exclude text not null default '[]',
  -- pages
  page_limit integer not null,
  -- cron, and the IANA time zone that it is meant in
  schedule text,
  timezone text,
  model text not null,
  -- null: as many as the model makes
  dimensions integer,
  chunking text not null default '{}',
  -- a run is cut off after so many seconds
  deadline_s integer not null,
  next_run_at integer
) strict;
create index embedding_sources_due on embedding_sources (next_run_at) where next_run_at is not null;

create table embedding_runs (
  id text primary key,
  source_id text not null references embedding_sources (id) on delete cascade,
  created_at integer not null,
  updated_at integer not null,
  -- what asked for it
  trigger_kind text not null check (trigger_kind in ('manual', 'schedule', 'webhook')),
  -- looks at every page again, also at those that did not change
  is_full integer not null default 0,
  state text not null check (state in
    ('queued', 'running', 'succeeded', 'partial', 'failed', 'cancelled')),
  started_at integer,
  finished_at integer,
  -- times that a gateway took it up
  attempts integer not null default 0,
  -- the crawl's or batches' ids at Firecrawl
  jobs text not null default '[]',
  counts text not null default '{}',
  error text,
  lease_owner text,
  lease_until integer
) strict;
-- One that waits and one that goes on: who comes after them wants what the one that waits will do.
create unique index embedding_runs_queued on embedding_runs (source_id) where state = 'queued';
create unique index embedding_runs_running on embedding_runs (source_id) where state = 'running';
create index embedding_runs_source on embedding_runs (source_id, id);

-- What was uploaded, as Markdown.
create table embedding_files (
  source_id text not null references embedding_sources (id) on delete cascade,
  name text not null,
  updated_at integer not null,
  title text not null,
  text text not null,
  primary key (source_id, name)
) strict;
