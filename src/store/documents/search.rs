//! Search: the nearest vectors and the best matching words, joined by their ranks.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::store::database::Engine;
use crate::store::database::StoreError;
use crate::store::datasets::none_without_ledger;

use super::Documents;
use super::Filter;
use super::Hit;
use super::Index;
use super::SearchQuery;
use super::put::scope;
use super::vectors;
use super::words;

/// Of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009).
const RANK_OFFSET: f64 = 60.0;
/// Passages that each half of a search gives, in proportion to those that are wanted, and at least.
/// Not more: two places in the fifties would count for more than the first place in one list.
const DEPTH: usize = 2;
const LEAST_DEPTH: usize = 20;
/// Passages whose vectors are compared as they are, of those whose signs differ least.
const CANDIDATES: usize = 512;
/// What a word is worth in the title, in the headings and in the passage; nothing in the scope.
const BM25: &str = "bm25(0.0, 4.0, 2.0, 1.0)";

/// A chunk's id and how well it fits.
type Scored = (i64, f32);

impl Documents {
    /// The passages that fit best, by vector and by words.
    ///
    /// # Errors
    /// The store is away, or the vector is not of the index's dimensions.
    pub async fn search(&self, index: &Index, query: &SearchQuery) -> Result<Vec<Hit>, StoreError> {
        let top_k = query.top_k.clamp(1, 100);
        let depth = (top_k * DEPTH).max(LEAST_DEPTH);
        let by_vector = async {
            match &query.vector {
                Some(vector) => self.nearest(index, vector, depth, &query.filter).await,
                None => Ok(Vec::new()),
            }
        };
        let by_text = self.matching(index, &query.text, depth, &query.filter);
        let (by_vector, by_text) = tokio::try_join!(by_vector, by_text)?;
        let mut fused = fuse(&by_vector, &by_text);
        fused.truncate(top_k);
        self.hits(fused).await
    }

    /// The chunks with the nearest vectors, and the cosine of each; the nearest first.
    pub(super) async fn nearest(
        &self,
        index: &Index,
        vector: &[f32],
        most: usize,
        filter: &Filter,
    ) -> Result<Vec<Scored>, StoreError> {
        let vector = vectors::unit(vector, index.shape.dimensions)?;
        match self.database.engine {
            Engine::Sqlite => self.nearest_in_memory(index, vector, most, filter).await,
            Engine::Postgres => {
                let table = self.vectors(index)?;
                let near = self.nearest_by_index(index, table, &vector, most, filter);
                // An index that has gone meanwhile has nothing.
                let near = self.database.within(near).await;
                near.or_else(|error| none_without_ledger(error, Vec::new()))
            }
        }
    }

    async fn nearest_in_memory(
        &self,
        index: &Index,
        vector: Vec<f32>,
        most: usize,
        filter: &Filter,
    ) -> Result<Vec<Scored>, StoreError> {
        let documents = match filter.is_empty() {
            true => None,
            false => Some(self.database.within(self.documents_of(index, filter)).await?),
        };
        let resident = self.resident(index).await?;
        let scan = move || {
            let near = resident.nearest(&vector, CANDIDATES.max(most), documents.as_deref());
            (vector, near)
        };
        let scanned = tokio::task::spawn_blocking(scan).await;
        let (vector, near) =
            scanned.map_err(|error| self.database.unavailable(&sqlx::Error::Io(error.into())))?;
        let mut scored = self.database.within(self.compare(&vector, &near)).await?;
        scored.truncate(most);
        Ok(scored)
    }

