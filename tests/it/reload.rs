//! Changes of the policy folder while requests run.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use weir::policy::Sources;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Raw;
use crate::support::Upstream;
use crate::support::chat;
use crate::support::eventually;
use crate::support::http::get;
use crate::support::http::good;

const ASK: &str = r#"{"model":"auto","messages":[]}"#;

struct World {
    upstream: Upstream,
    gateway: Gateway,
}

impl World {
    fn start() -> Self {
        let upstream = Upstream::always(Answer::chat());
        let gateway = Gateway::start(&upstream);
        let world = Self { upstream, gateway };
        world.write("main.yaml", &world.sends_to("gpt-4.1-nano"));
        world.wait_for("gpt-4.1-nano");
        world
    }

    fn policies(&self) -> PathBuf {
        self.gateway.folder().join("policies")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.policies().join(name), text).unwrap();
    }

    /// A policy file that sends everything to this model.
    fn sends_to(&self, model: &str) -> String {
        let base_url = self.upstream.base_url();
        format!(
            "upstreams:\n  openai: {{ base_url: '{base_url}' }}\nroutes:\n  \
             - {{ name: r, use: {model} }}\n"
        )
    }

    fn model(&self) -> String {
        chat(&self.gateway, ASK).header("x-weir-model").unwrap().to_owned()
    }

    #[track_caller]
    fn wait_for(&self, model: &str) {
        eventually(&format!("{model} is in force"), || self.model() == model);
        let in_sync = || self.gateway.metric("weir_policy_in_sync", &[]) > 0.5;
        eventually("the folder is in sync", in_sync);
    }

    fn status(&self) -> serde_json::Value {
        get(self.gateway.control(), "/api/policies").unwrap().json()
    }
}

/// The revision of a folder with this one file.
fn revision(text: &str) -> String {
    Sources::of(BTreeMap::from([("main.yaml".to_owned(), text.to_owned())])).revision()
}

#[test]
fn an_edit_is_in_force_without_a_restart_and_answers_carry_its_revision() {
    let world = World::start();
    let text = world.sends_to("gpt-4.1-mini");
    world.write("main.yaml", &text);
    world.wait_for("gpt-4.1-mini");
    let answer = chat(&world.gateway, ASK);
    assert_eq!(answer.header("x-weir-policy"), Some(&*revision(&text)));
    assert_eq!(world.status()["revision"], revision(&text));
    assert_eq!(world.status()["in_sync"], true);
    let applied = || world.gateway.metric("weir_policy_reloads_total", &[("result", "applied")]);
    assert!(applied() > 1.5);
}

#[test]
fn a_broken_edit_changes_nothing_and_everybody_is_told() {
    let world = World::start();
    let before = world.status()["revision"].clone();
    world.write("main.yaml", &world.sends_to("gpt-99-nobody"));
    let rejected = || world.gateway.metric("weir_policy_reloads_total", &[("result", "rejected")]);
    eventually("the edit is refused", || rejected() > 0.5);
    assert!(world.gateway.metric("weir_policy_in_sync", &[]) < 0.5);
    assert_eq!(world.model(), "gpt-4.1-nano");
    let status = world.status();
    assert_eq!((&status["revision"], &status["in_sync"]), (&before, &false.into()));
    let diagnostic = &status["rejected"]["diagnostics"][0];
    assert_eq!(diagnostic["message"], "unknown model `gpt-99-nobody`");
    assert_eq!((&diagnostic["line"], &diagnostic["column"]), (&4.into(), &21.into()));
    eventually("the log says so", || world.gateway.log().contains("unknown model `gpt-99-nobody`"));
    // The cure.
    world.write("main.yaml", &world.sends_to("gpt-4.1"));
    world.wait_for("gpt-4.1");
    assert!(world.status()["rejected"].is_null());
}

#[test]
fn a_failing_policy_test_keeps_a_change_out() {
    let world = World::start();
    fs::create_dir(world.policies().join("tests")).unwrap();
    world.write(
        "tests/routing.yaml",
        "tests:\n  - name: everything goes to nano\n    request: { model: auto, messages: [] }\n    \
         expect: { route: r, model: gpt-4.1-nano }\n",
    );
    let before = world.status()["revision"].clone();
    eventually("the tests are part of the policy", || world.status()["revision"] != before);
    world.write("main.yaml", &world.sends_to("gpt-4.1-mini"));
    eventually("the change is refused", || world.status()["in_sync"] == false);
    assert_eq!(world.model(), "gpt-4.1-nano");
    let text = world.status()["rejected"]["diagnostics"].to_string();
    assert!(text.contains("everything goes to nano") && text.contains("gpt-4.1-mini"), "{text}");
}

#[test]
fn files_that_are_replaced_linked_removed_and_written_again_are_followed() {
    let world = World::start();
    let folder = world.policies();
    // As editors save: a new file takes the old one's name.
    fs::write(folder.join(".main.yaml.swp"), "half a fi").unwrap();
    fs::write(folder.join("main.yaml~"), world.sends_to("gpt-4.1-mini")).unwrap();
    fs::rename(folder.join("main.yaml~"), folder.join("main.yaml")).unwrap();
    world.wait_for("gpt-4.1-mini");
    // As Kubernetes mounts a ConfigMap: `..data` is swapped below links.
    for (version, model) in [("..v1", "gpt-4.1"), ("..v2", "gpt-6-luna")] {
        mount(&folder, version, &world.sends_to(model));
        world.wait_for(model);
    }
    // Removed: the last good policy stays. Written again: it is followed.
    fs::remove_file(folder.join("main.yaml")).unwrap();
    eventually("the empty folder is refused", || world.status()["in_sync"] == false);
    assert_eq!(world.model(), "gpt-6-luna");
    world.write("main.yaml", &world.sends_to("gpt-4.1-nano"));
    world.wait_for("gpt-4.1-nano");
    // The whole folder is replaced.
    let next = world.gateway.folder().join("next");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("other.yaml"), world.sends_to("gpt-4.1")).unwrap();
    fs::rename(&folder, world.gateway.folder().join("old")).unwrap();
    fs::rename(&next, &folder).unwrap();
    world.wait_for("gpt-4.1");
    // And the new one is watched.
    world.write("other.yaml", &world.sends_to("gpt-4.1-mini"));
    world.wait_for("gpt-4.1-mini");
}

