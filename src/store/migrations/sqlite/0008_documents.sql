-- Documents as passages with vectors, in versions: one that answers, one that is built beside it.
create table vector_indexes (
  id text primary key,
  source_id text not null,
  generation integer not null,
  -- the embedding model
  model text not null,
  dimensions integer not null,
  chunker text not null,
  status text not null check (status in ('building', 'live', 'previous', 'failed')),
  -- counts the changes of its pages: who keeps a copy asks for what is newer
  changes integer not null default 0,
  created_at integer not null,
  live_at integer,
  unique (source_id, generation)
) strict;
create unique index vector_indexes_live on vector_indexes (source_id) where status = 'live';
create unique index vector_indexes_building on vector_indexes (source_id) where status = 'building';

create table documents (
  no integer primary key autoincrement,
  id text not null unique,
  index_id text not null references vector_indexes (id) on delete cascade,
  -- normalised
  url text not null,
  title text not null,
  content_hash text not null,
  metadata text not null default '{}',
  state text not null check (state in ('indexed', 'missing', 'deleted')),
  first_seen integer not null,
  last_seen integer not null,
  -- the run that saw it last, and the one that missed it last
  run_id text not null,
  missed_by text,
  missing_runs integer not null default 0,
  deleted_at integer,
  chunks integer not null,
  -- its index's count when its passages changed last
  change integer not null,
  unique (index_id, url)
) strict;
create index documents_change on documents (index_id, change);
create index documents_deleted on documents (index_id, deleted_at) where deleted_at is not null;

create table chunks (
  id integer primary key autoincrement,
  document integer not null references documents (no) on delete cascade,
  index_id text not null,
  ordinal integer not null,
  -- the headings above it
  heading text not null,
  text text not null,
  tokens integer not null,
  chunk_hash blob not null,
  unique (document, ordinal)
) strict;
create index chunks_hash on chunks (index_id, chunk_hash);

-- Halves (IEEE 754, 16 bits, little-endian) of length 1.
create table chunk_vectors (
  chunk integer primary key references chunks (id) on delete cascade,
  vector blob not null
) strict;

-- One bit for each number of a document's vectors, its sign: what is scanned first, in memory. The
-- ids of a document's chunks follow one another.
create table document_signs (
  document integer primary key references documents (no) on delete cascade,
  first_chunk integer not null,
  signs blob not null
) strict;

-- `scope` is the index, so that the words of one are not looked for in others.
create virtual table chunk_words using fts5 (
  scope, title, heading, text,
  content = '', contentless_delete = 1, tokenize = 'porter unicode61 remove_diacritics 2'
);
create trigger chunks_deleted after delete on chunks begin
  delete from chunk_words where rowid = old.id;
end;
