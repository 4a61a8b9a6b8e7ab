//! Every model that a rule can name, resolved to its provider.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde_saphyr::Spanned;

use crate::metering::catalogue::Catalogue;
use crate::metering::catalogue::Model;
use crate::metering::catalogue::ModelOverride;

use super::Upstream;
use super::choose::LONGEST_SUCCESSION;
use super::diagnostic::Diagnostic;
use super::file::Decimal;
use super::file::ModelEntry;
use super::findings::File;
use super::findings::Findings;
use super::rule::Target;

/// A shutdown that is nearer than this is worth a warning.
const SOON_DAYS: i64 = 30;

/// The models of a policy: those of its files, and all of the catalogue.
#[derive(Debug)]
pub(super) struct Models {
    pub(super) targets: HashMap<Arc<str>, Arc<Target>, RandomState>,
    pub(super) catalogue: Catalogue,
    pub(super) default_upstream: Arc<Upstream>,
    /// Days since 1970, where the check knows the date.
    today: Option<i64>,
}

impl Models {
    /// The catalogue as `entries` change it.
    pub(super) fn resolve(
        entries: &[(&Spanned<String>, &ModelEntry, File<'_>)],
        upstreams: &BTreeMap<String, Arc<Upstream>>,
        default_upstream: Arc<Upstream>,
        today: Option<i64>,
        findings: &mut Findings,
    ) -> Self {
        let targets = HashMap::default();
        let mut models = Self { targets, catalogue: Catalogue::builtin(), default_upstream, today };
        for (name, entry, file) in entries {
            models.price(name, entry, *file, findings);
        }
        let listed: Vec<_> = models.catalogue.models().map(|model| model.name.clone()).collect();
        for name in listed {
            let target = models.plain(&name);
            models.targets.insert(Arc::clone(&target.model), target);
        }
        for (name, entry, file) in entries {
            if let Some(target) = models.entry(name, entry, *file, upstreams, findings) {
                models.targets.insert(Arc::clone(&target.model), Arc::new(target));
            }
        }
        for (_, entry, file) in entries {
            models.check_succession(entry, *file, findings);
        }
        models
    }

    fn price(
        &mut self,
        name: &Spanned<String>,
        entry: &ModelEntry,
        file: File<'_>,
        findings: &mut Findings,
    ) {
        let price = entry.price.iter().flatten();
        let price = price.map(|(kind, Decimal(amount))| (kind.clone(), amount.clone())).collect();
        let encoding = entry.encoding.clone();
        let change = ModelOverride { price, context: entry.context, encoding };
        if let Err(message) = change.check() {
            findings.error(file, name, format!("model `{}`: {message}", name.value));
        } else if change != ModelOverride::default() {
            // An entry that changes nothing must not hide the catalogue's row, or that of its `as`.
            self.catalogue.with(&name.value, &change);
        }
    }

    fn entry(
        &self,
        name: &Spanned<String>,
        entry: &ModelEntry,
        file: File<'_>,
        upstreams: &BTreeMap<String, Arc<Upstream>>,
        findings: &mut Findings,
    ) -> Option<Target> {
        if let Some(quality) = entry.quality.as_ref().filter(|q| !(0.0..=1.0).contains(&q.value)) {
            let message = format!("quality {} is not within 0 to 1", quality.value);
            findings.error(file, quality, message);
        }
        let upstream = match &entry.upstream {
            None => Arc::clone(&self.default_upstream),
            Some(wanted) => match upstreams.get(&wanted.value) {
                Some(upstream) => Arc::clone(upstream),
                None => {
                    let known = upstreams.keys().map(String::as_str);
                    let cure = "define it under `upstreams`";
                    findings.unknown(file.place(wanted), ("upstream", &wanted.value), known, cure);
                    return None;
                }
            },
        };
        let model: Arc<str> = Arc::from(&*name.value);
        let as_name = entry.r#as.as_deref();
        Some(Target {
            upstream_model: as_name.map_or_else(|| Arc::clone(&model), Arc::from),
            model,
            upstream,
            quality: entry.quality.as_ref().map(|quality| quality.value),
            successor: entry.successor.as_ref().map(|next| Arc::from(&*next.value)),
        })
    }

    /// A successor must be known, and a row of them must end.
    fn check_succession(&self, entry: &ModelEntry, file: File<'_>, findings: &mut Findings) {
        let Some(first) = &entry.successor else { return };
        if !self.is_known(&first.value) {
            findings.unknown(
                file.place(first),
                ("model", &first.value),
                self.names(),
                "define it under `models`",
            );
        }
        let next = |name: &str| self.targets.get(name).and_then(|target| target.successor.clone());
        let mut name = next(&first.value);
        for _ in 0..LONGEST_SUCCESSION {
            let Some(successor) = name else { return };
            name = next(&successor);
        }
        let message = format!("the successors of `{}` form a cycle", first.value);
        findings.cure(file, first, message, "let the last of them have no successor");
    }

    /// A model that no file says anything about.
    pub(super) fn plain(&self, name: &str) -> Arc<Target> {
        let model: Arc<str> = Arc::from(name);
        Arc::new(Target {
            upstream_model: Arc::clone(&model),
            model,
            upstream: Arc::clone(&self.default_upstream),
            quality: None,
            successor: None,
        })
    }

    pub(super) fn is_known(&self, name: &str) -> bool {
        self.targets.contains_key(name) || self.catalogue.get(name).is_some()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.targets.keys().map(|name| &**name)
    }

    /// Price and limits of a target: the policy's own, then those of the model behind an alias.
    pub(super) fn row(&self, target: &Target) -> Option<&Model> {
        [&target.model, &target.upstream_model]
            .into_iter()
            .find_map(|name| self.catalogue.get(name))
    }

    pub(super) fn is_priced(&self, target: &Target) -> bool {
        self.row(target).is_some_and(Model::is_priced)
    }

    /// The model that a rule names. A fine-tuned model need not be listed: its name comes with it.
    pub(super) fn target(
        &self,
        name: &Spanned<String>,
        file: File<'_>,
        findings: &mut Findings,
    ) -> Option<Arc<Target>> {
        let target = self.targets.get(&*name.value).cloned();
        if target.is_none() && !self.is_known(&name.value) && !name.value.starts_with("ft:") {
            let place = file.place(name);
            findings.unknown(
                place,
                ("model", &name.value),
                self.names(),
                "define it under `models`",
            );
            return None;
        }
        let target = target.unwrap_or_else(|| self.plain(&name.value));
        self.warn(&target, name, file, findings);
        Some(target)
    }

    fn warn(
        &self,
        target: &Target,
        name: &Spanned<String>,
        file: File<'_>,
        findings: &mut Findings,
    ) {
        let mut warn = |message: String, help: &str| {
            findings.push(Diagnostic::warning(Some(file.place(name)), message).help(help));
        };
        if !self.is_priced(target) {
            let message = format!("model `{}` has no price: its calls are unpriced", name.value);
            warn(message, "set `price` under `models`");
        }
        let Some((day, today)) = self.row(target).and_then(|row| row.shutdown).zip(self.today)
        else {
            return;
        };
        let left = day.days_since_epoch() - today;
        let message = match left {
            ..=0 => format!("model `{}` was shut down on {day}", name.value),
            1..=SOON_DAYS => {
                format!("model `{}` will be shut down on {day}, in {left} days", name.value)
            }
            _ => return,
        };
        if target.successor.is_none() {
            warn(message, "use another model, or name a `successor` under `models`");
        }
    }
}
