-- Training sets, frozen, and what they are made of.
create table datasets (
  id text primary key,
  created_at integer not null,
  team text,
  name text not null,
  version integer not null,
  method text not null check (method in ('supervised', 'dpo', 'reinforcement')),
  format text not null default 'openai-jsonl',
  status text not null check (status in ('building', 'ready', 'failed', 'archived')),
  recipe text not null,
  recipe_hash text not null,
  stats text not null default '{}',
  -- keys in the object store
  train_key text, train_sha256 text, train_rows integer, train_bytes integer, train_tokens integer,
  valid_key text, valid_sha256 text, valid_rows integer, valid_bytes integer, valid_tokens integer,
  error text,
  frozen_at integer,
  unique (team, name, version)
) strict;

create table dataset_items (
  dataset_id text not null references datasets (id) on delete cascade,
  ordinal integer not null,
  -- null for what was imported, and once it was erased
  interaction_id text references interactions (id) on delete set null,
  conversation_id text not null,
  split text not null check (split in ('train', 'valid')),
  origin text not null default 'captured'
    check (origin in ('captured', 'import', 'relabelled_human', 'relabelled_model')),
  content_hash text not null,
  minhash blob,
  tokens integer not null,
  -- the JSONL line; null once it was erased
  line text,
  primary key (dataset_id, ordinal),
  unique (dataset_id, content_hash)
) strict;
create index dataset_items_interaction on dataset_items (interaction_id);
create index dataset_items_conversation on dataset_items (conversation_id);

-- Hashes of the answers' ids and sessions that were erased, for verdicts on them that come later.
create table erased_targets (
  digest text primary key,
  -- verdicts that were given until then go
  requested_at integer not null
) strict;
