//! What the calls of both arms of an alias came to: failures, time, cost, verdicts.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use crate::store::database::Engine;
use crate::store::database::StoreError;

use super::Aliases;
use super::Usual;

const FAILED: &str = "(i.status_code >= 400 or i.error_code is not null or i.model <> i.alias_arm)";
/// A target that is an interaction's id; others are answers' ids or sessions.
const UUID_OF_TARGET: &str = "i.id = case when f.target ~ \
    '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then cast(f.target as uuid) end";

/// What the calls of one arm came to in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcomes {
    /// All that were sent to a provider.
    pub calls: u64,
    /// Those that failed, or that another model had to answer.
    pub failed: u64,
    /// Those that did not fail and took longer than usual.
    pub slow: u64,
    /// Those that did not fail and have a price.
    pub priced: u64,
    /// Those of them that cost more than usual.
    pub dear: u64,
    /// Mean time of those that did not fail, in milliseconds.
    pub mean_ms: f64,
    /// Mean cost of those that are priced, in 10^-12 USD.
    pub mean_picodollars: f64,
}

/// Which calls are compared, and by what.
#[derive(Clone, Debug)]
pub struct Compared<'a> {
    /// The alias.
    pub alias: &'a str,
    /// The model on trial.
    pub canary: &'a str,
    /// From when, in milliseconds since 1970.
    pub since: i64,
    /// Until before when.
    pub until: i64,
    /// Above it a call is slow, in milliseconds.
    pub slow_ms: i64,
    /// Above it a call is dear, in 10^-12 USD: on the serving arm, and on the canary.
    pub dear: [i64; 2],
}

