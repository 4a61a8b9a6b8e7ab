//! Which traffic may pay for a model of its own: groups of calls with one route and one system
//! prompt, with enough clean pairs.
//!
//! Only calls that may become training data are read, and only those that would be kept count: what
//! is saved is at least that.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use chrono::DateTime;
use chrono::Days;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::metering::catalogue::Catalogue;
use crate::metering::cost::UsageSource;
use crate::metering::cost::Usd;
use crate::metering::cost::price;
use crate::openai::usage::Usage;
use crate::store::Candidate;
use crate::store::Datasets;
use crate::store::Interactions;
use crate::store::Ledger;

use super::dataset::BuildError;
use super::dataset::now;
use super::examine::Examiner;
use super::examine::Fit;
use super::gather::holdout;
use super::gather::query;
use super::provider::Profile;
use super::provider::default_epochs;
use super::recipe::BadRecipe;
use super::recipe::Recipe;

const DAY_MS: i64 = 86_400_000;
/// Characters of a system prompt that are shown.
const EXCERPT: usize = 120;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The base to be trained.
    pub model: &'a str,
    /// From when: a time, or a duration before now such as `30d`.
    pub since: &'a str,
    /// Fewest different pairs of a group.
    pub min_pairs: u64,
    /// Most pairs that are trained on; more cost more and teach little.
    pub max_pairs: u64,
    /// Who trains.
    pub trainer: &'a Profile,
}

/// Calls with one route and one system prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// The rule that routed them.
    pub route: String,
    /// How their system prompt begins, with placeholders for what changes.
    pub system: String,
    /// The models that answered.
    pub models: Vec<String>,
    /// Different pairs that are fit for training.
    pub pairs: u64,
    /// Calls that are fit, repeated ones too.
    pub calls: u64,
    /// The same for one day.
    pub calls_per_day: String,
    /// Tokens of the pairs that would be trained on, once.
    pub training_tokens: u64,
    /// What training would cost; `None` where the trainer's price is not known.
    pub training_usd: Option<String>,
    /// What the calls of one day cost now.
    pub usd_per_day: String,
    /// What they would cost at the tuned model's prices; `None` without such a price.
    pub tuned_usd_per_day: Option<String>,
    /// The difference, below 0 where the tuned model is dearer.
    pub saves_usd_per_day: Option<String>,
    /// Days until the training is paid for.
    pub even_after_days: Option<u64>,
    /// The day of that.
    pub even_on: Option<String>,
    /// When the base is shut down, as far as the catalogue knows.
    pub base_shutdown: Option<String>,
}

/// Sums of a group.
#[derive(Default)]
struct Sums {
    system: String,
    models: BTreeSet<String>,
    calls: u64,
    /// Tokens of the different pairs.
    tokens: u64,
    pairs: HashSet<[u8; 16]>,
    cost: Usd,
    /// `None` once a call cannot be priced.
    tuned: Option<Usd>,
}

