//! `src/` keeps the map in `src/lib.rs`: who may use whom, and which outside crate lives where.
//!
//! A line scan, no parser. It sees `crate::room` and `outside::` in code lines, which is how
//! imports and paths are written after rustfmt; grouped `use crate::{…}` is refused for that reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// These compute only: same input, same output, no tasks, sockets, files, clocks or settings.
const PURE: &[&str] = &[
    "openai/",
    "limits/attempt.rs",
    "limits/meter.rs",
    "limits/window.rs",
    "metering/",
    "policy/basis.rs",
    "policy/capture.rs",
    "policy/cases.rs",
    "policy/choose.rs",
    "policy/clauses.rs",
    "policy/diagnostic.rs",
    "policy/explain.rs",
    "policy/expression/",
    "policy/facts.rs",
    "policy/file.rs",
    "policy/findings.rs",
    "policy/mod.rs",
    "policy/limits.rs",
    "policy/models.rs",
    "policy/replay.rs",
    "policy/routes.rs",
    "policy/rule.rs",
    "policy/scenario.rs",
    "policy/sticky.rs",
    "policy/units.rs",
    "policy/yaml.rs",
    "redact/",
];
const IMPURE: &[&str] =
    &["tokio::", "std::net", "std::fs", "std::env", "Instant::now", "SystemTime::now", "Utc::now"];
/// They see everything; no room may name them.
const ROOTS: &[&str] = &["app", "cli", "config", "main", "lib"];

/// One row of the map.
struct Room {
    may_use: Vec<String>,
    outside: Vec<String>,
}

#[test]
fn source_keeps_the_map() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map = read_map(&src.join("lib.rs"));
    let mut breaches = String::new();
    for path in rust_files(&src) {
        let rel = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let room = rel.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        if ROOTS.contains(&room.as_str()) {
            continue;
        }
        let Some(row) = map.get(&room) else {
            writeln!(breaches, "src/{rel}: `{room}` has no row in the map").unwrap();
            continue;
        };
        if is_test(&rel) {
            continue;
        }
        for (number, line) in code_lines(&fs::read_to_string(&path).unwrap()) {
            let mut breach =
                |what: String| writeln!(breaches, "src/{rel}:{number}: {what}").unwrap();
            for used in rooms_named(&line) {
                if used != room && !row.may_use.contains(&used) {
                    breach(format!("`{room}` may not use `{used}`"));
                }
            }
            for (home, Room { outside, .. }) in &map {
                for krate in outside.iter().filter(|krate| names(&line, krate)) {
                    if *home != room {
                        breach(format!("`{krate}` lives only in `{home}`"));
                    }
                }
            }
            if PURE.iter().any(|pure| rel.starts_with(pure)) {
                for impure in IMPURE.iter().filter(|impure| line.contains(**impure)) {
                    breach(format!("`{impure}` where only computing is done"));
                }
            }
        }
    }
    assert!(breaches.is_empty(), "\n{breaches}");
}

/// Files of tests alone: they may build the world that their room lives in.
fn is_test(rel: &str) -> bool {
    rel.contains("/tests/") || rel.ends_with("/tests.rs") || rel.ends_with("/fuzzed.rs")
}

/// Rows `//! | [`room`] | … | `may`, `use` | `outside` |` of the crate's documentation.
fn read_map(lib: &Path) -> BTreeMap<String, Room> {
    let text = fs::read_to_string(lib).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("//! | [`"));
    let map: BTreeMap<_, _> = rows
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            let [_, room, _, may_use, outside, _] = cells[..] else { panic!("odd row: {line}") };
            let room = ticked(room).remove(0);
            (room, Room { may_use: ticked(may_use), outside: ticked(outside) })
        })
        .collect();
    assert!(map.len() > 5, "the map in lib.rs was not found");
    map
}

/// The words between backticks.
fn ticked(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Code lines with their numbers; comments, and all that follows `#[cfg(test)]`, are left out.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(at, line)| (at + 1, line.to_owned()))
        .collect()
}

/// Each `room` of a `crate::room` in `line`; `{…}` when rooms are grouped.
fn rooms_named(line: &str) -> Vec<String> {
    line.split("crate::")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || "_{".contains(*c)).collect())
        .collect()
}

/// Whether `line` names the outside crate `krate`.
fn names(line: &str, krate: &str) -> bool {
    line.match_indices(krate).any(|(at, _)| {
        let (before, rest) = line.split_at(at);
        let before = before.chars().next_back();
        let after = rest.strip_prefix(krate).unwrap_or_default();
        !before.is_some_and(|c| c.is_alphanumeric() || "_:.\"".contains(c))
            && (after.starts_with("::") || after.starts_with(';') || after.starts_with(" as "))
    })
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}
