//! The ledger: what calls cost, summed by whatever somebody wants to know.
//!
//! Costs are added up as integers, by the database: micro-dollars and the rest apart, so that no
//! sum overflows 64 bits before it reaches nine trillion dollars.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use thiserror::Error;

use crate::metering::cost::PriceStatus;
use crate::metering::money::Usd;

use super::database::Database;
use super::database::StoreError;
use super::period;
use super::period::Period;

/// Lines of one page when nobody says how many, and the most that anybody gets.
const LINES: usize = 1000;
const MOST_LINES: usize = 10_000;
/// Dimensions of one question.
const MOST_DIMENSIONS: usize = 8;
const PICODOLLARS_PER_MICRODOLLAR: i128 = 1_000_000;

/// What a question may be grouped by, and where that is. Tags and times are asked for differently.
const COLUMNS: [(&str, &str); 12] = [
    ("team", "team"),
    ("key", "key_name"),
    ("model", "coalesce(model, response_model)"),
    ("requested_model", "requested_model"),
    ("response_model", "response_model"),
    ("upstream", "provider"),
    ("route", "route"),
    ("endpoint", "endpoint"),
    ("policy", "policy_version"),
    ("price_status", "price_status"),
    ("user", "end_user_hash"),
    ("session", "session_id"),
];
/// The same for times in UTC: name, SQLite's format, Postgres' format.
const TIMES: [(&str, &str, &str); 3] = [
    ("hour", "%Y-%m-%dT%H:00:00Z", r#"YYYY-MM-DD"T"HH24":00:00Z""#),
    ("day", "%Y-%m-%d", "YYYY-MM-DD"),
    ("month", "%Y-%m", "YYYY-MM"),
];

/// A parameter that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{name}`: {message}")]
pub struct BadParameter {
    /// Its name.
    pub name: String,
    /// What is wrong with it, and what to write.
    pub message: String,
}

/// A question to the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpendQuery {
    dimensions: Vec<String>,
    period: Period,
    limit: Option<usize>,
    after: Option<String>,
    descending: bool,
}

impl SpendQuery {
    /// Reads parameters by their names. `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// The first parameter that cannot be used.
    pub fn parse<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
        now: i64,
    ) -> Result<Self, BadParameter> {
        let mut query = Self::default();
        for (name, value) in parameters {
            query
                .set(name, value, now)
                .map_err(|message| BadParameter { name: name.to_owned(), message })?;
        }
        if query.period.since >= query.period.until {
            let message = "must be before `until`".to_owned();
            return Err(BadParameter { name: "since".to_owned(), message });
        }
        Ok(query)
    }

    /// The period asked about.
    pub fn period(&self) -> Period {
        self.period
    }

    fn set(&mut self, name: &str, value: &str, now: i64) -> Result<(), String> {
        let time = || {
            period::instant(value, now)
                .ok_or_else(|| format!("`{value}` is no time; {}", period::HOW))
        };
        match name {
            "group_by" => self.dimensions = dimensions(value)?,
            "since" => self.period.since = time()?,
            "until" => self.period.until = time()?,
            "after" => self.after = Some(value.to_owned()),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST_LINES).contains(limit));
                let wrong = || format!("`{value}` is not between 1 and {MOST_LINES}");
                self.limit = Some(limit.ok_or_else(wrong)?);
            }
            "order" => {
                self.descending = match value {
                    "asc" => false,
                    "desc" => true,
                    _ => return Err(format!("`{value}` is neither asc nor desc")),
                }
            }
            _ => {
                return Err("is no parameter; there are group_by, since, until, after, limit and \
                            order"
                    .to_owned());
            }
        }
        Ok(())
    }
}

fn dimensions(list: &str) -> Result<Vec<String>, String> {
    let mut found: Vec<String> = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let known = name.strip_prefix("tag:").is_some_and(|tag| !tag.is_empty())
            || COLUMNS.iter().any(|(known, _)| *known == name)
            || TIMES.iter().any(|(known, ..)| *known == name);
        if !known {
            let columns = COLUMNS.map(|(name, _)| name).join(", ");
            return Err(format!("`{name}` is none of {columns}, hour, day, month, tag:<name>"));
        }
        if !found.iter().any(|other| other == name) {
            found.push(name.to_owned());
        }
    }
    if found.len() > MOST_DIMENSIONS {
        return Err(format!("names more than {MOST_DIMENSIONS}"));
    }
    Ok(found)
}

