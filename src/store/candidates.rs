//! Reads captured calls as what training data is made of: bodies, verdicts, and whose they were.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::database::Engine;
use super::database::StoreError;
use super::interaction::Kind;
use super::interactions::InteractionQuery;
use super::interactions::Interactions;
use super::pair;

/// Rows of one page.
const ROWS: usize = 250;
/// Largest body that is read: a longer one is longer than any example may be.
const LARGEST_BODY: usize = 16 << 20;

/// Columns that are taken as they are.
const PLAIN: [&str; 18] = [
    "key_name",
    "team",
    "end_user_hash",
    "session_id",
    "endpoint",
    "model",
    "response_model",
    "response_id",
    "finish_reason",
    "status_code",
    "error_code",
    "consent",
    "id",
    "route",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "cost_picodollars",
];

/// A call, in the words of its columns, with what was said and what people think of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[expect(missing_docs, reason = "the columns of `interactions`")]
pub struct Candidate {
    pub id: Uuid,
    pub key_name: String,
    pub team: Option<String>,
    pub end_user_hash: Option<String>,
    pub session_id: Option<String>,
    pub endpoint: String,
    pub model: Option<String>,
    pub response_model: Option<String>,
    pub response_id: Option<String>,
    pub finish_reason: Option<String>,
    pub status_code: u16,
    pub error_code: Option<String>,
    pub consent: Option<String>,
    pub client_left: bool,
    pub route: Option<String>,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    pub cost_picodollars: Option<i64>,
    /// The last verdict of each name.
    #[serde(skip)]
    pub verdicts: Map<String, Value>,
    /// Both bodies, packed; empty where they were not kept.
    #[serde(skip)]
    packed: [Vec<u8>; 2],
}

impl Candidate {
    /// The request's and the answer's body; `None` where either was not kept or cannot be read.
    /// Unpacks them: of a page only one pair is in memory as a whole.
    pub fn bodies(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let [request, answer] = &self.packed;
        let unpacked = |packed: &[u8]| {
            let full = Some(packed).filter(|packed| !packed.is_empty())?;
            pair::unpack(full, LARGEST_BODY).ok()
        };
        Some((unpacked(request)?, unpacked(answer)?))
    }
}

/// Some calls in the order of their ids, which is that of their times.
#[derive(Debug, Default)]
pub struct CandidatePage {
    /// The calls.
    pub calls: Vec<Candidate>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Uuid>,
}

impl Interactions {
    /// Calls that a query asks for, of one team where there is one, asked before `until`
    /// (milliseconds since 1970) and after an id. Those whose bodies were erased are none.
    ///
    /// # Errors
    /// The store or the object store is away, or there is no ledger.
    pub async fn candidates(
        &self,
        query: &InteractionQuery,
        team: Option<&str>,
        until: i64,
        after: Option<Uuid>,
    ) -> Result<CandidatePage, StoreError> {
        let rows = self.candidate_rows(query, team, until, after).await;
        let rows = rows.map_err(|error| self.database.unreadable(&error))?;
        let mut calls = Vec::with_capacity(rows.len());
        for row in &rows {
            calls.push(self.candidate(row).await?);
        }
        let next = calls.last().filter(|_| rows.len() == ROWS).map(|call: &Candidate| call.id);
        let judged = self.judge(&mut calls).await;
        judged.map_err(|error| self.database.unreadable(&error))?;
        Ok(CandidatePage { calls, next })
    }

    async fn candidate_rows(
        &self,
        query: &InteractionQuery,
        team: Option<&str>,
        until: i64,
        after: Option<Uuid>,
    ) -> sqlx::Result<Vec<AnyRow>> {
        let end = super::period::first_id(until);
        let mut binds = vec![after.unwrap_or_default().to_string(), end.to_string()];
        let mut sql = format!(
            "select {}, b.request, b.response, b.request_object, b.response_object \
             from interactions as i left join interaction_bodies as b on b.interaction_id = i.id \
             where i.id > {} and i.id < {} and i.erased_at is null and i.capture <> 'off'",
            self.candidate_object(),
            self.database.id(1),
            self.database.id(2),
        );
        if let Some(team) = team {
            binds.push(team.to_owned());
            let _ = write!(sql, " and i.team = ${}", binds.len());
        }
        for condition in &query.conditions {
            let (condition, bound) = self.condition(condition, true, binds.len() + 1);
            let _ = write!(sql, " and {condition}");
            binds.extend(bound);
        }
        let _ = write!(sql, " order by i.id limit {ROWS}");
        let mut statement = sqlx::query(AssertSqlSafe(sql));
        for bind in binds {
            statement = statement.bind(bind);
        }
        statement.fetch_all(&self.pool).await
    }

    fn candidate_object(&self) -> String {
        let plain = PLAIN.map(|name| (name, format!("i.{name}")));
        let left = match self.database.engine {
            Engine::Sqlite => "json(iif(i.client_left, 'true', 'false'))",
            Engine::Postgres => "i.client_left",
        };
        self.database.json_object(plain.into_iter().chain([("client_left", left.to_owned())]))
    }

    async fn candidate(&self, row: &AnyRow) -> Result<Candidate, StoreError> {
        let read = || -> sqlx::Result<_> {
            let text: String = row.try_get(0)?;
            let call: Candidate =
                serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
            let packed = |at| row.try_get::<Option<Vec<u8>>, _>(at);
            let packed = [packed(1)?.unwrap_or_default(), packed(2)?.unwrap_or_default()];
            let objects: [Option<String>; 2] = [row.try_get(3)?, row.try_get(4)?];
            Ok((Candidate { packed, ..call }, objects))
        };
        let (mut call, keys) = read().map_err(|error| self.database.unreadable(&error))?;
        // A call that does not go on is not worth the way to the object store.
        if call.consent.is_some()
            && let Some(objects) = &self.database.objects
        {
            for (packed, key) in call.packed.iter_mut().zip(keys) {
                if let Some(key) = key {
                    *packed = objects.get(&key).await?.unwrap_or_default();
                }
            }
        }
        Ok(call)
    }

    /// Puts the last verdict of each name to the calls that it is about.
    async fn judge(&self, calls: &mut [Candidate]) -> sqlx::Result<()> {
        let mut about: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, call) in calls.iter().enumerate() {
            let names =
                [Some(call.id.to_string()), call.response_id.clone(), call.session_id.clone()];
            names.into_iter().flatten().for_each(|name| about.entry(name).or_default().push(at));
        }
        let targets = Value::from_iter(about.keys().map(|target| json!({ "target": target })));
        let sql = format!(
            "select f.target, f.name, cast(f.value as text) from feedback as f \
             where f.target in (select {} from {}) order by f.created_at, f.id",
            self.database.field("target"),
            self.database.records(&[("target", Kind::Text)])
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(targets.to_string());
        for row in rows.fetch_all(&self.pool).await? {
            let (target, name, value): (String, String, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let value: Value = serde_json::from_str(&value).unwrap_or_default();
            for at in about.get(&target).into_iter().flatten() {
                if let Some(call) = calls.get_mut(*at) {
                    call.verdicts.insert(name.clone(), value.clone());
                }
            }
        }
        Ok(())
    }
}
