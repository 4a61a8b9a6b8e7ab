//! The aliases in memory: what a gateway asks for every request, without the database.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::MissedTickBehavior;

use crate::background::note;
use crate::store::database::StoreError;
use crate::telemetry::metrics::Metrics;

use super::AliasRow;
use super::Aliases;

/// How often a gateway looks for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The aliases in memory. The last ones that were read stay in force for as long as the store is
/// away.
#[derive(Default)]
pub struct AliasBook {
    rows: ArcSwapOption<HashMap<String, Arc<AliasRow>>>,
}

impl AliasBook {
    /// The alias of that name.
    pub fn get(&self, name: &str) -> Option<Arc<AliasRow>> {
        self.rows.load().as_ref()?.get(name).cloned()
    }

    /// All names with their rows.
    pub fn rows(&self) -> Vec<Arc<AliasRow>> {
        self.rows.load().as_ref().map(|rows| rows.values().cloned().collect()).unwrap_or_default()
    }

    /// Puts these in force.
    pub fn set(&self, rows: Vec<AliasRow>) {
        let rows: HashMap<_, _> =
            rows.into_iter().map(|row| (row.name.clone(), Arc::new(row))).collect();
        // Most gateways have none: they are not looked for in an empty table.
        self.rows.store((!rows.is_empty()).then(|| Arc::new(rows)));
    }

    /// The share of each alias's models, in percent.
    fn shares(&self) -> Vec<(String, String, f64)> {
        let mut shares = Vec::new();
        for row in self.rows() {
            let canary = row.canary.as_ref();
            let tried = canary.map_or(0.0, |canary| canary.percent);
            shares.push((row.name.clone(), row.serving.model.clone(), 100.0 - tried));
            shares.extend(canary.map(|c| (row.name.clone(), c.arm.model.clone(), tried)));
        }
        shares
    }

    /// Reads the aliases from the store.
    ///
    /// # Errors
    /// The store is away.
    pub async fn load(&self, aliases: &Aliases) -> Result<(), StoreError> {
        self.set(aliases.all().await?);
        Ok(())
    }

    /// Keeps the aliases as the store has them, for ever.
    pub async fn keep_fresh(self: Arc<Self>, aliases: Aliases, metrics: Arc<Metrics>) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut away = false;
        loop {
            tick.tick().await;
            let looked = note(self.load(&aliases).await);
            metrics.alias_shares(self.shares());
            match &looked {
                Ok(()) if away => tracing::info!("the store is back: aliases are as it has them"),
                Err(error) if !away => {
                    tracing::warn!(%error, "aliases cannot be read: those that were read last stay in force");
                }
                _ => {}
            }
            away = looked.is_err();
        }
    }
}
