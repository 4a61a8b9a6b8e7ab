//! `weir models`: what is known of each model, and where that is from.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use crate::app::AppError;
use crate::policy::ModelPage;
use crate::policy::ModelView;
use crate::proxy::today;

use super::policy::fail;
use super::policy::of_folder;
use super::policy::print;
use super::policy::print_json;

/// What is shown of the models.
#[derive(Debug, clap::Args)]
pub(super) struct Models {
    #[command(subcommand)]
    action: Action,
    /// The policy folder; without it `policies` of ./weir.yaml, else ./policies.
    #[arg(long, value_name = "DIR", global = true)]
    policies: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One line for each model; prices are the standard tier's, in USD per million tokens.
    List {
        /// A part of the name, or a pattern of the whole name with * and ?.
        #[arg(value_name = "FILTER", default_value = "")]
        filter: String,
    },
    /// All that is known of a model.
    Show {
        /// Its name, or the policy's name for it.
        #[arg(value_name = "MODEL")]
        model: String,
    },
}

/// Runs the command.
///
/// # Errors
/// The policy folder cannot be used, or nobody knows the model.
pub(super) fn run(arguments: &Models, json: bool) -> Result<(), AppError> {
    let policy = of_folder(arguments.policies.as_deref(), json)?;
    match &arguments.action {
        Action::List { filter } => {
            let names = policy.model_names().into_iter().filter(|name| passes(name, filter));
            let views: Vec<_> = names.filter_map(|name| policy.view(&name, today())).collect();
            match json {
                true => print_json(&json!(ModelPage::of(views, false))),
                false => print(&table(&views)),
            }
        }
        Action::Show { model } => {
            let view = policy.view(model, today());
            let view = view.ok_or_else(|| fail(unknown(model, &policy.names_like(model))))?;
            match json {
                true => print_json(&json!(view)),
                false => print(&in_words(&view)),
            }
        }
    }
}

/// What to say of a model that nobody knows.
fn unknown(model: &str, near: &[&str]) -> String {
    let help = match near {
        [] => "`weir models list` shows all; one that is yours belongs under `models` in a policy"
            .to_owned(),
        near => format!("did you mean {}?", near.join(", ")),
    };
    format!("unknown model `{model}`: {help}")
}

/// Whether a filter lets a name through, whatever the case of their letters.
fn passes(name: &str, filter: &str) -> bool {
    let (name, filter) = (name.to_lowercase(), filter.to_lowercase());
    if filter.contains(['*', '?']) {
        return matches(name.as_bytes(), filter.as_bytes());
    }
    name.contains(&filter)
}

/// Whether a whole name matches a pattern: one `*` at a time, the last one tried again further on.
fn matches(name: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut next, mut star) = (0, 0, None);
    while let Some(byte) = name.get(at) {
        match (pattern.get(next), star) {
            (Some(b'*'), _) => {
                star = Some((at, next));
                next += 1;
            }
            (Some(wanted), _) if wanted == byte || *wanted == b'?' => {
                (at, next) = (at + 1, next + 1)
            }
            (_, Some((from, place))) => {
                star = Some((from + 1, place));
                (at, next) = (from + 1, place + 1);
            }
            (_, None) => return false,
        }
    }
    pattern.iter().skip(next).all(|byte| *byte == b'*')
}

