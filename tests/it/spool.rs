//! The spool as operators rely on it: no client waits for the store, and no record is lost on its way
//! to it, whatever dies.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::answer::gate;
use crate::support::chat;
use crate::support::eventually;
use crate::support::gateway::Process;
use crate::support::http::get;
use crate::support::http::good;
use crate::support::postgres::Postgres;
use crate::support::rows::ids;
use crate::support::rows::rows;

const BODY: &str = r#"{"model":"gpt-4.1-mini","messages":[]}"#;
/// Nobody listens there.
const AWAY: &str = "store: postgres://u@127.0.0.1:9/db";
/// What each record begins with on disk.
const MARK: [u8; 4] = [0xF5, b'w', b'r', 0xF6];

/// Sends a call that is answered; returns its id.
fn served(gateway: &Gateway) -> String {
    let answer = chat(gateway, BODY);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-weir-id").unwrap().to_owned()
}

/// Clients that send one call after the other until stopped; each keeps the ids of its answers.
struct Clients {
    over: Arc<AtomicBool>,
    ids: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(gateway: &Gateway, number: usize) -> Self {
        let (over, ids) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let address = gateway.data();
        let client = |_| {
            let (over, ids) = (Arc::clone(&over), Arc::clone(&ids));
            std::thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    // The gateway may be killed at any moment of this.
                    let Ok(stream) = std::net::TcpStream::connect(address) else { continue };
                    drop(stream);
                    let Some(answer) = answer(address) else { continue };
                    ids.lock().unwrap().push(answer);
                }
            })
        };
        let threads = (0..number).map(client).collect();
        Self { over, ids, threads }
    }

    fn count(&self) -> usize {
        self.ids.lock().unwrap().len()
    }

    fn stop(self) -> Vec<String> {
        self.over.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut self.ids.lock().unwrap())
    }
}

/// The id of an answer on a connection of its own, if there is one.
fn answer(address: std::net::SocketAddr) -> Option<String> {
    let raw = std::panic::catch_unwind(|| Raw::connect(address));
    let answer = raw.ok()?.send(good()).response().ok()?;
    assert_eq!(answer.status, 200);
    Some(answer.header("x-weir-id").unwrap().to_owned())
}

fn spool(gateway: &Gateway) -> PathBuf {
    gateway.folder().join("data/spool")
}

