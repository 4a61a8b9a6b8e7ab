-- One row per call: what it was, what it used, what it cost. Times are milliseconds since 1970.
create table interactions (
  id text primary key,
  created_at integer not null,
  key_name text not null,
  team text,
  end_user_hash text,
  session_id text,
  tags text not null default '{}',
  endpoint text not null,
  route text,
  policy_version text not null,
  requested_model text,
  model text,
  upstream_model text,
  response_model text,
  provider text,
  service_tier text,
  streamed integer not null,
  status_code integer not null,
  error_code text,
  finish_reason text,
  client_left integer not null,
  attempts integer not null,
  latency_ms integer not null,
  ttft_ms integer,
  -- reported or estimated; null where nothing is known of tokens, and then all of them are 0
  usage_source text,
  input_tokens integer not null,
  cached_input_tokens integer not null,
  cached_audio_input_tokens integer not null,
  cached_image_input_tokens integer not null,
  cache_write_tokens integer not null,
  audio_input_tokens integer not null,
  image_input_tokens integer not null,
  output_tokens integer not null,
  reasoning_tokens integer not null,
  audio_output_tokens integer not null,
  image_output_tokens integer not null,
  -- picodollars (10^-12 USD) of one token of each kind that was billed
  rates text not null default '{}',
  -- null where there is no price, which is not a price of 0
  cost_picodollars integer,
  -- exact, estimated or unpriced; null where there is no usage to price
  price_status text,
  -- the same usage at later prices: `weir spend recost`; the columns above stay as they are
  cost_recosted_picodollars integer,
  recost_status text,
  recost_rates text,
  recost_policy_version text,
  recosted_at integer
) strict;
create index interactions_time on interactions (created_at);
create index interactions_end_user on interactions (end_user_hash) where end_user_hash is not null;
create index interactions_session on interactions (session_id) where session_id is not null;
