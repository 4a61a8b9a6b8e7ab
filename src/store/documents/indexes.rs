//! Versions of a source's documents: made, verified, swapped, brought back, cleared.

use std::time::Duration;

use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::store::database::Engine;
use crate::store::database::StoreError;
use crate::store::sweep::now;

use super::Documents;
use super::GoLiveError;
use super::Index;
use super::IndexShape;
use super::IndexStatus;

/// Documents that one transaction deletes: others must not wait long for it.
const AT_ONCE: u32 = 200;
/// Passages of a new index that are searched for.
const SAMPLE: i64 = 50;
/// How many of 100 must be found.
const MUST_FIND: u64 = 95;
/// pgvector's index is made of all vectors at once.
const INDEXING: Duration = Duration::from_secs(3600);

/// Memory that making it takes at most.
const MOST_MEGABYTES: i64 = 1024;

const COLUMNS: &str = "cast(id as text), source_id, generation, model, dimensions, chunker, status";

impl Documents {
    /// The index that answers.
    ///
    /// # Errors
    /// The store is away.
    pub async fn live(&self, source_id: &str) -> Result<Option<Index>, StoreError> {
        self.with_status(source_id, IndexStatus::Live).await
    }

    /// The live index when its shape is this one, else the one being built beside it, made if there
    /// is none. One that is being built with another shape is given up.
    ///
    /// # Errors
    /// The store is away, or cannot keep such vectors.
    pub async fn open(&self, source_id: &str, shape: &IndexShape) -> Result<Index, StoreError> {
        let status = [IndexStatus::Live, IndexStatus::Building];
        // Whoever comes first makes it; the other one finds it the second time.
        for _ in 0..2 {
            for status in status {
                let found = self.with_status(source_id, status).await?;
                if let Some(found) = found.filter(|found| found.shape == *shape) {
                    return Ok(found);
                }
            }
            self.can_keep(shape.dimensions).await?;
            match self.database.within(self.make(source_id, shape)).await {
                Err(_) if self.with_status(source_id, IndexStatus::Building).await?.is_some() => {}
                made => {
                    self.reclaim(source_id).await?;
                    return made;
                }
            }
        }
        let message = format!("another shape of the source `{source_id}` is being built");
        Err(StoreError::Refused(message))
    }

    async fn with_status(
        &self,
        source_id: &str,
        status: IndexStatus,
    ) -> Result<Option<Index>, StoreError> {
        let sql = format!(
            "select {COLUMNS} from vector_indexes where source_id = $1 and status = $2 \
             order by generation desc limit 1"
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(source_id).bind(status.as_str());
        let row = self.database.within(row.fetch_optional(&self.pool)).await?;
        row.as_ref().map(read).transpose().map_err(|error| self.database.unavailable(&error))
    }

    async fn make(&self, source_id: &str, shape: &IndexShape) -> sqlx::Result<Index> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        self.set_status(&mut transaction, source_id, "building", "failed").await?;
        let id = Uuid::now_v7();
        let sql = format!(
            "insert into vector_indexes \
               (id, source_id, generation, model, dimensions, chunker, status, created_at) \
             select {}, $2, coalesce(max(generation), 0) + 1, $3, $4, $5, 'building', {} \
             from vector_indexes where source_id = $2 returning {COLUMNS}",
            self.database.id(1),
            self.database.instant(6)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(source_id);
        let statement = statement.bind(&shape.model).bind(i64::from(shape.dimensions));
        let statement = statement.bind(&shape.chunker).bind(now());
        let index = read(&statement.fetch_one(&mut *transaction).await?)?;
        let table = format!("vectors_{}", id.simple());
        self.make_vectors(&mut transaction, &table, shape.dimensions).await?;
        transaction.commit().await?;
        Ok(index)
    }

    async fn set_status(
        &self,
        transaction: &mut AnyConnection,
        source_id: &str,
        from: &str,
        to: &str,
    ) -> sqlx::Result<u64> {
        let sql = "update vector_indexes set status = $3 where source_id = $1 and status = $2";
        let statement = sqlx::query(sql).bind(source_id).bind(from).bind(to);
        Ok(statement.execute(transaction).await?.rows_affected())
    }

    /// Makes an index the one that answers, in one transaction, once it has so many pages, all their
    /// chunks with their vectors, and a sample of them finds itself. The one before it stays, the
    /// one before that goes. An index that answers already is left as it is.
    ///
    /// # Errors
    /// What is wrong with it. The index that answers goes on doing so.
    pub async fn go_live(&self, index: &Index, expected_pages: u64) -> Result<(), GoLiveError> {
        match self.status(index).await? {
            Some(IndexStatus::Live) => return Ok(()),
            Some(IndexStatus::Building) => {}
            _ => return Err(GoLiveError::NotBuilding),
        }
        self.check_counts(index, expected_pages).await?;
        self.index_vectors(index).await?;
        self.check_sample(index).await?;
        if !self.database.within(self.swap(index)).await? {
            return Err(GoLiveError::NotBuilding);
        }
        self.reclaim(&index.source_id).await?;
        Ok(())
    }

    async fn status(&self, index: &Index) -> Result<Option<IndexStatus>, StoreError> {
        let sql =
            format!("select {COLUMNS} from vector_indexes where id = {}", self.database.id(1));
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).fetch_optional(&self.pool);
        let row = self.database.within(row).await?;
        let read = row.as_ref().map(read).transpose();
        Ok(read.map_err(|error| self.database.unavailable(&error))?.map(|index| index.status))
    }

