//! The database: SQLite in the data folder, or Postgres by URL. Knows how to reach it, its schema,
//! and where the two speak differently.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Once;
use std::sync::OnceLock;
use std::time::Duration;

use sqlx::Any;
use sqlx::AnyConnection;
use sqlx::AnyPool;
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::Transaction;
use sqlx::any::AnyConnectOptions;
use sqlx::any::AnyPoolOptions;
use thiserror::Error;

use super::interaction::COLUMNS;
use super::interaction::Kind;
use super::objects::ObjectError;
use super::objects::Objects;

/// Longest wait for a connection; a server that hangs must not hold anybody longer.
const CONNECT: Duration = Duration::from_secs(10);
/// The same for those who ask what is in it: the pool tries again and again until then.
const READ: Duration = Duration::from_secs(3);
/// Longest wait for one transaction; a server that hangs is left and tried again.
pub(super) const STATEMENT: Duration = Duration::from_secs(60);
/// Connections that the rooms share, beside those of their own for longer work.
const SHARED: u32 = 8;
/// Any number will do, as long as no other program takes it: the lock of those that bring records,
/// who share it, and of those that erase.
const ERASURE_LOCK: i64 = 0x0077_6569_7200_0002;

/// Erased words must not stay in pages that are free now: `secure_delete` writes zeros there.
const SQLITE_SESSION: &str = "pragma busy_timeout = 5000; pragma journal_mode = wal; \
     pragma synchronous = full; pragma foreign_keys = on; pragma secure_delete = on;";
/// Supabase keeps extensions in a schema of their own; one that is not there does no harm.
const POSTGRES_SESSION: &str = "set search_path to gateway, public, extensions";

/// Why the store did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It cannot be reached, is full, locked, or read-only; later may help.
    #[error("the store {store} is not available: {reason}")]
    Unavailable {
        /// The database, without credentials.
        store: String,
        /// What it said.
        reason: String,
    },
    /// It has no ledger yet.
    #[error("the store {store} has no ledger yet; run `weir migrate` or `weir serve`")]
    NoLedger {
        /// The database, without credentials.
        store: String,
    },
    /// It cannot do what was asked, later neither.
    #[error("{0}")]
    Refused(String),
}

impl From<ObjectError> for StoreError {
    /// Records wait for the object store as they wait for the database.
    fn from(error: ObjectError) -> Self {
        Self::Unavailable { store: "of objects".to_owned(), reason: error.to_string() }
    }
}

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Sqlite,
    Postgres,
}

/// Where the store is. Prints without credentials.
#[derive(Clone)]
pub struct Database {
    url: String,
    pub(super) engine: Engine,
    /// Where the bodies are that are too large for a row; without one they are in their rows.
    pub(super) objects: Option<Objects>,
    /// Made when somebody asks; clones have the same.
    shared: Arc<OnceLock<AnyPool>>,
}

impl Database {
    /// Reads the setting `store`: `None` for `off`.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write.
    pub fn parse(setting: &str) -> Result<Option<Self>, String> {
        let engine = match setting.split_once(':').unwrap_or((setting, "")) {
            ("off", "") => return Ok(None),
            ("sqlite", path) if !path.trim_start_matches('/').is_empty() => Engine::Sqlite,
            ("postgres" | "postgresql", rest) if rest.starts_with("//") => Engine::Postgres,
            // The text is not repeated: it may hold a password.
            _ => {
                return Err("write it as sqlite:data/weir.db, postgres://user@host/db or \"off\""
                    .to_owned());
            }
        };
        let database =
            Self { url: setting.to_owned(), engine, objects: None, shared: Arc::default() };
        database.options("rw").map_err(|error| format!("{error}; check the URL"))?;
        Ok(Some(database))
    }

    /// The same with a place for what is too large for a row.
    #[must_use]
    pub fn with_objects(self, objects: Objects) -> Self {
        Self { objects: Some(objects), ..self }
    }

    /// Connections for short work, opened when somebody needs one.
    pub(super) fn pool(&self) -> Result<AnyPool, StoreError> {
        if let Some(pool) = self.shared.get() {
            return Ok(pool.clone());
        }
        let session = self.session();
        let options = self.options("rw").map_err(|error| self.unavailable(&error))?;
        let pool = AnyPoolOptions::new()
            .max_connections(SHARED)
            .acquire_timeout(READ)
            .after_connect(move |connection, _| {
                Box::pin(async move { sqlx::raw_sql(session).execute(connection).await.map(drop) })
            })
            .connect_lazy_with(options);
        Ok(self.shared.get_or_init(|| pool).clone())
    }