fn table(views: &[ModelView]) -> String {
    let head = ["model", "mode", "input", "cached", "output", "context", "shutdown"];
    let mut rows = vec![head.map(str::to_owned)];
    for view in views {
        let price = |kind| {
            let standard = view.usd_per_million_tokens.get("standard");
            let price = standard.and_then(|tier| tier.base.get(kind));
            price.map_or_else(|| "-".to_owned(), ToString::to_string)
        };
        rows.push([
            view.id.clone(),
            mode(view),
            price("input"),
            price("cached_input"),
            price("output"),
            view.max_input_tokens.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string()),
            shutdown(view).unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (place, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Numbers stand under each other's last digit.
            let _ = match place {
                2..=5 => write!(line, "{cell:>width$}  "),
                _ => write!(line, "{cell:<width$}  "),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// The mode's name as in JSON.
fn mode(view: &ModelView) -> String {
    json!(view.mode).as_str().unwrap_or("-").to_owned()
}

fn shutdown(view: &ModelView) -> Option<String> {
    let day = view.shutdown_date.as_deref()?;
    Some(match view.days_to_shutdown? {
        left @ 1.. => format!("{day} ({left} days left)"),
        _ => format!("{day} (shut down)"),
    })
}

/// A model for people: each figure with a mark where the policy says it.
fn in_words(view: &ModelView) -> String {
    let mut out = format!("{}\n", view.id);
    let mut row = |field: &str, name: &str, value: &str| {
        let policy = view.source.policy.iter().any(|said| said == field);
        let _ = writeln!(out, "  {name:<22} {value}{}", if policy { "  (policy)" } else { "" });
    };
    row("", "mode", &mode(view));
    row("upstream", "upstream", &view.upstream);
    row("upstream_model", "its name there", &view.upstream_model);
    let facts = [
        ("max_input_tokens", "context", view.max_input_tokens.map(|tokens| tokens.to_string())),
        ("", "max output", view.max_output_tokens.map(|tokens| tokens.to_string())),
        ("", "embedding dimensions", view.embedding_dimensions.map(|length| length.to_string())),
        ("encoding", "encoding", Some(view.encoding.to_owned())),
        ("", "shutdown", shutdown(view)),
        ("successor", "successor", view.successor.clone()),
        ("quality", "quality", view.quality.map(|quality| quality.to_string())),
        ("", "capabilities", listed(&view.capabilities)),
        ("", "endpoints", listed(&view.endpoints)),
    ];
    for (field, name, value) in facts {
        if let Some(value) = value {
            row(field, name, &value);
        }
    }
    prices(view, &mut row);
    let _ = match &view.source.catalogue {
        None => writeln!(out, "only the policy knows it"),
        Some(source) => {
            // What follows is about the file's keys.
            let about = source.about.split(';').next().unwrap_or_default();
            let page = source.page.as_deref().unwrap_or("no page is named");
            let of = &source.model;
            writeln!(out, "figures without (policy) are the catalogue's of {of}: {page}\n{about}")
        }
    };
    out
}

fn listed(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| names.join(", "))
}

fn prices(view: &ModelView, row: &mut impl FnMut(&str, &str, &str)) {
    for (tier, rates) in &view.usd_per_million_tokens {
        row("", &format!("{tier} tier"), "USD per million tokens");
        for (kind, price) in &rates.base {
            let field = format!("usd_per_million_tokens.{tier}.{kind}");
            row(&field, &format!("  {kind}"), &price.to_string());
        }
        for (length, rates) in &rates.above_input_tokens {
            row("", &format!("  above {length} tokens"), "for the whole request");
            for (kind, price) in rates {
                row("", &format!("    {kind}"), &price.to_string());
            }
        }
    }
    let units = json!(view.usd_per_unit);
    for (unit, price) in units.as_object().into_iter().flatten() {
        match price {
            Value::String(price) => row("", &format!("each {unit}"), &format!("{price} USD")),
            Value::Object(sizes) => {
                for (size, price) in sizes {
                    let price = price.as_str().unwrap_or_default();
                    row("", &format!("each {unit}"), &format!("{price} USD ({size})"));
                }
            }
            _ => {}
        }
    }
    if view.usd_per_million_tokens.is_empty() {
        row("", "tokens", "unpriced");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_part_of_the_name_or_a_pattern_of_all_of_it() {
        for (name, filter) in [
            ("gpt-5-mini", ""),
            ("gpt-5-mini", "5-M"),
            ("gpt-5-mini", "gpt-*"),
            ("gpt-5-mini", "*mini"),
            ("gpt-5-mini", "g*-?-*i"),
            ("gpt-5-mini", "**gpt-5-mini**"),
            ("aab", "*ab"),
        ] {
            assert!(passes(name, filter), "{filter}");
        }
        for filter in ["4o", "mini*", "gpt-5-mini?", "*6*", "?"] {
            assert!(!passes("gpt-5-mini", filter), "{filter}");
        }
    }
}