impl Aliases {
    /// What the calls of the serving arm and of the canary came to.
    ///
    /// # Errors
    /// The store is away.
    pub async fn outcomes(&self, of: &Compared<'_>) -> Result<[Outcomes; 2], StoreError> {
        let (since, until) = (self.database.instant(3), self.database.instant(4));
        let sum = |holds: &str| format!("coalesce(sum(case when {holds} then 1 else 0 end), 0)");
        let went = format!("not {FAILED}");
        let mean = |of: &str, holds: &str| {
            format!("coalesce(avg(cast(case when {holds} then {of} end as double precision)), 0.0)")
        };
        let dear = "i.cost_picodollars > case when i.alias_arm = $2 then $7 else $6 end";
        let sql = format!(
            "select case when i.alias_arm = $2 then 1 else 0 end, count(*), {failed}, {slow}, \
               {priced}, {dear}, {ms}, {cost} from interactions as i \
             where i.alias = $1 and i.attempts > 0 and i.created_at >= {since} \
               and i.created_at < {until} group by 1",
            failed = sum(FAILED),
            slow = sum(&format!("{went} and i.latency_ms > $5")),
            priced = sum(&format!("{went} and i.cost_picodollars is not null")),
            dear = sum(&format!("{went} and {dear}")),
            ms = mean("i.latency_ms", &went),
            cost = mean("i.cost_picodollars", &went),
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(of.alias).bind(of.canary);
        let statement = statement.bind(of.since).bind(of.until).bind(of.slow_ms);
        let statement = statement.bind(of.dear[0]).bind(of.dear[1]);
        let rows = self.database.within(statement.fetch_all(&self.pool)).await?;
        let mut arms = [Outcomes::default(); 2];
        for row in &rows {
            let (canary, outcomes) =
                counted(row).map_err(|error| self.database.unavailable(&error))?;
            arms[usize::from(canary)] = outcomes;
        }
        Ok(arms)
    }

    /// What nine of ten of the serving arm's first calls since a time stay below, once there are
    /// enough of them.
    ///
    /// # Errors
    /// The store is away.
    pub async fn usual(
        &self,
        alias: &str,
        serving: &str,
        since: i64,
        enough: usize,
    ) -> Result<Option<Usual>, StoreError> {
        let sql = format!(
            "select i.latency_ms, i.cost_picodollars from interactions as i \
             where i.alias = $1 and i.alias_arm = $2 and i.attempts > 0 and not {FAILED} \
               and i.created_at >= {} order by i.created_at limit {enough}",
            self.database.instant(3)
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(alias).bind(serving).bind(since);
        let rows = self.database.within(statement.fetch_all(&self.pool)).await?;
        if rows.len() < enough {
            return Ok(None);
        }
        let column = |at: usize| {
            let values: sqlx::Result<Vec<Option<i64>>> =
                rows.iter().map(|row| row.try_get(at)).collect();
            values.map_err(|error| self.database.unavailable(&error))
        };
        let costs: Vec<i64> = column(1)?.into_iter().flatten().collect();
        let most_are_priced = costs.len() * 2 > rows.len();
        let latency_ms = nine_of_ten(column(0)?.into_iter().flatten().collect()).unwrap_or(0);
        let cost_picodollars = nine_of_ten(costs).filter(|_| most_are_priced);
        Ok(Some(Usual { latency_ms, cost_picodollars }))
    }

    /// Verdicts on calls of the serving arm and of the canary that were given in a time: how many,
    /// and how many of them are bad. The last one of a name on a call counts.
    ///
    /// # Errors
    /// The store is away.
    pub async fn verdicts(&self, of: &Compared<'_>) -> Result<[(u64, u64); 2], StoreError> {
        let (since, until) = (self.database.instant(3), self.database.instant(4));
        let same = match self.database.engine {
            Engine::Sqlite => "i.id = f.target",
            Engine::Postgres => UUID_OF_TARGET,
        };
        let sql = format!(
            "select case when i.alias_arm = $2 then 1 else 0 end, f.target, f.name, \
               cast(f.value as text) from feedback as f join interactions as i \
               on {same} or i.response_id = f.target \
             where i.alias = $1 and f.created_at >= {since} and f.created_at < {until} \
             order by f.created_at, f.id limit 100000"
        );
        let statement = sqlx::query(AssertSqlSafe(sql)).bind(of.alias).bind(of.canary);
        let statement = statement.bind(of.since).bind(of.until);
        let rows = self.database.within(statement.fetch_all(&self.pool)).await?;
        let mut last = HashMap::new();
        for row in &rows {
            let read = || -> sqlx::Result<_> {
                let canary: i64 = number(row, 0)?;
                let of: (String, String) = (row.try_get(1)?, row.try_get(2)?);
                Ok((of, canary == 1, is_bad(&row.try_get::<String, _>(3)?)))
            };
            let (of, canary, bad) = read().map_err(|error| self.database.unavailable(&error))?;
            if let Some(bad) = bad {
                last.insert(of, (canary, bad));
            }
        }
        let mut arms = [(0, 0); 2];
        for (canary, bad) in last.into_values() {
            let (all, of_them) = &mut arms[usize::from(canary)];
            *all += 1;
            *of_them += u64::from(bad);
        }
        Ok(arms)
    }
}

/// Whether a verdict is a bad one; `None` for what is no verdict of good or bad.
fn is_bad(value: &str) -> Option<bool> {
    match serde_json::from_str(value).ok()? {
        Value::Bool(good) => Some(!good),
        Value::Number(score) => score.as_f64().map(|score| score < 0.5),
        _ => None,
    }
}

fn nine_of_ten(mut values: Vec<i64>) -> Option<i64> {
    values.sort_unstable();
    values.get(values.len() * 9 / 10).copied()
}

/// A count, however wide the database made it.
fn number(row: &AnyRow, at: usize) -> sqlx::Result<i64> {
    row.try_get::<i64, _>(at).or_else(|_| row.try_get::<i32, _>(at).map(i64::from))
}

fn counted(row: &AnyRow) -> sqlx::Result<(bool, Outcomes)> {
    let count = |at| number(row, at).map(|count| u64::try_from(count).unwrap_or(0));
    let outcomes = Outcomes {
        calls: count(1)?,
        failed: count(2)?,
        slow: count(3)?,
        priced: count(4)?,
        dear: count(5)?,
        mean_ms: row.try_get(6)?,
        mean_picodollars: row.try_get(7)?,
    };
    Ok((number(row, 0)? == 1, outcomes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_good_or_bad_or_neither() {
        for (value, bad) in [
            ("true", Some(false)),
            ("false", Some(true)),
            ("0.4", Some(true)),
            ("1", Some(false)),
            ("\"too long\"", None),
            ("{\"demonstration\":{}}", None),
        ] {
            assert_eq!(is_bad(value), bad, "{value}");
        }
    }

    #[test]
    fn nine_of_ten_calls_stay_below_what_is_usual() {
        assert_eq!(nine_of_ten((1..=100).rev().collect()), Some(91));
        assert_eq!(nine_of_ten(Vec::new()), None);
    }
}
