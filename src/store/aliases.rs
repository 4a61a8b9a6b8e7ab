//! Names that lead to tuned models: what answers, what is on trial, and what was done with them.

mod book;
mod outcomes;

use ring::digest;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::database::Database;
use super::database::StoreError;
use super::datasets::none_without_ledger;
use super::outbox;
use super::outbox::Event;
use super::period;

pub use book::AliasBook;
pub use outcomes::Compared;
pub use outcomes::Outcomes;

/// A model that an alias leads to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Its name.
    pub model: String,
    /// Texts that were taken out of the prompts that it was trained on, and are out of its calls.
    #[serde(default)]
    pub prune: Vec<String>,
    /// The job that trained it; `None` for a base.
    #[serde(default)]
    pub job_id: Option<Uuid>,
    /// The dataset that it was trained on.
    #[serde(default)]
    pub dataset_id: Option<Uuid>,
}

/// A model on trial, and the terms of the trial. Times are in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// The model.
    #[serde(flatten)]
    pub arm: Arm,
    /// Its share of the calls, above 0 and below 100.
    pub percent: f64,
    /// Shares to come; 100 ends the trial.
    pub steps: Vec<f64>,
    /// How long a step takes at least, in milliseconds.
    pub step_ms: i64,
    /// How many calls it takes at least.
    pub least_calls: u64,
    /// When the trial began.
    pub started_at: i64,
    /// When this step began.
    pub step_at: i64,
    /// Calls of this step until `looked_until`.
    pub step_calls: u64,
    /// Up to when calls were compared.
    pub looked_until: i64,
    /// How many times as much a call costs at the canary's prices; `None` where one of them has none.
    pub cost_ratio: Option<f64>,
    /// What counts as slow and as dear, once known.
    pub usual: Option<Usual>,
    /// The comparison so far, as whoever compares keeps it.
    pub evidence: Value,
}

/// What nine of ten calls of the serving arm stay below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usual {
    /// From the request's first byte to the answer's last.
    pub latency_ms: i64,
    /// Cost of a call in 10^-12 USD; `None` where they are unpriced.
    pub cost_picodollars: Option<i64>,
}

impl Usual {
    /// Above it a call is slow, in milliseconds: a little more than usual matters to nobody.
    pub fn slow_ms(&self) -> i64 {
        self.latency_ms.saturating_add(self.latency_ms / 4).saturating_add(50)
    }

    /// Above it a call is dear, in 10^-12 USD, where calls cost `ratio` times as much.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a bound, not a bill"
    )]
    pub fn dear(&self, ratio: f64) -> Option<i64> {
        Some((self.cost_picodollars? as f64 * 1.25 * ratio) as i64)
    }
}

/// An alias.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AliasRow {
    /// What clients ask for as `model`.
    pub name: String,
    /// Counts changes; 0 is not stored yet.
    pub version: i64,
    /// In milliseconds since 1970.
    pub created_at: i64,
    /// In milliseconds since 1970.
    pub updated_at: i64,
    /// What answers.
    pub serving: Arm,
    /// What is on trial.
    pub canary: Option<Canary>,
    /// What answered before.
    pub previous: Option<Arm>,
    /// What became of the last canary.
    pub outcome: Option<Value>,
}

impl AliasRow {
    /// The arm of a caller: the same one as long as the canary's share does not change, and who is
    /// on the canary stays there when it grows. The second is whether it is the canary.
    pub fn arm_of(&self, who: &[u8]) -> (&Arm, bool) {
        match &self.canary {
            Some(canary) if draw(&self.name, who) * 100.0 < canary.percent => (&canary.arm, true),
            _ => (&self.serving, false),
        }
    }
}

/// A number from 0 to below 1 for each caller, by SHA-256: its spread is even, and it is the same
/// on all gateways.
fn draw(name: &str, who: &[u8]) -> f64 {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&name.len().to_be_bytes());
    hash.update(name.as_bytes());
    hash.update(who);
    let mut first = [0; 8];
    first.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
    // 53 bits fill a double exactly.
    (u64::from_be_bytes(first) >> 11) as f64 / 9_007_199_254_740_992.0
}