    async fn check_counts(&self, index: &Index, pages: u64) -> Result<(), GoLiveError> {
        let (id, vectors) = (self.database.id(1), self.vectors(index)?);
        let sql = format!(
            "select count(*), cast(coalesce(sum(chunks), 0) as bigint), \
               (select count(*) from chunks where index_id = {id}), \
               (select count(*) from chunks as c join {vectors} as v on v.chunk = c.id \
                 where c.index_id = {id}) \
             from documents where index_id = {id} and state <> 'deleted'"
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).fetch_one(&self.pool);
        let row = self.database.within(row).await?;
        let count = |column: usize| {
            let count = row.try_get::<i64, _>(column);
            let count = count.map_err(|error| self.database.unavailable(&error))?;
            Ok::<_, StoreError>(u64::try_from(count).unwrap_or(0))
        };
        if count(0)? == 0 {
            return Err(GoLiveError::Empty);
        }
        let chunks = count(1)?;
        let checks = [
            ("pages", pages, count(0)?),
            ("chunks", chunks, count(2)?),
            ("vectors", chunks, count(3)?),
        ];
        match checks.into_iter().find(|(_, expected, found)| expected != found) {
            Some((what, expected, found)) => Err(GoLiveError::Counts { what, expected, found }),
            None => Ok(()),
        }
    }

    /// Made of all vectors at the end: that takes a tenth of the time that adding each one does. In
    /// memory, where the server has it: beyond that it takes many times as long.
    async fn index_vectors(&self, index: &Index) -> Result<(), StoreError> {
        if self.database.engine == Engine::Sqlite {
            return Ok(());
        }
        let table = self.vectors(index)?;
        let making = async {
            match self.make_near(index, &table, true).await {
                // A container may have too little memory to share between several workers.
                Err(error) => {
                    tracing::debug!(%error, "an index of vectors is made by the server's own settings");
                    self.make_near(index, &table, false).await
                }
                made => made,
            }
        };
        match tokio::time::timeout(INDEXING, making).await {
            Ok(made) => made.map_err(|error| self.database.unavailable(&error)),
            Err(_) => Err(self.database.gave_up(INDEXING)),
        }
    }

