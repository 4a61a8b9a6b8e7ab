//! A real Redis server of a test's own, which keeps nothing on disk.

use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use tempfile::TempDir;

use super::eventually;
use super::ports::Port;

/// A server; killed when dropped.
pub(crate) struct Redis {
    port: Port,
    folder: TempDir,
    /// In place of the usual ones: a plain server on its port.
    arguments: Option<Vec<String>>,
    /// Where members of a cluster talk to each other.
    bus: Option<Port>,
    child: Option<Child>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let mut server = Self::stopped();
        server.resume();
        server
    }

    /// A server that nobody has started yet.
    pub(crate) fn stopped() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { port: Port::take(), folder, arguments: None, bus: None, child: None }
    }

    /// A server with arguments of the caller's own, which may depend on its port and its folder.
    pub(crate) fn with(arguments: impl FnOnce(u16, &Path) -> Vec<String>) -> Self {
        let mut server = Self::stopped();
        server.arguments = Some(arguments(server.port.number(), server.folder.path()));
        server.resume();
        server
    }

    /// A member of a cluster that has no slots yet.
    pub(crate) fn of_cluster() -> Self {
        let bus = Port::take();
        let mut member = Self::with(|port, _| {
            let mut arguments = plain(port);
            let (bus, usual) = (bus.number().to_string(), ["--cluster-node-timeout", "2000"]);
            let more = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            arguments.extend(more.iter().chain(&usual).map(|&argument| argument.to_owned()));
            arguments
        });
        member.bus = Some(bus);
        member
    }

    /// Watches a master called `mymaster`, alone.
    pub(crate) fn sentinel(master: &Self) -> Self {
        Self::with(|port, folder| {
            let config = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {} 1\n\
                 sentinel down-after-milliseconds mymaster 500\n\
                 sentinel failover-timeout mymaster 3000\n",
                master.port.number()
            );
            let file = folder.join("sentinel.conf");
            std::fs::write(&file, config).unwrap();
            vec![file.display().to_string(), "--sentinel".to_owned()]
        })
    }

    /// A copy of a master.
    pub(crate) fn replica(master: &Self) -> Self {
        Self::with(|port, _| {
            let mut arguments = plain(port);
            let of = format!("127.0.0.1 {}", master.port.number());
            arguments.extend(["--replicaof".to_owned(), of]);
            arguments.extend(["--repl-diskless-sync-delay", "0"].map(str::to_owned));
            arguments
        })
    }

    /// What Redis' own client answers.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        let port = self.port.number().to_string();
        let out = Command::new("redis-cli").args(["-p", &port]).args(command).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn bus(&self) -> u16 {
        self.bus.as_ref().expect("a member of a cluster").number()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Starts it, again or for the first time, empty, on the same port.
    pub(crate) fn resume(&mut self) {
        let arguments = self.arguments.clone().unwrap_or_else(|| plain(self.port.number()));
        let child = Command::new("redis-server")
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let missing = "this test needs a Redis server: install Debian's package `redis-server`";
        self.child = Some(child.expect(missing));
        eventually("Redis listens", || TcpStream::connect(self.port.address()).is_ok());
    }

    /// Ends it as `kill -9` does; what it knew is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.number())
    }
}

fn plain(port: u16) -> Vec<String> {
    let port = port.to_string();
    let usual = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    usual.map(str::to_owned).to_vec()
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