/// Something that was done with an alias.
#[derive(Clone, Debug, Serialize)]
pub struct AliasEvent {
    /// When, in RFC 3339.
    pub created_at: String,
    /// What.
    pub kind: String,
    /// Why, and by which figures.
    pub data: Value,
}

/// Reads and writes aliases.
#[derive(Clone, Debug)]
pub struct Aliases {
    database: Database,
    pool: AnyPool,
}

impl Aliases {
    /// Those of a store that is in use. To be called on a runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn of(database: &Database) -> Result<Self, StoreError> {
        Ok(Self { pool: database.pool()?, database: database.clone() })
    }

    /// All of them, by name.
    ///
    /// # Errors
    /// The store is away.
    pub async fn all(&self) -> Result<Vec<AliasRow>, StoreError> {
        let (created, updated) =
            (self.database.millis("created_at"), self.database.millis("updated_at"));
        let sql = format!(
            "select name, version, {created}, {updated}, cast(serving as text), \
               cast(canary as text), cast(previous as text), cast(outcome as text) \
             from aliases order by name"
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&self.pool).await;
        match rows.and_then(|rows| rows.iter().map(read).collect()) {
            Ok(rows) => Ok(rows),
            Err(error) => none_without_ledger(self.database.unreadable(&error), Vec::new()),
        }
    }

    /// One by its name.
    ///
    /// # Errors
    /// The store is away.
    pub async fn find(&self, name: &str) -> Result<Option<AliasRow>, StoreError> {
        Ok(self.all().await?.into_iter().find(|row| row.name == name))
    }

    /// Writes an alias down, and what was done if anything was worth telling. False where somebody
    /// else has changed it meanwhile.
    ///
    /// # Errors
    /// The store is away.
    pub async fn save(
        &self,
        row: &mut AliasRow,
        told: Option<(&str, &Value)>,
    ) -> Result<bool, StoreError> {
        let mut connection = self.database.connect().await?;
        self.database.migrate_by(&mut connection).await?;
        let work = async {
            let mut transaction = self.database.begin(&mut connection).await?;
            let statement = if row.version == 0 { self.insert() } else { self.update() };
            let done = sqlx::query(AssertSqlSafe(statement))
                .bind(&row.name)
                .bind(row.version)
                .bind(row.updated_at)
                .bind(text(&row.serving))
                .bind(row.canary.as_ref().map(text))
                .bind(row.previous.as_ref().map(text))
                .bind(row.outcome.as_ref().map(text))
                .execute(&mut *transaction)
                .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            if let Some((kind, data)) = told {
                self.tell(&mut transaction, &row.name, kind, data, row.updated_at).await?;
            }
            transaction.commit().await.map(|()| true)
        };
        let saved = self.database.within(work).await?;
        row.version += i64::from(saved);
        Ok(saved)
    }

    /// Takes an alias away; false where there is none. Its events stay.
    ///
    /// # Errors
    /// The store is away.
    pub async fn delete(&self, name: &str, now: i64) -> Result<bool, StoreError> {
        let mut connection = self.database.connect().await?;
        let work = async {
            let mut transaction = self.database.begin(&mut connection).await?;
            let gone = sqlx::query("delete from aliases where name = $1").bind(name);
            if gone.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Ok(false);
            }
            self.tell(&mut transaction, name, "deleted", &Value::Null, now).await?;
            transaction.commit().await.map(|()| true)
        };
        self.database.within(work).await
    }

    fn insert(&self) -> String {
        let (at, database) = (self.database.instant(3), &self.database);
        format!(
            "insert into aliases \
               (name, version, created_at, updated_at, serving, canary, previous, outcome) \
             values ($1, $2 + 1, {at}, {at}, {}, {}, {}, {}) on conflict (name) do nothing",
            database.json(4),
            database.json(5),
            database.json(6),
            database.json(7)
        )
    }

    fn update(&self) -> String {
        let database = &self.database;
        format!(
            "update aliases set version = version + 1, updated_at = {}, serving = {}, \
               canary = {}, previous = {}, outcome = {} where name = $1 and version = $2",
            database.instant(3),
            database.json(4),
            database.json(5),
            database.json(6),
            database.json(7)
        )
    }

    async fn tell(
        &self,
        connection: &mut sqlx::AnyConnection,
        alias: &str,
        kind: &str,
        data: &Value,
        at: i64,
    ) -> sqlx::Result<()> {
        let sql = format!(
            "insert into alias_events (id, alias, created_at, kind, data) \
             values ({}, $2, {}, $4, {})",
            self.database.id(1),
            self.database.instant(3),
            self.database.json(5)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(Uuid::now_v7().to_string());
        let statement = statement.bind(alias).bind(at).bind(kind).bind(data.to_string());
        statement.execute(&mut *connection).await?;
        if !matches!(kind, "promoted" | "rolled_back") {
            return Ok(());
        }
        let data = json!({ "alias": alias, "at": period::written(at), "why": data });
        let event = Event { kind: format!("alias.{kind}"), subject: alias.to_owned(), data };
        outbox::push(connection, &event).await
    }

    /// What was done with an alias, the last first, at most so much.
    ///
    /// # Errors
    /// The store is away.
    pub async fn events(&self, alias: &str, most: u32) -> Result<Vec<AliasEvent>, StoreError> {
        let sql = format!(
            "select {}, kind, cast(data as text) from alias_events where alias = $1 \
             order by id desc limit {most}",
            self.database.millis("created_at")
        );
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(alias).fetch_all(&self.pool).await;
        let read = |row: &AnyRow| {
            let created_at = period::written(row.try_get(0)?);
            Ok(AliasEvent { created_at, kind: row.try_get(1)?, data: parsed(row, 2)? })
        };
        let events = rows.and_then(|rows| rows.iter().map(read).collect());
        events.map_err(|error| self.database.unreadable(&error))
    }
}