/// Writes a version beside the files and swaps the links to it in one step.
fn mount(folder: &Path, version: &str, text: &str) {
    fs::create_dir(folder.join(version)).unwrap();
    fs::write(folder.join(version).join("main.yaml"), text).unwrap();
    symlink(version, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    symlink("..data/main.yaml", folder.join("tmp")).unwrap();
    fs::rename(folder.join("tmp"), folder.join("main.yaml")).unwrap();
}

#[test]
fn a_renewed_key_file_is_a_change_of_the_policy() {
    let world = World::start();
    let key = world.gateway.folder().join("key");
    let text = world
        .sends_to("gpt-4.1-mini")
        .replace("base_url:", &format!("api_key_file: '{}', base_url:", key.display()));
    world.write("main.yaml", &text);
    eventually("a missing file is named", || {
        world.gateway.log().contains("cannot read `api_key_file`")
    });
    fs::write(&key, "sk-one\n").unwrap();
    world.wait_for("gpt-4.1-mini");
    let sent = |key: &str| {
        chat(&world.gateway, ASK);
        world.upstream.requests().last().unwrap().header("authorization") == Some(key)
    };
    assert!(sent("Bearer sk-one"));
    fs::write(&key, "sk-two\n").unwrap();
    eventually("the new key is used", || sent("Bearer sk-two"));
    // A pipe in its place is refused, and whoever waits for its writer would wait for ever.
    fs::remove_file(&key).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&key).status().unwrap().success());
    eventually("the pipe is refused", || world.status()["in_sync"] == false);
    assert!(sent("Bearer sk-two"), "the key before it stays");
    world.write("main.yaml", &world.sends_to("gpt-4.1"));
    world.wait_for("gpt-4.1");
}

#[test]
fn a_provider_that_moves_is_followed() {
    let world = World::start();
    let elsewhere = Upstream::always(Answer::chat());
    let text = world.sends_to("gpt-4.1-mini");
    world.write("main.yaml", &text.replace(&world.upstream.base_url(), &elsewhere.base_url()));
    world.wait_for("gpt-4.1-mini");
    let before = (world.upstream.count(), elsewhere.count());
    chat(&world.gateway, ASK);
    assert_eq!((world.upstream.count(), elsewhere.count()), (before.0, before.1 + 1));
}

/// Edits at random; see the issue's "1,000 random edits under load".
#[test]
fn a_thousand_random_edits_under_load_fail_no_request() {
    let world = World::start();
    let models = ["gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-6-luna"];
    let valid: BTreeSet<String> =
        models.iter().map(|model| revision(&world.sends_to(model))).collect();
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Raw::connect(world.gateway.data());
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.send(good()).response();
                    let answer = answer.unwrap_or_else(|_| panic!("a connection was cut"));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let revision = answer.header("x-weir-policy").unwrap();
                    assert!(valid.contains(revision), "{revision} was never a good content");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        edit_at_random(&world, &models);
        // The last good content is what is in force at the end.
        let last = world.sends_to("gpt-4.1-mini");
        world.write("main.yaml", &last);
        world.wait_for("gpt-4.1-mini");
        stop.store(true, Ordering::Relaxed);
    });
    println!("{served:?} requests in {:?}", began.elapsed());
    assert!(served.load(Ordering::Relaxed) > 1_000, "{served:?} requests in all");
    let rejected = world.gateway.metric("weir_policy_reloads_total", &[("result", "rejected")]);
    assert!(rejected > 0.5, "no broken content was ever seen");
}

fn edit_at_random(world: &World, models: &[&str]) {
    let folder = world.policies();
    let mut state = 20_261_123_u64;
    let mut random = |below: usize| {
        // A linear congruential generator: the same edits in every run.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for edit in 0..1_000 {
        let text = world.sends_to(models[random(models.len())]);
        let main = folder.join("main.yaml");
        match random(6) {
            // Cut within the URL: half a file that happens to be a whole one is a whole one.
            0 => fs::write(&main, text.get(..30 + random(10)).unwrap()).unwrap(),
            1 => fs::write(&main, text.replace("use:", "ues:")).unwrap(),
            2 => {
                let version = format!("..v{edit}");
                mount_over(&folder, &version, &text);
            }
            3 => {
                // It may be gone already.
                let _ = fs::remove_file(&main);
            }
            4 => {
                fs::write(folder.join("draft"), &text).unwrap();
                fs::rename(folder.join("draft"), &main).unwrap();
            }
            _ => {
                // A link's file is not what is written to.
                let _ = fs::remove_file(&main);
                fs::write(&main, &text).unwrap();
            }
        }
        // Some contents last long enough to be seen.
        std::thread::sleep(std::time::Duration::from_millis(if edit % 50 == 0 { 400 } else { 2 }));
    }
    let _ = fs::remove_file(folder.join("main.yaml"));
}

/// The same as [`mount`], where links may be there already.
fn mount_over(folder: &Path, version: &str, text: &str) {
    for leftover in ["..data_tmp", "tmp"] {
        let _ = fs::remove_file(folder.join(leftover));
    }
    mount(folder, version, text);
}
