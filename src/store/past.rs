//! Reads recorded calls in order, for a replay: a row is one JSON object that the database makes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use uuid::Uuid;

use crate::openai::usage::Usage;

use super::database::Database;
use super::database::Engine;
use super::database::StoreError;
use super::interaction::TOKENS;
use super::ledger::Ledger;
use super::pair;
use super::period::Period;
use super::period::first_id;

/// Rows of one statement.
const ROWS: u32 = 2000;
/// Largest body that is read.
const LARGEST_BODY: usize = 16 << 20;

/// Columns of a call that are taken as they are.
const PLAIN: [&str; 14] = [
    "endpoint",
    "policy_version",
    "route",
    "requested_model",
    "model",
    "upstream_model",
    "response_model",
    "key_name",
    "team",
    "session_id",
    "service_tier",
    "status_code",
    "usage_source",
    "cost_picodollars",
];
/// Columns that hold JSON.
const JSON: [&str; 3] = ["tags", "rates", "facts"];

/// A recorded call, in the words of its columns.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the columns of `interactions`")]
pub struct PastCall {
    pub id: Uuid,
    pub endpoint: String,
    pub policy_version: String,
    pub route: Option<String>,
    pub requested_model: Option<String>,
    pub model: Option<String>,
    pub upstream_model: Option<String>,
    pub response_model: Option<String>,
    pub key_name: String,
    pub team: Option<String>,
    pub session_id: Option<String>,
    pub service_tier: Option<String>,
    pub status_code: u16,
    pub usage_source: Option<String>,
    pub cost_picodollars: Option<i64>,
    pub tags: BTreeMap<String, String>,
    pub rates: BTreeMap<String, i64>,
    pub facts: Box<RawValue>,
    tokens: Vec<u64>,
    /// The request's body, where the facts do not say enough.
    #[serde(skip)]
    pub request: Option<Vec<u8>>,
}

impl PastCall {
    /// What was used; `None` where nothing is known.
    pub fn usage(&self) -> Option<Usage> {
        self.usage_source.as_ref()?;
        let mut usage = Usage::default();
        for ((_, field), tokens) in TOKENS.into_iter().zip(&self.tokens) {
            *field(&mut usage) = *tokens;
        }
        Some(usage)
    }
}

/// Reads recorded calls.
#[derive(Clone, Debug)]
pub struct Past {
    database: Database,
    pool: AnyPool,
    /// The ids of the period: with times in their place SQLite would go by those, and sort.
    first: Uuid,
    end: Uuid,
}

impl Past {
    /// Those of this ledger that were asked in this period.
    pub fn of(ledger: &Ledger, period: Period) -> Self {
        let (first, end) = (first_id(period.since), first_id(period.until));
        Self { database: ledger.database.clone(), pool: ledger.pool.clone(), first, end }
    }

    /// How many calls there are.
    ///
    /// # Errors
    /// The store is away, or has no ledger.
    pub async fn count(&self) -> Result<u64, StoreError> {
        let sql = format!("select count(*) from interactions as i where {}", self.routed());
        let statement = sqlx::query(AssertSqlSafe(sql));
        let statement = statement.bind(self.first.to_string()).bind(self.end.to_string());
        let row = statement.fetch_one(&self.pool).await;
        let count = row.and_then(|row| row.try_get::<i64, _>(0));
        let count = count.map_err(|error| self.database.unreadable(&error))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Output tokens that providers reported, by model, and how often.
    ///
    /// # Errors
    /// The store is away, or has no ledger.
    pub async fn outputs(&self) -> Result<Vec<(String, u64, u64)>, StoreError> {
        let sql = format!(
            "select i.model, i.output_tokens, count(*) from interactions as i where {} \
             and i.model is not null and i.status_code < 400 and i.usage_source = 'reported' \
             group by 1, 2",
            self.routed()
        );
        let statement = sqlx::query(AssertSqlSafe(sql));
        let statement = statement.bind(self.first.to_string()).bind(self.end.to_string());
        let rows = statement.fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.database.unreadable(&error))?;
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        let read = |row: &sqlx::any::AnyRow| {
            Ok((row.try_get(0)?, count(row.try_get(1)?), count(row.try_get(2)?)))
        };
        let read: sqlx::Result<Vec<_>> = rows.iter().map(read).collect();
        read.map_err(|error| self.database.unreadable(&error))
    }

    /// The calls after one, in the order of their ids; empty at the end.
    ///
    /// # Errors
    /// The store is away, or has no ledger.
    pub async fn after(&self, last: Uuid) -> Result<Vec<PastCall>, StoreError> {
        let sql = format!(
            "select {}, b.request from interactions as i \
             left join interaction_bodies as b on b.interaction_id = i.id \
               and (i.facts = '{{}}' or i.facts ->> 'shape_in_body' is not null) \
             where {} and i.id > {} order by i.id limit {ROWS}",
            self.object(),
            self.routed(),
            self.database.id(3),
        );
        let statement = sqlx::query(AssertSqlSafe(sql));
        let statement = statement.bind(self.first.to_string()).bind(self.end.to_string());
        let rows = statement.bind(last.to_string()).fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.database.unreadable(&error))?;
        let mut calls = Vec::with_capacity(rows.len());
        for row in &rows {
            let read = || Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get(1)?));
            let (text, packed): (String, Option<Vec<u8>>) =
                read().map_err(|error| self.database.unreadable(&error))?;
            match serde_json::from_str::<PastCall>(&text) {
                Ok(mut call) => {
                    let packed = packed.filter(|packed| !packed.is_empty());
                    call.request = packed.and_then(|it| pair::unpack(&it, LARGEST_BODY).ok());
                    calls.push(call);
                }
                Err(error) => tracing::error!(%error, "a recorded call cannot be read"),
            }
        }
        Ok(calls)
    }

    /// Calls of the period that are routed by model.
    fn routed(&self) -> String {
        let (first, end) = (self.database.id(1), self.database.id(2));
        format!(
            "i.id >= {first} and i.id < {end} and i.endpoint in \
             ('chat/completions', 'responses', 'completions', 'embeddings')"
        )
    }

    fn object(&self) -> String {
        let plain = PLAIN.map(|name| (name, format!("i.{name}")));
        let json = JSON.map(|name| match self.database.engine {
            Engine::Sqlite => (name, format!("json(i.{name})")),
            Engine::Postgres => (name, format!("i.{name}")),
        });
        let tokens = TOKENS.map(|(name, _)| format!("i.{name}")).join(", ");
        let tokens = match self.database.engine {
            Engine::Sqlite => format!("json_array({tokens})"),
            Engine::Postgres => format!("json_build_array({tokens})"),
        };
        let others = [("id", "i.id".to_owned()), ("tokens", tokens)];
        self.database.json_object(plain.into_iter().chain(json).chain(others))
    }
}
