//! A page into an index: all of its passages at once, or none.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use uuid::Uuid;

use crate::store::database::Engine;
use crate::store::database::StoreError;
use crate::store::sweep::now;

use super::ChunkHash;
use super::Documents;
use super::Index;
use super::NewChunk;
use super::NewPage;
use super::signs::Signs;
use super::vectors;
use super::words::words;

/// Postgres keeps a URL in an index whose entries are no longer than 2700 bytes.
const LONGEST_URL: usize = 2000;
/// Bytes of a passage. Embedding models read no more than 8192 tokens.
const LONGEST_CHUNK: usize = 256 << 10;

/// A page as it is written, with the vectors that it brings.
struct Put<'a> {
    documents: &'a Documents,
    index: &'a Index,
    table: String,
    page: NewPage,
    chunks: Vec<NewChunk>,
}

impl Documents {
    /// Replaces a page's chunks in one transaction; chunks without a vector take that of the same
    /// hash in the index. Whoever is interrupted has written all of it or nothing, and may write it
    /// again.
    ///
    /// # Errors
    /// The store is away, a vector is missing or of another length, or the index is neither live nor
    /// being built any more.
    pub async fn put(
        &self,
        index: &Index,
        page: &NewPage,
        chunks: Vec<NewChunk>,
    ) -> Result<(), StoreError> {
        let table = self.vectors(index)?;
        let page = checked(page)?;
        let mut put = Put { documents: self, index, table, page, chunks };
        put.check_chunks()?;
        match self.database.within(put.write()).await? {
            Ok(()) => Ok(()),
            Err(refused) => Err(StoreError::Refused(refused)),
        }
    }

    /// Counts a change of an index, and keeps others that change it away until the transaction ends.
    /// `None` where it is not written any more.
    pub(super) async fn change(
        &self,
        transaction: &mut AnyConnection,
        index: &Index,
    ) -> sqlx::Result<Option<i64>> {
        let sql = format!(
            "update vector_indexes set changes = changes + 1 \
             where id = {} and status in ('building', 'live') returning changes",
            self.database.id(1)
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&index.id);
        row.fetch_optional(transaction).await?.map(|row| row.try_get(0)).transpose()
    }
}