    /// A connection of the caller's own; the database's file is made where there is none.
    pub(super) async fn connect(&self) -> Result<AnyConnection, StoreError> {
        let opened = async {
            self.make_folder().map_err(sqlx::Error::Io)?;
            let mut connection = self.options("rwc")?.connect().await?;
            sqlx::raw_sql(self.session()).execute(&mut connection).await?;
            Ok(connection)
        };
        match tokio::time::timeout(CONNECT, opened).await {
            Ok(opened) => opened.map_err(|error: sqlx::Error| self.unavailable(&error)),
            Err(_) => Err(self.gave_up(CONNECT)),
        }
    }

    /// The same where there is a database: one that is made now holds nothing.
    pub(super) async fn connect_to_existing(&self) -> Result<AnyConnection, StoreError> {
        match self.file() {
            Some(file) if !file.exists() => Err(StoreError::NoLedger { store: self.to_string() }),
            _ => self.connect().await,
        }
    }

    /// Waits for a statement or a transaction; a server that hangs is left.
    pub(super) async fn within<T>(
        &self,
        work: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(STATEMENT, work).await {
            Ok(done) => done.map_err(|error| self.unavailable(&error)),
            Err(_) => Err(self.gave_up(STATEMENT)),
        }
    }

    /// A transaction that writes from the start: SQLite cannot always turn one that has read into
    /// one that writes.
    pub(super) async fn begin<'c>(
        &self,
        connection: &'c mut AnyConnection,
    ) -> sqlx::Result<Transaction<'c, Any>> {
        match self.engine {
            Engine::Sqlite => connection.begin_with("begin immediate").await,
            Engine::Postgres => connection.begin().await,
        }
    }

    /// Keeps transactions that bring records, and those that erase, apart until they end: neither
    /// can miss what the other one does. SQLite has one writer at a time anyway.
    pub(super) async fn keep_apart(
        &self,
        transaction: &mut AnyConnection,
        erases: bool,
    ) -> sqlx::Result<()> {
        if self.engine == Engine::Postgres {
            let lock = if erases {
                "select pg_advisory_xact_lock($1)"
            } else {
                "select pg_advisory_xact_lock_shared($1)"
            };
            sqlx::query(lock).bind(ERASURE_LOCK).execute(transaction).await?;
        }
        Ok(())
    }

    /// `mode` is SQLite's: whether a file is made where there is none.
    fn options(&self, mode: &str) -> sqlx::Result<AnyConnectOptions> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let mut url = self.url.clone();
        if self.engine == Engine::Sqlite && !url.contains("mode=") {
            url.push_str(if url.contains('?') { "&mode=" } else { "?mode=" });
            url.push_str(mode);
        }
        let options: AnyConnectOptions = url.parse()?;
        Ok(options.disable_statement_logging())
    }

    fn session(&self) -> &'static str {
        match self.engine {
            Engine::Sqlite => SQLITE_SESSION,
            Engine::Postgres => POSTGRES_SESSION,
        }
    }

    fn make_folder(&self) -> std::io::Result<()> {
        match self.file().as_deref().and_then(Path::parent) {
            Some(folder) if !folder.as_os_str().is_empty() => std::fs::create_dir_all(folder),
            _ => Ok(()),
        }
    }

    /// SQLite's file.
    fn file(&self) -> Option<PathBuf> {
        let path = self.url.strip_prefix("sqlite:")?;
        let path = path.strip_prefix("//").unwrap_or(path);
        Some(path.split('?').next().unwrap_or(path).into())
    }

    pub(super) fn unavailable(&self, error: &sqlx::Error) -> StoreError {
        let store = self.to_string();
        match error {
            sqlx::Error::Database(said) if is_missing_table(said.as_ref()) => {
                StoreError::NoLedger { store }
            }
            sqlx::Error::PoolTimedOut => self.gave_up(READ),
            error => StoreError::Unavailable { store, reason: error.to_string() },
        }
    }

    /// The same for one who only reads: a file that is not there holds no ledger.
    pub(super) fn unreadable(&self, error: &sqlx::Error) -> StoreError {
        match self.file() {
            Some(file) if !file.exists() => StoreError::NoLedger { store: self.to_string() },
            _ => self.unavailable(error),
        }
    }

    pub(super) fn gave_up(&self, after: Duration) -> StoreError {
        let reason = format!("no answer within {} s", after.as_secs());
        StoreError::Unavailable { store: self.to_string(), reason }
    }

    /// The statement that inserts a JSON array of records, bound as one text. A record that is
    /// there already stays as it is.
    pub(super) fn insert_batch(&self) -> String {
        let names = COLUMNS.map(|(name, _)| name).join(", ");
        let values = COLUMNS.map(|(name, kind)| self.value(name, kind)).join(", ");
        let records = self.records(&COLUMNS);
        format!(
            "insert into interactions ({names}) select {values} from {records} where true \
             on conflict (id) do nothing"
        )
    }

    /// The same for the bodies of records, to be run before: those of a record that is there are
    /// there, too, or have been erased.
    pub(super) fn insert_bodies(&self) -> String {
        let columns = [
            ("id", Kind::Id),
            ("request", Kind::Text),
            ("response", Kind::Text),
            ("request_object", Kind::Text),
            ("response_object", Kind::Text),
        ];
        let id = self.value("id", Kind::Id);
        let blob = |name| match self.engine {
            Engine::Sqlite => format!("unhex({})", self.field(name)),
            Engine::Postgres => format!("decode({}, 'hex')", self.field(name)),
        };
        let (request, response, records) =
            (blob("request"), blob("response"), self.records(&columns));
        let (request_object, response_object) =
            (self.field("request_object"), self.field("response_object"));
        format!(
            "insert into interaction_bodies \
               (interaction_id, request, response, request_object, response_object) \
             select {id}, {request}, {response}, {request_object}, {response_object} \
             from {records} \
             where not exists (select 1 from interactions as i where i.id = {id}) \
             on conflict (interaction_id) do nothing"
        )
    }

    /// The statement that inserts a verdict: id, time, target, name, value, key, the target where it
    /// is an interaction's id, and its digest. What is said of what was erased is not taken.
    pub(super) fn insert_verdict(&self) -> String {
        let (id, time, value) = (self.id(1), self.instant(2), self.json(5));
        let interaction = self.id(7);
        format!(
            "insert into feedback (id, created_at, target, name, value, key_name) \
             select {id}, {time}, $3, $4, {value}, $6 where not exists ( \
               select 1 from (select value from feedback where target = $3 and name = $4 \
                 order by created_at desc, id desc limit 1) as last where last.value = {value}) \
             and not exists ( \
               select 1 from interactions where id = {interaction} and erased_at is not null) \
             and not exists ( \
               select 1 from erased_targets where digest = $8 and requested_at >= {time}) \
             and not exists ( \
               select 1 from erasures where requested_at >= {time} and \
                 (kind = 'session' and subject = $3 or kind = 'key' and subject = $6)) \
             on conflict (id) do nothing"
        )
    }

    /// A table of the records in `$1`, to be used with [`Self::field`].
    pub(super) fn records(&self, columns: &[(&str, Kind)]) -> String {
        if self.engine == Engine::Sqlite {
            // Each record is parsed once, not once for every column; the limit keeps SQLite from
            // drawing the inner query into the outer one.
            return "(select jsonb(value) as value from json_each($1) limit -1) as r".to_owned();
        }
        let typed = columns.iter().map(|(name, kind)| {
            let of = match kind {
                Kind::Id => "uuid",
                Kind::Text => "text",
                Kind::Time | Kind::Number | Kind::Count => "bigint",
                Kind::Flag => "boolean",
                Kind::Json | Kind::List => "jsonb",
            };
            format!("{name} {of}")
        });
        let typed = typed.collect::<Vec<_>>().join(", ");
        format!("json_to_recordset(cast($1 as json)) as r({typed})")
    }

    /// A field of a record.
    pub(super) fn field(&self, name: &str) -> String {
        match self.engine {
            Engine::Sqlite => format!("r.value ->> '{name}'"),
            Engine::Postgres => format!("r.{name}"),
        }
    }

    /// A field of a record as its column wants it.
    pub(super) fn value(&self, name: &str, kind: Kind) -> String {
        let field = self.field(name);
        match (kind, self.engine) {
            (Kind::Time, Engine::Postgres) => format!("to_timestamp({field} / 1000.0)"),
            (Kind::Count, _) => format!("coalesce({field}, 0)"),
            (Kind::Flag, Engine::Postgres) => format!("coalesce({field}, false)"),
            (Kind::Flag, Engine::Sqlite) => format!("coalesce({field}, 0)"),
            (Kind::Json, _) => format!("coalesce({field}, '{{}}')"),
            (Kind::List, _) => format!("coalesce({field}, '[]')"),
            _ => field,
        }
    }

    /// One JSON object, as text, of fields by name.
    pub(super) fn json_object<'n>(
        &self,
        fields: impl Iterator<Item = (&'n str, String)>,
    ) -> String {
        let fields = fields.map(|(name, value)| format!("'{name}', {value}"));
        let fields = fields.collect::<Vec<_>>().join(", ");
        match self.engine {
            Engine::Sqlite => format!("json_object({fields})"),
            Engine::Postgres => format!("cast(json_build_object({fields}) as text)"),
        }
    }

    /// The id that the parameter `$n` says as text.
    pub(super) fn id(&self, n: usize) -> String {
        match self.engine {
            Engine::Sqlite => format!("${n}"),
            Engine::Postgres => format!("cast(${n} as uuid)"),
        }
    }

    /// The JSON that the parameter `$n` says as text.
    pub(super) fn json(&self, n: usize) -> String {
        match self.engine {
            Engine::Sqlite => format!("${n}"),
            Engine::Postgres => format!("cast(${n} as jsonb)"),
        }
    }

    /// The point in time that the parameter `$n` says in milliseconds.
    pub(super) fn instant(&self, n: usize) -> String {
        match self.engine {
            Engine::Sqlite => format!("${n}"),
            Engine::Postgres => format!("to_timestamp(cast(${n} as bigint) / 1000.0)"),
        }
    }

    /// A point in time in milliseconds since 1970.
    pub(super) fn millis(&self, time: &str) -> String {
        match self.engine {
            Engine::Sqlite => time.to_owned(),
            Engine::Postgres => format!("cast(extract(epoch from {time}) * 1000 as bigint)"),
        }
    }

    /// The value of a call's tag that the parameter `$n` names; `true` where its key has a tag of
    /// that name and the call itself none.
    pub(super) fn tag_of_row(&self, n: usize) -> String {
        let on_key = match self.engine {
            Engine::Sqlite => {
                format!("exists (select 1 from json_each(key_tags) as t where t.value = ${n})")
            }
            // The operator `?`, which would be taken for a parameter.
            Engine::Postgres => format!("jsonb_exists(key_tags, ${n})"),
        };
        format!("coalesce(tags ->> ${n}, case when {on_key} then 'true' end)")
    }

    /// The time of a row in UTC, by a format that begins with the year.
    pub(super) fn time_of_row(&self, sqlite: &str, postgres: &str) -> String {
        match self.engine {
            Engine::Sqlite => format!("strftime('{sqlite}', created_at / 1000, 'unixepoch')"),
            Engine::Postgres => format!("to_char(created_at at time zone 'UTC', '{postgres}')"),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without_query = self.url.split('?').next().unwrap_or_default();
        match (without_query.split_once("://"), without_query.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => write!(f, "{scheme}://{place}"),
            _ => f.write_str(without_query),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn is_missing_table(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.code().is_some_and(|code| code == "42P01") || error.message().starts_with("no such table")
}

/// Whether the database refuses a row itself; everything else is worth another try.
pub(super) fn is_refusal(error: &sqlx::Error) -> bool {
    let Some(code) = error.as_database_error().and_then(|error| error.code()) else { return false };
    match code.parse::<u32>() {
        // SQLite: a constraint, a wrong type, too big. Extended codes carry theirs in the low byte.
        Ok(code) if code < 10_000 => matches!(code & 0xff, 18..=20),
        // Postgres: data exceptions, violated constraints. Some SQLSTATEs are numbers, too.
        _ => code.starts_with("22") || code.starts_with("23"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_url_or_off() {
        assert!(Database::parse("off").unwrap().is_none());
        for url in ["sqlite:data/weir.db", "sqlite:///var/lib/weir.db", "postgres://u@h/db"] {
            assert!(Database::parse(url).unwrap().is_some(), "{url}");
        }
        for wrong in ["", "data/weir.db", "sqlite:", "sqlite://", "mysql://h/db", "postgres:h"] {
            let message = Database::parse(wrong).unwrap_err();
            assert!(message.contains("sqlite:data/weir.db"), "{wrong}: {message}");
        }
    }

    #[test]
    fn a_store_is_named_without_its_password() {
        let shown = |url: &str| Database::parse(url).unwrap().unwrap().to_string();
        assert_eq!(shown("postgres://u:p@ss@h:1/db?password=x"), "postgres://h:1/db");
        assert_eq!(shown("postgres://h/db"), "postgres://h/db");
        assert_eq!(shown("sqlite:data/weir.db?mode=ro"), "sqlite:data/weir.db");
    }
}
