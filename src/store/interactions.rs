//! Reads what was captured: pages of interactions, and one with all that was said in it.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::metering::money::Usd;
use crate::openai::unescape::unescape_text;

use super::database::Database;
use super::database::Engine;
use super::database::StoreError;
use super::interaction::COLUMNS;
use super::interaction::Kind;
use super::ledger::BadParameter;
use super::ledger::Ledger;
use super::pair;
use super::period;

/// Interactions of one page when nobody says how many, and the most that anybody gets.
const PAGE: u32 = 20;
const LARGEST_PAGE: u32 = 1000;
/// Interactions whose bodies one search looks into; the next page goes on where it stopped.
const SEARCHED: u32 = 5000;
/// The same for one statement.
const SEARCHED_AT_ONCE: u32 = 100;
/// Largest body that is read.
const LARGEST_BODY: usize = 256 << 20;

/// Filters that compare a column with a text.
const TEXTS: [(&str, &str); 11] = [
    ("route", "i.route"),
    ("model", "i.model"),
    ("requested_model", "i.requested_model"),
    ("response_model", "i.response_model"),
    ("response_id", "i.response_id"),
    ("upstream", "i.provider"),
    ("key", "i.key_name"),
    ("team", "i.team"),
    ("session", "i.session_id"),
    ("endpoint", "i.endpoint"),
    ("capture", "i.capture"),
];

/// Which interactions are wanted.
#[derive(Clone, Debug, Default)]
pub struct InteractionQuery {
    pub(super) conditions: Vec<Condition>,
    search: Option<String>,
    limit: Option<u32>,
    ascending: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Condition {
    Text(&'static str, String),
    Tag(String, String),
    Status(i64),
    /// By the keyed hash.
    User(String),
    From(Uuid),
    Before(Uuid),
    After(Uuid),
    Feedback(bool),
}

impl InteractionQuery {
    /// Reads parameters by their names. `now` is in milliseconds since 1970; `hash` turns a user's
    /// name into what the store knows of it.
    ///
    /// # Errors
    /// The first parameter that cannot be used.
    pub fn parse<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
        now: i64,
        hash: impl Fn(&str) -> String,
    ) -> Result<Self, BadParameter> {
        let mut query = Self::default();
        for (name, value) in parameters {
            query
                .set(name, value, now, &hash)
                .map_err(|message| BadParameter { name: name.to_owned(), message })?;
        }
        Ok(query)
    }

    fn set(
        &mut self,
        name: &str,
        value: &str,
        now: i64,
        hash: &impl Fn(&str) -> String,
    ) -> Result<(), String> {
        let condition = match name {
            "since" => Condition::From(period::first_id(time(value, now)?)),
            "until" => Condition::Before(period::first_id(time(value, now)?)),
            "after" => {
                let id = Uuid::try_parse(value);
                Condition::After(id.map_err(|_| format!("`{value}` is no interaction's id"))?)
            }
            "status" => {
                let status = value.parse().map_err(|_| format!("`{value}` is no HTTP status"))?;
                Condition::Status(status)
            }
            "user" => Condition::User(hash(value)),
            "has_feedback" => match value {
                "true" => Condition::Feedback(true),
                "false" => Condition::Feedback(false),
                _ => return Err(format!("`{value}` is neither true nor false")),
            },
            "tag" => {
                let (tag, value) =
                    value.split_once(':').ok_or("write it as tag=name:value".to_owned())?;
                Condition::Tag(tag.to_owned(), value.to_owned())
            }
            _ => return self.set_other(name, value),
        };
        self.conditions.push(condition);
        Ok(())
    }

    fn set_other(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "q" => self.search = Some(value.to_lowercase()).filter(|text| !text.is_empty()),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
                let wrong = || format!("`{value}` is not between 1 and {LARGEST_PAGE}");
                self.limit = Some(limit.ok_or_else(wrong)?);
            }
            "order" => {
                self.ascending = match value {
                    "asc" => true,
                    "desc" => false,
                    _ => return Err(format!("`{value}` is neither asc nor desc")),
                }
            }
            _ => {
                let Some((_, column)) = TEXTS.iter().find(|(known, _)| *known == name) else {
                    let texts = TEXTS.map(|(name, _)| name).join(", ");
                    return Err(format!(
                        "is no parameter; there are {texts}, user, tag, status, has_feedback, \
                         since, until, q, limit, after and order"
                    ));
                };
                self.conditions.push(Condition::Text(column, value.to_owned()));
            }
        }
        Ok(())
    }
}