/// The segments below a folder.
pub(crate) fn segments(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths
        .flat_map(|path| if path.is_dir() { segments(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    found.sort();
    found
}

/// The ids of the whole records in a segment, as anybody would read them who knows the format.
fn spooled(segment: &Path) -> Vec<String> {
    let bytes = std::fs::read(segment).unwrap();
    let number = |at: usize| {
        let four = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(four.try_into().unwrap()))
    };
    let (mut ids, mut at) = (Vec::new(), 0);
    while let Some(length) = number(at + 4) {
        assert_eq!(bytes.get(at..at + 4), Some(&MARK[..]));
        let end = at + 12 + usize::try_from(length).unwrap();
        let Some(record) = bytes.get(at + 12..end) else { break };
        let json = record.split(|&byte| byte == 0).next().unwrap();
        let record: serde_json::Value = serde_json::from_slice(json).unwrap();
        ids.push(record["id"].as_str().unwrap().to_owned());
        at = end;
    }
    ids
}

/// The ids of all whole records on disk, in order.
pub(crate) fn all_spooled(gateway: &Gateway) -> Vec<String> {
    segments(&spool(gateway)).iter().flat_map(|path| spooled(path)).collect()
}

/// What lies on disk of each record: its id, and all its text with the bodies unpacked.
pub(crate) fn spooled_bodies(gateway: &Gateway) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for segment in segments(&spool(gateway)) {
        let bytes = std::fs::read(segment).unwrap();
        for begin in memchr::memmem::find_iter(&bytes, &MARK) {
            let length = u32::from_le_bytes(bytes[begin + 4..begin + 8].try_into().unwrap());
            let record = &bytes[begin + 12..begin + 12 + usize::try_from(length).unwrap()];
            let json = record.split(|&byte| byte == 0).next().unwrap();
            let mut text = String::from_utf8(json.to_vec()).unwrap();
            let id = serde_json::from_str::<serde_json::Value>(&text).unwrap();
            let id = id["id"].as_str().unwrap_or("verdict").to_owned();
            // Each body begins as every zstd frame does.
            let frame = [0x28, 0xb5, 0x2f, 0xfd];
            for body in memchr::memmem::find_iter(record, &frame) {
                let mut plain = Vec::new();
                let mut reader = zstd::Decoder::new(&record[body..]).unwrap().single_frame();
                std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
                text.push_str(&String::from_utf8_lossy(&plain));
            }
            found.push((id, text));
        }
    }
    found
}

/// Pseudo-random numbers: the same in every run, for a failure to be found again.
fn random(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// `WEIR_CRASH_ROUNDS` sets the number of rounds.
fn rounds() -> u64 {
    let rounds = std::env::vars().find(|(name, _)| name == "WEIR_CRASH_ROUNDS");
    rounds.map_or(20, |(_, rounds)| rounds.parse().unwrap())
}

#[test]
fn killed_at_any_moment_every_durable_record_whose_answer_was_seen_is_stored() {
    let upstream = Upstream::always(Answer::chat());
    let policy = "capture: [{ durable: true }]";
    let mut gateway = Gateway::builder(&upstream).policy(policy).start();
    let mut seen = BTreeSet::new();
    for round in 0..rounds() {
        if round > 0 {
            gateway.start_again();
        }
        let clients = Clients::start(&gateway, 4);
        let moment = random(round) % 150;
        eventually("some are served", || clients.count() >= 3);
        std::thread::sleep(Duration::from_millis(moment));
        gateway.kill();
        seen.extend(clients.stop());
    }
    gateway.start_again();
    eventually("the spool is empty", || segments(&spool(&gateway)).is_empty());
    let stored: BTreeSet<String> = ids(&gateway.store()).into_iter().collect();
    let missing: Vec<_> = seen.difference(&stored).collect();
    assert!(missing.is_empty(), "answered and not stored: {missing:?}");
    assert!(seen.len() >= 60, "{}", seen.len());
    assert_eq!(bodiless(&gateway), 0);
}

/// Records that say that their bodies are there, and they are not.
fn bodiless(gateway: &Gateway) -> usize {
    let sql = "select id from interactions where capture = 'full' \
               and id not in (select interaction_id from interaction_bodies)";
    rows(&gateway.store(), sql).unwrap().len()
}

#[test]
fn killed_at_any_moment_every_appended_record_is_stored_and_none_twice() {
    let rounds = rounds();
    let upstream = Upstream::always(Answer::chat());
    let mut gateway = Gateway::start(&upstream);
    let mut due = BTreeSet::new();
    let mut appended = 0;
    for round in 0..rounds {
        if round > 0 {
            gateway.start_again();
        }
        let clients = Clients::start(&gateway, 4);
        let moment = random(round) % 150;
        eventually("some are served", || {
            clients.count() >= 3 + usize::try_from(moment).unwrap() / 8
        });
        std::thread::sleep(Duration::from_millis(moment));
        // What it says it has appended by now, and what lies on disk when it is dead.
        appended += gateway.records("appended");
        gateway.kill();
        clients.stop();
        for segment in segments(&spool(&gateway)) {
            due.extend(spooled(&segment));
        }
    }
    let before: BTreeSet<String> = ids(&gateway.store()).into_iter().collect();
    gateway.start_again();
    eventually("the spool is empty", || segments(&spool(&gateway)).is_empty());
    let stored = ids(&gateway.store());
    let distinct: BTreeSet<String> = stored.iter().cloned().collect();
    assert_eq!(stored.len(), distinct.len(), "none is there twice");
    assert!(before.is_subset(&distinct));
    let missing: Vec<_> = due.difference(&distinct).collect();
    assert!(missing.is_empty(), "appended and not stored: {missing:?}");
    let count = u64::try_from(distinct.len()).unwrap();
    assert!(count >= appended, "{count} stored, {appended} appended at least");
    assert!(appended > rounds);
    assert_eq!(bodiless(&gateway), 0);
    assert_eq!(gateway.records("corrupt"), 0);
}

#[test]
fn postgres_may_be_away_at_the_start_and_crash_later() {
    let server = Postgres::stopped();
    let upstream = Upstream::always(Answer::chat());
    let store = server.url("postgres");
    let gateway = Gateway::builder(&upstream).config(&format!("store: {store}")).start();
    let mut sent: BTreeSet<String> = (0..10).map(|_| served(&gateway)).collect();
    eventually("they are spooled", || gateway.records("appended") == 10);
    eventually("the store is missed", || {
        get(gateway.control(), "/readyz").unwrap().json()["store"] == "unavailable"
    });
    assert_eq!(get(gateway.control(), "/readyz").unwrap().status, 200, "traffic goes on");
    assert!(gateway.metric("weir_capture_spool_bytes", &[]) > 0.5);

    server.resume();
    eventually("all are stored", || ids(&store).len() == 10);
    eventually("the store is back", || {
        get(gateway.control(), "/readyz").unwrap().json()["store"] == "ok"
    });
    let clients = Clients::start(&gateway, 2);
    eventually("some are served", || clients.count() >= 20);
    server.crash();
    let until = clients.count() + 20;
    eventually("they are served without it", || clients.count() >= until);
    server.resume();
    let until = clients.count() + 20;
    eventually("and with it again", || clients.count() >= until);
    sent.extend(clients.stop());
    eventually("every call is stored", || ids(&store).len() == sent.len());
    assert_eq!(ids(&store).into_iter().collect::<BTreeSet<_>>(), sent);
    eventually("the spool is empty", || segments(&spool(&gateway)).is_empty());
    assert!(gateway.metric("weir_capture_spool_bytes", &[]) < 0.5);
}

#[test]
fn a_database_that_somebody_locks_holds_up_nobody() {
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::start(&upstream);
    let first = served(&gateway);
    eventually("it is stored", || ids(&gateway.store()) == [first.clone()]);
    let (unlock, locked) = (gate(), gate());
    let holder = {
        let (store, unlock, locked) = (gateway.store(), Arc::clone(&unlock), Arc::clone(&locked));
        crate::support::world().spawn(async move {
            use sqlx::Connection as _;
            sqlx::any::install_default_drivers();
            let mut other = sqlx::AnyConnection::connect(&store).await.unwrap();
            sqlx::raw_sql("begin exclusive").execute(&mut other).await.unwrap();
            locked.add_permits(1);
            unlock.acquire().await.unwrap().forget();
            sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
        })
    };
    crate::support::world().block_on(async { locked.acquire().await.unwrap().forget() });
    let mut sent: BTreeSet<String> = (0..20).map(|_| served(&gateway)).collect();
    sent.insert(first);
    // Several times as long as the gateway's connection waits for a lock: it comes back to it.
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(300));
        sent.insert(served(&gateway));
    }
    assert!(gateway.log().contains("database is locked"));
    assert_eq!(gateway.records("stored"), 1);
    unlock.add_permits(1);
    crate::support::world().block_on(holder).unwrap();
    eventually("every call is stored", || ids(&gateway.store()).len() == sent.len());
    assert_eq!(ids(&gateway.store()).into_iter().collect::<BTreeSet<_>>(), sent);
    let told = |what: &str| gateway.log().matches(what).count();
    assert_eq!((told("records wait in the spool"), told("available again")), (1, 1));
}

