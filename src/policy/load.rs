//! Loads the policy folder: files to one checked [`Policy`], or an error that names the place.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderValue;
use http::Uri;
use serde_saphyr::Spanned;
use thiserror::Error;

use crate::metering::catalogue::Catalogue;
use crate::metering::catalogue::ModelOverride;

use super::ModelRule;
use super::Policy;
use super::Timeouts;
use super::Upstream;
use super::file::ModelEntry;
use super::file::PolicyFile;
use super::file::UpstreamEntry;

/// Calls at the same time at one upstream, where its entry names no number.
const DEFAULT_MAX_IN_FLIGHT: usize = 1000;

/// What a folder is resolved against.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The environment, for `${NAME}`.
    pub env: BTreeMap<String, String>,
    /// Sends every upstream here instead, with a key of the simulator's.
    pub simulator: Option<Uri>,
}

/// A policy folder that cannot be used. Each message says where, what, and the cure.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file or the folder could not be read.
    #[error("cannot read {}: {source}; check the path and its permissions", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not YAML, an unknown key, or a wrong type.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column, the lines around it and what was expected.
        message: String,
    },
    /// A value that is well written and cannot be used.
    #[error("{place}: {message}")]
    Value {
        /// `file:line:column`.
        place: String,
        /// What is wrong, and the cure.
        message: String,
    },
}

/// A value's place, `file:line:column`.
struct Place<'a>(&'a Path, serde_saphyr::Location);

impl Place<'_> {
    fn error(&self, message: impl Into<String>) -> LoadError {
        let place = format!("{}:{}:{}", self.0.display(), self.1.line(), self.1.column());
        LoadError::Value { place, message: message.into() }
    }
}

