//! The pages of an index: which are there, which were seen again, which have gone.

use std::collections::HashMap;
use std::collections::HashSet;

use serde_json::json;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::store::database::Engine;
use crate::store::database::StoreError;
use crate::store::sweep::now;

use super::ChunkHash;
use super::Documents;
use super::Index;
use super::Page;

/// Complete runs in a row that may not find a page before it is deleted.
const MISSES: u32 = 2;
/// For how long deleted pages are told of, in milliseconds.
const REMEMBERED: i64 = 30 * 86_400_000;
/// Names in one statement.
const AT_ONCE: usize = 1000;

impl Documents {
    /// The pages that are there, by URL.
    ///
    /// # Errors
    /// The store is away.
    pub async fn pages(&self, index: &Index) -> Result<HashMap<String, Page>, StoreError> {
        let sql = format!(
            "select url, content_hash, missing_runs, chunks from documents \
             where index_id = {} and state <> 'deleted'",
            self.database.id(1)
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).fetch_all(&self.pool);
        let rows = self.database.within(rows).await?;
        let pages: sqlx::Result<_> = rows.iter().map(page).collect();
        pages.map_err(|error| self.database.unavailable(&error))
    }

    /// The passages of a page, in their order.
    ///
    /// # Errors
    /// The store is away.
    pub async fn passages(&self, index: &Index, url: &str) -> Result<Vec<String>, StoreError> {
        let sql = format!(
            "select c.text from chunks as c join documents as d on d.no = c.document \
             where d.index_id = {} and d.url = $2 order by c.ordinal",
            self.database.id(1)
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).bind(url).fetch_all(&self.pool);
        let rows = self.database.within(rows).await?;
        let texts: sqlx::Result<_> = rows.iter().map(|row| row.try_get(0)).collect();
        texts.map_err(|error| self.database.unavailable(&error))
    }

    /// Those of the hashes that have a vector in the index.
    ///
    /// # Errors
    /// The store is away.
    pub async fn known(
        &self,
        index: &Index,
        hashes: &[ChunkHash],
    ) -> Result<HashSet<ChunkHash>, StoreError> {
        let (asked, decoded) = match self.database.engine {
            Engine::Sqlite => (self.each(2), "unhex(t.value)"),
            Engine::Postgres => (self.each(2), "decode(t.value, 'hex')"),
        };
        let sql = format!(
            "select distinct chunk_hash from chunks where index_id = {} \
             and chunk_hash in (select {decoded} from {asked})",
            self.database.id(1)
        );
        let mut known = HashSet::new();
        for some in hashes.chunks(AT_ONCE) {
            let hex: Vec<String> = some.iter().map(hex).collect();
            let rows = sqlx::query(AssertSqlSafe(sql.clone())).bind(&index.id);
            let rows = rows.bind(json!(hex).to_string()).fetch_all(&self.pool);
            for row in self.database.within(rows).await? {
                let hash = row.try_get::<Vec<u8>, _>(0);
                let hash = hash.map_err(|error| self.database.unavailable(&error))?;
                known.extend(ChunkHash::try_from(hash).ok());
            }
        }
        Ok(known)
    }