fn text(of: &impl Serialize) -> String {
    serde_json::to_string(of).unwrap_or_default()
}

fn parsed<T: serde::de::DeserializeOwned>(row: &AnyRow, at: usize) -> sqlx::Result<T> {
    let text: String = row.try_get(at)?;
    serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn read(row: &AnyRow) -> sqlx::Result<AliasRow> {
    let is_there = |at| row.try_get::<Option<String>, _>(at).map(|text| text.is_some());
    Ok(AliasRow {
        name: row.try_get(0)?,
        version: row.try_get(1)?,
        created_at: row.try_get(2)?,
        updated_at: row.try_get(3)?,
        serving: parsed(row, 4)?,
        canary: if is_there(5)? { parsed(row, 5)? } else { None },
        previous: if is_there(6)? { parsed(row, 6)? } else { None },
        outcome: if is_there(7)? { parsed(row, 7)? } else { None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(percent: f64) -> AliasRow {
        let arm = |model: &str| Arm { model: model.to_owned(), ..Arm::default() };
        let canary = Canary { arm: arm("new"), percent, ..Canary::default() };
        AliasRow {
            name: "support-bot".to_owned(),
            serving: arm("old"),
            canary: Some(canary),
            ..AliasRow::default()
        }
    }

    #[test]
    fn callers_fall_on_the_canary_by_its_share_and_stay_when_it_grows() {
        let on = |percent, who: u32| row(percent).arm_of(&who.to_be_bytes()).1;
        let few: Vec<u32> = (0..20_000).filter(|who| on(5.0, *who)).collect();
        // 1,000 of 20,000; five times the standard deviation is 154.
        assert!((846..=1_154).contains(&few.len()), "{}", few.len());
        assert!(few.iter().all(|who| on(25.0, *who)), "nobody leaves a canary that grows");
        assert!((0..1_000).all(|who| !on(0.0, who)));
    }
}
