//! Vectors as the databases keep them: numbers of 16 bits, of length 1.

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::store::database::Engine;
use crate::store::database::StoreError;

use super::Documents;
use super::Index;

/// pgvector's index takes so many numbers of 16 bits at most (0.8.5).
const MOST_ON_POSTGRES: u32 = 4000;
const MOST_ON_SQLITE: u32 = 16_384;
/// Since then, searches with a filter go on until they have found enough.
const OLDEST_PGVECTOR: (u32, u32) = (0, 8);

/// The vector of length 1 that points the same way.
pub(super) fn unit(vector: &[f32], dimensions: u32) -> Result<Vec<f32>, StoreError> {
    if u32::try_from(vector.len()) != Ok(dimensions) {
        let has = vector.len();
        return Err(StoreError::Refused(format!(
            "a vector has {has} numbers, those of the index have {dimensions}; the model or its \
             `dimensions` must have changed"
        )));
    }
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length <= 0.0 {
        return Err(StoreError::Refused("a vector points nowhere: 0, infinite or NaN".to_owned()));
    }
    #[expect(clippy::cast_possible_truncation, reason = "a factor needs no more digits than f32")]
    let factor = (1.0 / length) as f32;
    Ok(vector.iter().map(|number| number * factor).collect())
}

/// The cosine of the angle between two vectors of length 1.
pub(super) fn cosine(one: &[f32], other: &[f32]) -> f32 {
    // Eight sums side by side: the processor need not wait for the last one.
    let (ones, others) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let mut sums = [0.0_f32; 8];
    for (a, b) in ones.0.iter().zip(others.0) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = ones.1.iter().zip(others.1).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// As SQLite keeps it.
pub(super) fn to_blob(vector: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; vector.len()];
    halves.convert_from_f32_slice(vector);
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

/// Reads what [`to_blob`] has written into `vector`.
pub(super) fn from_blob(blob: &[u8], vector: &mut Vec<f32>) {
    let halves: Vec<f16> = blob.as_chunks().0.iter().map(|two| f16::from_le_bytes(*two)).collect();
    vector.resize(halves.len(), 0.0);
    halves.convert_to_f32_slice(vector);
}

/// As pgvector reads and writes it.
pub(super) fn to_text(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", numbers.join(","))
}

impl Documents {
    /// Where the vectors of an index are: on Postgres in a table of its own.
    pub(super) fn vectors(&self, index: &Index) -> Result<String, StoreError> {
        let id = Uuid::try_parse(&index.id);
        let id = id.map_err(|_| StoreError::Refused(format!("`{}` is no index", index.id)))?;
        Ok(match self.database.engine {
            Engine::Sqlite => "chunk_vectors".to_owned(),
            Engine::Postgres => format!("vectors_{}", id.simple()),
        })
    }

    /// A column of vectors as [`Self::read_vector`] reads it.
    pub(super) fn vector_column(&self) -> &'static str {
        match self.database.engine {
            Engine::Sqlite => "v.vector",
            Engine::Postgres => "cast(v.vector as text)",
        }
    }

    pub(super) fn read_vector(&self, row: &AnyRow, column: usize) -> sqlx::Result<Vec<f32>> {
        match self.database.engine {
            Engine::Sqlite => {
                let mut vector = Vec::new();
                from_blob(row.try_get(column)?, &mut vector);
                Ok(vector)
            }
            Engine::Postgres => {
                let text: String = row.try_get(column)?;
                serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))
            }
        }
    }

    /// Whether this database can keep such vectors; brings the extension `vector` where it may.
    pub(super) async fn can_keep(&self, dimensions: u32) -> Result<(), StoreError> {
        let (most, why) = match self.database.engine {
            Engine::Sqlite => (MOST_ON_SQLITE, ""),
            Engine::Postgres => (MOST_ON_POSTGRES, ", as many as pgvector can index"),
        };
        if !(1..=most).contains(&dimensions) {
            return Err(StoreError::Refused(format!(
                "vectors of {dimensions} numbers cannot be kept; ask the model for `dimensions` of 1 to {most}{why}"
            )));
        }
        match self.database.engine {
            Engine::Sqlite => Ok(()),
            Engine::Postgres => self.has_pgvector().await,
        }
    }

    async fn has_pgvector(&self) -> Result<(), StoreError> {
        let made = sqlx::raw_sql("create extension if not exists vector");
        // Who may not make it can still use it; whether it is there is asked next.
        let made = made.execute(&self.pool).await.err();
        let sql = "select extversion, case when to_regtype('halfvec') is null then 0 else 1 end \
                   from pg_extension where extname = 'vector'";
        let row = self.database.within(sqlx::query(sql).fetch_optional(&self.pool)).await?;
        let Some(row) = row else {
            let said = made.map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(StoreError::Refused(format!(
                "documents need the Postgres extension `vector` (pgvector 0.8 or later), which this \
                 database does not have{said}; have its administrator run `create extension vector`"
            )));
        };
        let read = (row.try_get::<String, _>(0), row.try_get::<i32, _>(1));
        let (Ok(version), Ok(seen)) = read else { return Ok(()) };
        if !is_new_enough(&version) {
            return Err(StoreError::Refused(format!(
                "the Postgres extension `vector` is of version {version}; documents need 0.8 or \
                 later: `alter extension vector update`"
            )));
        }
        if seen == 0 {
            return Err(StoreError::Refused(
                "the Postgres extension `vector` is in a schema where it is not looked for; move it: \
                 `alter extension vector set schema public`"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Makes a new index's table of vectors.
    pub(super) async fn make_vectors(
        &self,
        connection: &mut AnyConnection,
        table: &str,
        dimensions: u32,
    ) -> sqlx::Result<()> {
        if self.database.engine == Engine::Postgres {
            let sql = format!(
                "create table {table} (chunk bigint primary key references chunks (id) \
                   on delete cascade, vector halfvec({dimensions}) not null); \
                 alter table {table} enable row level security"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
        }
        Ok(())
    }
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let two = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    two >= OLDEST_PGVECTOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_keeps_its_direction_and_gets_length_1() {
        assert_eq!(unit(&[3.0, 4.0], 2).unwrap(), [0.6, 0.8]);
        for wrong in [&[1.0][..], &[0.0, 0.0], &[f32::NAN, 1.0], &[f32::INFINITY, 1.0]] {
            assert!(unit(wrong, 2).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_vector_survives_being_kept_in_halves() {
        let vector: Vec<f32> = (0..11_u8).map(|at| f32::from(at) / 8.0 - 0.5).collect();
        let mut read = Vec::new();
        from_blob(&to_blob(&vector), &mut read);
        assert_eq!(read, vector);
        assert_eq!(serde_json::from_str::<Vec<f32>>(&to_text(&vector)).unwrap(), vector);
    }

    #[test]
    fn the_cosine_is_the_sum_of_products() {
        let (ten, ones): (Vec<f32>, Vec<f32>) =
            ((1..=10_u8).map(f32::from).collect(), vec![1.0; 10]);
        // 1 + 2 + … + 10
        assert!((cosine(&ten, &ones) - 55.0).abs() < 1e-6);
    }

    #[test]
    fn an_old_pgvector_is_told_from_a_new_one() {
        for (version, new) in [("0.8.0", true), ("0.10.1", true), ("1.0", true), ("0.7.4", false)] {
            assert_eq!(is_new_enough(version), new, "{version}");
        }
    }
}
