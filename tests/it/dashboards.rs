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
use weir::telemetry::metrics::Described;
use weir::telemetry::metrics::Metrics;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::DONE;
use crate::support::answer::USAGE;
use crate::support::answer::delta;
use crate::support::eventually;
use crate::support::http::client;
use crate::support::http::get;
use crate::support::http::get_with;
use crate::support::http::post;
use crate::support::http::post_as;
use crate::support::ports::Port;
use crate::support::world;

const DASHBOARDS: [&str; 4] = ["cost", "traffic", "policy", "training"];

/// One try each: the provider's answers come in turn. Half of the calls ask for a dearer model.
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

    /// The labels of what a query finds.
    fn labels(&self, query: &str) -> Vec<Value> {
        let Some(answer) = self.ask("query", query) else { return Vec::new() };
        let samples = answer["data"]["result"].as_array().into_iter().flatten();
        samples.map(|sample| sample["metric"].clone()).collect()
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

/// Keeps calls of a team's key, and searches, coming until it is stopped.
struct Traffic(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Traffic {
    fn through(gateway: &Gateway) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (address, control, stop) = (gateway.data(), gateway.control(), Arc::clone(&over));
        let key = r#"{"name":"app","team":"support"}"#;
        let made = Raw::connect(control).send(post("/api/keys", key)).response().unwrap();
        let key = made.json()["key"].as_str().unwrap().to_owned();
        eventually("the key opens", || {
            let models = format!("authorization: Bearer {key}\r\n");
            get_with(address, "/v1/models", &models).unwrap().status != 401
        });
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                for (stream, model) in [
                    (false, "gpt-4.1"),
                    (true, "gpt-4.1-mini"),
                    (true, "gpt-4.1"),
                    (false, "gpt-4.1-mini"),
                    (false, "gpt-4.1-mini"),
                ] {
                    let body = format!(
                        r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user","content":"Hi"}}]}}"#
                    );
                    let mut raw = Raw::connect(address);
                    let kind = if stream { "x-kind: stream\r\n" } else { "" };
                    raw.send(post_as(&key, "/v1/chat/completions", kind, body));
                    // It leaves with the head, whatever comes behind it.
                    let _ = raw.head();
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                // There is no such source: that is counted, too.
                let search = post("/api/search", r#"{"query":"x","source":"none"}"#);
                let _ = Raw::connect(control).send(search).response();
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

/// A query as Grafana sends it when nothing is chosen.
fn filled(query: &str) -> String {
    let mut query = query.to_owned();
    for (variable, value) in [("$__rate_interval", "20s"), ("$__range", "1m")] {
        query = query.replace(variable, value);
    }
    for variable in ["$team", "$key", "$model", "$route"] {
        query = query.replace(variable, ".*");
    }
    assert!(!query.contains('$'), "{query}");
    query
}

/// Title and query of every panel, as Grafana would send it.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for name in DASHBOARDS {
        let board: Value = serde_json::from_str(&read(&format!("dashboards/{name}.json"))).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let query = filled(target["expr"].as_str().unwrap());
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
    let known = known_series();
    for (title, query) in queries() {
        // `or vector(0)` finds data whatever stands before it.
        for series in series_of(&query) {
            assert!(known.contains(&series), "{title} asks for {series}, which there is not");
        }
        eventually(&format!("{title} finds data: {query}"), || prometheus.found(&query) > 0);
    }
    let rules = prometheus.ask("rules", "").unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> =
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert_eq!(rules.len(), 18 + 4 + 7);
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

/// All series that the code has, and those that Prometheus makes of histograms.
fn known_series() -> BTreeSet<String> {
    let metrics = Metrics::new().unwrap();
    let mut known: BTreeSet<String> =
        ["process_resident_memory_bytes", "process_cpu_seconds_total"].map(str::to_owned).into();
    for Described { name, kind, .. } in metrics.described() {
        known.insert((*name).to_owned());
        for part in ["bucket", "sum", "count"].iter().filter(|_| *kind == "histogram") {
            known.insert(format!("{name}_{part}"));
        }
    }
    known
}

#[test]
fn links_of_panels_lead_to_the_calls_that_they_count() {
    let upstream = upstream();
    let gateway = Gateway::builder(&upstream).policy(POLICY).start();
    let prometheus = Prometheus::scraping(&gateway);
    let traffic = Traffic::through(&gateway);
    let mut followed = 0;
    for name in DASHBOARDS {
        let board: Value = serde_json::from_str(&read(&format!("dashboards/{name}.json"))).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            let links = panel["fieldConfig"]["defaults"]["links"].as_array();
            for link in links.into_iter().flatten() {
                let query = filled(panel["targets"][0]["expr"].as_str().unwrap());
                let link = link["url"].as_str().unwrap();
                let what = format!("{name}: {}: {link}", panel["title"]);
                eventually(&what, || {
                    let labels = prometheus.labels(&query);
                    labels.iter().any(|labels| leads_to_calls(&gateway, link, labels))
                });
                followed += 1;
            }
        }
    }
    assert!(followed > 10, "{followed}");
    drop(traffic);
}

/// Follows a link as Grafana does for a series with these labels. Whatever the values are, the route
/// understands it.
fn leads_to_calls(gateway: &Gateway, link: &str, labels: &Value) -> bool {
    let now = chrono::Utc::now();
    let time = |minutes| {
        let time = now + chrono::Duration::minutes(minutes);
        time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    let mut link = link
        .replace("${__from:date:iso}", &time(-60))
        .replace("${__to:date:iso}", &time(1))
        .replace("${control}", "");
    for (name, value) in labels.as_object().unwrap() {
        link = link.replace(&format!("${{__field.labels.{name}}}"), value.as_str().unwrap());
    }
    // Such as that of the team, of a caller without one.
    if link.contains("${__field.labels.") {
        return false;
    }
    assert!(!link.contains('$'), "{link}: {labels}");
    let answer = get(gateway.control(), &link).unwrap();
    assert_eq!(answer.status, 200, "{link}: {}", answer.text());
    !answer.json()["data"].as_array().unwrap().is_empty()
}

#[test]
fn the_documentation_has_every_series_with_its_labels_and_no_other() {
    const CALL: [&str; 5] = [
        "gen_ai_operation_name",
        "gen_ai_request_model",
        "gen_ai_response_model",
        "gen_ai_provider_name",
        "error_type",
    ];
    let text = read("docs/operating.md");
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut documented = std::collections::BTreeMap::new();
    for line in text.lines().filter(|l| l.starts_with("| `weir_") || l.starts_with("| `gen_ai_")) {
        let cells: Vec<&str> = line.split('|').collect();
        let mut labels: BTreeSet<String> = quoted(cells[2]).into_iter().collect();
        if cells[2].split([',', ' ']).any(|word| word == "call") {
            labels.extend(CALL.map(str::to_owned));
        }
        for name in quoted(cells[1]) {
            assert!(documented.insert(name.clone(), labels.clone()).is_none(), "{name} twice");
        }
    }
    let metrics = Metrics::new().unwrap();
    let code = metrics.described().iter().map(|one| {
        assert!(!one.help.is_empty(), "{}", one.name);
        (one.name.to_owned(), one.labels.iter().map(|&label| label.to_owned()).collect())
    });
    assert_eq!(documented, code.collect());
}

#[test]
fn promtool_finds_nothing_wrong_with_a_scrape_of_everything() {
    let upstream = upstream();
    let gateway = Gateway::builder(&upstream).policy(POLICY).start();
    let traffic = Traffic::through(&gateway);
    eventually("there was some of everything", || {
        gateway.metric("weir_usage_estimated_total", &[]) > 0.5
            && gateway.metric("weir_search_total", &[]) > 0.5
    });
    drop(traffic);
    let text = get(gateway.control(), "/metrics").unwrap().text();
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed: tests/run sees to it");
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let said = String::from_utf8(check.wait_with_output().unwrap().stderr).unwrap();
    // The contract counts a model's last days in days.
    let days = |line: &&str| line.starts_with("weir_model_days_to_shutdown use base unit");
    let complaints: Vec<&str> =
        said.lines().filter(|line| !line.is_empty() && !days(line)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
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

#[test]
fn every_alert_has_a_test_and_says_what_to_do() {
    let [rules] = &yaml("dashboards/rules/alerts.yaml")[..] else { panic!("one document") };
    let [tests] = &yaml("dashboards/rules/tests/alerts.yaml")[..] else { panic!("one document") };
    let cases = tests["tests"].as_array().unwrap().iter();
    let cases: Vec<&Value> =
        cases.flat_map(|test| test["alert_rule_test"].as_array().unwrap()).collect();
    let documented = read("docs/operating.md");
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        let fires = |case: &&&Value| case["exp_alerts"].as_array().is_some_and(|a| !a.is_empty());
        let of_it: Vec<&&Value> = cases.iter().filter(|case| case["alertname"] == name).collect();
        assert!(of_it.iter().any(&fires), "{name} fires in a test");
        assert!(of_it.iter().any(|case| !fires(case)), "{name} is silent in a test");
        let row = documented.lines().find(|line| {
            let first = line.strip_prefix("| `").and_then(|rest| rest.split('|').next());
            first.is_some_and(|first| first.contains(&format!("{name}`")))
        });
        let row = row.unwrap_or_else(|| panic!("{name} is not in docs/operating.md"));
        assert_eq!(row.matches('|').count(), 4, "{row}");
    }
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
    // Every service but the gateway is there for it, or for those that look at it.
    let place = |variable: &str| services["weir"]["environment"][variable].as_str().unwrap();
    assert!(place("WEIR_STORE").contains("@postgres/") && place("WEIR_REDIS").contains("//redis:"));
    assert!(read("dashboards/prometheus.yml").contains("weir:8081"));
    assert!(
        read("dashboards/provisioning/datasources/prometheus.yaml").contains("//prometheus:9090")
    );
    let home =
        services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str();
    let home = home.unwrap().replace("/var/lib/grafana/dashboards", "dashboards");
    assert!(root().join(&home).exists(), "{home}");
    // The gateway takes every setting that it is given there.
    let settings = services["weir"]["environment"].as_object().unwrap();
    let known = read("src/config/environment.rs");
    for setting in settings.keys() {
        assert!(known.contains(&format!("\"{setting}\"")), "{setting} is no setting");
    }
}

#[test]
fn the_other_ways_to_run_it_name_what_there_is() {
    let known = read("src/config/environment.rs");
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
    for line in [
        "ExecStart=/usr/local/bin/weir serve",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "NoNewPrivileges=yes",
        "DynamicUser=yes",
        "TimeoutStopSec=75s",
    ] {
        assert!(unit.contains(line), "{line}");
    }
    // systemd itself reads it, with a binary that is there.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.service");
    fs::write(&file, unit.replace("/usr/local/bin/weir", env!("CARGO_BIN_EXE_weir"))).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&file).output();
    let verified = verified.expect("systemd-analyze is installed: tests/run sees to it");
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
    let image = read("Dockerfile");
    assert!(image.contains("USER 10001") && image.contains("ENTRYPOINT [\"/usr/local/bin/weir\"]"));
    for copied in image.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let from = copied.split(' ').next().unwrap();
        assert!(from.starts_with("--from") || root().join(from).exists(), "{copied}");
    }
    assert!(root().join(".dockerignore").exists());
}