fn time(value: &str, now: i64) -> Result<i64, String> {
    period::instant(value, now).ok_or_else(|| format!("`{value}` is no time; {}", period::HOW))
}

/// One page.
#[derive(Clone, Debug, Serialize)]
pub struct InteractionPage {
    object: &'static str,
    /// The interactions, the newest first unless asked otherwise.
    pub data: Vec<Map<String, Value>>,
    first_id: Option<String>,
    /// Where the next page begins. A search may have looked further than what it found.
    pub last_id: Option<String>,
    /// Whether there may be more.
    pub has_more: bool,
}

/// One interaction with its bodies and what people think of it.
#[derive(Debug, Serialize)]
pub struct WholeInteraction {
    /// Its figures.
    #[serde(flatten)]
    pub interaction: Map<String, Value>,
    /// The request's body, where it was kept.
    pub request: Option<Box<RawValue>>,
    /// The answer's body, where it was kept.
    pub response: Option<Box<RawValue>>,
    /// The last verdict of each name.
    pub feedback: Map<String, Value>,
    /// All verdicts, the oldest first.
    pub feedback_history: Vec<Value>,
}

/// Reads interactions.
#[derive(Clone, Debug)]
pub struct Interactions {
    pub(super) database: Database,
    pub(super) pool: AnyPool,
}

impl Interactions {
    /// Those of this ledger.
    pub fn of(ledger: &Ledger) -> Self {
        Self { database: ledger.database.clone(), pool: ledger.pool.clone() }
    }

    /// One page.
    ///
    /// # Errors
    /// The store is away, or has no ledger.
    pub async fn page(&self, query: &InteractionQuery) -> Result<InteractionPage, StoreError> {
        let page = match &query.search {
            Some(text) => self.search(query, text).await,
            None => self.list(query).await,
        };
        page.map_err(|error| self.database.unreadable(&error))
    }

    /// One page of a store that is being used: one without a ledger yet is empty.
    ///
    /// # Errors
    /// The store is away.
    pub async fn page_in_use(
        &self,
        query: &InteractionQuery,
    ) -> Result<InteractionPage, StoreError> {
        match self.page(query).await {
            Err(StoreError::NoLedger { .. }) => Ok(list(Vec::new(), None, false)),
            page => page,
        }
    }

    async fn list(&self, query: &InteractionQuery) -> sqlx::Result<InteractionPage> {
        let limit = query.limit.unwrap_or(PAGE);
        let mut rows = self.rows(query, None, limit + 1, false).await?;
        let has_more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let data: Vec<_> = rows.iter().map(interaction).collect::<sqlx::Result<_>>()?;
        let last = data.last().and_then(id_of);
        Ok(list(data, last, has_more))
    }

    /// Looks into bodies, one handful of interactions after the other.
    async fn search(&self, query: &InteractionQuery, text: &str) -> sqlx::Result<InteractionPage> {
        let limit = usize::try_from(query.limit.unwrap_or(PAGE)).unwrap_or(usize::MAX);
        let (mut found, mut looked, mut last) = (Vec::new(), 0, None);
        while looked < SEARCHED {
            let rows = self.rows(query, last, SEARCHED_AT_ONCE, true).await?;
            let all = rows.len() < usize::try_from(SEARCHED_AT_ONCE).unwrap_or(usize::MAX);
            for row in &rows {
                let interaction = interaction(row)?;
                last = id_of(&interaction).and_then(|id| Uuid::try_parse(&id).ok()).or(last);
                let bodies = [self.body(row, 1).await?, self.body(row, 2).await?];
                if bodies.iter().flatten().any(|body| says(body, text)) {
                    found.push(interaction);
                    if found.len() == limit {
                        return Ok(list(found, last.map(|id| id.to_string()), true));
                    }
                }
            }
            if all {
                let last = found.last().and_then(id_of);
                return Ok(list(found, last, false));
            }
            looked += SEARCHED_AT_ONCE;
        }
        Ok(list(found, last.map(|id| id.to_string()), true))
    }