/// Looks for groups, those that save the most first.
///
/// # Errors
/// A parameter cannot be used, or the store is away.
pub async fn suggest(
    datasets: &Datasets,
    wanted: &Wanted<'_>,
    catalogue: &Catalogue,
) -> Result<Vec<Group>, BuildError> {
    let recipe = json!({ "name": "suggest", "model": wanted.model,
        "filter": { "since": wanted.since } });
    let recipe = Recipe::parse(recipe.to_string().as_bytes())?;
    let until = now();
    let query = query(&recipe, until)?;
    let terms = wanted.trainer.terms(wanted.model, "supervised");
    let terms = terms.map_err(|message| BadRecipe::at("model", message))?;
    let holdout = holdout(datasets, &recipe).await?;
    let examiner = Arc::new(Examiner { recipe, holdout, shows: false });
    let interactions = Interactions::of(&Ledger::of(datasets.database())?);
    let tuned = format!("ft:{}", wanted.model);
    let (mut groups, mut first, mut after) = (HashMap::new(), until, None);
    loop {
        let page = interactions.candidates(&query, None, until, after).await?;
        first = page.calls.first().map_or(first, |call| first.min(millis(call)));
        let work = Arc::clone(&examiner);
        let examined = tokio::task::spawn_blocking(move || examined(&work, page.calls));
        for (call, fit) in examined.await.map_err(std::io::Error::other)? {
            add(&mut groups, &call, &fit, catalogue, &tuned);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let days = ((until - first) as f64 / DAY_MS as f64).max(1.0);
    let enough = groups.into_iter().filter(|(_, sums)| count(sums.pairs.len()) >= wanted.min_pairs);
    let mut found: Vec<(Usd, Group)> = enough
        .map(|((route, _), sums)| group(route, sums, wanted, terms.per_token, days))
        .collect();
    found.sort_by(|(one, _), (other, _)| other.cmp(one));
    let ends = catalogue.get(wanted.model).and_then(|base| base.shutdown);
    let with_end =
        |(_, group): (_, Group)| Group { base_shutdown: ends.map(|day| day.to_string()), ..group };
    Ok(found.into_iter().map(with_end).collect())
}

fn examined(examiner: &Examiner, calls: Vec<Candidate>) -> Vec<(Candidate, Fit)> {
    let fits = calls.into_iter().filter_map(|call| {
        let fit = examiner.call(&call).outcome?.ok()?;
        Some((call, fit))
    });
    fits.collect()
}

fn add(
    groups: &mut HashMap<(String, u64), Sums>,
    call: &Candidate,
    fit: &Fit,
    catalogue: &Catalogue,
    tuned: &str,
) {
    let key = (call.route.clone().unwrap_or_default(), fit.system);
    let sums = groups.entry(key).or_insert_with(|| Sums {
        system: system_of(&fit.line),
        tuned: Some(Usd::ZERO),
        ..Sums::default()
    });
    sums.calls += 1;
    if sums.pairs.insert(fit.content) {
        sums.tokens += fit.tokens;
    }
    sums.models.extend(call.model.clone());
    let cost = Usd::from_picodollars(call.cost_picodollars.unwrap_or(0).into());
    sums.cost += cost;
    let usage = Usage {
        input: call.input_tokens,
        cached_input: call.cached_input_tokens,
        output: call.output_tokens,
        ..Usage::default()
    };
    let bill = price(catalogue.get(tuned), &usage, UsageSource::Reported, None);
    sums.tuned = sums.tuned.zip(bill.cost).map(|(sum, cost)| sum + cost);
}

fn group(
    route: String,
    sums: Sums,
    wanted: &Wanted<'_>,
    per_token: Option<Usd>,
    days: f64,
) -> (Usd, Group) {
    let pairs = count(sums.pairs.len());
    let trained = pairs.min(wanted.max_pairs);
    // A share of the pairs has that share of their tokens.
    let tokens = u128::from(sums.tokens) * u128::from(trained) / u128::from(pairs.max(1));
    let tokens = u64::try_from(tokens).unwrap_or(u64::MAX);
    let billed = tokens.saturating_mul(default_epochs(trained));
    let training = per_token.map(|price| price.times(billed));
    let daily = |sum: Usd| Usd::from_picodollars(rounded(sum.picodollars() as f64 / days));
    let (now_usd, tuned) = (daily(sums.cost), sums.tuned.map(daily));
    let saves = tuned.map(|tuned| now_usd - tuned);
    let pays = saves.filter(|saves| *saves > Usd::ZERO);
    let even = training.zip(pays).map(|(costs, saves)| (costs.to_f64() / saves.to_f64()).ceil());
    let even_after_days = even.filter(|days| *days < 100_000.0).map(whole);
    let group = Group {
        route,
        system: sums.system,
        models: sums.models.into_iter().collect(),
        pairs,
        calls: sums.calls,
        calls_per_day: format!("{:.1}", sums.calls as f64 / days),
        training_tokens: tokens,
        training_usd: training.map(|usd| usd.to_string()),
        usd_per_day: now_usd.to_string(),
        tuned_usd_per_day: tuned.map(|usd| usd.to_string()),
        saves_usd_per_day: saves.map(|usd| usd.to_string()),
        even_after_days,
        even_on: even_after_days.and_then(day_in),
        base_shutdown: None,
    };
    (saves.unwrap_or(Usd::ZERO), group)
}

/// How the system prompt of a line begins. What nobody may see was taken out before.
fn system_of(line: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap_or_default();
    let messages = line.get("messages").and_then(Value::as_array);
    let system = messages.into_iter().flatten().find(|message| message["role"] == "system");
    let Some(text) = system.and_then(|message| message["content"].as_str()) else {
        return "(no system prompt)".to_owned();
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    super::stages::normalise::templated(&text).chars().take(EXCERPT).collect()
}

/// The day after so many days.
fn day_in(days: u64) -> Option<String> {
    let today = DateTime::from_timestamp_millis(now())?.date_naive();
    today.checked_add_days(Days::new(days)).map(|day| day.to_string())
}

fn millis(call: &Candidate) -> i64 {
    let (seconds, _) = call.id.get_timestamp().map_or((0, 0), |time| time.to_unix());
    i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "an amount of money fits")]
fn rounded(picodollars: f64) -> i128 {
    picodollars.round() as i128
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of days between 0 and 100,000"
)]
fn whole(days: f64) -> u64 {
    days as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_even_when_what_it_saves_has_paid_for_the_training() {
        let wanted = Wanted {
            model: "gpt-4.1-mini",
            since: "30d",
            min_pairs: 50,
            max_pairs: 100,
            trainer: Profile::named("openai").unwrap(),
        };
        let sums = Sums {
            calls: 4_000,
            // 200 pairs of 500 tokens; 100 of them are trained on, three times: 150,000 tokens.
            pairs: (0..200_u128).map(u128::to_be_bytes).collect(),
            tokens: 100_000,
            cost: "8".parse().unwrap(),
            tuned: Some("2".parse().unwrap()),
            ..Sums::default()
        };
        let per_token = Usd::per_token("5").ok();
        let (saves, group) = group("support".to_owned(), sums, &wanted, per_token, 20.0);
        // At 5 USD per million.
        assert_eq!((group.training_tokens, group.training_usd.as_deref()), (50_000, Some("0.75")));
        // (8 − 2) / 20 days; 0.75 / 0.3 = 2.5 days.
        assert_eq!(saves, "0.3".parse().unwrap());
        assert_eq!((group.calls_per_day.as_str(), group.even_after_days), ("200.0", Some(3)));
    }
}