/// One group of calls, and what they cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpendLine {
    object: &'static str,
    /// The group's values, joined; `total` where nothing is grouped.
    pub id: String,
    /// What is grouped by, and this group's value; null where calls have none.
    #[serde(flatten)]
    pub group: BTreeMap<String, Option<String>>,
    /// All calls, those without usage included.
    pub requests: i64,
    /// What the priced calls cost; null where there is usage and a price for none of it.
    pub cost_usd: Option<Usd>,
    /// Calls whose usage was reported and priced, and their part of the cost.
    pub exact_requests: i64,
    /// In USD.
    pub exact_cost_usd: Usd,
    /// Calls whose usage was counted here, and their part of the cost.
    pub estimated_requests: i64,
    /// In USD.
    pub estimated_cost_usd: Usd,
    /// Calls with usage and no price: not part of any cost.
    pub unpriced_requests: i64,
    /// Their tokens.
    pub unpriced_input_tokens: i64,
    /// Their tokens.
    pub unpriced_output_tokens: i64,
    /// Input of all calls.
    pub input_tokens: i64,
    /// The part of it that came from the cache.
    pub cached_input_tokens: i64,
    /// Output of all calls.
    pub output_tokens: i64,
    /// The part of it that was reasoning.
    pub reasoning_tokens: i64,
    /// Calls that `weir spend recost` priced again.
    pub recosted_requests: i64,
    /// What those cost at the later prices; null where there are none.
    pub cost_recosted_usd: Option<Usd>,
}

/// One page of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct SpendPage {
    object: &'static str,
    /// The lines, in the order of their groups.
    pub data: Vec<SpendLine>,
    first_id: Option<String>,
    last_id: Option<String>,
    /// Whether more lines follow.
    pub has_more: bool,
}

/// Reads the ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(super) database: Database,
    pub(super) pool: AnyPool,
}

impl Ledger {
    /// The ledger in this store; connections are opened when somebody asks, so this must be called
    /// on a runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn of(database: &Database) -> Result<Self, StoreError> {
        Ok(Self { pool: database.pool()?, database: database.clone() })
    }

    /// Where it is.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Sums up.
    ///
    /// # Errors
    /// The store is away, or has no ledger.
    pub async fn spend(&self, query: &SpendQuery) -> Result<SpendPage, StoreError> {
        let (sql, tags) = self.statement(query);
        let mut statement = sqlx::query(AssertSqlSafe(sql));
        statement = statement.bind(query.period.since).bind(query.period.until);
        for tag in tags {
            statement = statement.bind(tag);
        }
        let rows = statement.fetch_all(&self.pool).await;
        let lines = rows.and_then(|rows| lines(&query.dimensions, &rows));
        let lines = lines.map_err(|error| self.database.unreadable(&error))?;
        Ok(page(query, lines))
    }

    /// Sums up, in a store that is being used: a ledger that is not there yet is made.
    ///
    /// # Errors
    /// The store is away.
    pub async fn spend_in_use(&self, query: &SpendQuery) -> Result<SpendPage, StoreError> {
        match self.spend(query).await {
            Err(StoreError::NoLedger { .. }) => {
                self.database.migrate().await?;
                self.spend(query).await
            }
            answer => answer,
        }
    }

    /// The statement, made of fixed texts alone, and the tags that it binds after the period.
    fn statement<'q>(&self, query: &'q SpendQuery) -> (String, Vec<&'q str>) {
        let mut tags = Vec::new();
        let columns = query.dimensions.iter().map(|name| self.column(name, &mut tags));
        let columns: String = columns.map(|column| format!("{column}, ")).collect();
        let places: Vec<String> = (1..=query.dimensions.len() + 1).map(|n| n.to_string()).collect();
        let (since, until) = (self.database.instant(1), self.database.instant(2));
        let sql = format!(
            "select {columns} price_status, count(*), \
             {}, {}, {}, {}, {}, {}, count(recost_status), {}, {} \
             from interactions where created_at >= {since} and created_at < {until} \
             group by {}",
            sum("cost_picodollars / 1000000"),
            sum("cost_picodollars % 1000000"),
            sum("input_tokens"),
            sum("cached_input_tokens"),
            sum("output_tokens"),
            sum("reasoning_tokens"),
            sum("cost_recosted_picodollars / 1000000"),
            sum("cost_recosted_picodollars % 1000000"),
            places.join(", "),
        );
        (sql, tags)
    }

    fn column<'q>(&self, name: &'q str, tags: &mut Vec<&'q str>) -> String {
        if let Some(tag) = name.strip_prefix("tag:") {
            tags.push(tag);
            return self.database.tag_of_row(tags.len() + 2);
        }
        if let Some((_, sqlite, postgres)) = TIMES.iter().find(|(time, ..)| *time == name) {
            return self.database.time_of_row(sqlite, postgres);
        }
        let column = COLUMNS.iter().find(|(column, _)| *column == name);
        column.map_or("null", |(_, column)| column).to_owned()
    }
}

