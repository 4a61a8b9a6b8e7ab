//! What stands around the gateway: dashboards and rules against a real Prometheus, and the files that
//! put it all together.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use serde_json::Value;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::DONE;
use crate::support::answer::USAGE;
use crate::support::answer::delta;
use crate::support::eventually;
use crate::support::http::client;
use crate::support::http::post_with;
use crate::support::ports::Port;
use crate::support::world;

const DASHBOARDS: [&str; 4] = ["cost", "traffic", "policy", "capture"];

/// One try each: the provider's answers come in turn.
const POLICY: &str = "routes:\n  - { name: all, when: 'tokens.prompt < 100000', use: gpt-4.1-mini, attempts: 1 }\n  \
                  - { name: never, when: 'request.model == \"x\"', use: gpt-4o }\nlimits:\n  - { name: all, per: global, budget: { usd: 1000, every: day } }\n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A Prometheus of a test's own, with the project's rules; ends when dropped.
pub(crate) struct Prometheus {
    child: Child,
    port: Port,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    pub(crate) fn scraping(gateway: &Gateway) -> Self {
        let (port, folder) = (Port::take(), tempfile::tempdir().unwrap());
        let config = format!(
            "global: {{ scrape_interval: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: [{}]\n\
             scrape_configs:\n  - job_name: weir\n    static_configs: [{{ targets: [\"{}\"] }}]\n",
            root().join("dashboards/rules/*.yaml").display(),
            gateway.control(),
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={}", port.address()))
            .arg("--enable-feature=exemplar-storage")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("prometheus is installed: tests/run sees to it");
        Self { child, port, _folder: folder }
    }

    /// Asks its API; None while it does not answer.
    pub(crate) fn ask(&self, path: &str, query: &str) -> Option<Value> {
        let url = format!("http://{}/api/v1/{path}", self.port.address());
        world().block_on(async {
            let url = reqwest::Url::parse_with_params(&url, [("query", query)]).unwrap();
            client().build().unwrap().get(url).send().await.ok()?.json().await.ok()
        })
    }

    /// How many samples a query finds; NaN is none.
    fn found(&self, query: &str) -> usize {
        let Some(answer) = self.ask("query", query) else { return 0 };
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let samples = answer["data"]["result"].as_array().unwrap();
        samples.iter().filter(|sample| sample["value"][1] != "NaN").count()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A provider that does all that a dashboard wants to show.
fn upstream() -> Upstream {
    let usage = USAGE.replace(
        "\"completion_tokens\"",
        "\"prompt_tokens_details\":{\"cached_tokens\":2},\"completion_tokens\"",
    );
    assert_ne!(usage, USAGE);
    let stream = delta("Hi") + &delta(" there") + &usage + DONE;
    Upstream::with(move |number, request| {
        match (request.header("x-kind") == Some("stream"), number % 3) {
            (true, 0) => Answer::events().chunk(delta("Hi")).stall(),
            (true, _) => Answer::stream(&stream),
            (false, 0) => Answer::json(500, "{}"),
            (false, _) => Answer::chat(),
        }
    })
}

/// Keeps calls coming until it is stopped.
struct Traffic(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Traffic {
    fn through(gateway: &Gateway) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (address, stop) = (gateway.data(), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                for stream in [false, true, true, false, false] {
                    let body = format!(
                        r#"{{"model":"gpt-4.1-mini","stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
                    );
                    let mut raw = Raw::connect(address);
                    let kind = if stream { "x-kind: stream\r\n" } else { "" };
                    raw.send(post_with("/v1/chat/completions", kind, body));
                    // It leaves with the head, whatever comes behind it.
                    let _ = raw.head();
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            }
        });
        Self(over, Some(thread))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.take().unwrap().join().unwrap();
    }
}

/// Title and query of every panel, as Grafana would send it.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for name in DASHBOARDS {
        let board: Value = serde_json::from_str(&read(&format!("dashboards/{name}.json"))).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let mut query = target["expr"].as_str().unwrap().to_owned();
                for (variable, value) in [("$__rate_interval", "20s"), ("$__range", "1m")] {
                    query = query.replace(variable, value);
                }
                for variable in ["$team", "$key", "$model", "$route"] {
                    query = query.replace(variable, ".*");
                }
                assert!(!query.contains('$'), "{query}");
                queries.push((format!("{name}: {}", panel["title"]), query));
            }
        }
    }
    queries
}

#[test]
fn every_query_of_the_dashboards_and_every_rule_finds_data() {
    let upstream = upstream();
    let gateway = Gateway::builder(&upstream).policy(POLICY).start();
    let prometheus = Prometheus::scraping(&gateway);
    let traffic = Traffic::through(&gateway);
    for (title, query) in queries() {
        eventually(&format!("{title} finds data: {query}"), || prometheus.found(&query) > 0);
    }
    let rules = prometheus.ask("rules", "").unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> =
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert_eq!(rules.len(), 12 + 4 + 8);
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        let query = rule["query"].as_str().unwrap();
        if rule["type"] == "recording" {
            eventually(&format!("it is recorded: {query}"), || {
                prometheus.found(rule["name"].as_str().unwrap()) > 0
            });
        }
        // An alert finds nothing as long as all is well; what it looks at is there.
        for series in series_of(query) {
            eventually(&format!("there is {series}"), || {
                prometheus.found(&series) > 0 || is_event(&series)
            });
        }
    }
    drop(traffic);
}

