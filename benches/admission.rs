//! What it costs to admit a request and to settle it, without sockets: one limit of everything, and
//! three limits of everything. Criterion tells means; the 99th percentile of single calls is printed
//! before them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use weir::limits::Demand;
use weir::limits::Limits;
use weir::limits::Now;
use weir::limits::Real;
use weir::policy::Claim;
use weir::policy::Policy;
use weir::policy::Settings;
use weir::policy::Sources;

/// Subjects that take turns: more than a processor's first cache holds.
const SUBJECTS: usize = 1_000;
/// Calls whose time is taken one by one.
const TIMED: usize = 1_000_000;

/// Claims of every subject on so many limits of every kind, none of which is ever reached.
fn claims(limits: usize) -> Vec<Vec<Claim>> {
    let entries = (0..limits).map(|n| {
        format!(
            "  - {{ name: l{n}, requests: 900000000000/min, tokens: 900000000000/min, \
             concurrent: 1000000, budget: {{ usd: 90000000, every: month }} }}\n"
        )
    });
    let yaml = format!("limits:\n{}", entries.collect::<String>());
    let sources = Sources::of([("bench.yaml".to_owned(), yaml)].into());
    let policy = Policy::check(&sources, &Settings::default()).policy.expect("a good policy");
    let claim = |subject: usize| {
        let claim =
            |limit: &Arc<_>| Claim { limit: Arc::clone(limit), subject: format!("key-{subject}") };
        policy.limits().iter().map(claim).collect()
    };
    (0..SUBJECTS).map(claim).collect()
}

fn demand() -> Demand {
    let usd = "0.0031".parse().expect("an amount");
    Demand { tokens: 1_200, usd, pays: true, downgraded: false }
}

fn real() -> Real {
    Real { counts: true, tokens: 900, usd: "0.0021".parse().expect("an amount") }
}

fn admit(limits: &Arc<Limits>, claims: &[Claim], now: Now) {
    let permit = limits.try_admit(black_box(claims), black_box(&demand()), now);
    permit.expect("there is room").settle(black_box(&real()));
}

/// Prints the percentiles of admission alone, its clock's own cost included.
fn percentiles(count: usize, claims: &[Vec<Claim>]) {
    let limits = Arc::new(Limits::default());
    let now = Now::read();
    let mut times: Vec<u128> = Vec::with_capacity(TIMED);
    for turn in 0..TIMED {
        let Some(claims) = claims.get(turn % SUBJECTS) else { continue };
        let demand = demand();
        let begun = Instant::now();
        let permit = limits.try_admit(black_box(claims), &demand, now);
        times.push(begun.elapsed().as_nanos());
        permit.expect("there is room").settle(&real());
    }
    times.sort_unstable();
    let rank = |share: usize| times.get(TIMED / 1_000 * share).copied().unwrap_or_default();
    println!(
        "admission, {count} limit(s): p50 {} ns, p99 {} ns, p99.9 {} ns",
        rank(500),
        rank(990),
        rank(999)
    );
}

fn admission(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("admission");
    for count in [1, 3] {
        let claims = claims(count);
        percentiles(count, &claims);
        let limits = Arc::new(Limits::default());
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("admit and settle", count), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % SUBJECTS;
                if let Some(claims) = claims.get(turn) {
                    admit(&limits, claims, Now::read());
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, admission);
criterion_main!(benches);
