//! Erasure: what a user, a key or a session said goes from the store for good.
//!
//! First a tombstone is written, then rows are stripped. What comes of them later, from a spool,
//! meets the tombstone in the transaction that brings it.

use std::fmt::Write as _;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::database::Database;
use super::database::Engine;
use super::database::StoreError;
use super::interaction::Kind;
use super::ledger::BadParameter;
use super::period::written;
use super::strip::Dataset;
use super::strip::Doomed;
use super::strip::ROWS;
use super::strip::Strip;
use super::strip::Stripped;

/// Whom an erasure may be about, and the column that tells it.
const KINDS: [(&str, &str); 3] =
    [("user", "end_user_hash"), ("key", "key_name"), ("session", "session_id")];

/// Whose words are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    kind: &'static str,
    column: &'static str,
    name: String,
}

impl Subject {
    /// Reads the only parameter: `user`, `key` or `session`. `hash` turns a user's name into what
    /// the store knows of it.
    ///
    /// # Errors
    /// There is none, more than one, or one that is empty or something else.
    pub fn parse<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
        hash: impl Fn(&str) -> String,
    ) -> Result<Self, BadParameter> {
        let wrong = |name: &str, message: &str| {
            let message = format!("{message}: give one of user=…, key=… and session=…");
            Err(BadParameter { name: name.to_owned(), message })
        };
        let mut parameters = parameters.into_iter();
        let Some((name, value)) = parameters.next() else {
            return wrong("user", "nothing says whose words are to go");
        };
        let Some(&(kind, column)) = KINDS.iter().find(|(kind, _)| *kind == name) else {
            return wrong(name, "is no parameter");
        };
        if let Some((second, _)) = parameters.next() {
            return wrong(second, "is one too many");
        }
        if value.is_empty() || value.contains('\0') {
            return wrong(name, "names nobody");
        }
        let name = if kind == "user" { hash(value) } else { value.to_owned() };
        Ok(Self { kind, column, name })
    }
}

/// What an erasure came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Erasure {
    object: String,
    /// Its tombstone's id.
    pub id: Uuid,
    kind: String,
    requested_at: String,
    /// When the last row was erased; null while there may be more.
    finished_at: Option<String>,
    /// Calls of which only the bill is left.
    pub erased: u64,
    /// Those of them whose bodies were kept.
    pub bodies: u64,
    /// Verdicts.
    pub feedback: u64,
    datasets: Vec<Dataset>,
    models: Vec<String>,
}

impl Erasure {
    /// Datasets that lost lines and are archived now, as `name version`.
    pub fn datasets(&self) -> impl Iterator<Item = String> {
        self.datasets.iter().map(|dataset| format!("{} {}", dataset.name, dataset.version))
    }

    fn of(tombstone: &Tombstone) -> Self {
        Self {
            object: "interaction.erasure".to_owned(),
            id: tombstone.id,
            kind: tombstone.subject.kind.to_owned(),
            requested_at: written(tombstone.requested_at),
            finished_at: None,
            erased: 0,
            bodies: 0,
            feedback: 0,
            datasets: Vec::new(),
            models: Vec::new(),
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished_at.is_some()
    }

    fn add(&mut self, stripped: Stripped) {
        self.erased += stripped.rows;
        self.bodies += stripped.bodies;
        self.feedback += stripped.feedback;
        self.datasets.extend(stripped.datasets);
        self.datasets.sort();
        self.datasets.dedup();
    }
}

/// Erases what was recorded of a subject until `now`, in milliseconds since 1970, and whatever of
/// it comes later from a spool.
///
/// # Errors
/// The store is away, or has no ledger. Once the tombstone is written, a gateway on the same store
/// goes on with what is left.
pub async fn erase(
    database: &Database,
    subject: &Subject,
    now: i64,
) -> Result<Erasure, StoreError> {
    let mut connection = database.connect_to_existing().await?;
    database.migrate_by(&mut connection).await?;
    let tombstone = Tombstone { id: Uuid::now_v7(), subject: subject.clone(), requested_at: now };
    let work = Work { database, now };
    database.within(work.bury(&mut connection, &tombstone)).await?;
    loop {
        let began = Instant::now();
        let erasure = database.within(work.step(&mut connection, &tombstone)).await?;
        if erasure.is_finished() {
            work.clean(&mut connection).await;
            return Ok(erasure);
        }
        // Those who bring records have their turn.
        tokio::time::sleep(began.elapsed()).await;
    }
}

/// Whose words were erased, and when that was asked for, in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Tombstone {
    id: Uuid,
    subject: Subject,
    requested_at: i64,
}

