//! `profile/rustc`: release builds get the profile of load, and nothing else does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// What a compiler is called with when cargo calls it by way of the script.
fn compiler_gets(version: &str, arguments: &[&str], into: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let compiler = folder.path().join("rustc");
    let said = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'rustc {version} (hash)' || echo \"$@\"\n"
    );
    fs::write(&compiler, said).unwrap();
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
    let mut script = Command::new(root().join("profile/rustc"));
    script.arg(&compiler).args(arguments).env_remove("WEIR_PROFILE_INTO");
    script.envs(into.map(|into| ("WEIR_PROFILE_INTO", into)));
    let done = script.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap().trim_end().to_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The version that rust-toolchain.toml asks for.
fn pinned() -> String {
    let file = fs::read_to_string(root().join("rust-toolchain.toml")).unwrap();
    let line = file.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap();
    line.trim_matches('"').to_owned()
}

#[test]
fn a_release_build_is_told_where_the_load_goes() {
    let given = ["--crate-name", "weir", "-C", "opt-level=3", "a b.rs"];
    let told = compiler_gets(&pinned(), &given, None);
    let profile = root().join(format!("profile/{}.profdata", pinned()));
    assert!(profile.exists(), "{} is missing: run benches/profile", profile.display());
    let all = "--crate-name weir -C opt-level=3 a b.rs";
    assert_eq!(
        told,
        format!("{all} -Cprofile-use={} -Cllvm-args=-no-pgo-warn-mismatch", profile.display())
    );
    assert_eq!(
        compiler_gets(&pinned(), &given, Some("/x")),
        format!("{all} -Cprofile-generate=/x")
    );
}

#[test]
fn other_builds_and_other_compilers_are_left_alone() {
    let debug = ["-C", "opt-level=1", "a.rs"];
    assert_eq!(compiler_gets(&pinned(), &debug, None), "-C opt-level=1 a.rs");
    assert_eq!(compiler_gets(&pinned(), &debug, Some("/x")), "-C opt-level=1 a.rs");
    let release = ["-C", "opt-level=3", "a.rs"];
    assert_eq!(compiler_gets("1.0.0", &release, None), "-C opt-level=3 a.rs");
}