impl Put<'_> {
    fn check_chunks(&mut self) -> Result<(), StoreError> {
        let dimensions = self.index.shape.dimensions;
        for chunk in &mut self.chunks {
            if chunk.text.len() > LONGEST_CHUNK {
                return Err(StoreError::Refused(format!(
                    "a passage of {} has {} bytes; {LONGEST_CHUNK} are the most",
                    self.page.url,
                    chunk.text.len()
                )));
            }
            without_nul(&mut chunk.text);
            without_nul(&mut chunk.heading);
            if let Some(vector) = &mut chunk.vector {
                *vector = vectors::unit(vector, dimensions)?;
            }
        }
        Ok(())
    }

    /// In the inner result, why the page cannot be written.
    async fn write(&mut self) -> sqlx::Result<Result<(), String>> {
        let documents = self.documents;
        let mut connection = documents.pool.acquire().await?;
        let mut transaction = documents.database.begin(&mut connection).await?;
        let Some(change) = documents.change(&mut transaction, self.index).await? else {
            return Ok(Err("the index is not in use any more".to_owned()));
        };
        if let Err(refused) = self.take_over(&mut transaction).await? {
            return Ok(Err(refused));
        }
        let document = self.write_document(&mut transaction, change).await?;
        sqlx::query("delete from chunks where document = $1")
            .bind(document)
            .execute(&mut *transaction)
            .await?;
        match documents.database.engine {
            Engine::Sqlite => self.write_to_sqlite(&mut transaction, document).await?,
            Engine::Postgres => self.write_to_postgres(&mut transaction, document).await?,
        }
        transaction.commit().await?;
        Ok(Ok(()))
    }

    /// Gives chunks without a vector that of the same hash.
    async fn take_over(
        &mut self,
        transaction: &mut AnyConnection,
    ) -> sqlx::Result<Result<(), String>> {
        let sql = format!(
            "select {} from chunks as c join {} as v on v.chunk = c.id \
             where c.index_id = {} and c.chunk_hash = $2 limit 1",
            self.documents.vector_column(),
            self.table,
            self.documents.database.id(1)
        );
        let mut brought: HashMap<ChunkHash, Vec<f32>> = HashMap::new();
        for chunk in &self.chunks {
            if let Some(vector) = &chunk.vector {
                brought.insert(chunk.hash, vector.clone());
            }
        }
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.vector.is_none()) {
            if let Some(vector) = brought.get(&chunk.hash) {
                chunk.vector = Some(vector.clone());
                continue;
            }
            let row = sqlx::query(AssertSqlSafe(sql.clone())).bind(&self.index.id);
            let row = row.bind(chunk.hash.to_vec()).fetch_optional(&mut *transaction).await?;
            let Some(row) = row else {
                let url = &self.page.url;
                return Ok(Err(format!("a passage of {url} has no vector, and none was kept")));
            };
            chunk.vector = Some(self.documents.read_vector(&row, 0)?);
        }
        Ok(Ok(()))
    }

    async fn write_document(
        &self,
        transaction: &mut AnyConnection,
        change: i64,
    ) -> sqlx::Result<i64> {
        let database = &self.documents.database;
        let sql = format!(
            "insert into documents (id, index_id, url, title, content_hash, metadata, state, \
               first_seen, last_seen, run_id, chunks, change) \
             values ({}, {}, $3, $4, $5, {}, 'indexed', {now}, {now}, $8, $9, $10) \
             on conflict (index_id, url) do update set title = excluded.title, \
               content_hash = excluded.content_hash, metadata = excluded.metadata, \
               state = excluded.state, last_seen = excluded.last_seen, run_id = excluded.run_id, \
               missing_runs = 0, deleted_at = null, chunks = excluded.chunks, \
               change = excluded.change \
             returning no",
            database.id(1),
            database.id(2),
            database.json(6),
            now = database.instant(7),
        );
        let NewPage { url, title, content_hash, metadata, run_id } = &self.page;
        let statement = sqlx::query(AssertSqlSafe(sql))
            .bind(Uuid::now_v7().to_string())
            .bind(&self.index.id)
            .bind(url)
            .bind(title)
            .bind(content_hash)
            .bind(metadata.to_string())
            .bind(now())
            .bind(run_id)
            .bind(i64::try_from(self.chunks.len()).unwrap_or(i64::MAX))
            .bind(change);
        statement.fetch_one(transaction).await?.try_get(0)
    }

    async fn write_to_sqlite(
        &self,
        transaction: &mut AnyConnection,
        document: i64,
    ) -> sqlx::Result<()> {
        let insert = "insert into chunks \
             (document, index_id, ordinal, heading, text, tokens, chunk_hash) \
             values ($1, $2, $3, $4, $5, $6, $7) returning id";
        let (mut first, mut signs) = (None, Vec::new());
        for (ordinal, chunk) in (0_i64..).zip(&self.chunks) {
            let vector = chunk.vector.as_deref().unwrap_or_default();
            let row = sqlx::query(insert)
                .bind(document)
                .bind(&self.index.id)
                .bind(ordinal)
                .bind(&chunk.heading)
                .bind(&chunk.text)
                .bind(i64::from(chunk.tokens))
                .bind(chunk.hash.to_vec());
            let id: i64 = row.fetch_one(&mut *transaction).await?.try_get(0)?;
            first.get_or_insert(id);
            signs.extend(Signs::of(vector));
            sqlx::query("insert into chunk_vectors (chunk, vector) values ($1, $2)")
                .bind(id)
                .bind(vectors::to_blob(vector))
                .execute(&mut *transaction)
                .await?;
            let sql = "insert into chunk_words (rowid, scope, title, heading, text) \
                       values ($1, $2, $3, $4, $5)";
            sqlx::query(sql)
                .bind(id)
                .bind(scope(self.index))
                .bind(words(&self.page.title))
                .bind(words(&chunk.heading))
                .bind(words(&chunk.text))
                .execute(&mut *transaction)
                .await?;
        }
        let sql = "insert into document_signs (document, first_chunk, signs) values ($1, $2, $3) \
                   on conflict (document) do update set first_chunk = excluded.first_chunk, \
                     signs = excluded.signs";
        let kept = sqlx::query(sql).bind(document).bind(first.unwrap_or(0)).bind(signs);
        kept.execute(transaction).await.map(drop)
    }

    async fn write_to_postgres(
        &self,
        transaction: &mut AnyConnection,
        document: i64,
    ) -> sqlx::Result<()> {
        let weighted =
            |n: usize, weight: char| format!("setweight(to_tsvector('english', ${n}), '{weight}')");
        let sql = format!(
            "with added as (insert into chunks \
               (document, index_id, ordinal, heading, text, tokens, chunk_hash, words) \
               values ($1, {}, $3, $4, $5, $6, $7, {} || {} || {}) returning id) \
             insert into {} (chunk, vector) select id, cast($11 as halfvec) from added",
            self.documents.database.id(2),
            weighted(8, 'A'),
            weighted(9, 'B'),
            weighted(10, 'D'),
            self.table
        );
        let title = words(&self.page.title);
        for (ordinal, chunk) in (0_i64..).zip(&self.chunks) {
            let vector = chunk.vector.as_deref().unwrap_or_default();
            let row = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(document)
                .bind(&self.index.id)
                .bind(ordinal)
                .bind(&chunk.heading)
                .bind(&chunk.text)
                .bind(i64::from(chunk.tokens))
                .bind(chunk.hash.to_vec())
                .bind(&title)
                .bind(words(&chunk.heading))
                .bind(words(&chunk.text))
                .bind(vectors::to_text(vector));
            row.execute(&mut *transaction).await?;
        }
        Ok(())
    }
}

/// The word in SQLite's full-text index that stands for an index; no language bends it.
pub(super) fn scope(index: &Index) -> String {
    format!("ix{}0", index.id.replace('-', ""))
}

fn checked(page: &NewPage) -> Result<NewPage, StoreError> {
    if page.url.is_empty() || page.url.len() > LONGEST_URL {
        let has = page.url.len();
        return Err(StoreError::Refused(format!(
            "a page's URL has {has} bytes; 1 to {LONGEST_URL} can be kept"
        )));
    }
    if !page.metadata.is_object() {
        let message = format!("the metadata of {} is no JSON object", page.url);
        return Err(StoreError::Refused(message));
    }
    let mut page = page.clone();
    for text in [&mut page.url, &mut page.title, &mut page.content_hash, &mut page.run_id] {
        without_nul(text);
    }
    clean(&mut page.metadata);
    Ok(page)
}

/// Postgres' texts cannot hold a NUL.
fn without_nul(text: &mut String) {
    text.retain(|c| c != '\0');
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) => without_nul(text),
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(fields) => {
            let cleaned = std::mem::take(fields).into_iter().map(|(mut name, mut value)| {
                without_nul(&mut name);
                clean(&mut value);
                (name, value)
            });
            *fields = cleaned.collect();
        }
        _ => {}
    }
}
