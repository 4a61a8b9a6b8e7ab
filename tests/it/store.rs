//! What the store promises, on SQLite and on Postgres alike: one list, run on both.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;
use weir::metering::catalogue::Catalogue;
use weir::metering::catalogue::ModelOverride;
use weir::metering::cost::Bill;
use weir::metering::cost::PriceStatus;
use weir::metering::cost::UsageSource;
use weir::metering::cost::Usd;
use weir::metering::cost::price;
use weir::openai::usage::Usage;
use weir::store::Charge;
use weir::store::Database;
use weir::store::Interaction;
use weir::store::Ledger;
use weir::store::Period;
use weir::store::Recorder;
use weir::store::Recosted;
use weir::store::Settings;
use weir::store::SpendLine;
use weir::store::SpendQuery;
use weir::store::recost;
use weir::telemetry::metrics::Metrics;

use crate::support::eventually;
use crate::support::metrics;
use crate::support::postgres::Postgres;
use crate::support::rows::rows;
use crate::support::world;

/// 2026-11-23T00:00:00Z.
const MIDNIGHT: u64 = 1_795_392_000_000;
const HOUR: u64 = 3_600_000;

/// An empty store with a spool of its own.
struct World {
    url: String,
    database: Database,
    folder: TempDir,
    metrics: Arc<Metrics>,
}

impl World {
    fn with(url: Option<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = || format!("sqlite:{}", folder.path().join("data/weir.db").display());
        let url = url.unwrap_or_else(file);
        let database = Database::parse(&url).unwrap().unwrap();
        Self { url, database, folder, metrics: Arc::new(Metrics::new().unwrap()) }
    }

    fn spool(&self) -> PathBuf {
        self.folder.path().join("data/spool")
    }

    fn recorder(&self) -> Recorder {
        let settings = Settings {
            database: self.database.clone(),
            spool: self.spool(),
            max_bytes: 1 << 20,
            user_secret: None,
        };
        Recorder::start(settings, &self.metrics).unwrap()
    }

    /// Records calls and waits until they are in the store.
    fn record(&self, calls: &[Interaction<'_>]) {
        let recorder = self.recorder();
        calls.iter().for_each(|call| recorder.record(call, None));
        recorder.close(Duration::from_secs(30));
    }

    fn outcome(&self, outcome: &str) -> u64 {
        let metrics = metrics::Metrics::parse(&self.metrics.render());
        let count = metrics.sum("weir_capture_records_total", &[("outcome", outcome)]);
        format!("{:.0}", count.abs()).parse().unwrap()
    }

    fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        rows(&self.url, sql).unwrap()
    }

    fn spend(&self, parameters: &[(&str, &str)]) -> Vec<SpendLine> {
        let now = i64::try_from(MIDNIGHT + 24 * HOUR).unwrap();
        let query = SpendQuery::parse(parameters.iter().copied(), now).unwrap();
        let answer = async { Ledger::of(&self.database).unwrap().spend(&query).await };
        world().block_on(answer).unwrap().data
    }

    fn recost(&self, catalogue: &Catalogue) -> Recosted {
        let done = recost(&self.database, Period::default(), catalogue, "later", 1_795_400_000_123);
        world().block_on(done).unwrap()
    }
}

/// A call without usage, at midnight.
fn call() -> Interaction<'static> {
    Interaction {
        id: Uuid::now_v7(),
        created_at: MIDNIGHT,
        key_name: "passthrough",
        key_tags: &[],
        team: "",
        end_user_hash: None,
        session_id: None,
        tags: &[],
        endpoint: "chat/completions",
        route: "default",
        policy_version: "0123456789ab",
        requested_model: "gpt-5",
        model: "gpt-5",
        upstream_model: "gpt-5",
        response_model: None,
        provider: "openai",
        service_tier: None,
        streamed: false,
        status_code: 200,
        error_code: "",
        finish_reason: None,
        client_left: false,
        attempts: 1,
        latency_ms: 12,
        ttft_ms: None,
        charge: None,
        response_id: None,
        attempt_log: &[],
        capture: Some("metadata"),
        expires_at: None,
        facts: None,
        alias: None,
        alias_arm: None,
        retrieval: None,
    }
}