    async fn rows(
        &self,
        query: &InteractionQuery,
        after: Option<Uuid>,
        limit: u32,
        bodies: bool,
    ) -> sqlx::Result<Vec<AnyRow>> {
        let mut conditions = query.conditions.clone();
        if let Some(after) = after {
            conditions.retain(|condition| !matches!(condition, Condition::After(_)));
            conditions.push(Condition::After(after));
        }
        let mut sql = format!("select {}", self.object());
        sql.push_str(if bodies {
            ", b.request, b.response, b.request_object, b.response_object \
             from interactions as i join interaction_bodies as b on b.interaction_id = i.id"
        } else {
            " from interactions as i"
        });
        sql.push_str(" where i.erased_at is null and i.capture <> 'off'");
        let mut binds = Vec::new();
        for condition in &conditions {
            let bound = self.condition(condition, query.ascending, binds.len() + 1);
            let _ = write!(sql, " and {}", bound.0);
            binds.extend(bound.1);
        }
        let order = if query.ascending { "asc" } else { "desc" };
        let _ = write!(sql, " order by i.id {order} limit {limit}");
        let mut statement = sqlx::query(AssertSqlSafe(sql));
        for bind in binds {
            statement = statement.bind(bind);
        }
        statement.fetch_all(&self.pool).await
    }

    /// A condition in SQL with what it binds, the first of it as `$first`.
    pub(super) fn condition(
        &self,
        condition: &Condition,
        ascending: bool,
        first: usize,
    ) -> (String, Vec<String>) {
        let id = self.database.id(first);
        match condition {
            Condition::Text(column, value) => (format!("{column} = ${first}"), vec![value.clone()]),
            Condition::User(hash) => (format!("i.end_user_hash = ${first}"), vec![hash.clone()]),
            Condition::Tag(name, value) => {
                (format!("i.tags ->> ${first} = ${}", first + 1), vec![name.clone(), value.clone()])
            }
            Condition::Status(status) => (format!("i.status_code = {status}"), Vec::new()),
            Condition::From(from) => (format!("i.id >= {id}"), vec![from.to_string()]),
            Condition::Before(end) => (format!("i.id < {id}"), vec![end.to_string()]),
            Condition::After(last) => {
                let beyond = if ascending { ">" } else { "<" };
                (format!("i.id {beyond} {id}"), vec![last.to_string()])
            }
            Condition::Feedback(has) => {
                let not = if *has { "" } else { "not " };
                (format!("{not}exists (select 1 from feedback as f where {JUDGES})"), Vec::new())
            }
        }
    }

    /// One interaction by its id, or by that of its answer; `None` when there is none, and when
    /// there is no ledger yet.
    ///
    /// # Errors
    /// The store is away.
    pub async fn find(&self, id: &str) -> Result<Option<WholeInteraction>, StoreError> {
        let found = self.find_row(id).await;
        match found.map_err(|error| self.database.unreadable(&error)) {
            Err(StoreError::NoLedger { .. }) => Ok(None),
            found => found,
        }
    }

