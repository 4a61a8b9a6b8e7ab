-- Documents as passages with vectors, in versions: one that answers, one that is built beside it.
-- The vectors of each index are in a table of its own, made with it: the extension `vector` may not
-- be there, and only who has documents needs it.
create table vector_indexes (
  id uuid primary key,
  source_id text not null,
  generation bigint not null,
  -- the embedding model
  model text not null,
  dimensions bigint not null,
  chunker text not null,
  status text not null check (status in ('building', 'live', 'previous', 'failed')),
  -- counts the changes of its pages: who keeps a copy asks for what is newer
  changes bigint not null default 0,
  created_at timestamptz not null,
  live_at timestamptz,
  unique (source_id, generation)
);
create unique index vector_indexes_live on vector_indexes (source_id) where status = 'live';
create unique index vector_indexes_building on vector_indexes (source_id) where status = 'building';

create table documents (
  no bigint generated always as identity primary key,
  id uuid not null unique,
  index_id uuid not null references vector_indexes (id) on delete cascade,
  -- normalised
  url text not null,
  title text not null,
  content_hash text not null,
  metadata jsonb not null default '{}',
  state text not null check (state in ('indexed', 'missing', 'deleted')),
  first_seen timestamptz not null,
  last_seen timestamptz not null,
  -- the run that saw it last, and the one that missed it last
  run_id text not null,
  missed_by text,
  missing_runs bigint not null default 0,
  deleted_at timestamptz,
  chunks bigint not null,
  -- its index's count when its passages changed last
  change bigint not null,
  unique (index_id, url)
);
create index documents_deleted on documents (index_id, deleted_at) where deleted_at is not null;

create table chunks (
  id bigint generated always as identity primary key,
  document bigint not null references documents (no) on delete cascade,
  index_id uuid not null,
  ordinal bigint not null,
  -- the headings above it
  heading text not null,
  text text not null,
  tokens bigint not null,
  chunk_hash bytea not null,
  words tsvector not null,
  unique (document, ordinal)
);
create index chunks_hash on chunks (index_id, chunk_hash);
create index chunks_words on chunks using gin (words);

alter table vector_indexes enable row level security;
alter table documents enable row level security;
alter table chunks enable row level security;