    /// Which documents a filter leaves.
    async fn documents_of(&self, index: &Index, filter: &Filter) -> sqlx::Result<Vec<i64>> {
        let sql = format!(
            "select json_group_array(d.no) from documents as d \
             where d.index_id = $1 and d.state <> 'deleted' and {}",
            self.holds(2)
        );
        let (prefix, metadata) = filter.binds();
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&index.id).bind(prefix).bind(metadata);
        let text: String = row.fetch_one(&self.pool).await?.try_get(0)?;
        serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))
    }

    /// The cosine of each of these chunks, the nearest first.
    async fn compare(&self, vector: &[f32], chunks: &[i64]) -> sqlx::Result<Vec<Scored>> {
        let sql = "select v.chunk, v.vector from json_each($1) as t \
                   join chunk_vectors as v on v.chunk = t.value";
        let rows = sqlx::query(sql).bind(json!(chunks).to_string()).fetch_all(&self.pool).await?;
        let (mut scored, mut kept) = (Vec::<Scored>::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            vectors::from_blob(row.try_get(1)?, &mut kept);
            scored.push((row.try_get(0)?, vectors::cosine(vector, &kept)));
        }
        scored.sort_by(|(a, one), (b, other)| other.total_cmp(one).then(a.cmp(b)));
        Ok(scored)
    }

    async fn nearest_by_index(
        &self,
        index: &Index,
        table: String,
        vector: &[f32],
        most: usize,
        filter: &Filter,
    ) -> sqlx::Result<Vec<Scored>> {
        let joined = match filter.is_empty() {
            true => String::new(),
            false => format!(
                "join chunks as c on c.id = v.chunk join documents as d on d.no = c.document \
                 where {}",
                self.holds(2)
            ),
        };
        let sql = format!(
            "select v.chunk, cast(1 - (v.vector <=> cast($1 as halfvec({}))) as real) \
             from {table} as v {joined} \
             order by v.vector <=> cast($1 as halfvec({})) limit {most}",
            index.shape.dimensions, index.shape.dimensions
        );
        // With a filter the index is read on until enough has been found.
        let settings =
            "set local hnsw.ef_search = 200; set local hnsw.iterative_scan = strict_order";
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        sqlx::raw_sql(settings).execute(&mut *transaction).await?;
        let mut statement = sqlx::query(AssertSqlSafe(sql)).bind(vectors::to_text(vector));
        if !filter.is_empty() {
            let (prefix, metadata) = filter.binds();
            statement = statement.bind(prefix).bind(metadata);
        }
        let rows = statement.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        rows.iter().map(scored).collect()
    }

    /// The chunks with the question's words, the best first.
    async fn matching(
        &self,
        index: &Index,
        text: &str,
        most: usize,
        filter: &Filter,
    ) -> Result<Vec<Scored>, StoreError> {
        let phrases = words::phrases(text);
        if phrases.is_empty() {
            return Ok(Vec::new());
        }
        let (question, sql) = match self.database.engine {
            Engine::Sqlite => {
                let question = words::for_sqlite(&phrases);
                let question = format!("scope : {} AND ({question})", scope(index));
                (question, self.matching_in_sqlite(most, filter))
            }
            Engine::Postgres => {
                (words::for_postgres(&phrases), self.matching_in_postgres(most, filter))
            }
        };
        let (prefix, metadata) = filter.binds();
        let mut statement = sqlx::query(AssertSqlSafe(sql)).bind(question).bind(&index.id);
        if !filter.is_empty() {
            statement = statement.bind(prefix).bind(metadata);
        }
        let rows = self.database.within(statement.fetch_all(&self.pool)).await?;
        let scored: sqlx::Result<_> = rows.iter().map(scored).collect();
        scored.map_err(|error| self.database.unavailable(&error))
    }

    fn matching_in_sqlite(&self, most: usize, filter: &Filter) -> String {
        // The plus keeps SQLite from asking the full-text index once for each of them.
        let of = match filter.is_empty() {
            // The parameter is there in any case.
            true => "$2 is not null".to_owned(),
            false => format!(
                "+rowid in (select c.id from documents as d join chunks as c on c.document = d.no \
                   where d.index_id = $2 and {})",
                self.holds(3)
            ),
        };
        format!(
            "select rowid, -rank from chunk_words where chunk_words match $1 \
             and rank match '{BM25}' and {of} order by rank limit {most}"
        )
    }

    fn matching_in_postgres(&self, most: usize, filter: &Filter) -> String {
        let joined = match filter.is_empty() {
            true => String::new(),
            false => "join documents as d on d.no = c.document".to_owned(),
        };
        let holds = if filter.is_empty() { "true".to_owned() } else { self.holds(3) };
        let index = self.database.id(2);
        // Postgres ranks by how often words are in a passage, and not by how rare they are. So each
        // phrase is ranked by itself (1: divided by the logarithm of the passage's length) and weighs
        // what it weighs in BM25; text, heading and title count as on SQLite.
        format!(
            "with asked as materialized ( \
               select t.no, to_tsquery('english', t.phrase) as phrase \
               from json_array_elements_text(cast($1 as json)) with ordinality as t (phrase, no)), \
             found as materialized ( \
               select c.id, ts_rank('{{0.25, 0, 0.5, 1}}', c.words, a.phrase, 1) as fit, \
                 count(*) over (partition by a.no) as passages \
               from asked as a join chunks as c on c.words @@ a.phrase {joined} \
               where c.index_id = {index} and {holds}), \
             size as (select cast(count(*) as double precision) as passages from chunks as c where c.index_id = {index}) \
             select f.id, cast(sum(f.fit * ln(1 + (s.passages - f.passages + 0.5) / (f.passages + 0.5))) \
               as real) \
             from found as f cross join size as s group by f.id order by 2 desc, 1 limit {most}"
        )
    }

    /// What a filter in the parameters `$n` and `$n + 1` demands of the document `d`.
    fn holds(&self, n: usize) -> String {
        let (prefix, metadata) = (n, n + 1);
        match self.database.engine {
            Engine::Sqlite => format!(
                "substr(d.url, 1, length(${prefix})) = ${prefix} \
                 and not exists (select 1 from json_each(${metadata}) as f where not exists \
                   (select 1 from json_each(d.metadata) as m where m.key = f.key \
                    and m.value is f.value and (m.type in ('true', 'false')) = \
                      (f.type in ('true', 'false'))))"
            ),
            Engine::Postgres => format!(
                "starts_with(d.url, ${prefix}) and d.metadata @> cast(${metadata} as jsonb)"
            ),
        }
    }

    /// The passages themselves.
    async fn hits(&self, fused: Vec<Fused>) -> Result<Vec<Hit>, StoreError> {
        let sql = format!(
            "select c.id, d.url, d.title, c.heading, c.text, c.tokens from chunks as c \
             join documents as d on d.no = c.document \
             where c.id in (select cast(t.value as bigint) from {})",
            self.each(1)
        );
        let ids: Vec<i64> = fused.iter().map(|fused| fused.chunk).collect();
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(json!(ids).to_string());
        let rows = self.database.within(rows.fetch_all(&self.pool)).await?;
        let mut passages = HashMap::new();
        for row in &rows {
            let read = row.try_get::<i64, _>(0).and_then(|id| Ok((id, passage(row)?)));
            let (id, passage) = read.map_err(|error| self.database.unavailable(&error))?;
            passages.insert(id, passage);
        }
        // One that has been deleted meanwhile is left out.
        let hits = fused.into_iter().filter_map(|fused| {
            let hit = passages.remove(&fused.chunk)?;
            Some(Hit {
                score: fused.score,
                vector_score: fused.vector.map(|(_, score)| score),
                vector_rank: fused.vector.map(|(rank, _)| rank),
                text_score: fused.text.map(|(_, score)| score),
                text_rank: fused.text.map(|(rank, _)| rank),
                ..hit
            })
        });
        Ok(hits.collect())
    }
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.url_prefix.is_none() && self.metadata.is_empty()
    }

    /// As [`Documents::holds`] takes it.
    fn binds(&self) -> (String, String) {
        let prefix = self.url_prefix.as_deref().unwrap_or_default().replace('\0', "");
        let metadata = self.metadata.iter().map(|(name, value)| match value {
            Value::String(text) => (name.replace('\0', ""), json!(text.replace('\0', ""))),
            value => (name.replace('\0', ""), value.clone()),
        });
        (prefix, Value::Object(metadata.collect()).to_string())
    }
}

