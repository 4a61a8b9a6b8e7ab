//! The store's rows, as anybody with the database's own client would read them.

use sqlx::Row as _;

use super::world;

/// Runs a query whose rows are text; null is "null". The store is SQLite's file or Postgres' URL.
pub(crate) fn rows(store: &str, sql: &str) -> Result<Vec<Vec<String>>, sqlx::Error> {
    sqlx::any::install_default_drivers();
    let (store, sql) = (store.to_owned(), sql.to_owned());
    world().block_on(async move {
        let pool = sqlx::any::AnyPoolOptions::new().max_connections(1);
        let pool = pool
            .after_connect(|connection, _| {
                Box::pin(async move {
                    let postgres = connection.backend_name() == "PostgreSQL";
                    let text = if postgres { "set search_path to gateway" } else { "select 1" };
                    sqlx::raw_sql(text).execute(connection).await.map(drop)
                })
            })
            .connect(&store)
            .await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&pool).await?;
        pool.close().await;
        let text = |row: &sqlx::any::AnyRow, at| match row.try_get::<Option<String>, _>(at) {
            Ok(text) => text.unwrap_or_else(|| "null".to_owned()),
            Err(_) => row.get::<i64, _>(at).to_string(),
        };
        Ok(rows.iter().map(|row| (0..row.len()).map(|at| text(row, at)).collect()).collect())
    })
}

/// The ids in the ledger, in order; none where there is no ledger yet.
pub(crate) fn ids(store: &str) -> Vec<String> {
    let ids = rows(store, "select cast(id as text) from interactions order by id");
    ids.unwrap_or_default().into_iter().flatten().collect()
}