impl Policy {
    /// Loads every `*.yaml` of `folder`; a folder that does not exist gives OpenAI as the only
    /// upstream.
    ///
    /// # Errors
    /// The first thing found wrong, with its place.
    pub fn load(folder: &Path, settings: &Settings) -> Result<Self, LoadError> {
        let mut draft = Draft::default();
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        for path in yaml_files(folder)? {
            let text = read(&path)?;
            digest.update(text.as_bytes());
            draft.add(&path, &text, settings)?;
        }
        draft.finish(&hex(digest.finish().as_ref()), settings)
    }
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: folder.to_owned(), source };
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let yaml = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml");
        if yaml && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, LoadError> {
    fs::read_to_string(path)
        .map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// What the files read so far add up to, and where each name was defined.
#[derive(Default)]
struct Draft {
    upstreams: BTreeMap<String, Arc<Upstream>>,
    models: BTreeMap<String, ModelRule>,
    prices: Vec<(String, ModelOverride)>,
    /// Section and name, with the place of its definition.
    defined: BTreeMap<(&'static str, String), String>,
    /// Models that name an upstream, checked when all upstreams are known.
    wanted: Vec<(String, LoadError)>,
}

impl Draft {
    fn add(&mut self, path: &Path, text: &str, settings: &Settings) -> Result<(), LoadError> {
        if text.trim().is_empty() {
            return Ok(());
        }
        let file: PolicyFile = serde_saphyr::from_str(text).map_err(|error| LoadError::Syntax {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        let inert = [
            ("routes", file.routes.is_some()),
            ("limits", file.limits.is_some()),
            ("capture", file.capture.is_some()),
            ("hooks", file.hooks.is_some()),
        ];
        for (section, _) in inert.iter().filter(|(_, present)| *present) {
            tracing::warn!(file = %path.display(), section, "this version does not act on this policy section yet");
        }
        for (name, entry) in file.upstreams {
            self.define("upstream", &name, &Place(path, entry.referenced))?;
            let upstream = upstream(&name, entry, path, settings)?;
            self.upstreams.insert(name, Arc::new(upstream));
        }
        for (name, entry) in file.models {
            self.define("model", &name, &Place(path, entry.referenced))?;
            self.add_model(name, entry, path)?;
        }
        Ok(())
    }

    fn define(
        &mut self,
        section: &'static str,
        name: &str,
        place: &Place<'_>,
    ) -> Result<(), LoadError> {
        let here = format!("{}:{}", place.0.display(), place.1.line());
        match self.defined.entry((section, name.to_owned())) {
            Entry::Vacant(free) => {
                free.insert(here);
                Ok(())
            }
            Entry::Occupied(taken) => Err(place.error(format!(
                "{section} `{name}` is defined twice, first at {}; keep one of them",
                taken.get()
            ))),
        }
    }

    fn add_model(
        &mut self,
        name: String,
        entry: Spanned<ModelEntry>,
        path: &Path,
    ) -> Result<(), LoadError> {
        let place = Place(path, entry.referenced);
        let entry = entry.value;
        if let Some(upstream) = &entry.upstream {
            let error = place.error(format!(
                "model `{name}` names the upstream `{upstream}`, which no file defines"
            ));
            self.wanted.push((upstream.clone(), error));
        }
        let price = entry.price.unwrap_or_default();
        let price = price.into_iter().map(|(part, Decimal(amount))| (part, amount)).collect();
        let change = ModelOverride { price, context: entry.context, encoding: entry.encoding };
        change.check().map_err(|message| place.error(format!("model `{name}`: {message}")))?;
        // An entry that changes nothing must not hide the catalogue's row, or that of its `as`.
        if change != ModelOverride::default() {
            self.prices.push((name.clone(), change));
        }
        self.models.insert(name, ModelRule { upstream: entry.upstream, as_name: entry.r#as });
        Ok(())
    }

    fn finish(mut self, revision: &str, settings: &Settings) -> Result<Policy, LoadError> {
        if self.upstreams.is_empty() {
            let openai = Arc::new(openai(settings));
            self.upstreams.insert(openai.name.clone(), openai);
        }
        if let Some(missing) =
            self.wanted.into_iter().find(|(name, _)| !self.upstreams.contains_key(name))
        {
            return Err(missing.1);
        }
        let mut catalogue = Catalogue::builtin();
        for (name, change) in &self.prices {
            catalogue.with(name, change);
        }
        let default_upstream = self
            .upstreams
            .get("openai")
            .or_else(|| self.upstreams.values().next())
            .cloned()
            .unwrap_or_else(|| Arc::new(openai(settings)));
        Ok(Policy {
            revision: HeaderValue::from_str(revision)
                .unwrap_or(HeaderValue::from_static("unknown")),
            upstreams: self.upstreams,
            models: self.models,
            default_upstream,
            catalogue,
        })
    }
}

use super::file::Decimal;

/// OpenAI itself, for a folder that names no upstream.
fn openai(settings: &Settings) -> Upstream {
    let key = settings.env.get("OPENAI_API_KEY").cloned().unwrap_or_default();
    let mut upstream = Upstream {
        name: "openai".to_owned(),
        base_url: Uri::from_static("https://api.openai.com/v1"),
        authorization: bearer(&key),
        ca_file: None,
        timeouts: Timeouts::default(),
        max_in_flight: DEFAULT_MAX_IN_FLIGHT,
    };
    simulate(&mut upstream, settings);
    upstream
}

fn simulate(upstream: &mut Upstream, settings: &Settings) {
    if let Some(simulator) = &settings.simulator {
        upstream.base_url = simulator.clone();
        upstream.authorization = bearer("sk-simulator");
    }
}

fn upstream(
    name: &str,
    entry: Spanned<UpstreamEntry>,
    path: &Path,
    settings: &Settings,
) -> Result<Upstream, LoadError> {
    let place = Place(path, entry.referenced);
    let entry = entry.value;
    let base_url = expand(&entry.base_url, settings)
        .map_err(|variable| unset(&place, "base_url", &variable))?;
    let base_url = parse_base_url(&base_url)
        .map_err(|message| place.error(format!("upstream `{name}`: {message}")))?;
    let defaults = Timeouts::default();
    let mut upstream = Upstream {
        name: name.to_owned(),
        base_url,
        authorization: api_key(&entry, &place, settings)?.as_deref().and_then(bearer),
        ca_file: entry.ca_file,
        timeouts: Timeouts {
            connect: entry.timeouts.connect.map_or(defaults.connect, |given| given.0),
            first_byte: entry.timeouts.first_byte.map_or(defaults.first_byte, |given| given.0),
            idle: entry.timeouts.idle.map_or(defaults.idle, |given| given.0),
        },
        max_in_flight: entry.max_in_flight.unwrap_or(DEFAULT_MAX_IN_FLIGHT),
    };
    simulate(&mut upstream, settings);
    Ok(upstream)
}

/// The key, from `api_key` (an unset variable means none) or the file that `api_key_file` names.
fn api_key(
    entry: &UpstreamEntry,
    place: &Place<'_>,
    settings: &Settings,
) -> Result<Option<String>, LoadError> {
    let key = match (&entry.api_key, &entry.api_key_file) {
        (Some(_), Some(_)) => {
            return Err(place.error("both `api_key` and `api_key_file` are set; keep one"));
        }
        (Some(text), None) => expand(text, settings).unwrap_or_default(),
        (None, Some(file)) => fs::read_to_string(file).map_err(|error| {
            place.error(format!("cannot read `api_key_file` {file}: {error}; check the path"))
        })?,
        (None, None) => String::new(),
    };
    let key = key.trim().to_owned();
    if key.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(place.error("the API key holds spaces or control characters; check its source"));
    }
    Ok((!key.is_empty()).then_some(key))
}

/// The header that carries a key; none for an empty one.
fn bearer(key: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
    value.set_sensitive(true);
    (!key.is_empty()).then_some(value)
}

fn unset(place: &Place<'_>, key: &str, variable: &str) -> LoadError {
    place.error(format!("`{key}` needs the environment variable {variable}, which is not set"))
}

/// Replaces every `${NAME}`; the error is the name of a variable that is not set.
pub(crate) fn expand(text: &str, settings: &Settings) -> Result<String, String> {
    let mut parts = text.split("${");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let Some((name, rest)) = part.split_once('}') else {
            out.push_str("${");
            out.push_str(part);
            continue;
        };
        out.push_str(settings.env.get(name).ok_or_else(|| name.to_owned())?);
        out.push_str(rest);
    }
    Ok(out)
}

fn parse_base_url(text: &str) -> Result<Uri, String> {
    let cure = "write it as https://host[:port]/v1";
    let uri: Uri = text.parse().map_err(|error| format!("base_url `{text}`: {error}; {cure}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
        return Err(format!("base_url `{text}` has no http or https host; {cure}"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("base_url holds a user name or password; use `api_key` instead".to_owned());
    }
    if uri.query().is_some() {
        return Err(format!("base_url `{text}` has a query; {cure}"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Policy, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Policy::load(folder.path(), &Settings { env, simulator: None })
    }

    #[test]
    fn the_shipped_folder_loads_with_and_without_a_key() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        for (key, own) in [("", false), ("sk-1", true)] {
            let env = [("OPENAI_API_KEY".to_owned(), key.to_owned())].into();
            let policy = Policy::load(&folder, &Settings { env, simulator: None }).unwrap();
            assert_eq!(policy.revision().len(), 12);
            let route = policy.route("house-small");
            assert_eq!((&*route.model, &*route.upstream_model), ("house-small", "gpt-6-luna"));
            assert_eq!(route.upstream.authorization.is_some(), own);
        }
    }

    #[test]
    fn a_missing_folder_means_openai_with_the_callers_key() {
        let policy = Policy::load(Path::new("/nowhere/at/all"), &Settings::default()).unwrap();
        assert_eq!(policy.default_upstream().base_url, "https://api.openai.com/v1");
        assert!(policy.default_upstream().authorization.is_none());
    }

    #[test]
    fn models_go_where_the_policy_says() {
        let yaml = "upstreams:\n  openai: { base_url: https://api.openai.com/v1 }\n  \
                    vllm: { base_url: 'http://127.0.0.1:9/v1', api_key: '${KEY}' }\nmodels:\n  \
                    llama: { upstream: vllm, as: meta/llama, price: { input: 0.10, output: 0.30 } }\n";
        let policy = load(&[("a.yaml", yaml)], &[("KEY", "k")]).unwrap();
        assert_eq!(policy.route("llama").upstream.name, "vllm");
        assert_eq!(policy.route("gpt-5").upstream.name, "openai");
        assert!(policy.model("llama").is_some_and(|model| model.is_priced()));
        assert!(policy.knows_model("llama") && !policy.knows_model("nobody"));
    }

    #[test]
    fn a_mistake_is_named_with_its_place_and_a_cure() {
        let upstream = "upstreams:\n  a: { base_url: 'http://h/v1' }\n";
        let cases: [(&str, &[&str]); 8] = [
            ("upstreams:\n  a: { base_ulr: x }\n", &["one.yaml", "2", "base_ulr", "base_url"]),
            ("upstreams:\n  a: { base_url: 'ftp://h' }\n", &["one.yaml:2", "http or https"]),
            ("upstreams:\n  a: { base_url: 'http://u:p@h/' }\n", &["one.yaml:2", "api_key"]),
            ("upstreams:\n  a: { base_url: '${NOPE}' }\n", &["one.yaml:2", "NOPE", "not set"]),
            ("models:\n  m: { upstream: nobody }\n", &["one.yaml:2", "`nobody`"]),
            ("models:\n  m: { price: { inptu: 1 } }\n", &["one.yaml:2", "inptu"]),
            (
                "upstreams:\n  a: { base_url: 'http://h', timeouts: { idle: soon } }\n",
                &["2", "soon", "2s"],
            ),
            ("upstreams: [\n", &["one.yaml"]),
        ];
        for (yaml, expected) in cases {
            let message = load(&[("one.yaml", yaml)], &[]).unwrap_err().to_string();
            for part in expected {
                assert!(message.contains(part), "{yaml}: `{part}` is not in: {message}");
            }
        }
        let twice = load(&[("one.yaml", upstream), ("two.yaml", upstream)], &[]).unwrap_err();
        let twice = twice.to_string();
        assert!(twice.contains("two.yaml:2") && twice.contains("one.yaml:2"), "{twice}");
    }

    #[test]
    fn sections_that_come_later_do_not_stop_a_start() {
        let yaml = "routes:\n  - { name: x, when: 'true', use: y }\ncapture: []\n";
        assert!(load(&[("a.yaml", yaml)], &[]).is_ok());
    }
}