/// A chunk with its rank and score in the lists that it is in.
#[derive(Debug, PartialEq)]
struct Fused {
    chunk: i64,
    score: f64,
    vector: Option<(u32, f32)>,
    text: Option<(u32, f32)>,
}

/// Reciprocal rank fusion: the sum of 1 / (60 + rank) over both lists, the greatest first.
fn fuse(by_vector: &[Scored], by_text: &[Scored]) -> Vec<Fused> {
    let mut fused: HashMap<i64, Fused> = HashMap::new();
    let new = |chunk| Fused { chunk, score: 0.0, vector: None, text: None };
    for (rank, (chunk, score)) in (1_u32..).zip(by_vector) {
        let entry = fused.entry(*chunk).or_insert_with(|| new(*chunk));
        entry.score += 1.0 / (RANK_OFFSET + f64::from(rank));
        entry.vector = Some((rank, *score));
    }
    for (rank, (chunk, score)) in (1_u32..).zip(by_text) {
        let entry = fused.entry(*chunk).or_insert_with(|| new(*chunk));
        entry.score += 1.0 / (RANK_OFFSET + f64::from(rank));
        entry.text = Some((rank, *score));
    }
    let mut fused: Vec<Fused> = fused.into_values().collect();
    // Of two that are as good the one that is nearer by vector is first.
    let rank = |fused: &Fused| fused.vector.map_or(u32::MAX, |(rank, _)| rank);
    fused.sort_by(|a, b| {
        b.score.total_cmp(&a.score).then(rank(a).cmp(&rank(b))).then(a.chunk.cmp(&b.chunk))
    });
    fused
}

fn scored(row: &AnyRow) -> sqlx::Result<Scored> {
    // SQLite knows numbers of 64 bits only.
    #[expect(clippy::cast_possible_truncation, reason = "a score needs no more digits than f32")]
    let score = row.try_get::<f32, _>(1).or_else(|_| row.try_get::<f64, _>(1).map(|n| n as f32))?;
    Ok((row.try_get(0)?, score))
}

fn passage(row: &AnyRow) -> sqlx::Result<Hit> {
    Ok(Hit {
        url: row.try_get(1)?,
        title: row.try_get(2)?,
        heading: row.try_get(3)?,
        text: row.try_get(4)?,
        tokens: u32::try_from(row.try_get::<i64, _>(5)?).unwrap_or(u32::MAX),
        score: 0.0,
        vector_score: None,
        vector_rank: None,
        text_score: None,
        text_rank: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_both_lists_are_added_up() {
        let fused = fuse(&[(1, 0.9), (2, 0.8), (3, 0.7)], &[(3, 12.0), (4, 11.0), (1, 10.0)]);
        let order: Vec<i64> = fused.iter().map(|one| one.chunk).collect();
        // 1 and 3 are in both: 1/61 + 1/63 each, and 1 is nearer. 2 and 4 are second in one: 1/62.
        assert_eq!(order, [1, 3, 2, 4]);
        let first = fused.first().unwrap();
        assert!((first.score - (1.0 / 61.0 + 1.0 / 63.0)).abs() < 1e-12);
        assert_eq!((first.vector, first.text), (Some((1, 0.9)), Some((3, 10.0))));
        assert_eq!(fused.last().unwrap().vector, None);
    }
}
