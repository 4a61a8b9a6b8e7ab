-- Virtual keys. Of a secret there is only a hash; a row stays when its key is revoked.
create table virtual_keys (
  id text primary key,
  created_at integer not null,
  name text not null,
  -- SHA-256 of the secret, in hexadecimal
  digest text not null unique,
  -- the secret's first and last letters
  hint text not null,
  team text not null default '',
  tags text not null default '[]',
  -- patterns; none means any model
  models text not null default '[]',
  consent text not null check (consent in ('none', 'log', 'train')),
  importance text not null check (importance in ('low', 'normal', 'high')),
  expires_at integer,
  revoked_at integer,
  -- the key whose name and grant this one took over
  rotated_from text references virtual_keys (id),
  -- until when the secret is still valid that another one replaces
  grace_until integer,
  -- to the minute or so
  last_used_at integer
) strict;
create unique index virtual_keys_name on virtual_keys (name)
  where revoked_at is null and grace_until is null;

-- Counts the changes of keys: gateways ask for it every second, and for the keys when it has grown.
create table virtual_key_changes (counter integer not null) strict;
insert into virtual_key_changes (counter) values (1);

-- The tags of the key that a call was made with.
alter table interactions add column key_tags text not null default '[]';
