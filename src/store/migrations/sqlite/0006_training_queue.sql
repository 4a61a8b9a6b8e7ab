-- Fine-tune jobs, from the request to the tuned model.
create table training_queue (
  job_id text primary key,
  created_at integer not null,
  updated_at integer not null,
  -- counts the changes: who has read an older one does not write over a newer one
  revision integer not null default 0,
  team text,
  dataset_id text not null references datasets (id),
  model text not null,
  method text not null check (method in ('supervised', 'dpo', 'reinforcement')),
  hyperparameters text not null default '{}',
  suffix text,
  seed integer,
  status text not null check (status in
    ('awaiting_approval', 'pending', 'uploading', 'submitting', 'submit_unknown',
     'validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
  status_reason text,
  -- micro-USD; null where the price is not known
  cost_estimate integer,
  cost_actual integer,
  max_cost integer,
  estimate_basis text not null default '{}',
  provider text not null,
  provider_base_url text not null,
  provider_job_id text,
  -- verbatim
  provider_status text,
  training_file_id text,
  validation_file_id text,
  fine_tuned_model text,
  trained_tokens integer,
  -- {"provider's file": "our copy's key in the object store"}; an empty key is one to come
  result_files text not null default '{}',
  error text,
  estimated_finish integer,
  submitted_at integer,
  started_at integer,
  finished_at integer,
  last_event_id text,
  completion_log text not null default '',
  attempts integer not null default 0,
  -- looks in a row that did not find it at the provider
  misses integer not null default 0,
  -- what somebody asked for: cancel, pause or resume
  wish text,
  next_poll_at integer,
  lease_owner text,
  lease_until integer,
  idempotency_key text not null unique,
  request_hash text not null,
  approved_at integer,
  check (fine_tuned_model is not null or status <> 'succeeded')
) strict;
create unique index training_queue_provider_job on training_queue (provider_base_url, provider_job_id)
  where provider_job_id is not null;
create index training_queue_due on training_queue (next_poll_at) where next_poll_at is not null;
create index training_queue_dataset on training_queue (dataset_id);

-- What a provider tells of a job while it runs.
create table training_events (
  job_id text not null references training_queue (job_id) on delete cascade,
  event_id text not null,
  -- the order they came in
  seq integer not null,
  created_at integer not null,
  level text not null,
  type text not null,
  message text not null,
  data text,
  primary key (job_id, event_id)
) strict;

create table training_checkpoints (
  job_id text not null references training_queue (job_id) on delete cascade,
  checkpoint_id text not null,
  created_at integer not null,
  step integer not null,
  model text not null,
  metrics text not null,
  primary key (job_id, checkpoint_id)
) strict;

-- Webhooks that came in: each is acted on once.
create table webhook_inbox (
  source text not null,
  message_id text not null,
  type text not null,
  received_at integer not null,
  primary key (source, message_id)
) strict;