    async fn make_near(
        &self,
        index: &Index,
        table: &str,
        asks_for_memory: bool,
    ) -> sqlx::Result<()> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        let sql = format!("select count(*) from {table}");
        let count = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut *transaction).await?;
        let memory = index_megabytes(count.try_get(0)?, index.shape.dimensions);
        let settings = match asks_for_memory {
            // Never less than the server's own setting.
            true => format!(
                "select set_config('maintenance_work_mem', '{memory}MB', true) where \
                 pg_size_bytes(current_setting('maintenance_work_mem')) < {memory} * 1048576::bigint"
            ),
            false => "set local max_parallel_maintenance_workers = 0".to_owned(),
        };
        let sql = format!(
            "{settings}; create index if not exists {table}_near on {table} \
               using hnsw (vector halfvec_cosine_ops)"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
        transaction.commit().await
    }

    async fn check_sample(&self, index: &Index) -> Result<(), GoLiveError> {
        let sql = format!(
            "select c.id, {} from (select id, row_number() over (order by id) as place, \
               count(*) over () as all_of_them from chunks where index_id = {}) as c \
             join {} as v on v.chunk = c.id \
             where (c.place - 1) % (c.all_of_them / {SAMPLE} + 1) = 0",
            self.vector_column(),
            self.database.id(1),
            self.vectors(index)?
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).fetch_all(&self.pool);
        let (mut asked, mut found) = (0, 0);
        for row in self.database.within(rows).await? {
            let read = row.try_get::<i64, _>(0).and_then(|id| Ok((id, self.read_vector(&row, 1)?)));
            let (id, vector) = read.map_err(|error| self.database.unavailable(&error))?;
            let near = self.nearest(index, &vector, 5, &super::Filter::default()).await?;
            asked += 1;
            // A passage that is there twice stands for itself.
            found += u64::from(near.iter().any(|(chunk, score)| *chunk == id || *score > 0.9999));
        }
        if found * 100 < asked * MUST_FIND {
            return Err(GoLiveError::NotFound { asked, found });
        }
        Ok(())
    }

    async fn swap(&self, index: &Index) -> sqlx::Result<bool> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        self.set_status(&mut transaction, &index.source_id, "previous", "failed").await?;
        self.set_status(&mut transaction, &index.source_id, "live", "previous").await?;
        if self.to_live(&mut transaction, &index.id, "building").await? {
            transaction.commit().await?;
            return Ok(true);
        }
        transaction.rollback().await?;
        Ok(false)
    }

    async fn to_live(
        &self,
        transaction: &mut AnyConnection,
        id: &str,
        from: &str,
    ) -> sqlx::Result<bool> {
        let sql = format!(
            "update vector_indexes set status = 'live', live_at = {} where id = {} and status = $3",
            self.database.instant(2),
            self.database.id(1)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(now()).bind(from);
        Ok(statement.execute(transaction).await?.rows_affected() == 1)
    }

    /// Lets the index that answered before answer again; the one that does now stays in its place.
    ///
    /// # Errors
    /// The store is away, or there is no index of before.
    pub async fn roll_back(&self, source_id: &str) -> Result<Index, StoreError> {
        let Some(index) = self.with_status(source_id, IndexStatus::Previous).await? else {
            let message = "there is no earlier index to go back to".to_owned();
            return Err(StoreError::Refused(message));
        };
        let swapped = async {
            let mut connection = self.pool.acquire().await?;
            let mut transaction = self.database.begin(&mut connection).await?;
            // Away from `previous` first, so that only the other one comes there.
            let sql = format!(
                "update vector_indexes set status = 'previous' \
                 where source_id = $1 and status = 'live' and id <> {}",
                self.database.id(2)
            );
            let statement = sqlx::query(AssertSqlSafe(sql)).bind(source_id).bind(&index.id);
            statement.execute(&mut *transaction).await?;
            self.to_live(&mut transaction, &index.id, "previous").await?;
            transaction.commit().await
        };
        self.database.within(swapped).await?;
        Ok(Index { status: IndexStatus::Live, ..index })
    }

    /// Deletes all of a source's indexes; says how many documents they had.
    ///
    /// # Errors
    /// The store is away; what is left goes with the next call.
    pub async fn delete_source(&self, source_id: &str) -> Result<u64, StoreError> {
        let sql = "update vector_indexes set status = 'failed' where source_id = $1";
        let ended = sqlx::query(sql).bind(source_id).execute(&self.pool);
        self.database.within(ended).await?;
        self.reclaim(source_id).await
    }

    /// Clears what is not needed any more, in steps that leave room for others.
    async fn reclaim(&self, source_id: &str) -> Result<u64, StoreError> {
        let mut documents = 0;
        while let Some(index) = self.with_status(source_id, IndexStatus::Failed).await? {
            let sql = format!(
                "delete from documents where no in \
                   (select no from documents where index_id = {} limit {AT_ONCE})",
                self.database.id(1)
            );
            loop {
                let deleted = sqlx::query(AssertSqlSafe(sql.clone())).bind(&index.id);
                let deleted = self.database.within(deleted.execute(&self.pool)).await?;
                documents += deleted.rows_affected();
                if deleted.rows_affected() == 0 {
                    break;
                }
            }
            self.database.within(self.drop_index(&index)).await?;
            self.residents.forget(&index.id);
        }
        Ok(documents)
    }

    async fn drop_index(&self, index: &Index) -> sqlx::Result<()> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        if let (Engine::Postgres, Ok(table)) = (self.database.engine, self.vectors(index)) {
            let sql = format!("drop table if exists {table}");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
        }
        let sql = format!("delete from vector_indexes where id = {}", self.database.id(1));
        sqlx::query(AssertSqlSafe(sql)).bind(&index.id).execute(&mut *transaction).await?;
        transaction.commit().await
    }
}

/// What an index of so many vectors of 16 bits takes while it is made: their numbers, and some 400
/// bytes of links each (m = 16).
fn index_megabytes(count: i64, dimensions: u32) -> i64 {
    let bytes = count.saturating_mul(i64::from(dimensions) * 2 + 400);
    (bytes / (1 << 20) + 32).min(MOST_MEGABYTES)
}

fn read(row: &AnyRow) -> sqlx::Result<Index> {
    let number = |column: usize| {
        let number = row.try_get::<i64, _>(column)?;
        u32::try_from(number).map_err(|error| sqlx::Error::Decode(error.into()))
    };
    let status = match row.try_get::<String, _>(6)?.as_str() {
        "building" => IndexStatus::Building,
        "live" => IndexStatus::Live,
        "previous" => IndexStatus::Previous,
        _ => IndexStatus::Failed,
    };
    let shape =
        IndexShape { model: row.try_get(3)?, dimensions: number(4)?, chunker: row.try_get(5)? };
    Ok(Index {
        id: row.try_get(0)?,
        source_id: row.try_get(1)?,
        generation: number(2)?,
        shape,
        status,
    })
}