/// What the shipper and an erasure do within transactions of theirs.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) database: &'a Database,
    /// In milliseconds since 1970.
    pub(super) now: i64,
}

impl Work<'_> {
    async fn bury(self, connection: &mut AnyConnection, tombstone: &Tombstone) -> sqlx::Result<()> {
        let mut transaction = self.database.begin(connection).await?;
        self.database.keep_apart(&mut transaction, true).await?;
        let sql = format!(
            "insert into erasures (id, kind, subject, requested_at) values ({}, $2, $3, {})",
            self.database.id(1),
            self.database.instant(4)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(tombstone.id.to_string());
        let statement = statement.bind(tombstone.subject.kind).bind(&tombstone.subject.name);
        statement.bind(tombstone.requested_at).execute(&mut *transaction).await?;
        transaction.commit().await
    }

    /// Erases some hundred rows, and tells what the erasure came to until now.
    pub(super) async fn step(
        self,
        connection: &mut AnyConnection,
        tombstone: &Tombstone,
    ) -> sqlx::Result<Erasure> {
        let mut transaction = self.database.begin(connection).await?;
        self.database.keep_apart(&mut transaction, true).await?;
        let rows = self.rows(&mut transaction, tombstone, None).await?;
        let strip = Strip::new(self.database, &mut transaction, &rows, self.now);
        let stripped = strip.erase(tombstone.requested_at).await?;
        let mut erasure = self.report(&mut transaction, tombstone).await?;
        erasure.add(stripped);
        if rows.len() < ROWS {
            erasure.feedback += self.verdicts(&mut transaction, tombstone).await?;
            erasure.finished_at = Some(written(self.now));
        }
        self.set_report(&mut transaction, &erasure).await?;
        transaction.commit().await?;
        Ok(erasure)
    }

    /// Rows of the subject with something left to erase; those of `batch`, an array of records, or
    /// any. Expired ones count as long as they are in a dataset.
    async fn rows(
        self,
        connection: &mut AnyConnection,
        tombstone: &Tombstone,
        batch: Option<&str>,
    ) -> sqlx::Result<Vec<Doomed>> {
        let mut sql = format!(
            "select {} from interactions as i where i.{} = $2 and i.created_at <= {} \
             and (i.erased_at is null \
               or exists (select 1 from dataset_items as d where d.interaction_id = i.id))",
            Doomed::COLUMNS,
            tombstone.subject.column,
            self.database.instant(3)
        );
        match batch {
            Some(_) => drop(write!(sql, " and i.id in ({})", self.batch())),
            None => sql.push_str(" order by i.id limit $1"),
        }
        if self.database.engine == Engine::Postgres {
            sql.push_str(" for update of i");
        }
        let statement = sqlx::query(AssertSqlSafe(sql));
        let statement = match batch {
            Some(batch) => statement.bind(batch),
            None => statement.bind(i64::try_from(ROWS).unwrap_or(i64::MAX)),
        };
        let statement = statement.bind(&tombstone.subject.name).bind(tombstone.requested_at);
        let rows = statement.fetch_all(connection).await?;
        rows.iter().map(Doomed::read).collect()
    }

    /// The ids of the records in `$1`.
    fn batch(self) -> String {
        let records = self.database.records(&[("id", Kind::Id)]);
        format!("select {} from {records}", self.database.field("id"))
    }

    /// Verdicts on a session of which no row is there, and those that a key gave.
    async fn verdicts(
        self,
        connection: &mut AnyConnection,
        tombstone: &Tombstone,
    ) -> sqlx::Result<u64> {
        let column = match tombstone.subject.kind {
            "session" => "target",
            "key" => "key_name",
            _ => return Ok(0),
        };
        let until = self.database.instant(2);
        let sql = format!("delete from feedback where {column} = $1 and created_at <= {until}");
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(&tombstone.subject.name);
        let done = statement.bind(tombstone.requested_at).execute(connection).await?;
        Ok(done.rows_affected())
    }

    /// What the erasure came to before.
    async fn report(
        self,
        connection: &mut AnyConnection,
        tombstone: &Tombstone,
    ) -> sqlx::Result<Erasure> {
        let sql =
            format!("select cast(report as text) from erasures where id = {}", self.database.id(1));
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(tombstone.id.to_string());
        let report: String = statement.fetch_one(connection).await?.try_get(0)?;
        Ok(serde_json::from_str(&report).unwrap_or_else(|_| Erasure::of(tombstone)))
    }

    async fn set_report(
        self,
        connection: &mut AnyConnection,
        erasure: &Erasure,
    ) -> sqlx::Result<()> {
        let report = match self.database.engine {
            Engine::Sqlite => "$2",
            Engine::Postgres => "cast($2 as jsonb)",
        };
        let id = self.database.id(1);
        let sql = format!("update erasures set report = {report} where id = {id}");
        let text = serde_json::to_string(erasure).unwrap_or_default();
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(erasure.id.to_string()).bind(text);
        statement.execute(connection).await.map(drop)
    }

    /// What SQLite wrote to its log before is overwritten: it goes into the file, whose free pages
    /// hold zeros. While somebody reads, that waits for the next time.
    pub(super) async fn clean(self, connection: &mut AnyConnection) {
        if self.database.engine == Engine::Sqlite {
            let done = sqlx::raw_sql("pragma wal_checkpoint(truncate)").execute(connection).await;
            if let Err(error) = done {
                tracing::warn!(%error, "SQLite's log still holds what was erased");
            }
        }
    }

    /// The time of the newest tombstone: what is younger, none covers.
    pub(super) async fn newest(self, connection: &mut AnyConnection) -> sqlx::Result<Option<i64>> {
        let newest = self.database.millis("max(requested_at)");
        let sql = format!("select {newest} from erasures");
        sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0)
    }

    /// Strips those of `batch`, an array of records that are stored, that a tombstone covers;
    /// returns how many.
    pub(super) async fn cover(
        self,
        connection: &mut AnyConnection,
        batch: &str,
    ) -> sqlx::Result<u64> {
        let mut covered = 0;
        for tombstone in self.tombstones_of(connection, batch).await? {
            let rows = self.rows(connection, &tombstone, Some(batch)).await?;
            let strip = Strip::new(self.database, connection, &rows, self.now);
            covered += strip.erase(tombstone.requested_at).await?.rows;
        }
        Ok(covered)
    }

    async fn tombstones_of(
        self,
        connection: &mut AnyConnection,
        batch: &str,
    ) -> sqlx::Result<Vec<Tombstone>> {
        let is =
            KINDS.map(|(kind, column)| format!("e.kind = '{kind}' and e.subject = i.{column}"));
        let sql = format!(
            "select distinct {} from interactions as i cross join erasures as e \
             where i.id in ({}) and i.erased_at is null and i.created_at <= e.requested_at \
             and ({}) order by 4 desc",
            self.columns(),
            self.batch(),
            is.join(" or ")
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(batch).fetch_all(connection).await?;
        tombstones(&rows)
    }

    /// A tombstone whose erasure was asked for before `asked`, in milliseconds since 1970, and did
    /// not come to its end.
    pub(super) async fn unfinished(
        self,
        connection: &mut AnyConnection,
        asked: i64,
    ) -> sqlx::Result<Option<Tombstone>> {
        let sql = format!(
            "select {} from erasures as e where e.report ->> 'finished_at' is null \
             and e.requested_at < {} order by 4 limit 1",
            self.columns(),
            self.database.instant(1)
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(asked).fetch_all(connection).await?;
        Ok(tombstones(&rows)?.pop())
    }

    /// What [`tombstones`] reads, of `erasures as e`.
    fn columns(self) -> String {
        let time = self.database.millis("e.requested_at");
        format!("cast(e.id as text), e.kind, e.subject, {time}")
    }
}

/// Tombstones of the kinds that are known.
fn tombstones(rows: &[AnyRow]) -> sqlx::Result<Vec<Tombstone>> {
    let mut found = Vec::new();
    for row in rows {
        let (id, kind): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let known = KINDS.iter().find(|(known, _)| *known == kind);
        let (Ok(id), Some(&(kind, column))) = (Uuid::try_parse(&id), known) else { continue };
        let subject = Subject { kind, column, name: row.try_get(2)? };
        found.push(Tombstone { id, subject, requested_at: row.try_get(3)? });
    }
    Ok(found)
}