#[test]
fn a_full_spool_drops_bodies_first_then_records_and_counts_each() {
    let upstream = Upstream::always(Answer::chat());
    let config = format!("{AWAY}\nspool: {{ max_bytes: 8KiB }}");
    let mut gateway = Gateway::builder(&upstream).config(&config).start();
    let sent: Vec<String> = (0..50).map(|_| served(&gateway)).collect();
    let told = |gateway: &Gateway| (gateway.records("appended"), gateway.records("dropped"));
    eventually("each is appended or dropped", || {
        let (appended, dropped) = told(&gateway);
        appended + dropped == 50
    });
    let (appended, dropped) = told(&gateway);
    assert!(appended > 0 && dropped > 0, "{appended} {dropped}");
    let bodies = gateway.records("body_dropped");
    // An eighth of the spool is kept for records alone, and a record is smaller than that.
    assert!(bodies > dropped && bodies < 50, "{bodies} {dropped}");
    let bytes = gateway.metric("weir_capture_spool_bytes", &[]);
    assert!(bytes > 1.0 && bytes < 8192.5, "{bytes}");
    let lying: u64 = segments(&spool(&gateway)).iter().map(|s| s.metadata().unwrap().len()).sum();
    assert!((bytes - f64::from(u32::try_from(lying).unwrap())).abs() < 0.5);
    eventually("it is told", || gateway.log().contains("were dropped"));
    assert_eq!(gateway.log().matches("were dropped").count(), 1, "once a minute");
    // What was kept arrives once there is a store: the first ones whole.
    gateway.kill();
    let weir_yaml = gateway.folder().join("weir.yaml");
    let text = std::fs::read_to_string(&weir_yaml).unwrap().replace(AWAY, "");
    std::fs::write(&weir_yaml, text).unwrap();
    gateway.start_again();
    let kept = usize::try_from(appended).unwrap();
    eventually("they are stored", || ids(&gateway.store()).len() == kept);
    let stored = ids(&gateway.store());
    assert!(stored.iter().all(|id| sent.contains(id)));
    assert_eq!(stored[0], sent[0]);
    let whole = "select count(*) from interaction_bodies";
    assert_eq!(rows(&gateway.store(), whole).unwrap(), [[(50 - bodies).to_string()]]);
    let whole = "select count(*) from interactions where capture = 'full'";
    assert_eq!(rows(&gateway.store(), whole).unwrap(), [[(50 - bodies).to_string()]]);
}

