//! What redaction costs for prose, code in JSON, a file in base64, and a body with finds.

use std::hint::black_box;

use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use serde_json::json;
use weir::redact;
use weir::redact::Kinds;
use weir::redact::Placeholders;

const PROSE: &str = include_str!("../docs/policies.md");
const CODE: &str = include_str!("../src/redact/secrets.rs");

/// A request of about 200 KB whose messages hold `text`.
fn request(text: &str) -> String {
    let message = json!({"role": "user", "content": text});
    let messages = vec![message; 200_000 / text.len() + 1];
    json!({"model": "gpt-4o-mini", "messages": messages}).to_string()
}

fn bodies() -> Vec<(&'static str, String)> {
    let prose: String =
        PROSE.lines().filter(|line| !line.contains(['`', '|', '{'])).collect::<Vec<_>>().join("\n");
    let file = "iVBORw0KGgoAAAANSUhEUgAA/9k+".repeat(36_000);
    let one_find = request(&prose).replacen("role", "ada@example.com", 1);
    vec![
        ("prose as text", prose.repeat(20)),
        ("prose", request(&prose)),
        ("prose with an address", one_find),
        ("code", request(CODE)),
        ("file", request(&format!("data:image/png;base64,{file}"))),
    ]
}

fn redacting(c: &mut Criterion) {
    let kinds = Kinds { secrets: true, pii: true };
    let mut group = c.benchmark_group("redact");
    for (name, body) in bodies() {
        group.throughput(Throughput::Bytes(u64::try_from(body.len()).unwrap_or(u64::MAX)));
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                let mut placeholders = Placeholders::new([7; 16]);
                redact::json(kinds, &mut placeholders, black_box(body.as_bytes())).len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, redacting);
criterion_main!(benches);