    async fn find_row(&self, id: &str) -> sqlx::Result<Option<WholeInteraction>> {
        let is = match Uuid::try_parse(id) {
            Ok(_) => format!("i.id = {}", self.database.id(1)),
            Err(_) => "i.response_id = $1".to_owned(),
        };
        let sql = format!(
            "select {}, b.request, b.response, b.request_object, b.response_object \
             from interactions as i left join interaction_bodies as b on b.interaction_id = i.id \
             where {is} and i.erased_at is null and i.capture <> 'off' limit 1",
            self.object()
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let interaction = interaction(&row)?;
        let id = id_of(&interaction).unwrap_or_default();
        let feedback_history = self.verdicts(&id).await?;
        let mut feedback = Map::new();
        for verdict in &feedback_history {
            if let (Some(Value::String(name)), Some(value)) =
                (verdict.get("name"), verdict.get("value"))
            {
                feedback.insert(name.clone(), value.clone());
            }
        }
        Ok(Some(WholeInteraction {
            interaction,
            request: self.body(&row, 1).await?.as_deref().and_then(as_json),
            response: self.body(&row, 2).await?.as_deref().and_then(as_json),
            feedback,
            feedback_history,
        }))
    }

    /// A body of a row, from the row's column or from the object store.
    async fn body(&self, row: &AnyRow, column: usize) -> sqlx::Result<Option<Vec<u8>>> {
        let mut packed: Option<Vec<u8>> = row.try_get(column)?;
        let object: Option<String> = row.try_get(column + 2)?;
        if let (Some(key), Some(objects)) = (object, &self.database.objects) {
            let got = objects.get(&key).await;
            packed = got.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?;
            if packed.is_none() {
                tracing::error!(key, "a body is not in the object store");
            }
        }
        let Some(packed) = packed.filter(|packed| !packed.is_empty()) else { return Ok(None) };
        Ok(pair::unpack(&packed, LARGEST_BODY)
            .inspect_err(|error| tracing::error!(%error, "a stored body cannot be read"))
            .ok())
    }

    async fn verdicts(&self, id: &str) -> sqlx::Result<Vec<Value>> {
        let sql = format!(
            "select cast(f.id as text), {}, f.target, f.name, cast(f.value as text), f.key_name \
             from interactions as i join feedback as f on {JUDGES} \
             where i.id = {} order by f.created_at, f.id",
            self.time("f.created_at"),
            self.database.id(1)
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_all(&self.pool).await?;
        let verdict = |row: &AnyRow| {
            let text = |at| row.try_get::<String, _>(at);
            let value: Value = serde_json::from_str(&text(4)?).unwrap_or_default();
            Ok(serde_json::json!({
                "object": "feedback", "id": text(0)?, "created_at": text(1)?, "target": text(2)?,
                "name": text(3)?, "value": value, "key_name": text(5)?,
            }))
        };
        rows.iter().map(verdict).collect()
    }

    /// A row as one JSON object, put together by the database.
    fn object(&self) -> String {
        let field = |(name, kind): (&'static str, Kind)| {
            let column = format!("i.{name}");
            let value = match (kind, self.database.engine) {
                (Kind::Time, _) => self.time(&column),
                (Kind::Json | Kind::List, Engine::Sqlite) => format!("json({column})"),
                (Kind::Flag, Engine::Sqlite) => {
                    format!("json(iif({column}, 'true', 'false'))")
                }
                _ => column,
            };
            (name, value)
        };
        self.database.json_object(COLUMNS.into_iter().map(field))
    }

    /// A time in RFC 3339.
    fn time(&self, column: &str) -> String {
        match self.database.engine {
            Engine::Sqlite => {
                format!("strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1000.0, 'unixepoch')")
            }
            Engine::Postgres => {
                format!("to_char({column} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')")
            }
        }
    }
}

/// Whether a verdict is about an interaction.
const JUDGES: &str = "(f.target = cast(i.id as text) or f.target = i.response_id \
                      or f.target = i.session_id)";

fn list(data: Vec<Map<String, Value>>, last_id: Option<String>, has_more: bool) -> InteractionPage {
    InteractionPage {
        object: "list",
        first_id: data.first().and_then(id_of),
        last_id,
        has_more,
        data,
    }
}

fn id_of(interaction: &Map<String, Value>) -> Option<String> {
    interaction.get("id")?.as_str().map(str::to_owned)
}

/// A row as people read it: money in dollars.
fn interaction(row: &AnyRow) -> sqlx::Result<Map<String, Value>> {
    let text: String = row.try_get(0)?;
    let stored: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    let mut shown = Map::new();
    shown.insert("object".to_owned(), "interaction".into());
    for (name, value) in stored {
        match name.as_str() {
            "cost_picodollars" => {
                let cost = value.as_i64().map(|cost| Usd::from_picodollars(cost.into()));
                shown.insert("cost_usd".to_owned(), cost.map(|cost| cost.to_string()).into());
            }
            "rates" => {
                shown.insert("rates_picodollars".to_owned(), value);
            }
            _ => {
                shown.insert(name, value);
            }
        }
    }
    Ok(shown)
}

/// A body as JSON; as a JSON string where it is none.
fn as_json(plain: &[u8]) -> Option<Box<RawValue>> {
    let text = String::from_utf8_lossy(plain).into_owned();
    RawValue::from_string(text).ok().or_else(|| {
        let text = serde_json::to_string(&String::from_utf8_lossy(plain)).ok()?;
        RawValue::from_string(text).ok()
    })
}

/// Whether a body holds a text, in whatever case, written plainly or escaped.
fn says(plain: &[u8], text: &str) -> bool {
    unescape_text(plain).to_lowercase().contains(text)
}
