//! A scrape of a gateway that has served many keys and models, and what it costs to record a call
//! there: `cargo bench --bench metrics`. Prints the scrape's size, and its CPU time, which tells more
//! than the clock on a machine that has other work.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use weir::openai::usage::Usage;
use weir::telemetry::metrics::CallLabels;
use weir::telemetry::metrics::Metrics;
use weir::telemetry::metrics::Observation;

const KEYS: usize = 10_000;
const MODELS: usize = 200;
/// Models that each key calls, in turn.
const EACH: usize = 20;
/// Scrapes whose time is taken one by one.
const SCRAPES: usize = 50;

/// A stream with everything in its usage.
fn seen() -> Observation {
    Observation {
        took: Duration::from_millis(900),
        first_token: Some(Duration::from_millis(120)),
        overhead: Some(Duration::from_micros(180)),
        usage: Some(Usage {
            input: 1_200,
            output: 300,
            cached_input: 600,
            reasoning: 100,
            ..Usage::default()
        }),
        usage_estimated: false,
        cost: "0.0031".parse().ok(),
        asked_cost: None,
        trace: None,
    }
}

struct Names {
    keys: Vec<String>,
    teams: Vec<String>,
    models: Vec<String>,
}

impl Names {
    fn new() -> Self {
        let names = |count: usize, how: fn(usize) -> String| (0..count).map(how).collect();
        Self {
            keys: names(KEYS, |at| format!("customer-{at:05}")),
            teams: names(KEYS, |at| format!("team-{:03}", at / 50)),
            models: names(MODELS, |at| format!("gpt-4.1-mini-2025-{at:03}")),
        }
    }

    fn labels(&self, key: usize, model: usize) -> CallLabels<'_> {
        let of = |names: &'_ Vec<String>, at: usize| -> usize { at % names.len() };
        let model = &self.models[of(&self.models, model)];
        CallLabels {
            operation: "chat",
            request_model: model,
            response_model: model,
            provider: "openai",
            error_type: "",
            team: &self.teams[of(&self.teams, key)],
            key: &self.keys[of(&self.keys, key)],
            model,
            route: "default",
            status: 200,
        }
    }
}

/// What this thread has used of a processor.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

fn metrics(criterion: &mut Criterion) {
    let (metrics, names, seen) = (Metrics::new().expect("series"), Names::new(), seen());
    for key in 0..KEYS {
        (0..EACH).for_each(|turn| metrics.record(&names.labels(key, key + turn * 7), &seen));
    }
    let mut times: Vec<Duration> = Vec::new();
    let mut size = 0;
    for _ in 0..SCRAPES {
        let begun = cpu_time();
        size = black_box(metrics.render()).len();
        times.push(cpu_time() - begun);
    }
    times.sort_unstable();
    println!(
        "{KEYS} keys, {MODELS} models: {size} bytes, CPU time p50 {:?}, slowest {:?}",
        times[SCRAPES / 2],
        times[SCRAPES - 1]
    );
    let mut group = criterion.benchmark_group("metrics");
    group.sample_size(20);
    group.bench_function("scrape", |bencher| bencher.iter(|| metrics.render().len()));
    let mut turn = 0;
    group.bench_function("record, a key with series of its own", |bencher| {
        bencher.iter(|| {
            turn += 1;
            metrics.record(black_box(&names.labels(turn % 50, turn % 50)), &seen);
        });
    });
    group.bench_function("record, a key among others", |bencher| {
        bencher.iter(|| {
            turn += 1;
            metrics.record(black_box(&names.labels(9_000 + turn % 1_000, turn)), &seen);
        });
    });
    group.finish();
}

criterion_group!(benches, metrics);
criterion_main!(benches);
