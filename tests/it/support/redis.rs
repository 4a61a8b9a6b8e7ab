//! A real Redis server of a test's own, which keeps nothing on disk.

use std::net::TcpStream;
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
        Self { port: Port::take(), folder: tempfile::tempdir().unwrap(), child: None }
    }

    /// Starts it, again or for the first time, empty, on the same port.
    pub(crate) fn resume(&mut self) {
        let port = self.port.number().to_string();
        let child = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
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

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
