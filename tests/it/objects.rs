//! What the object store promises, in a folder and in a bucket of S3 alike: one list, run on both.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;

use futures_util::TryStreamExt as _;
use weir::store::Credentials;
use weir::store::ObjectError;
use weir::store::Objects;

use crate::support::ports::Port;
use crate::support::s3::S3;
use crate::support::s3::credentials;
use crate::support::tls::Certificate;
use crate::support::tls::TlsUpstream;
use crate::support::world;

/// An object store, called from a thread that may wait.
struct Store(Objects);

impl Store {
    fn folder(path: &Path) -> Self {
        Self::of(&format!("file:{}", path.display()), &Credentials::default())
    }

    fn of(setting: &str, credentials: &Credentials) -> Self {
        Self(Objects::parse(setting, credentials).unwrap())
    }

    fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) -> Result<(), ObjectError> {
        world().block_on(self.0.put(key, bytes.into()))
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        world().block_on(self.0.get(key)).unwrap()
    }

    fn delete(&self, key: &str) {
        world().block_on(self.0.delete(key)).unwrap();
    }

    fn list(&self, prefix: &str) -> Vec<String> {
        world().block_on(self.0.list(prefix)).unwrap()
    }

    /// What all four calls say; they must all fail.
    fn complaints(&self) -> [String; 4] {
        let put = self.put("a/b", "x").unwrap_err();
        let get = world().block_on(self.0.get("a/b")).unwrap_err();
        let delete = world().block_on(self.0.delete("a/b")).unwrap_err();
        let list = world().block_on(self.0.list("a")).unwrap_err();
        [put, get, delete, list].map(|error| error.to_string())
    }
}

/// The list. The store is empty before and after.
fn keeps_its_promises(store: &Store) {
    an_empty_store_has_nothing(store);
    an_object_is_there_until_deleted(store);
    large_and_empty_objects_come_back_whole(store);
    files_are_sent_in_parts_and_only_once(store);
    keys_are_listed_by_their_parts_and_in_order(store);
    names_are_kept_byte_for_byte(store);
    bad_keys_are_refused_by_every_call(store);
    assert_eq!(store.list(""), Vec::<String>::new(), "every part of the list cleans up");
}

fn an_empty_store_has_nothing(store: &Store) {
    assert_eq!(store.list(""), Vec::<String>::new());
    assert_eq!(store.list("interactions/2026"), Vec::<String>::new());
    assert_eq!(store.get("interactions/1.zst"), None);
    store.delete("interactions/1.zst");
}

fn an_object_is_there_until_deleted(store: &Store) {
    store.put("interactions/2026/1.zst", "first").unwrap();
    assert_eq!(store.get("interactions/2026/1.zst").unwrap(), b"first");
    store.put("interactions/2026/1.zst", "2nd").unwrap();
    assert_eq!(
        store.get("interactions/2026/1.zst").unwrap(),
        b"2nd",
        "nothing of the first is left"
    );
    assert_eq!(store.get("interactions/2026"), None, "a folder is no object");
    store.delete("interactions/2026/1.zst");
    assert_eq!(store.get("interactions/2026/1.zst"), None);
    store.delete("interactions/2026/1.zst");
}

fn large_and_empty_objects_come_back_whole(store: &Store) {
    let large: Vec<u8> = (0..5_u32 << 20).map(|at| (at % 251) as u8).collect();
    store.put("large", large.clone()).unwrap();
    assert!(store.get("large").unwrap() == large, "5 MiB came back changed");
    store.put("empty", "").unwrap();
    assert_eq!(store.get("empty").unwrap(), b"");
    assert_eq!(store.list(""), ["empty", "large"]);
    store.delete("large");
    store.delete("empty");
}