/// A call of this model with 1000 tokens in and 100 out.
fn used(model: &'static str, source: UsageSource) -> Interaction<'static> {
    let usage = Usage { input: 1000, output: 100, ..Usage::default() };
    let bill = price(Catalogue::builtin().get(model), &usage, source, None);
    Interaction { model, upstream_model: model, charge: Some(Charge::of(&bill)), ..call() }
}

fn a_schema_that_many_bring_up_to_date_at_once_is_brought_up_to_date_once(store: &World) {
    let all = (0..8).map(|_| {
        let database = store.database.clone();
        world().spawn(async move { database.migrate().await.unwrap().len() })
    });
    let all: Vec<_> = all.collect();
    let applied: usize = all.into_iter().map(|one| world().block_on(one).unwrap()).sum();
    let steps = store.rows("select count(*) from weir_migrations");
    assert_eq!(steps, [[applied.to_string()]]);
    assert!(applied > 0);
}

fn a_record_is_stored_whole_and_once_however_often_it_comes(store: &World) {
    let usage =
        Usage { input: 2006, cached_input: 1920, output: 300, reasoning: 128, ..Usage::default() };
    let bill =
        price(Catalogue::builtin().get("gpt-5"), &usage, UsageSource::Reported, Some("default"));
    let tags = [("app".to_owned(), "a\"b\\u0000\u{e9}".to_owned())];
    let recorder = store.recorder();
    let user = recorder.hash_user("ada@example.com");
    let full = Interaction {
        team: "support",
        end_user_hash: Some(&user),
        session_id: Some("s-1"),
        tags: &tags,
        requested_model: "nul\0 'quoted' \u{1f600}",
        response_model: Some("gpt-5-2025-08-07"),
        service_tier: Some("default"),
        streamed: true,
        status_code: 499,
        error_code: "client_gone",
        finish_reason: Some("stop"),
        client_left: true,
        ttft_ms: Some(7),
        created_at: MIDNIGHT + 123,
        charge: Some(Charge::of(&bill)),
        ..call()
    };
    recorder.record(&full, None);
    recorder.record(&full, None);
    recorder.record(&call(), None);
    recorder.close(Duration::from_secs(30));
    store.record(std::slice::from_ref(&full));

    assert_eq!((store.outcome("appended"), store.outcome("stored")), (4, 2));
    assert_eq!(store.outcome("duplicate"), 2);
    let row = store.rows(
        "select cast(id as text), team, session_id, requested_model, response_model, service_tier, \
         status_code, error_code, finish_reason, ttft_ms, latency_ms, usage_source, input_tokens, \
         cached_input_tokens, output_tokens, reasoning_tokens, image_input_tokens, \
         cost_picodollars, price_status, tags ->> 'app', rates ->> 'cached_input' \
         from interactions where error_code is not null",
    );
    // 86 x 1.25e-6 + 1920 x 0.125e-6 + 300 x 10e-6 = 0.0033475
    let expected = [
        &full.id.to_string(),
        "support",
        "s-1",
        "nul\u{fffd} 'quoted' \u{1f600}",
        "gpt-5-2025-08-07",
        "default",
        "499",
        "client_gone",
        "stop",
        "7",
        "12",
        "reported",
        "2006",
        "1920",
        "300",
        "128",
        "0",
        "3347500000",
        "exact",
        "a\"b\\u0000\u{e9}",
        "125000",
    ];
    assert_eq!(row.len(), 1);
    assert_eq!(row[0], expected);
    let other = "select count(*) from interactions where team is null and usage_source is null \
                 and price_status is null and cost_picodollars is null and input_tokens = 0";
    assert_eq!(store.rows(other), [["1"]]);
}

fn spend_is_summed_by_group_and_unpriced_is_never_nothing(store: &World) {
    let tags = [("app".to_owned(), "bot".to_owned())];
    store.record(&[
        // 1000 x 1.25e-6 + 100 x 10e-6 = 0.00225
        Interaction { team: "a", tags: &tags, ..used("gpt-5", UsageSource::Reported) },
        Interaction {
            team: "a",
            created_at: MIDNIGHT - 1,
            ..used("gpt-5", UsageSource::Estimated)
        },
        Interaction { team: "b", ..used("no-such-model", UsageSource::Reported) },
        Interaction { team: "b", created_at: MIDNIGHT + 5 * HOUR, ..call() },
    ]);
    let total = store.spend(&[]);
    assert_eq!(total.len(), 1);
    assert_eq!(total[0].id, "total");
    assert_eq!(total[0].requests, 4);
    assert_eq!(total[0].cost_usd, Some("0.0045".parse().unwrap()));
    assert_eq!((total[0].exact_requests, total[0].exact_cost_usd), (1, usd("0.00225")));
    assert_eq!((total[0].estimated_requests, total[0].estimated_cost_usd), (1, usd("0.00225")));
    assert_eq!(total[0].unpriced_requests, 1);
    assert_eq!((total[0].unpriced_input_tokens, total[0].unpriced_output_tokens), (1000, 100));
    assert_eq!((total[0].input_tokens, total[0].output_tokens), (3000, 300));

    let ids = |parameters: &[(&str, &str)]| {
        let lines = store.spend(parameters);
        lines.into_iter().map(|line| (line.id, line.requests)).collect::<Vec<_>>()
    };
    let of =
        |pairs: &[(&str, i64)]| pairs.iter().map(|&(id, n)| (id.to_owned(), n)).collect::<Vec<_>>();
    assert_eq!(ids(&[("group_by", "team")]), of(&[("a", 2), ("b", 2)]));
    assert_eq!(
        ids(&[("group_by", "model,team")]),
        of(&[("gpt-5,a", 2), ("gpt-5,b", 1), ("no-such-model,b", 1)])
    );
    assert_eq!(ids(&[("group_by", "tag:app")]), of(&[("", 3), ("bot", 1)]));
    assert_eq!(ids(&[("group_by", "day")]), of(&[("2026-11-22", 1), ("2026-11-23", 3)]));
    assert_eq!(
        ids(&[("group_by", "hour"), ("order", "desc"), ("limit", "2")]),
        of(&[("2026-11-23T05:00:00Z", 1), ("2026-11-23T00:00:00Z", 2)])
    );
    assert_eq!(ids(&[("group_by", "month"), ("since", "2026-11-23")]), of(&[("2026-11", 3)]));
    assert_eq!(ids(&[("until", "2026-11-23T00:00:00Z")]), of(&[("total", 1)]));
    // The clock of these questions stands at 2026-11-24T00:00:00Z.
    assert_eq!(ids(&[("since", "24h")]), of(&[("total", 3)]));
    assert_eq!(ids(&[("since", "1h")]), of(&[("total", 0)]));
    assert_eq!(ids(&[("group_by", "team"), ("after", "a")]), of(&[("b", 2)]));

    let models = store.spend(&[("group_by", "model")]);
    assert_eq!(models[1].cost_usd, None, "nothing is known of what it cost: {:?}", models[1]);
}

fn sums_stay_exact_where_a_float_or_64_bits_would_not(store: &World) {
    let large = |picodollars| {
        let usage = Usage { input: 1, ..Usage::default() };
        let bill = Bill {
            usage,
            source: UsageSource::Reported,
            cost: Some(Usd::from_picodollars(picodollars)),
            status: PriceStatus::Exact,
            parts: Vec::new(),
            fees: Vec::new(),
        };
        Interaction { charge: Some(Charge::of(&bill)), ..call() }
    };
    // 9223372.036854775807 USD, the most that a row can hold, three times, and one picodollar
    let most = i64::MAX.into();
    store.record(&[large(most), large(most), large(most), large(1)]);
    assert_eq!(store.spend(&[])[0].cost_usd, Some(usd("27670116.110564327422")));
}

fn a_later_price_stands_beside_the_recorded_one(store: &World) {
    store.record(&[used("gpt-5", UsageSource::Reported), used("house", UsageSource::Estimated)]);
    let mut catalogue = Catalogue::builtin();
    let price = [("input".to_owned(), "1.25".to_owned()), ("output".to_owned(), "10".to_owned())];
    catalogue.with("house", &ModelOverride { price: price.into(), ..ModelOverride::default() });
    let done = store.recost(&catalogue);
    assert_eq!((done.requests, done.changed, done.unpriced), (2, 1, 0));
    assert_eq!((done.cost_usd, done.cost_recosted_usd), (usd("0.00225"), usd("0.0045")));
    let rows = store.rows(
        "select model, cost_picodollars, price_status, cost_recosted_picodollars, recost_status, \
         recost_policy_version, recost_rates ->> 'output' from interactions order by model",
    );
    let later = ["2250000000", "exact", "later", "10000000"];
    assert_eq!(rows[0][..3], ["gpt-5", "2250000000", "exact"]);
    assert_eq!(rows[0][3..], later);
    assert_eq!(rows[1][..3], ["house", "null", "unpriced"]);
    assert_eq!(rows[1][3..], ["2250000000", "estimated", "later", "10000000"]);
    let total = store.spend(&[]);
    assert_eq!(total[0].cost_usd, Some(usd("0.00225")));
    assert_eq!((total[0].recosted_requests, total[0].cost_recosted_usd), (2, Some(usd("0.0045"))));
}

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

/// A promise, and a word for the database that it is tried in.
type Promise = (&'static str, fn(&World));

const LIST: [Promise; 5] = [
    ("migrate", a_schema_that_many_bring_up_to_date_at_once_is_brought_up_to_date_once),
    ("once", a_record_is_stored_whole_and_once_however_often_it_comes),
    ("spend", spend_is_summed_by_group_and_unpriced_is_never_nothing),
    ("sums", sums_stay_exact_where_a_float_or_64_bits_would_not),
    ("recost", a_later_price_stands_beside_the_recorded_one),
];

#[test]
fn the_list_holds_on_sqlite() {
    for (name, holds) in LIST {
        eprintln!("sqlite: {name}");
        holds(&World::with(None));
    }
}

#[test]
fn the_list_holds_on_postgres() {
    let server = Postgres::start();
    for (name, holds) in LIST {
        eprintln!("postgres: {name}");
        holds(&World::with(Some(server.create(name))));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_counted_once_and_holds_up_nothing() {
    let store = World::with(None);
    let folder = store.spool().join(Uuid::now_v7().to_string());
    // A folder in a file's place.
    std::fs::create_dir_all(folder.join("0000000000000001.seg")).unwrap();
    let recorder = store.recorder();
    recorder.record(&call(), None);
    eventually("both were tried", || {
        (store.outcome("stored"), store.outcome("unreadable")) == (1, 1)
    });
    let lock = std::fs::File::open(folder.join("lock")).unwrap();
    assert!(lock.try_lock().is_err(), "it is not adopted again while this process lives");
    recorder.close(Duration::from_secs(30));
    assert!(folder.join("0000000000000001.seg").exists());
}

#[test]
fn a_parameter_that_cannot_be_used_is_named_with_the_cure() {
    let cases = [
        (("group_by", "team,colour"), "colour"),
        (("since", "yesterday"), "24h"),
        (("limit", "0"), "10000"),
        (("order", "up"), "desc"),
        (("sicne", "24h"), "since"),
        (("since", "2026-11-24T00:00:01Z"), "until"),
    ];
    for ((name, value), said) in cases {
        let parameters = [("until", "2026-11-24T00:00:00Z"), (name, value)];
        let error = SpendQuery::parse(parameters, 0).unwrap_err();
        assert_eq!(error.name, name);
        assert!(error.message.contains(said), "{name}={value}: {error}");
    }
}

#[test]
fn on_postgres_nobody_but_the_gateway_reads_what_was_said() {
    let server = Postgres::start();
    let store = World::with(Some(server.create("closed")));
    store.record(&[call()]);
    assert_eq!(store.rows("select count(*) from interactions"), [["1"]]);
    // What Supabase's API would run as, even with rights that somebody gave by mistake.
    store.rows("create role anon nologin");
    store.rows("grant usage on schema gateway to anon");
    store.rows("grant select on all tables in schema gateway to anon");
    let open = "select relname from pg_class where relkind = 'r' and not relrowsecurity \
                and relnamespace = (select oid from pg_namespace where nspname = 'gateway') \
                and relname <> 'weir_migrations'";
    assert_eq!(store.rows(open), Vec::<Vec<String>>::new(), "tables without row-level security");
    let count = world().block_on(async {
        use sqlx::Connection as _;
        use sqlx::Row as _;
        let mut connection = sqlx::AnyConnection::connect(&store.url).await.unwrap();
        sqlx::raw_sql("set role anon").execute(&mut connection).await.unwrap();
        let row = sqlx::query("select count(*) from gateway.interactions");
        row.fetch_one(&mut connection).await.unwrap().get::<i64, _>(0)
    });
    assert_eq!(count, 0);
}