#[test]
fn a_damaged_file_costs_what_is_damaged_and_is_kept_aside() {
    let upstream = Upstream::always(Answer::chat());
    let mut gateway = Gateway::builder(&upstream).config(AWAY).start();
    let sent: Vec<String> = (0..5).map(|_| served(&gateway)).collect();
    eventually("they are spooled", || gateway.records("appended") == 5);
    gateway.kill();
    let files = segments(&spool(&gateway));
    assert_eq!(files.len(), 1, "while the store is away a file lasts");
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let second = memchr::memmem::find_iter(&bytes, &MARK).nth(1).unwrap();
    bytes[second + 40] ^= 1;
    // The beginning of a sixth that was never finished.
    let torn: Vec<u8> = bytes.iter().take(30).copied().collect();
    bytes.extend(torn);
    std::fs::write(&files[0], &bytes).unwrap();

    let weir_yaml = gateway.folder().join("weir.yaml");
    let text = std::fs::read_to_string(&weir_yaml).unwrap().replace(AWAY, "");
    std::fs::write(&weir_yaml, text).unwrap();
    gateway.start_again();
    eventually("the rest is stored", || ids(&gateway.store()).len() == 4);
    let stored = ids(&gateway.store());
    assert_eq!(stored, [&sent[0], &sent[2], &sent[3], &sent[4]].map(Clone::clone));
    eventually("the damage is counted", || gateway.records("corrupt") == 1);
    assert_eq!(gateway.records("torn"), 1);
    let aside = segments(&spool(&gateway).join("aside"));
    assert_eq!(aside.len(), 1);
    assert_eq!(std::fs::read(&aside[0]).unwrap(), bytes);
    served(&gateway);
    eventually("it goes on", || ids(&gateway.store()).len() == 5);
}

#[test]
fn a_store_that_is_read_only_for_a_while_gets_everything_afterwards() {
    let server = Postgres::start();
    let store = server.create("readonly");
    let upstream = Upstream::always(Answer::chat());
    let gateway = Gateway::builder(&upstream).config(&format!("store: {store}")).start();
    let mut sent: BTreeSet<String> = [served(&gateway)].into();
    eventually("it is stored", || ids(&store).len() == 1);
    let other = server.url("postgres");
    let set = |value: &str| {
        let sql = format!("alter database readonly set default_transaction_read_only = {value}");
        rows(&other, &sql).unwrap();
        // It holds for connections that are made from now on.
        let leave = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                     where datname = 'readonly'";
        rows(&other, leave).unwrap();
    };
    set("on");
    sent.extend((0..20).map(|_| served(&gateway)));
    eventually("it is noticed", || gateway.log().contains("read-only transaction"));
    assert_eq!(gateway.records("dropped") + gateway.records("refused"), 0);
    set("off");
    eventually("every call is stored", || ids(&store).len() == 21);
    assert_eq!(ids(&store).into_iter().collect::<BTreeSet<_>>(), sent);
    assert_eq!(bodies(&store), 21);
}

/// Pairs in a store.
fn bodies(store: &str) -> usize {
    rows(store, "select cast(interaction_id as text) from interaction_bodies").unwrap().len()
}

#[test]
fn a_folder_that_cannot_be_written_stops_no_traffic() {
    let upstream = Upstream::always(Answer::chat());
    // A file is in the way of the folders.
    let config = "spool: { dir: weir.yaml/spool }\nstore: sqlite:weir.yaml/weir.db";
    let mut gateway = Gateway::builder(&upstream).config(config).start();
    for _ in 0..5 {
        served(&gateway);
    }
    eventually("it is told", || {
        let log = gateway.log();
        log.contains("spool cannot be written") && log.contains("wait in the spool")
    });
    assert_eq!(gateway.records("dropped"), 0, "they wait in memory");
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit().code(), Some(0));
    assert!(gateway.log().contains("were dropped"), "{}", gateway.log());
}

/// A small file system; goes when dropped.
struct Disk(PathBuf);

impl Disk {
    /// None for whom it is not allowed: only root may mount.
    fn of(bytes: &str, path: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let size = format!("size={bytes}");
        mount(&["-t", "tmpfs", "-o", &size, "tmpfs", path.to_str().unwrap()]).then(|| Self(path))
    }

