//! Reads recorded calls in order, for a replay: a row is one JSON object that the database makes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
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
const ROWS: usize = 500;
/// Largest body that is read.
const LARGEST_BODY: usize = 16 << 20;

/// Columns of a call that are taken as they are.
const PLAIN: [&str; 15] = [
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
    "alias",
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
    pub alias: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub rates: BTreeMap<String, i64>,
    pub facts: Box<RawValue>,
    tokens: Vec<u64>,
    /// The request's body, packed, where the facts do not say enough.
    #[serde(skip)]
    packed: Option<Vec<u8>>,
}

/// Some calls in the order of their ids.
#[derive(Debug)]
pub struct PastPage {
    /// The calls that can be read.
    pub calls: Vec<PastCall>,
    /// How many cannot.
    pub unreadable: u64,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Uuid>,
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

    /// The request's body, where the facts do not say enough and it was kept. Unpacks it: of a page of large
    /// bodies, only one is in memory as a whole.
    pub fn request(&self) -> Option<Vec<u8>> {
        let packed = self.packed.as_ref().filter(|packed| !packed.is_empty());
        pair::unpack(packed?, LARGEST_BODY).ok()
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
        let read =
            |row: &AnyRow| Ok((row.try_get(0)?, count(row.try_get(1)?), count(row.try_get(2)?)));
        let read: sqlx::Result<Vec<_>> = rows.iter().map(read).collect();
        read.map_err(|error| self.database.unreadable(&error))
    }

    /// Where the first page begins.
    pub fn start(&self) -> Uuid {
        self.first
    }

    /// The calls from an id on, in the order of their ids.
    ///
    /// # Errors
    /// The store is away, or has no ledger.
    pub async fn page(&self, from: Uuid) -> Result<PastPage, StoreError> {
        // One lower bound: of two, SQLite would begin at the period's, and walk to the other.
        let sql = format!(
            "select cast(i.id as text), {}, b.request from interactions as i \
             left join interaction_bodies as b on b.interaction_id = i.id \
               and (i.facts = '{{}}' or i.facts ->> 'shape_in_body' is not null) \
             where {} order by i.id limit {ROWS}",
            self.object(),
            self.routed(),
        );
        let statement = sqlx::query(AssertSqlSafe(sql));
        let statement = statement.bind(from.to_string()).bind(self.end.to_string());
        let rows = statement.fetch_all(&self.pool).await;
        let page = rows.and_then(|rows| read_page(&rows));
        page.map_err(|error| self.database.unreadable(&error))
    }

    /// Calls of the period that are routed by model; those that the gateway makes itself are not
    /// recorded under their rule.
    fn routed(&self) -> String {
        let (first, end) = (self.database.id(1), self.database.id(2));
        format!(
            "i.id >= {first} and i.id < {end} and i.endpoint in \
             ('chat/completions', 'responses', 'completions', 'embeddings') \
             and coalesce(i.route, '') not like 'embeddings:%'"
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

fn read_page(rows: &[AnyRow]) -> sqlx::Result<PastPage> {
    let (mut calls, mut unreadable) = (Vec::with_capacity(rows.len()), 0);
    for row in rows {
        let (id, text): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        match serde_json::from_str::<PastCall>(&text) {
            Ok(call) => calls.push(PastCall { packed: row.try_get(2)?, ..call }),
            Err(error) => {
                unreadable += 1;
                tracing::error!(id, %error, "a recorded call cannot be read");
            }
        }
    }
    let last = match rows.last().filter(|_| rows.len() == ROWS) {
        Some(row) => Uuid::try_parse(&row.try_get::<String, _>(0)?).ok(),
        None => None,
    };
    let next = last.map(|last| Uuid::from_u128(last.as_u128().saturating_add(1)));
    Ok(PastPage { calls, unreadable, next })
}
