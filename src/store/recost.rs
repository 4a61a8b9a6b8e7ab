//! Prices what the ledger holds again, at the prices of today. Both figures stay.

use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::metering::catalogue::Catalogue;
use crate::metering::cost::PriceStatus;
use crate::metering::cost::UsageSource;
use crate::metering::cost::price;
use crate::metering::money::Usd;
use crate::openai::usage::Usage;

use super::database::Database;
use super::database::StoreError;
use super::interaction::Charge;
use super::interaction::Kind;
use super::interaction::TOKENS;
use super::period::Period;
use super::period::first_id;

/// Rows of one statement.
const ROWS: i64 = 500;

/// What an update sets, in the names of the records that it takes.
const UPDATED: [(&str, Kind); 6] = [
    ("id", Kind::Id),
    ("cost_recosted_picodollars", Kind::Number),
    ("recost_status", Kind::Text),
    ("recost_rates", Kind::Json),
    ("recost_policy_version", Kind::Text),
    ("recosted_at", Kind::Time),
];

/// What pricing again came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recosted {
    /// Calls with usage in the period.
    pub requests: u64,
    /// Those whose cost is another one now, or that have one now, or none any more.
    pub changed: u64,
    /// Those without a price now.
    pub unpriced: u64,
    /// What was recorded, for those with a price.
    pub cost_usd: Usd,
    /// The same at today's prices.
    pub cost_recosted_usd: Usd,
}

/// Prices every call with usage in the period again. `version` names the prices.
///
/// # Errors
/// The store is away, or has no ledger. What was priced until then stays.
pub async fn recost(
    database: &Database,
    period: Period,
    catalogue: &Catalogue,
    version: &str,
    now: i64,
) -> Result<Recosted, StoreError> {
    let mut connection = database.connect().await?;
    let work = Work { database, period, catalogue, version, now };
    let done = work.run(&mut connection).await;
    done.map_err(|error| database.unavailable(&error))
}

struct Work<'a> {
    database: &'a Database,
    period: Period,
    catalogue: &'a Catalogue,
    version: &'a str,
    now: i64,
}

impl Work<'_> {
    async fn run(&self, connection: &mut AnyConnection) -> sqlx::Result<Recosted> {
        let (select, update) = (self.select(), self.update());
        let mut total = Recosted::default();
        // By ids, which begin with their time: by times SQLite would sort all rows for each page.
        let before = first_id(self.period.since).as_u128().saturating_sub(1);
        let (mut last, end_id) = (Uuid::from_u128(before).to_string(), first_id(self.period.until));
        loop {
            let statement = sqlx::query(AssertSqlSafe(select.clone()));
            let statement = statement.bind(last).bind(end_id.to_string());
            let rows = statement.bind(ROWS).fetch_all(&mut *connection).await?;
            let Some(end) = rows.last() else { return Ok(total) };
            last = end.try_get("id")?;
            let changes = rows.iter().map(|row| self.price(row, &mut total));
            let changes = Value::from(changes.collect::<sqlx::Result<Vec<_>>>()?).to_string();
            let statement = sqlx::query(AssertSqlSafe(update.clone())).bind(changes);
            statement.execute(&mut *connection).await?;
        }
    }

    fn select(&self) -> String {
        let (last, end) = (self.database.id(1), self.database.id(2));
        let tokens = TOKENS.map(|(name, _)| name).join(", ");
        format!(
            "select cast(id as text) as id, model, upstream_model, response_model, service_tier, \
             usage_source, cost_picodollars, {tokens} from interactions \
             where id > {last} and id < {end} and usage_source is not null order by id limit $3",
        )
    }

    fn update(&self) -> String {
        let set = UPDATED
            .iter()
            .skip(1)
            .map(|&(name, kind)| format!("{name} = {}", self.database.value(name, kind)));
        let (set, records) = (set.collect::<Vec<_>>().join(", "), self.database.records(&UPDATED));
        let id = self.database.field("id");
        format!("update interactions set {set} from {records} where interactions.id = {id}")
    }

    /// The row at today's prices, as the update wants it.
    fn price(&self, row: &AnyRow, total: &mut Recosted) -> sqlx::Result<Value> {
        let text = |name: &str| row.try_get::<Option<String>, _>(name);
        let mut usage = Usage::default();
        for (name, field) in TOKENS {
            *field(&mut usage) = u64::try_from(row.try_get::<i64, _>(name)?).unwrap_or(0);
        }
        let reported = text("usage_source")?.is_some_and(|s| s == UsageSource::Reported.as_str());
        let source = if reported { UsageSource::Reported } else { UsageSource::Estimated };
        let names = [text("model")?, text("upstream_model")?, text("response_model")?];
        let model = names.iter().flatten().find_map(|name| self.catalogue.get(name));
        let bill = price(model, &usage, source, text("service_tier")?.as_deref());
        let before: Option<i64> = row.try_get("cost_picodollars")?;
        let before = before.map(|cost| Usd::from_picodollars(cost.into()));
        total.requests += 1;
        total.changed += u64::from(before != bill.cost);
        total.unpriced += u64::from(bill.status == PriceStatus::Unpriced);
        total.cost_usd += before.unwrap_or_default();
        total.cost_recosted_usd += bill.cost.unwrap_or_default();
        let Charge { rates, cost_picodollars, .. } = Charge::of(&bill);
        let rates: Map<_, _> =
            rates.into_iter().map(|(kind, rate)| (kind.to_owned(), rate.into())).collect();
        Ok(json!({
            "id": text("id")?,
            "cost_recosted_picodollars": cost_picodollars,
            "recost_status": bill.status.as_str(),
            "recost_rates": rates,
            "recost_policy_version": self.version,
            "recosted_at": self.now,
        }))
    }
}