    fn grow(&self, bytes: &str) {
        let size = format!("remount,size={bytes}");
        assert!(mount(&["-o", &size, self.0.to_str().unwrap()]));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str]) -> bool {
    let mount = Command::new("mount").args(arguments).stderr(Stdio::null()).status();
    mount.is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_costs_nothing_while_memory_lasts_and_leaves_no_half_record() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::of("64k", folder.path().join("disk")) else {
        eprintln!("not allowed to mount a small disk; a full spool is tried by its bound alone");
        return;
    };
    let upstream = Upstream::always(Answer::chat());
    let config = format!("{AWAY}\nspool: {{ dir: \"{}/spool\" }}", disk.0.display());
    let mut gateway = Gateway::builder(&upstream).config(&config).start();
    let mut sent = Vec::new();
    while !gateway.log().contains("spool cannot be written") {
        sent.push(served(&gateway));
        assert!(sent.len() < 1000, "the disk does not fill");
    }
    sent.extend((0..10).map(|_| served(&gateway)));
    disk.grow("8m");
    let count = u64::try_from(sent.len()).unwrap();
    eventually("all are appended after all", || gateway.records("appended") == count);
    assert_eq!(gateway.records("dropped"), 0);
    gateway.kill();
    let segments = segments(&disk.0);
    assert_eq!(segments.iter().flat_map(|path| spooled(path)).collect::<Vec<_>>(), sent);
}

#[test]
fn on_sigterm_everything_is_stored_before_the_exit() {
    let upstream = Upstream::always(Answer::chat());
    let mut gateway = Gateway::start(&upstream);
    let sent: BTreeSet<String> = (0..30).map(|_| served(&gateway)).collect();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit().code(), Some(0));
    assert_eq!(ids(&gateway.store()).into_iter().collect::<BTreeSet<_>>(), sent);
    let left = std::fs::read_dir(spool(&gateway)).unwrap().count();
    assert_eq!(left, 0, "nothing waits, and no folder is left");
}

#[test]
fn on_sigterm_without_a_store_everything_is_spooled_and_the_next_process_stores_it() {
    let upstream = Upstream::always(Answer::chat());
    let mut gateway = Gateway::builder(&upstream).config(AWAY).start();
    let sent: BTreeSet<String> = (0..30).map(|_| served(&gateway)).collect();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit().code(), Some(0));
    let weir_yaml = gateway.folder().join("weir.yaml");
    let text = std::fs::read_to_string(&weir_yaml).unwrap().replace(AWAY, "");
    std::fs::write(&weir_yaml, text).unwrap();
    gateway.start_again();
    eventually("they are stored", || ids(&gateway.store()).len() == 30);
    assert_eq!(ids(&gateway.store()).into_iter().collect::<BTreeSet<_>>(), sent);
}

#[test]
fn an_upgrade_loses_no_record_of_either_process() {
    let upstream = Upstream::always(Answer::chat());
    let mut gateway = Gateway::start(&upstream);
    let clients = Clients::start(&gateway, 2);
    eventually("the old one serves", || clients.count() >= 10);
    let arguments = ["serve".to_owned(), "--upgrade".to_owned()];
    let mut next = Process::spawn(gateway.folder(), "next.log", &arguments, &[]);
    let socket = gateway.folder().join("data/upgrade.sock");
    eventually("the next process waits for the sockets", || socket.exists());
    gateway.process.signal("QUIT");
    assert_eq!(gateway.process.exit().code(), Some(0));
    let until = clients.count() + 10;
    eventually("the new one serves", || clients.count() >= until);
    let sent: BTreeSet<String> = clients.stop().into_iter().collect();
    next.signal("TERM");
    assert_eq!(next.exit().code(), Some(0));
    let stored: BTreeSet<String> = ids(&gateway.store()).into_iter().collect();
    assert!(sent.is_subset(&stored), "{:?}", sent.difference(&stored));
}

#[test]
fn gateways_that_start_at_once_share_folder_and_store() {
    let upstream = Upstream::always(Answer::chat());
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "store: sqlite:{0}/weir.db\nspool: {{ dir: \"{0}/spool\" }}",
        folder.path().display()
    );
    let gateways: Vec<Gateway> = std::thread::scope(|scope| {
        let start = |_| scope.spawn(|| Gateway::builder(&upstream).config(&config).start());
        let all: Vec<_> = (0..3).map(start).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let sent: BTreeSet<String> =
        (0..4).flat_map(|_| gateways.iter().map(served).collect::<Vec<_>>()).collect();
    let store = format!("sqlite:{}/weir.db", folder.path().display());
    eventually("every call is stored", || ids(&store).len() == 12);
    assert_eq!(ids(&store).into_iter().collect::<BTreeSet<_>>(), sent);
}
