//! How long a dataset takes that is built of generated calls, and how much memory; `benches/dataset`
//! runs it.
//!
//! Conversations of so many turns, each turn a call that repeats those before it; one call in ten was
//! kept without its words, one conversation in ten was had before, one in fifty was judged.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use sqlx::Connection as _;
use uuid::Uuid;
use weir::store::Credentials;
use weir::store::Database;
use weir::store::Datasets;
use weir::store::Objects;
use weir::training::dataset;
use weir::training::recipe::Recipe;

/// Rows of one statement.
const BATCH: u64 = 200;
/// 2026-11-01T00:00:00Z, in milliseconds.
const BEGIN: u64 = 1_793_491_200_000;
const COLUMNS: &str = "id, created_at, key_name, team, session_id, endpoint, policy_version, model, \
    response_model, streamed, status_code, finish_reason, client_left, attempts, latency_ms, \
    input_tokens, cached_input_tokens, cached_audio_input_tokens, cached_image_input_tokens, \
    cache_write_tokens, audio_input_tokens, image_input_tokens, output_tokens, reasoning_tokens, \
    audio_output_tokens, image_output_tokens, response_id, capture, consent";

#[tokio::main]
async fn main() {
    let number = |at| std::env::args().nth(at).and_then(|number| number.parse::<u64>().ok());
    // `cargo test` and `cargo bench` of everything give no rows.
    let (Some(rows), Some(turns)) = (number(1), number(2)) else {
        eprintln!("benches/dataset says what this is");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/weir.db", folder.path().display());
    let objects = format!("file:{}/objects", folder.path().display());
    let objects = Objects::parse(&objects, &Credentials::default()).expect("a folder");
    let database = Database::parse(&url).expect("a URL").expect("a store").with_objects(objects);
    let datasets = Datasets::open(&database).await.expect("a store");
    generate(&url, rows, turns).await;
    let recipe = json!({"name": "bench", "split": {"validation": 0.1}}).to_string();
    let recipe = Recipe::parse(recipe.as_bytes()).expect("a recipe");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let before = peak_kb();
    let began = Instant::now();
    let row = dataset::create(&datasets, &recipe).await.expect("a row");
    let row = dataset::build(&datasets, &row, &recipe, cores).await.expect("a dataset");
    let report = json!({
        "rows": rows,
        "turns": turns,
        "seconds": began.elapsed().as_secs_f64(),
        "peak_mb": peak_kb() / 1024,
        "peak_before_mb": before / 1024,
        "cores": cores,
        "kept": row.stats["rows_kept"],
        "dropped": row.stats["dropped"],
        "train_mb": row.train.map_or(0, |file| file.bytes >> 20),
    });
    println!("{report}");
}

async fn generate(url: &str, rows: u64, turns: u64) {
    let mut connection = sqlx::SqliteConnection::connect(url).await.expect("a store");
    let fast = "pragma synchronous = off; pragma journal_mode = wal;";
    sqlx::raw_sql(fast).execute(&mut connection).await.expect("a setting");
    let mut from = 0;
    while from < rows {
        let to = (from + BATCH).min(rows);
        let sql = statement(from, to, turns);
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
        sql.execute(&mut connection).await.expect("rows");
        from = to;
    }
    connection.close().await.expect("an end");
}

fn statement(from: u64, to: u64, turns: u64) -> String {
    let (mut calls, mut bodies, mut verdicts) = (Vec::new(), Vec::new(), Vec::new());
    for row in from..to {
        let (conversation, turn) = (row / turns, row % turns);
        let id = id_of(row);
        let kept = row % 10 != 9;
        let (capture, consent) = if kept { ("'full'", "'train'") } else { ("'metadata'", "null") };
        calls.push(format!(
            "('{id}', {}, 'key-{}', 'team-{}', 's-{conversation}', 'chat/completions', 'x', \
             'gpt-4.1-mini', 'gpt-4.1-mini-2025-04-14', 0, 200, 'stop', 0, 1, 800, \
             100, 0, 0, 0, 0, 0, 0, 50, 0, 0, 0, 'chatcmpl-{row}', {capture}, {consent})",
            BEGIN + row,
            conversation % 50,
            conversation % 7,
        ));
        if kept {
            let (request, answer) = said(conversation, turn, row);
            bodies.push(format!("('{id}', x'{}', x'{}')", packed(&request), packed(&answer)));
        }
        if row % 50 == 7 {
            verdicts.push(format!(
                "('{id}', {}, 's-{conversation}', 'thumbs', 'true', 'key')",
                BEGIN + row
            ));
        }
    }
    let mut sql =
        format!("begin; insert into interactions ({COLUMNS}) values {};", calls.join(","));
    for (table, rows) in [
        ("interaction_bodies (interaction_id, request, response)", bodies),
        ("feedback (id, created_at, target, name, value, key_name)", verdicts),
    ] {
        if !rows.is_empty() {
            let _ = write!(sql, "insert into {table} values {};", rows.join(","));
        }
    }
    sql + "commit;"
}

/// In the order of time.
fn id_of(row: u64) -> Uuid {
    let millis = u128::from(BEGIN + row);
    Uuid::from_u128((millis << 80) | (0x7 << 76) | (0x2 << 62) | u128::from(row))
}

fn said(conversation: u64, turn: u64, row: u64) -> (Value, Value) {
    // One in ten repeats an earlier one.
    let topic = if conversation % 10 == 3 { conversation / 2 } else { conversation };
    let message = |role: &str, at: u64, words: u64| json!({ "role": role, "content": prose(topic * 100 + at, words) });
    let mut messages = vec![json!({ "role": "system", "content": prose(conversation % 20, 60) })];
    for earlier in 0..turn {
        messages.push(message("user", 2 * earlier, 30));
        messages.push(message("assistant", 2 * earlier + 1, 60));
    }
    messages.push(message("user", 2 * turn, 30));
    let request = json!({ "model": "gpt-4.1-mini", "messages": messages });
    let answer = json!({ "id": format!("chatcmpl-{row}"), "object": "chat.completion",
        "model": "gpt-4.1-mini-2025-04-14", "choices": [{ "index": 0, "finish_reason": "stop",
        "message": message("assistant", 2 * turn + 1, 60) }] });
    (request, answer)
}

/// Words that nobody says, the same for the same seed.
fn prose(seed: u64, words: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = String::new();
    for _ in 0..words {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)) % 8000;
        for _ in 0..3 {
            let syllable = [
                "ba", "co", "di", "fu", "ge", "hal", "jo", "ki", "lem", "mo", "nu", "par", "qui",
                "re", "so", "ten", "ul", "va", "wi", "zo",
            ];
            text.push_str(syllable[usize::try_from(word % 20).unwrap_or(0)]);
            word /= 20;
        }
        text.push(' ');
    }
    text
}

fn packed(body: &Value) -> String {
    let packed = zstd::bulk::compress(body.to_string().as_bytes(), 1).expect("a body");
    packed.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The most memory that this process had.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}
