-- Fine-tune jobs, from the request to the tuned model.
create table training_queue (
  job_id uuid primary key,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  -- counts the changes: who has read an older one does not write over a newer one
  revision bigint not null default 0,
  team text,
  dataset_id uuid not null references datasets (id),
  model text not null,
  method text not null check (method in ('supervised', 'dpo', 'reinforcement')),
  hyperparameters jsonb not null default '{}',
  suffix text,
  seed bigint,
  status text not null check (status in
    ('awaiting_approval', 'pending', 'uploading', 'submitting', 'submit_unknown',
     'validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
  status_reason text,
  -- micro-USD; null where the price is not known
  cost_estimate bigint,
  cost_actual bigint,
  max_cost bigint,
  estimate_basis jsonb not null default '{}',
  provider text not null,
  provider_base_url text not null,
  provider_job_id text,
  -- verbatim
  provider_status text,
  training_file_id text,
  validation_file_id text,
  fine_tuned_model text,
  trained_tokens bigint,
  -- {"provider's file": "our copy's key in the object store"}; an empty key is one to come
  result_files jsonb not null default '{}',
  error jsonb,
  estimated_finish timestamptz,
  submitted_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  last_event_id text,
  completion_log text not null default '',
  attempts bigint not null default 0,
  -- looks in a row that did not find it at the provider
  misses bigint not null default 0,
  -- what somebody asked for: cancel, pause or resume
  wish text,
  next_poll_at timestamptz,
  lease_owner text,
  lease_until timestamptz,
  idempotency_key text not null unique,
  request_hash text not null,
  approved_at timestamptz,
  check (fine_tuned_model is not null or status <> 'succeeded')
);
create unique index training_queue_provider_job on training_queue (provider_base_url, provider_job_id)
  where provider_job_id is not null;
create index training_queue_due on training_queue (next_poll_at) where next_poll_at is not null;
create index training_queue_dataset on training_queue (dataset_id);

-- What a provider tells of a job while it runs.
create table training_events (
  job_id uuid not null references training_queue (job_id) on delete cascade,
  event_id text not null,
  -- the order they came in
  seq bigint not null,
  created_at timestamptz not null,
  level text not null,
  type text not null,
  message text not null,
  data jsonb,
  primary key (job_id, event_id)
);

create table training_checkpoints (
  job_id uuid not null references training_queue (job_id) on delete cascade,
  checkpoint_id text not null,
  created_at timestamptz not null,
  step bigint not null,
  model text not null,
  metrics jsonb not null,
  primary key (job_id, checkpoint_id)
);

-- Webhooks that came in: each is acted on once.
create table webhook_inbox (
  source text not null,
  message_id text not null,
  type text not null,
  received_at timestamptz not null,
  primary key (source, message_id)
);

alter table training_queue enable row level security;
alter table training_events enable row level security;
alter table training_checkpoints enable row level security;
alter table webhook_inbox enable row level security;