/// Three parts: two of 16 MiB and the rest.
fn files_are_sent_in_parts_and_only_once(store: &Store) {
    let bytes: Vec<u8> = (0..40_u32 << 20).map(|at| (at % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let len = u64::try_from(bytes.len()).unwrap();
    let mut put = || world().block_on(store.0.put_file("sets/1.jsonl", &mut file, len)).unwrap();
    assert!(put(), "it was not there before");
    assert!(!put(), "it is there now");
    assert_eq!(world().block_on(store.0.size("sets/1.jsonl")).unwrap(), Some(len));
    let read = world().block_on(async {
        let pieces = store.0.read("sets/1.jsonl").await.unwrap().unwrap();
        let pieces: Vec<bytes::Bytes> = pieces.try_collect().await.unwrap();
        pieces.concat()
    });
    assert!(read == bytes, "40 MiB came back changed");
    let other = tempfile::tempdir().unwrap();
    let other = Store::folder(other.path());
    let copy = || world().block_on(store.0.copy_to(&other.0, "sets/1.jsonl", len)).unwrap();
    assert_eq!([copy(), copy()], [true, false]);
    assert!(other.get("sets/1.jsonl").unwrap() == bytes, "40 MiB were copied changed");
    store.delete("sets/1.jsonl");
    assert_eq!(world().block_on(store.0.size("sets/1.jsonl")).unwrap(), None);
    assert!(world().block_on(store.0.read("sets/1.jsonl")).unwrap().is_none());
}

fn keys_are_listed_by_their_parts_and_in_order(store: &Store) {
    let keys = ["a/10", "a/9", "a/b/c", "a-b", "ab/1", "b"];
    for key in keys {
        store.put(key, key).unwrap();
    }
    assert_eq!(store.list(""), ["a-b", "a/10", "a/9", "a/b/c", "ab/1", "b"]);
    assert_eq!(store.list("a"), ["a/10", "a/9", "a/b/c"]);
    assert_eq!(store.list("a/"), ["a/10", "a/9", "a/b/c"]);
    assert_eq!(store.list("a/b"), ["a/b/c"]);
    assert_eq!(store.list("b"), Vec::<String>::new(), "an object is not below itself");
    keys.iter().for_each(|key| store.delete(key));
}

fn names_are_kept_byte_for_byte(store: &Store) {
    // The same letter composed and not: two names.
    let keys =
        ["%2e%2e/a", "a b+c=d&e?f*", "a%2Fb", "e\u{301}", "überall/日本語/😀.jsonl", "\u{e9}"];
    for key in keys {
        store.put(key, key).unwrap();
    }
    for key in keys {
        assert_eq!(store.get(key).unwrap(), key.as_bytes(), "{key}");
    }
    let mut sorted = keys;
    sorted.sort_unstable();
    assert_eq!(store.list(""), sorted);
    assert_eq!(store.list("überall"), ["überall/日本語/😀.jsonl"]);
    keys.iter().for_each(|key| store.delete(key));
}

fn bad_keys_are_refused_by_every_call(store: &Store) {
    for key in ["", "/a", "../a", "a/../../b", "a//b", "a\0b", "a\\b", "a#1"] {
        let refused = |done: Result<(), ObjectError>| {
            assert!(matches!(done, Err(ObjectError::BadKey { .. })), "{key:?}: {done:?}");
        };
        refused(store.put(key, "x"));
        refused(world().block_on(store.0.get(key)).map(drop));
        refused(world().block_on(store.0.delete(key)));
        if !key.is_empty() {
            refused(world().block_on(store.0.list(key)).map(drop));
        }
    }
}

#[test]
fn a_folder_keeps_what_the_object_store_promises() {
    let around = tempfile::tempdir().unwrap();
    let root = around.path().join("data/öbjects #1/%41");
    keeps_its_promises(&Store::folder(&root));
    let beside: Vec<_> = std::fs::read_dir(around.path()).unwrap().flatten().collect();
    assert_eq!(beside.len(), 1, "nothing is written outside of it: {beside:?}");
    assert!(root.is_dir(), "and it has the name that was asked for");
}

#[test]
fn a_bucket_keeps_what_the_object_store_promises() {
    let server = S3::start();
    keeps_its_promises(&Store::of(&server.bucket("bodies"), &credentials("any", "any")));
}

#[test]
fn a_bucket_lists_more_keys_than_fit_on_a_page() {
    let server = S3::start();
    let store = Store::of(&server.bucket("bodies"), &credentials("any", "any"));
    let keys: Vec<String> = (0..1_001).map(|number| format!("d/{number:04}")).collect();
    keys.iter().for_each(|key| store.put(key, "x").unwrap());
    assert_eq!(store.list("d"), keys);
}

#[test]
fn a_missing_bucket_is_named_by_every_call() {
    let server = S3::start();
    let store = Store::of(&server.setting("nowhere"), &credentials("any", "any"));
    for complaint in store.complaints() {
        assert!(complaint.contains("s3://nowhere"), "{complaint}");
        assert!(complaint.contains("no such bucket; create it"), "{complaint}");
    }
}

#[test]
fn wrong_credentials_are_refused_and_never_printed() {
    let server = S3::start();
    let setting = server.bucket("bodies");
    let right = server.lock();
    let store = Store::of(&setting, &right);
    store.put("a/b", "x").unwrap();
    assert_eq!(store.get("a/b").unwrap(), b"x", "the right ones are let in");
    assert_eq!(store.list(""), ["a/b"]);
    let wrong_secret = credentials(right.key_id.as_deref().unwrap(), "c2VjcmV0");
    for wrong in [wrong_secret, credentials("AKIANOBODY", "c2VjcmV0")] {
        let store = Store::of(&setting, &wrong);
        for complaint in store.complaints() {
            assert!(complaint.contains("refuses the credentials"), "{complaint}");
            assert!(complaint.contains("AWS_SECRET_ACCESS_KEY"), "{complaint}");
            assert!(complaint.contains("s3://bodies"), "{complaint}");
            assert!(!complaint.contains("c2VjcmV0"), "{complaint}");
        }
        let printed = format!("{} {:?} {wrong:?}", store.0, store.0);
        assert!(!printed.contains("c2VjcmV0"), "{printed}");
    }
}

#[test]
fn a_server_that_is_away_is_an_error_that_says_so() {
    let port = Port::take();
    let setting = format!("s3://bodies?endpoint=http://{}", port.address());
    for complaint in Store::of(&setting, &credentials("any", "any")).complaints() {
        assert!(complaint.contains(&setting), "{complaint}");
        assert!(complaint.contains("Connection refused"), "{complaint}");
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let server = TlsUpstream::start(&Certificate::new());
    let setting = format!("s3://bodies?endpoint={}", server.base_url());
    for complaint in Store::of(&setting, &credentials("any", "any")).complaints() {
        assert!(complaint.contains("certificate"), "{complaint}");
    }
    assert_eq!(server.requests(), 0);
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let setting = format!("s3://bodies?endpoint=http://{}", silent.local_addr().unwrap());
    let objects = Objects::parse(&setting, &credentials("any", "any")).unwrap();
    // On this clock hours pass as soon as nothing else can happen.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let gave_up = |error: &ObjectError| matches!(error, ObjectError::Unavailable { .. });
        assert!(objects.put("a", vec![0; 5 << 20]).await.is_err_and(|error| gave_up(&error)));
        assert!(objects.get("a").await.is_err_and(|error| gave_up(&error)));
        assert!(objects.delete("a").await.is_err_and(|error| gave_up(&error)));
        assert!(objects.list("").await.is_err_and(|error| gave_up(&error)));
    });
}

#[test]
fn a_folder_that_cannot_be_written_is_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let root = file.join("objects");
    let complaint = Store::folder(&root).put("a", "x").unwrap_err().to_string();
    assert!(complaint.contains(&format!("file:{}", root.display())), "{complaint}");
    assert!(complaint.contains("Not a directory"), "{complaint}");
}