    /// Notes that a run has seen pages as they are.
    ///
    /// # Errors
    /// The store is away.
    pub async fn touch(
        &self,
        index: &Index,
        urls: &[String],
        run_id: &str,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "update documents set last_seen = {}, run_id = $2, missing_runs = 0, state = 'indexed' \
             where index_id = {} and state <> 'deleted' \
             and url in (select t.value from {})",
            self.database.instant(1),
            self.database.id(3),
            self.each(4)
        );
        for some in urls.chunks(AT_ONCE) {
            let statement = sqlx::query(AssertSqlSafe(sql.clone())).bind(now()).bind(run_id);
            let statement = statement.bind(&index.id).bind(json!(some).to_string());
            self.database.within(statement.execute(&self.pool)).await?;
        }
        Ok(())
    }

    /// Counts a complete run that did not see some pages, once for each run, and deletes those that
    /// two in a row have missed; says how many. To be called after a complete run only.
    ///
    /// # Errors
    /// The store is away.
    pub async fn age_missing(&self, index: &Index, run_id: &str) -> Result<u64, StoreError> {
        let sql = format!(
            "update documents set missing_runs = missing_runs + 1, missed_by = $2, \
               state = 'missing' \
             where index_id = {} and state <> 'deleted' and run_id <> $2 \
               and (missed_by is null or missed_by <> $2)",
            self.database.id(1)
        );
        let aged = async {
            let mut connection = self.pool.acquire().await?;
            let mut transaction = self.database.begin(&mut connection).await?;
            let statement = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).bind(run_id);
            statement.execute(&mut *transaction).await?;
            let gone = format!("missing_runs >= {MISSES}");
            let deleted = self.bury(&mut transaction, index, &gone, None).await?;
            self.forget_buried(&mut transaction, index).await?;
            transaction.commit().await?;
            Ok(deleted)
        };
        self.database.within(aged).await
    }

    /// Deletes pages at once; says how many there were.
    ///
    /// # Errors
    /// The store is away.
    pub async fn remove(&self, index: &Index, urls: &[String]) -> Result<u64, StoreError> {
        let mut removed = 0;
        let named = format!("url in (select t.value from {})", self.each(4));
        for some in urls.chunks(AT_ONCE) {
            let work = async {
                let mut connection = self.pool.acquire().await?;
                let mut transaction = self.database.begin(&mut connection).await?;
                let some = json!(some).to_string();
                let deleted = self.bury(&mut transaction, index, &named, Some(&some)).await?;
                transaction.commit().await?;
                Ok(deleted)
            };
            removed += self.database.within(work).await?;
        }
        Ok(removed)
    }

    /// How many documents there are by source and state, of the indexes that answer and, where none
    /// does yet, of those that are built.
    ///
    /// # Errors
    /// The store is away.
    pub async fn counts(&self) -> Result<Vec<(String, String, i64)>, StoreError> {
        let sql = format!(
            "select i.source_id, d.state, count(*) from documents as d \
             join vector_indexes as i on i.id = d.index_id where {} group by i.source_id, d.state",
            super::list::SHOWN
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.pool);
        let rows = self.database.within(rows).await?;
        let read = |row: &AnyRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let counts: sqlx::Result<_> = rows.iter().map(read).collect();
        counts.map_err(|error| self.database.unavailable(&error))
    }

    /// Deletes pages with their passages, and keeps their rows, to tell of them.
    async fn bury(
        &self,
        transaction: &mut AnyConnection,
        index: &Index,
        holds: &str,
        urls: Option<&str>,
    ) -> sqlx::Result<u64> {
        let Some(change) = self.change(transaction, index).await? else { return Ok(0) };
        let sql = format!(
            "update documents set state = 'deleted', deleted_at = {}, change = $3 \
             where index_id = {} and state <> 'deleted' and {holds}",
            self.database.instant(2),
            self.database.id(1),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).bind(now()).bind(change);
        let statement = match urls {
            Some(urls) => statement.bind(urls),
            None => statement,
        };
        let buried = statement.execute(&mut *transaction).await?.rows_affected();
        let sql = format!(
            "delete from chunks where document in \
               (select no from documents where index_id = {} and change = $2)",
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).bind(change);
        statement.execute(&mut *transaction).await?;
        if self.database.engine == Engine::Sqlite {
            let sql = "delete from document_signs where document in \
                         (select no from documents where index_id = $1 and change = $2)";
            let statement = sqlx::query(sql).bind(&index.id).bind(change);
            statement.execute(transaction).await?;
        }
        Ok(buried)
    }

    async fn forget_buried(
        &self,
        transaction: &mut AnyConnection,
        index: &Index,
    ) -> sqlx::Result<()> {
        let sql = format!(
            "delete from documents where index_id = {} and deleted_at < {}",
            self.database.id(1),
            self.database.instant(2)
        );
        let before = now().saturating_sub(REMEMBERED);
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).bind(before);
        statement.execute(transaction).await.map(drop)
    }

    /// The texts of the JSON array in the parameter `$n`, as `t.value`.
    pub(super) fn each(&self, n: usize) -> String {
        match self.database.engine {
            Engine::Sqlite => format!("json_each(${n}) as t"),
            Engine::Postgres => {
                format!("json_array_elements_text(cast(${n} as json)) as t(value)")
            }
        }
    }
}

fn page(row: &AnyRow) -> sqlx::Result<(String, Page)> {
    let number = |column: usize| {
        row.try_get::<i64, _>(column).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    };
    let page = Page { content_hash: row.try_get(1)?, missing_runs: number(2)?, chunks: number(3)? };
    Ok((row.try_get(0)?, page))
}

fn hex(hash: &ChunkHash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