fn sum(of: &str) -> String {
    format!("cast(sum({of}) as bigint)")
}

/// Folds the rows of each group, one for every price status, into one line.
fn lines(dimensions: &[String], rows: &[AnyRow]) -> sqlx::Result<Vec<SpendLine>> {
    let mut groups: BTreeMap<Vec<Option<String>>, SpendLine> = BTreeMap::new();
    for row in rows {
        let values = (0..dimensions.len()).map(|place| row.try_get(place));
        let values: Vec<Option<String>> = values.collect::<sqlx::Result<_>>()?;
        let line = groups.entry(values).or_default();
        line.add(row, dimensions.len())?;
    }
    let finish = |(values, line): (Vec<Option<String>>, SpendLine)| line.named(dimensions, values);
    Ok(groups.into_iter().map(finish).collect())
}

impl SpendLine {
    /// Adds the row of one price status; `first` is the column after the dimensions.
    fn add(&mut self, row: &AnyRow, first: usize) -> sqlx::Result<()> {
        let status: Option<String> = row.try_get(first)?;
        let number = |place| row.try_get::<Option<i64>, _>(first + place);
        let money = |place| Ok::<_, sqlx::Error>(usd(number(place)?, number(place + 1)?));
        let requests = number(1)?.unwrap_or(0);
        let cost = money(2)?;
        let [input, cached, output, reasoning] = [number(4)?, number(5)?, number(6)?, number(7)?];
        let [input, output] = [input.unwrap_or(0), output.unwrap_or(0)];
        self.requests += requests;
        self.input_tokens += input;
        self.cached_input_tokens += cached.unwrap_or(0);
        self.output_tokens += output;
        self.reasoning_tokens += reasoning.unwrap_or(0);
        self.recosted_requests += number(8)?.unwrap_or(0);
        if let Some(cost) = money(9)? {
            *self.cost_recosted_usd.get_or_insert_default() += cost;
        }
        if let Some(cost) = cost {
            *self.cost_usd.get_or_insert_default() += cost;
        }
        let is = |wanted: PriceStatus| status.as_deref() == Some(wanted.as_str());
        if is(PriceStatus::Exact) {
            self.exact_requests += requests;
            self.exact_cost_usd += cost.unwrap_or_default();
        } else if is(PriceStatus::Estimated) {
            self.estimated_requests += requests;
            self.estimated_cost_usd += cost.unwrap_or_default();
        } else if is(PriceStatus::Unpriced) {
            self.unpriced_requests += requests;
            self.unpriced_input_tokens += input;
            self.unpriced_output_tokens += output;
        }
        Ok(())
    }

    fn named(mut self, dimensions: &[String], values: Vec<Option<String>>) -> Self {
        self.object = "spend";
        let shown: Vec<&str> = values.iter().map(|v| v.as_deref().unwrap_or_default()).collect();
        self.id = if shown.is_empty() { "total".to_owned() } else { shown.join(",") };
        self.group = dimensions.iter().cloned().zip(values).collect();
        // Calls that used nothing cost nothing; usage without a price is not known to.
        if self.unpriced_requests == 0 {
            self.cost_usd.get_or_insert_default();
        }
        self
    }
}

fn usd(micro: Option<i64>, pico: Option<i64>) -> Option<Usd> {
    let micro = i128::from(micro?).checked_mul(PICODOLLARS_PER_MICRODOLLAR)?;
    Some(Usd::from_picodollars(micro + i128::from(pico?)))
}

fn page(query: &SpendQuery, mut lines: Vec<SpendLine>) -> SpendPage {
    if lines.is_empty() && query.dimensions.is_empty() {
        lines.push(SpendLine::default().named(&[], Vec::new()));
    }
    if query.descending {
        lines.reverse();
    }
    if let Some(after) = &query.after {
        let seen = lines.iter().position(|line| line.id == *after).map_or(lines.len(), |at| at + 1);
        lines.drain(..seen);
    }
    let limit = query.limit.unwrap_or(LINES);
    let has_more = lines.len() > limit;
    lines.truncate(limit);
    SpendPage {
        object: "list",
        first_id: lines.first().map(|line| line.id.clone()),
        last_id: lines.last().map(|line| line.id.clone()),
        has_more,
        data: lines,
    }
}
