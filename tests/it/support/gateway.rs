//! The real process, with a folder, ports and a log of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use super::http::get;
use super::metrics::Metrics;
use super::ports::Port;
use super::upstream::Upstream;

/// How long anything may take before a test gives up; never a measure of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Deadlines for tests of deadlines.
pub(crate) const IMPATIENT: &str = "{ connect: 200ms, first_byte: 300ms, idle: 300ms }";

/// Runs what follows as the first process of a namespace, which ends with this command.
const NAMESPACE: [&str; 5] =
    ["/usr/bin/unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// What a gateway is started with.
pub(crate) struct Builder {
    base_url: String,
    /// Further keys of the upstream's entry, each as ` key: value`.
    upstream: Vec<String>,
    policy: String,
    config: String,
    env: Vec<(String, String)>,
    arguments: Vec<String>,
    contained: bool,
}

impl Builder {
    /// An upstream entry's key, such as `("api_key", "sk-1")`.
    pub(crate) fn upstream(mut self, key: &str, value: &str) -> Self {
        self.upstream.push(format!("    {key}: {value}"));
        self
    }

    /// Short deadlines.
    pub(crate) fn impatient(self) -> Self {
        self.upstream("timeouts", IMPATIENT)
    }

    /// Further sections of the policy file.
    pub(crate) fn policy(mut self, yaml: &str) -> Self {
        self.policy.push_str(yaml);
        self.policy.push('\n');
        self
    }

    /// Further lines of weir.yaml.
    pub(crate) fn config(mut self, yaml: &str) -> Self {
        self.config.push_str(yaml);
        self.config.push('\n');
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more argument of the command line.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The first process of a namespace of its own, as in a container. Only root can do that.
    pub(crate) fn contained(mut self) -> Self {
        self.contained = true;
        self
    }

    fn write(&self, folder: &Path, data: u16, control: u16) {
        let policies = folder.join("policies");
        std::fs::create_dir_all(&policies).unwrap();
        let mut text = format!("upstreams:\n  openai:\n    base_url: {}\n", self.base_url);
        text.push_str(&self.upstream.join("\n"));
        text.push('\n');
        text.push_str(&self.policy);
        std::fs::write(policies.join("main.yaml"), text).unwrap();
        let config = format!(
            "listen: 127.0.0.1:{data}\ncontrol: {{ listen: \"127.0.0.1:{control}\" }}\n{}",
            self.config
        );
        std::fs::write(folder.join("weir.yaml"), config).unwrap();
    }

    /// Starts the process and waits until it takes requests.
    pub(crate) fn start(self) -> Gateway {
        self.start_until("ready")
    }

    /// Starts the process and waits until `/readyz` says this.
    pub(crate) fn start_until(self, status: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let (data, control) = (Port::take(), Port::take());
        self.write(folder.path(), data.number(), control.number());
        let process = if self.contained {
            Process::contained(folder.path(), "log", &self.arguments, &self.env)
        } else {
            Process::spawn(folder.path(), "log", &self.arguments, &self.env)
        };
        let Self { arguments, env, .. } = self;
        let mut gateway = Gateway { process, data, control, folder, arguments, env };
        gateway.wait_until(status);
        gateway
    }
}

/// A process of ours; killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// `weir` with these arguments, in `folder`, with no other environment than `env`.
    pub(crate) fn spawn(
        folder: &Path,
        log: &str,
        arguments: &[String],
        env: &[(String, String)],
    ) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_weir")), folder, log, arguments, env)
    }

    /// The same in a namespace of processes of its own, where it is the first one.
    fn contained(folder: &Path, log: &str, arguments: &[String], env: &[(String, String)]) -> Self {
        let mut command = Command::new(NAMESPACE[0]);
        command.args(&NAMESPACE[1..]).arg(env!("CARGO_BIN_EXE_weir"));
        Self::run(command, folder, log, arguments, env)
    }

    /// Whether a namespace of processes can be made: by root, where the kernel lets it.
    pub(crate) fn may_be_contained() -> bool {
        let tried = Command::new(NAMESPACE[0]).args(&NAMESPACE[1..]).arg("/bin/true").status();
        tried.is_ok_and(|status| status.success())
    }

    fn run(
        mut command: Command,
        folder: &Path,
        log: &str,
        arguments: &[String],
        env: &[(String, String)],
    ) -> Self {
        let log = folder.join(log);
        let out = File::create(&log).unwrap();
        let child = command
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Sends a signal to the process that it has started.
    pub(crate) fn signal_child(&self, name: &str) {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let child = children.unwrap().trim().to_owned();
        let done = Command::new("kill").args(["-s", name, &child]).status().unwrap();
        assert!(done.success(), "kill -s {name} {child}");
    }

    /// Sends a signal such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let done = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(done.success(), "kill -s {name} {id}");
    }

    /// Waits for its end.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the log of process {} ---\n{}", self.child.id(), self.log());
        }
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    data: Port,
    control: Port,
    folder: TempDir,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
}