#[test]
fn what_a_crash_left_of_an_object_is_neither_listed_nor_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path());
    store.put("a/b", "whole").unwrap();
    std::fs::write(folder.path().join("a/b#1"), "ha").unwrap();
    std::fs::write(folder.path().join("a/c#1"), "ha").unwrap();
    assert_eq!(store.list(""), ["a/b"]);
    assert_eq!(store.get("a/b").unwrap(), b"whole");
    assert_eq!(store.get("a/c"), None);
    store.put("a/b", "new").unwrap();
    store.put("a/c", "new").unwrap();
    assert_eq!(store.get("a/b").unwrap(), b"new");
    assert_eq!(store.list(""), ["a/b", "a/c"]);
}

#[test]
fn a_reader_sees_the_old_object_or_the_new_one_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::folder(folder.path());
    let object = |fill: u8| vec![fill; 256 << 10];
    store.put("a", object(0)).unwrap();
    std::thread::scope(|scope| {
        let writer =
            scope.spawn(|| (1..=40).for_each(|fill| store.put("a", object(fill)).unwrap()));
        while !writer.is_finished() {
            let seen = store.get("a").unwrap();
            assert!(seen == object(seen[0]), "a mixture of two");
            assert_eq!(store.list(""), ["a"], "drafts are not listed");
        }
    });
    assert!(store.get("a").unwrap() == object(40));
}
