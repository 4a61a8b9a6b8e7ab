//! Pages of documents, as people and programs look through them.

use chrono::DateTime;
use chrono::SecondsFormat;
use serde::Serialize;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::store::database::StoreError;
use crate::store::ledger::BadParameter;

use super::Documents;

/// Documents of one page when nobody says how many, and the most that anybody gets.
const PAGE: u32 = 20;
const LARGEST_PAGE: u32 = 1000;

/// The index that is shown of a source: the one that answers, else the one that is being built.
pub(super) const SHOWN: &str = "(i.status = 'live' or i.status = 'building' and not exists \
     (select 1 from vector_indexes as l where l.source_id = i.source_id and l.status = 'live'))";

/// Which documents are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocumentQuery {
    /// Those of this source: its id.
    pub source: Option<String>,
    state: Option<String>,
    after: Option<Uuid>,
    limit: Option<u32>,
    ascending: bool,
}

/// A document as its row tells.
#[derive(Clone, Debug, Serialize)]
pub struct DocumentRow {
    object: &'static str,
    /// Its id; another one in each index.
    pub id: String,
    /// The id of its source.
    pub source: String,
    /// The id of its index.
    pub index: String,
    /// Normalised.
    pub url: String,
    /// Its title.
    pub title: String,
    /// `indexed`, `missing` or `deleted`.
    pub state: String,
    /// Of its text.
    pub content_hash: String,
    /// As its source tells it.
    pub metadata: Value,
    /// Passages that it has.
    pub chunks: i64,
    /// In RFC 3339.
    pub first_seen: String,
    /// In RFC 3339.
    pub last_seen: String,
    /// The run that saw it last.
    pub run_id: String,
    /// Complete runs since then.
    pub missing_runs: i64,
    /// In RFC 3339.
    pub deleted_at: Option<String>,
}

/// One page.
#[derive(Clone, Debug, Serialize)]
pub struct DocumentPage {
    object: &'static str,
    /// The documents, the newest first unless asked otherwise.
    pub data: Vec<DocumentRow>,
    first_id: Option<String>,
    /// Where the next page begins.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

impl DocumentQuery {
    /// Reads parameters by their names.
    ///
    /// # Errors
    /// The first parameter that cannot be used.
    pub fn parse<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, BadParameter> {
        let mut query = Self::default();
        for (name, value) in parameters {
            query
                .set(name, value)
                .map_err(|message| BadParameter { name: name.to_owned(), message })?;
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("source", _) => self.source = Some(value.to_owned()),
            ("state", "indexed" | "missing" | "deleted") => self.state = Some(value.to_owned()),
            ("state", _) => {
                return Err(format!("`{value}` is neither indexed, missing nor deleted"));
            }
            ("after", _) => {
                let id = Uuid::try_parse(value);
                self.after = Some(id.map_err(|_| format!("`{value}` is no document's id"))?);
            }
            ("limit", _) => {
                let limit = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
                let wrong = || format!("`{value}` is not between 1 and {LARGEST_PAGE}");
                self.limit = Some(limit.ok_or_else(wrong)?);
            }
            ("order", "asc") => self.ascending = true,
            ("order", "desc") => self.ascending = false,
            ("order", _) => return Err(format!("`{value}` is neither asc nor desc")),
            _ => {
                let known = "is no parameter; there are source, state, after, limit and order";
                return Err(known.to_owned());
            }
        }
        Ok(())
    }
}

impl Documents {
    /// One page, of the indexes that answer and, where none does yet, of those that are built.
    ///
    /// # Errors
    /// The store is away.
    pub async fn list(&self, query: &DocumentQuery) -> Result<DocumentPage, StoreError> {
        let rows = self.database.within(self.rows(query)).await?;
        Ok(page(rows, query.limit.unwrap_or(PAGE)))
    }

    async fn rows(&self, query: &DocumentQuery) -> sqlx::Result<Vec<DocumentRow>> {
        let (beyond, order) = if query.ascending { (">", "asc") } else { ("<", "desc") };
        let mut binds = Vec::new();
        let mut holds = vec![SHOWN.to_owned()];
        if let Some(after) = query.after {
            binds.push(after.to_string());
            holds.push(format!("d.id {beyond} {}", self.database.id(binds.len())));
        }
        for (column, value) in [("i.source_id", &query.source), ("d.state", &query.state)] {
            if let Some(value) = value {
                binds.push(value.clone());
                holds.push(format!("{column} = ${}", binds.len()));
            }
        }
        let time = |name: &str| self.database.millis(&format!("d.{name}"));
        let sql = format!(
            "select cast(d.id as text), i.source_id, cast(i.id as text), d.url, d.title, d.state, \
               d.content_hash, cast(d.metadata as text), d.chunks, {}, {}, d.run_id, \
               d.missing_runs, {} \
             from documents as d join vector_indexes as i on i.id = d.index_id \
             where {} order by d.id {order} limit {}",
            time("first_seen"),
            time("last_seen"),
            time("deleted_at"),
            holds.join(" and "),
            query.limit.unwrap_or(PAGE) + 1,
        );
        let mut statement = sqlx::query(AssertSqlSafe(sql));
        for bind in binds {
            statement = statement.bind(bind);
        }
        statement.fetch_all(&self.pool).await?.iter().map(read).collect()
    }
}

fn read(row: &AnyRow) -> sqlx::Result<DocumentRow> {
    let metadata: String = row.try_get(7)?;
    let metadata =
        serde_json::from_str(&metadata).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(DocumentRow {
        object: "document",
        id: row.try_get(0)?,
        source: row.try_get(1)?,
        index: row.try_get(2)?,
        url: row.try_get(3)?,
        title: row.try_get(4)?,
        state: row.try_get(5)?,
        content_hash: row.try_get(6)?,
        metadata,
        chunks: row.try_get(8)?,
        first_seen: time(row.try_get(9)?),
        last_seen: time(row.try_get(10)?),
        run_id: row.try_get(11)?,
        missing_runs: row.try_get(12)?,
        deleted_at: row.try_get::<Option<i64>, _>(13)?.map(time),
    })
}

fn time(millis: i64) -> String {
    let time = DateTime::from_timestamp_millis(millis).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn page(mut data: Vec<DocumentRow>, limit: u32) -> DocumentPage {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = data.len() > limit;
    data.truncate(limit);
    let id = |row: Option<&DocumentRow>| row.map(|row| row.id.clone());
    DocumentPage {
        object: "list",
        first_id: id(data.first()),
        last_id: id(data.last()),
        has_more,
        data,
    }
}