impl Gateway {
    /// A gateway before one upstream, with everything at its default.
    pub(crate) fn start(upstream: &Upstream) -> Self {
        Self::builder(upstream).start()
    }

    pub(crate) fn builder(upstream: &Upstream) -> Builder {
        Self::before(&upstream.base_url())
    }

    /// The same for an upstream that is no [`Upstream`].
    pub(crate) fn before(base_url: &str) -> Builder {
        Builder {
            base_url: base_url.to_owned(),
            upstream: Vec::new(),
            policy: String::new(),
            config: String::new(),
            env: Vec::new(),
            arguments: vec!["serve".to_owned()],
            contained: false,
        }
    }

    fn wait_until(&mut self, status: &str) {
        let deadline = Instant::now() + PATIENCE;
        let says = |control| Some(get(control, "/readyz")?.json()["status"] == status);
        while says(self.control()) != Some(true) {
            let ended = self.process.has_ended();
            assert!(!ended, "the gateway did not start:\n{}", self.log());
            assert!(Instant::now() < deadline, "the gateway is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.exit();
    }

    /// Starts the process again, after its end, on the same folder and ports.
    pub(crate) fn start_again(&mut self) {
        self.process = Process::spawn(self.folder.path(), "log", &self.arguments, &self.env);
        self.wait_until("ready");
    }

    /// Where clients connect.
    pub(crate) fn data(&self) -> SocketAddr {
        self.data.address()
    }

    /// Where operators connect.
    pub(crate) fn control(&self) -> SocketAddr {
        self.control.address()
    }

    /// A URL of the data plane.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.data())
    }

    /// Its folder: weir.yaml, policies, data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let answer = get(self.control(), "/metrics").expect("the control plane answers");
        Metrics::parse(&answer.text())
    }

    /// Records of calls that came to this, such as stored.
    pub(crate) fn records(&self, outcome: &str) -> u64 {
        let count = self.metric("weir_capture_records_total", &[("outcome", outcome)]);
        format!("{:.0}", count.abs()).parse().unwrap()
    }

    /// The URL of the store that it uses by default.
    pub(crate) fn store(&self) -> String {
        format!("sqlite:{}", self.folder().join("data/weir.db").display())
    }

    /// The sum of a metric's series that carry these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// Memory in use, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    fn is_idle(&self) -> bool {
        let text = get(self.control(), "/metrics").map(|answer| answer.text());
        text.is_some_and(|text| Metrics::parse(&text).sum("weir_in_flight_requests", &[]) < 0.5)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() || self.process.has_ended() {
            return;
        }
        // A call that nobody waits for any more must not be counted as running.
        let deadline = Instant::now() + PATIENCE;
        while !self.is_idle() {
            assert!(Instant::now() < deadline, "calls are still running:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
