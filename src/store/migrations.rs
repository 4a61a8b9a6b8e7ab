//! The schema's steps, in `migrations/`, and how a database is brought to the last of them.

use sqlx::AnyConnection;
use sqlx::Row as _;

use super::database::Database;
use super::database::Engine;
use super::database::StoreError;

/// Any number will do, as long as no other program takes it: the migration's lock on Postgres.
const ADVISORY_LOCK: i64 = 0x0077_6569_7200_0001;

/// One step of the schema, in the words of both databases. Steps only ever go forward.
struct Migration {
    version: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "interactions",
        sqlite: include_str!("migrations/sqlite/0001_interactions.sql"),
        postgres: include_str!("migrations/postgres/0001_interactions.sql"),
    },
    Migration {
        version: 2,
        name: "capture",
        sqlite: include_str!("migrations/sqlite/0002_capture.sql"),
        postgres: include_str!("migrations/postgres/0002_capture.sql"),
    },
    Migration {
        version: 3,
        name: "datasets",
        sqlite: include_str!("migrations/sqlite/0003_datasets.sql"),
        postgres: include_str!("migrations/postgres/0003_datasets.sql"),
    },
    Migration {
        version: 4,
        name: "keys",
        sqlite: include_str!("migrations/sqlite/0004_keys.sql"),
        postgres: include_str!("migrations/postgres/0004_keys.sql"),
    },
    Migration {
        version: 5,
        name: "limits",
        sqlite: include_str!("migrations/sqlite/0005_limits.sql"),
        postgres: include_str!("migrations/postgres/0005_limits.sql"),
    },
    Migration {
        version: 6,
        name: "training_queue",
        sqlite: include_str!("migrations/sqlite/0006_training_queue.sql"),
        postgres: include_str!("migrations/postgres/0006_training_queue.sql"),
    },
    Migration {
        version: 7,
        name: "automation",
        sqlite: include_str!("migrations/sqlite/0007_automation.sql"),
        postgres: include_str!("migrations/postgres/0007_automation.sql"),
    },
    Migration {
        version: 8,
        name: "documents",
        sqlite: include_str!("migrations/sqlite/0008_documents.sql"),
        postgres: include_str!("migrations/postgres/0008_documents.sql"),
    },
    Migration {
        version: 9,
        name: "sources",
        sqlite: include_str!("migrations/sqlite/0009_sources.sql"),
        postgres: include_str!("migrations/postgres/0009_sources.sql"),
    },
    Migration {
        version: 10,
        name: "aliases",
        sqlite: include_str!("migrations/sqlite/0010_aliases.sql"),
        postgres: include_str!("migrations/postgres/0010_aliases.sql"),
    },
    Migration {
        version: 11,
        name: "retrieval",
        sqlite: include_str!("migrations/sqlite/0011_retrieval.sql"),
        postgres: include_str!("migrations/postgres/0011_retrieval.sql"),
    },
];

impl Database {
    /// Brings the schema up to date; returns the names of the steps that were missing. Safe while
    /// others do the same.
    ///
    /// # Errors
    /// The store cannot be reached or changed.
    pub async fn migrate(&self) -> Result<Vec<&'static str>, StoreError> {
        let mut connection = self.connect().await?;
        self.migrate_by(&mut connection).await
    }

    pub(super) async fn migrate_by(
        &self,
        connection: &mut AnyConnection,
    ) -> Result<Vec<&'static str>, StoreError> {
        // The usual case needs neither a lock nor the right to change the schema.
        if newest(connection).await.is_ok_and(|version| version >= last_version()) {
            return Ok(Vec::new());
        }
        let done = self.migrate_locked(connection).await;
        if done.is_err() {
            // The first failure is the one to tell.
            let _ = sqlx::raw_sql("rollback").execute(&mut *connection).await;
        }
        done.map_err(|error| self.unavailable(&error))
    }

    /// One transaction, which nobody else can be in at the same time.
    async fn migrate_locked(
        &self,
        connection: &mut AnyConnection,
    ) -> sqlx::Result<Vec<&'static str>> {
        match self.engine {
            Engine::Sqlite => {
                sqlx::raw_sql("begin immediate").execute(&mut *connection).await?;
            }
            Engine::Postgres => lock_postgres(connection).await?,
        }
        let table = "create table if not exists weir_migrations (version bigint primary key, \
                     name text not null, applied_at text not null default current_timestamp)";
        sqlx::raw_sql(table).execute(&mut *connection).await?;
        let newest = newest(connection).await?;
        let mut applied = Vec::new();
        for step in MIGRATIONS.iter().filter(|step| step.version > newest) {
            let text = match self.engine {
                Engine::Sqlite => step.sqlite,
                Engine::Postgres => step.postgres,
            };
            sqlx::raw_sql(text).execute(&mut *connection).await?;
            let note = "insert into weir_migrations (version, name) values ($1, $2)";
            let note = sqlx::query(note).bind(step.version).bind(step.name);
            note.execute(&mut *connection).await?;
            applied.push(step.name);
        }
        sqlx::raw_sql("commit").execute(&mut *connection).await?;
        Ok(applied)
    }
}

/// Begins a transaction that only one process is in, and makes the schema where there is none.
async fn lock_postgres(connection: &mut AnyConnection) -> sqlx::Result<()> {
    sqlx::raw_sql("begin").execute(&mut *connection).await?;
    let lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(ADVISORY_LOCK);
    lock.execute(&mut *connection).await?;
    // `if not exists` asks for the right to create it even where it exists.
    let schema = sqlx::query("select 1 from pg_namespace where nspname = 'gateway'");
    if schema.fetch_optional(&mut *connection).await?.is_none() {
        sqlx::raw_sql("create schema gateway").execute(&mut *connection).await?;
    }
    Ok(())
}

fn last_version() -> i64 {
    MIGRATIONS.last().map_or(0, |step| step.version)
}

/// The newest step that was applied.
async fn newest(connection: &mut AnyConnection) -> sqlx::Result<i64> {
    let query = sqlx::query("select coalesce(max(version), 0) from weir_migrations");
    query.fetch_one(connection).await?.try_get(0)
}
