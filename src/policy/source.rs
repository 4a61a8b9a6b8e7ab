//! The files of a policy folder, in memory, and the name of their content.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;

use ring::digest;

use super::diagnostic::Diagnostic;

/// Largest file. A policy is written by people; a megabyte of it is a mistake.
const LARGEST_FILE: u64 = 1 << 20;
/// Most files in a folder.
const MOST_FILES: usize = 1_000;

/// The `*.yaml` files of a folder and of its `tests`, in order of name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Policy files.
    pub(super) policies: Vec<Source>,
    /// Files of `tests/`.
    pub(super) tests: Vec<Source>,
    /// Whether there is such a folder at all.
    pub(super) found: bool,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its name as the user would write it.
    pub(super) name: String,
    /// Its content.
    pub(super) text: String,
}

impl Source {
    /// What is wrong with a file that is too large.
    pub(super) fn too_large(&self) -> Option<Diagnostic> {
        (self.text.len() as u64 > LARGEST_FILE).then(|| too_large(&self.name))
    }
}

impl Sources {
    /// Reads a folder. A folder that does not exist is an empty one.
    ///
    /// # Errors
    /// What cannot be read, is not UTF-8, or is too large.
    pub fn read(folder: &Path) -> Result<Self, Vec<Diagnostic>> {
        if !folder.exists() {
            return Ok(Self::default());
        }
        let mut found = Vec::new();
        let policies = read_all(folder, &mut found);
        let tests = folder.join("tests");
        let tests = if tests.is_dir() { read_all(&tests, &mut found) } else { Vec::new() };
        if found.is_empty() { Ok(Self { policies, tests, found: true }) } else { Err(found) }
    }

    /// Files given by name, as `POST /api/policies/validate` gets them; `tests/x.yaml` is a test.
    pub fn of(files: BTreeMap<String, String>) -> Self {
        let mut sources = Self { found: true, ..Self::default() };
        for (name, text) in files {
            let list = match name.starts_with("tests/") {
                true => &mut sources.tests,
                false => &mut sources.policies,
            };
            list.push(Source { name, text });
        }
        sources
    }

    /// First 12 hexadecimal digits of a SHA-256 of all files with their names below the folder.
    pub fn revision(&self) -> String {
        let mut hash = digest::Context::new(&digest::SHA256);
        for (kind, list) in [("", &self.policies), ("tests/", &self.tests)] {
            for source in list {
                let name = source.name.rsplit(['/', '\\']).next().unwrap_or_default();
                hash.update(kind.as_bytes());
                hash.update(name.as_bytes());
                hash.update(&[0]);
                hash.update(&source.text.len().to_be_bytes());
                hash.update(source.text.as_bytes());
            }
        }
        hash.finish().as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn read_all(folder: &Path, found: &mut Vec<Diagnostic>) -> Vec<Source> {
    let paths = match yaml_files(folder) {
        Ok(paths) => paths,
        Err(error) => {
            found.push(unreadable(folder, &error));
            return Vec::new();
        }
    };
    if paths.len() > MOST_FILES {
        let message = format!(
            "{} holds {} YAML files; the limit is {MOST_FILES}",
            folder.display(),
            paths.len()
        );
        found.push(Diagnostic::error(None, message).help("put the policy into fewer files"));
        return Vec::new();
    }
    let mut sources = Vec::new();
    for path in paths {
        match read(&path) {
            Ok(text) => sources.push(Source { name: path.display().to_string(), text }),
            Err(diagnostic) => found.push(*diagnostic),
        }
    }
    sources
}

fn yaml_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let yaml = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml");
        // Editors keep their drafts beside the file, as `.name.yaml` or `#name.yaml`.
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if yaml && !name.starts_with(['.', '#']) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a regular file, and at most a byte more than `most`. Others, such as a pipe or a device,
/// may never end.
///
/// # Errors
/// What the system says, or that it is no regular file.
pub(super) fn read_regular(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    // Asked before it is opened: to open a pipe waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<String, Box<Diagnostic>> {
    let bytes = read_regular(path, LARGEST_FILE);
    let bytes = bytes.map_err(|error| Box::new(unreadable(path, &error)))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(Box::new(too_large(&path.display().to_string())));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("{} is not UTF-8 at byte {at}", path.display());
        Box::new(Diagnostic::error(None, message).help("save it as UTF-8"))
    })
}

fn too_large(name: &str) -> Diagnostic {
    let message = format!("{name} is larger than 1 MiB, the limit of a policy file");
    Diagnostic::error(None, message).help("split it into several files")
}

fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(None, format!("cannot read {}: {error}", path.display()))
        .help("check the path and its permissions")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Sources {
        let files = files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned()));
        Sources::of(files.collect())
    }

    #[test]
    fn the_revision_follows_the_content_and_the_names_but_not_the_folder() {
        let one = of(&[("a.yaml", "x"), ("tests/a.yaml", "t")]);
        assert_eq!(one.revision().len(), 12);
        assert_eq!(one.revision(), of(&[("a.yaml", "x"), ("tests/a.yaml", "t")]).revision());
        assert_ne!(one.revision(), of(&[("a.yaml", "y"), ("tests/a.yaml", "t")]).revision());
        assert_ne!(one.revision(), of(&[("b.yaml", "x"), ("tests/a.yaml", "t")]).revision());
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tests")).unwrap();
        fs::write(folder.path().join("a.yaml"), "x").unwrap();
        fs::write(folder.path().join("tests/a.yaml"), "t").unwrap();
        fs::write(folder.path().join(".a.yaml"), "draft").unwrap();
        assert_eq!(Sources::read(folder.path()).unwrap().revision(), one.revision());
    }

    #[test]
    fn a_file_that_is_too_large_or_no_text_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("big.yaml"), vec![b'#'; 10 << 20]).unwrap();
        fs::write(folder.path().join("latin.yaml"), b"a: \xe9").unwrap();
        std::os::unix::fs::symlink("/nowhere", folder.path().join("gone.yaml")).unwrap();
        // To open it would wait for a writer that never comes.
        let pipe = folder.path().join("pipe.yaml");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        let found = Sources::read(folder.path()).unwrap_err();
        let all: String = found.iter().map(ToString::to_string).collect();
        for part in [
            "big.yaml is larger than 1 MiB",
            "latin.yaml is not UTF-8 at byte 3",
            "gone.yaml",
            "pipe.yaml: it is no regular file",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
    }
}