/// Series that are there from their first event on.
fn is_event(series: &str) -> bool {
    series == "weir_hook_deliveries_total"
}

/// The names of series in a query.
fn series_of(query: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let names = query.split(|c| !is_name(c)).filter(|name| {
        let ours = ["weir_", "weir:", "gen_ai_server", "gen_ai_client", "process_"];
        ours.iter().any(|prefix| name.starts_with(prefix))
    });
    names.map(str::to_owned).collect()
}

#[test]
fn every_series_is_in_the_documentation_and_the_other_way_round() {
    let upstream = upstream();
    let gateway = Gateway::builder(&upstream).policy(POLICY).start();
    let traffic = Traffic::through(&gateway);
    eventually("there was some of everything", || {
        gateway.metric("weir_usage_estimated_total", &[]) > 0.5
    });
    drop(traffic);
    let documented = read("docs/operating.md");
    let metrics = crate::support::http::get(gateway.control(), "/metrics").unwrap().text();
    let series = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let undocumented: Vec<_> = series
        .filter(|name| !name.starts_with("process_") && !documented.contains(&format!("`{name}`")))
        .collect();
    assert!(undocumented.is_empty(), "{undocumented:?}");
    let code = read("src/telemetry/metrics.rs");
    let table = documented
        .lines()
        .filter(|line| line.starts_with("| `weir_") || line.starts_with("| `gen_ai_"));
    for name in
        table.flat_map(|line| line.split(" | ").next().unwrap().split('`').skip(1).step_by(2))
    {
        assert!(
            code.contains(&format!("\"{name}\"")),
            "{name} is documented, and there is no such series"
        );
    }
}

#[test]
fn the_dashboards_are_what_their_script_writes() {
    let script = root().join("dashboards/build.py");
    let done = Command::new("python3").arg(script).arg("--check").output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn alerts_fire_when_they_should_and_not_otherwise() {
    let done = Command::new("promtool")
        .args(["test", "rules", "dashboards/rules/tests/alerts.yaml"])
        .current_dir(root())
        .output()
        .expect("promtool is installed: tests/run sees to it");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

fn yaml(path: &str) -> Vec<Value> {
    let text = read(path);
    text.split("\n---\n").map(|part| serde_saphyr::from_str(part).unwrap()).collect()
}

/// What `compose.services.*.volumes` and the like hold: texts.
fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn everything_that_the_compose_file_names_is_there() {
    let [compose] = &yaml("docker-compose.yml")[..] else { panic!("one document") };
    let services = compose["services"].as_object().unwrap();
    let names: BTreeSet<&str> = services.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["weir", "postgres", "redis", "prometheus", "grafana"]));
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        let (_, tag) = image.rsplit_once(':').expect("an image is pinned");
        assert!(tag != "latest", "{image}");
        assert!(service["healthcheck"]["test"].is_array(), "{name} has a health check");
        for other in service["depends_on"].as_object().into_iter().flatten().map(|(name, _)| name) {
            assert!(names.contains(other.as_str()), "{name} depends on {other}");
        }
        for volume in texts(&service["volumes"]) {
            let place = volume.split(':').next().unwrap();
            match place.strip_prefix("./") {
                Some(path) => assert!(root().join(path).exists(), "{name}: {path}"),
                None => assert!(compose["volumes"].get(place).is_some(), "{name}: {place}"),
            }
        }
    }
    assert!(root().join("docs/deploy/weir.env.example").exists());
    // The gateway takes every setting that it is given there.
    let settings = services["weir"]["environment"].as_object().unwrap();
    let known = read("src/config.rs");
    for setting in settings.keys() {
        assert!(known.contains(&format!("\"{setting}\"")), "{setting} is no setting");
    }
}

#[test]
fn the_other_ways_to_run_it_name_what_there_is() {
    let known = read("src/config.rs");
    let kinds: Vec<String> = yaml("docs/deploy/kubernetes.yaml")
        .iter()
        .map(|document| document["kind"].as_str().unwrap().to_owned())
        .collect();
    for kind in
        ["ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"]
    {
        assert!(kinds.iter().any(|known| known == kind), "{kind}");
    }
    let text = read("docs/deploy/kubernetes.yaml") + &read("docs/deploy/weir.env.example");
    let named = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    for setting in named.filter(|name| name.starts_with("WEIR_")) {
        assert!(known.contains(&format!("\"{setting}\"")), "{setting} is no setting");
    }
    let unit = read("docs/deploy/weir.service");
    for line in ["ExecStart=/usr/local/bin/weir serve", "NoNewPrivileges=yes", "TimeoutStopSec=75s"]
    {
        assert!(unit.contains(line), "{line}");
    }
    let image = read("Dockerfile");
    assert!(image.contains("USER 10001") && image.contains("ENTRYPOINT [\"/usr/local/bin/weir\"]"));
    for copied in image.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let from = copied.split(' ').next().unwrap();
        assert!(from.starts_with("--from") || root().join(from).exists(), "{copied}");
    }
    assert!(root().join(".dockerignore").exists());
}
