-- Virtual keys. Of a secret there is only a hash; a row stays when its key is revoked.
create table virtual_keys (
  id uuid primary key,
  created_at timestamptz not null,
  name text not null,
  -- SHA-256 of the secret, in hexadecimal
  digest text not null unique,
  -- the secret's first and last letters
  hint text not null,
  team text not null default '',
  tags jsonb not null default '[]',
  -- patterns; none means any model
  models jsonb not null default '[]',
  consent text not null check (consent in ('none', 'log', 'train')),
  importance text not null check (importance in ('low', 'normal', 'high')),
  expires_at timestamptz,
  revoked_at timestamptz,
  -- the key whose name and grant this one took over
  rotated_from uuid references virtual_keys (id),
  -- until when the secret is still valid that another one replaces
  grace_until timestamptz,
  -- to the minute or so
  last_used_at timestamptz
);
create unique index virtual_keys_name on virtual_keys (name)
  where revoked_at is null and grace_until is null;

-- Counts the changes of keys: gateways ask for it every second, and for the keys when it has grown.
create table virtual_key_changes (counter bigint not null);
insert into virtual_key_changes (counter) values (1);

-- The tags of the key that a call was made with.
alter table interactions add column key_tags jsonb not null default '[]';

alter table virtual_keys enable row level security;
alter table virtual_key_changes enable row level security;
