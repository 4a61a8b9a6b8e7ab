-- {"source","outcome","error","took_ms","tokens","passages":[{"url","heading","score","tokens"}]}: which
-- passages of documents were put into the call's conversation. Their words are in the index.
alter table interactions add column retrieval jsonb not null default '{}';
