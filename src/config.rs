//! weir.yaml: what needs a restart to change. Every key can also be set as `WEIR_<SECTION>_<KEY>`.

mod environment;
mod traces;

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use secrecy::SecretString;
use serde::Deserialize;
use thiserror::Error;

use crate::limits::Redis;
use crate::policy::units::Seconds;
use crate::policy::units::Size;
use crate::store::Database;
use crate::store::Objects;
use crate::telemetry;
use crate::training::provider::Profile;
use crate::training::trainer::Place;
use crate::upstream::outside::Allowed;

pub use environment::Environment;
pub use traces::TraceProtocol;
pub use traces::Traces;

/// The settings of one process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Data plane.
    pub listen: SocketAddr,
    /// Certificate of the data plane.
    pub tls: Option<Tls>,
    /// Control plane.
    pub control: Control,
    /// Database of the ledger; `off` keeps none.
    pub store: String,
    /// Vector index.
    pub vectors: String,
    /// Object store: a folder or a bucket.
    pub objects: String,
    /// Counters shared between gateways.
    pub redis: Option<String>,
    /// Policy folder.
    pub policies: PathBuf,
    /// Who gets in.
    pub auth: Auth,
    /// Captured records on their way to the store.
    pub spool: Spool,
    /// Bounds of requests and connections.
    pub limits: Limits,
    /// How long connections are still taken after SIGTERM, while `/readyz` says no already.
    pub drain_notice: Seconds,
    /// Time that running answers get after that.
    pub drain: Seconds,
    /// Where a running process hands its sockets to a new one.
    pub upgrade_socket: PathBuf,
    /// Where fine-tuning happens.
    pub trainer: Trainer,
    /// Where web pages come from.
    pub firecrawl: Firecrawl,
    /// Where users' own URLs may lead.
    pub outbound: Outbound,
    /// The log.
    pub log: Log,
    /// Where traces go.
    pub traces: Traces,
}

/// PEM files of the data plane's certificate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

/// The control plane.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Its address; only loopback without an admin token.
    pub listen: SocketAddr,
}

/// Who gets in at the data plane.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everybody; the caller's key goes through where the upstream has none.
    Passthrough,
    /// Virtual keys only.
    Keys,
}

/// Captured records on their way to the store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Folder of the segment files.
    pub dir: PathBuf,
    /// Most bytes that wait in it.
    pub max_bytes: Size,
}

/// Bounds of requests and connections.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Request body on the endpoints that are read.
    pub body: Size,
    /// Request head.
    pub header: Size,
    /// Time for a whole request head.
    pub header_timeout: Seconds,
    /// Time between two requests of a connection.
    pub idle_timeout: Seconds,
    /// Time that a client may take nothing of what is there for it.
    pub write_timeout: Seconds,
    /// Client connections at the same time.
    pub connections: u32,
}

/// Where fine-tuning happens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trainer {
    /// openai, azure, together, fireworks or self-hosted.
    pub profile: String,
    /// Its API; the profile's own when empty.
    pub base_url: String,
    /// Its key. When empty, `OPENAI_API_KEY` for the profile openai, and none for others.
    pub api_key: String,
    /// Signs its webhooks.
    pub webhook_secret: String,
}

/// Where web pages come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Firecrawl {
    /// Its API.
    pub base_url: String,
    /// Its key.
    pub api_key: String,
    /// Signs its webhooks, or is their bearer where they are not signed.
    pub webhook_secret: String,
}

/// Where users' own URLs may lead: those of webhooks and of sources.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outbound {
    /// Hosts, addresses and networks beside the public internet: `hooks.internal, 10.1.0.0/16`.
    pub allow: Allowed,
}

/// The log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, or a list of `target=level`.
    pub level: String,
    /// text or json.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// A setting that cannot be used. The message says where, what, and the cure.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            control: Control::default(),
            store: "sqlite:data/weir.db".to_owned(),
            vectors: "store".to_owned(),
            objects: "file:data/objects".to_owned(),
            redis: None,
            policies: "policies".into(),
            auth: Auth::Passthrough,
            spool: Spool::default(),
            limits: Limits::default(),
            drain_notice: Seconds(Duration::from_millis(500)),
            drain: Seconds(Duration::from_secs(60)),
            upgrade_socket: "data/upgrade.sock".into(),
            trainer: Trainer::default(),
            firecrawl: Firecrawl::default(),
            outbound: Outbound::default(),
            log: Log::default(),
            traces: Traces::default(),
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8081)) }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self { dir: "data/spool".into(), max_bytes: Size(2 << 30) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Size(100 << 20),
            header: Size(64 << 10),
            header_timeout: Seconds(Duration::from_secs(10)),
            idle_timeout: Seconds(Duration::from_secs(75)),
            write_timeout: Seconds(Duration::from_secs(120)),
            connections: 20_000,
        }
    }
}

impl Default for Trainer {
    fn default() -> Self {
        Self {
            profile: "openai".to_owned(),
            base_url: String::new(),
            api_key: String::new(),
            webhook_secret: "${OPENAI_WEBHOOK_SECRET}".to_owned(),
        }
    }
}

impl Default for Firecrawl {
    fn default() -> Self {
        Self {
            base_url: "https://api.firecrawl.dev".to_owned(),
            api_key: "${FIRECRAWL_API_KEY}".to_owned(),
            webhook_secret: "${FIRECRAWL_WEBHOOK_SECRET}".to_owned(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Config {
    /// Reads `file` (or `./weir.yaml` where there is one), then the environment.
    ///
    /// # Errors
    /// The first setting that cannot be used, with its place.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let mut config = match file {
            Some(path) => Self::read(path)?,
            None if Path::new("weir.yaml").exists() => Self::read(Path::new("weir.yaml"))?,
            None => Self::default(),
        };
        config.traces.read_standard(environment);
        config.set_all(environment)?;
        config.resolve(environment)?;
        config.check(environment)?;
        Ok(config)
    }

    /// The store; `None` where it is switched off.
    ///
    /// # Errors
    /// A setting that is no URL of a database.
    pub fn database(&self) -> Result<Option<Database>, ConfigError> {
        Database::parse(&self.store).map_err(|message| ConfigError(format!("`store`: {message}")))
    }

    /// Where limits are shared, if anywhere.
    ///
    /// # Errors
    /// A setting that is no URL of a Redis.
    pub fn redis(&self) -> Result<Option<Redis>, ConfigError> {
        let Some(url) = &self.redis else { return Ok(None) };
        Redis::parse(url).map(Some).map_err(|message| ConfigError(format!("`redis`: {message}")))
    }

    /// The database with the object store beside it; `None` when the store is off.
    ///
    /// # Errors
    /// A setting of either that cannot be used.
    pub fn open_store(&self, environment: &Environment) -> Result<Option<Database>, ConfigError> {
        let Some(database) = self.database()? else { return Ok(None) };
        Ok(Some(database.with_objects(self.object_store(environment)?)))
    }

    /// The object store.
    ///
    /// # Errors
    /// A setting that is neither a folder nor a bucket, or a bucket without credentials.
    pub fn object_store(&self, environment: &Environment) -> Result<Objects, ConfigError> {
        Objects::parse(&self.objects, &environment.object_credentials())
            .map_err(|message| ConfigError(format!("`objects`: {message}")))
    }

    /// Where fine-tuning happens; with a simulator, there.
    ///
    /// # Errors
    /// A profile that there is not, or one without an address.
    pub fn trainer_place(&self, simulator: Option<&Uri>) -> Result<Place, ConfigError> {
        let Trainer { profile: name, base_url, api_key, webhook_secret } = &self.trainer;
        let profile = Profile::named(name).ok_or_else(|| {
            let names = Profile::names().collect::<Vec<_>>().join(", ");
            ConfigError(format!("`trainer.profile`: there is no `{name}`; there are {names}"))
        })?;
        let given = (!base_url.is_empty()).then(|| base_url.clone());
        let base_url = simulator.map(Uri::to_string).or(given).or_else(|| profile.base_url.clone());
        let base_url = base_url.ok_or_else(|| {
            ConfigError(format!("`trainer.base_url` is missing: {name} has no address of its own"))
        })?;
        let has_key = simulator.is_some() || !api_key.is_empty() || name == "self-hosted";
        let base_url = base_url.trim_end_matches('/').to_owned();
        let webhook_secret = SecretString::from(webhook_secret.clone());
        Ok(Place { name: name.clone(), profile, base_url, has_key, webhook_secret })
    }

    /// Where traces go; `None` where there are none.
    ///
    /// # Errors
    /// A setting of them that cannot be used.
    pub fn traces(
        &self,
        environment: &Environment,
    ) -> Result<Option<telemetry::traces::Settings>, ConfigError> {
        self.traces.settings(environment)
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError(format!("cannot read {}: {error}; check the path", path.display()))
        })?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(&text).map_err(|error| {
            let error = if may_hold_secret(&text) { error.without_snippet() } else { &error };
            ConfigError(format!("{}: {error}", path.display()))
        })
    }

    fn check(&self, environment: &Environment) -> Result<(), ConfigError> {
        let fail = |message: &str| Err(ConfigError(message.to_owned()));
        if self.auth == Auth::Keys && self.database()?.is_none() {
            return fail(
                "`auth: keys` needs a store, where the keys are, and `store` is off: nobody would \
                 get in; set `store`, or use `auth: passthrough`",
            );
        }
        if environment.admin_token().is_none() && !self.control.listen.ip().is_loopback() {
            return fail(
                "`control.listen` is not a loopback address and WEIR_ADMIN_TOKEN is not set: \
                 anybody could use the control plane; set the token or listen on 127.0.0.1",
            );
        }
        if self.limits.body.0 == 0 || self.limits.connections == 0 {
            return fail("`limits.body` and `limits.connections` must be more than 0");
        }
        if !(8192..=16 << 20).contains(&self.limits.header.0) {
            return fail("`limits.header` must be between 8KiB and 16MiB");
        }
        let Limits { header_timeout, idle_timeout, write_timeout, .. } = &self.limits;
        if [header_timeout, idle_timeout, write_timeout].iter().any(|time| time.0.is_zero()) {
            return fail(
                "`limits.header_timeout`, `idle_timeout` and `write_timeout` must be more than 0",
            );
        }
        if self.spool.max_bytes.0 == 0 || self.spool.dir.as_os_str().is_empty() {
            return fail("`spool.dir` must name a folder and `spool.max_bytes` be more than 0");
        }
        self.database()?;
        self.redis()?;
        self.object_store(environment)?;
        self.trainer_place(None)?;
        self.traces(environment)?;
        if self.tls.as_ref().is_some_and(|tls| tls.certificate.is_empty() || tls.key.is_empty()) {
            return fail("`tls` needs both `certificate` and `key`");
        }
        Ok(())
    }
}

/// Whether a file has a secret written out in it: then its lines are not shown beside an error.
fn may_hold_secret(text: &str) -> bool {
    const BEFORE: [&str; 5] = ["api_key", "webhook_secret", "headers", "redis:", "@"];
    let is_elsewhere = |value: &str| {
        let value = value.trim_start_matches([':', ' ', '"', '\'']);
        ["${", "null", "\n"].iter().any(|harmless| value.starts_with(harmless))
    };
    BEFORE.iter().any(|key| text.split(key).skip(1).any(|value| !is_elsewhere(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;
    use std::io::Write as _;

    pub(super) fn environment(pairs: &[(&str, &str)]) -> Environment {
        let pairs = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Environment(pairs.collect())
    }

    pub(super) fn load(yaml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(yaml.as_bytes()).unwrap();
        Config::load(Some(file.path()), &environment(env))
    }

    #[test]
    fn the_contracts_example_loads_as_written() {
        let yaml = r#"
listen: 127.0.0.1:8080
control: { listen: 127.0.0.1:8081 }
store: sqlite:data/weir.db            # or postgres://user@host/db
vectors: store
objects: file:data/objects
redis: null
policies: policies
auth: passthrough
spool: { dir: data/spool, max_bytes: 2GiB }
limits: { body: 100MiB, header: 64KiB, header_timeout: 10s, connections: 20000 }
drain: 60s
trainer: { profile: openai, base_url: https://api.openai.com/v1, api_key: "${OPENAI_API_KEY}" }
firecrawl: { base_url: https://api.firecrawl.dev, api_key: "${FIRECRAWL_API_KEY}" }
"#;
        let config = load(yaml, &[("OPENAI_API_KEY", "sk-1")]).unwrap();
        assert_eq!(config.limits.body, Size(104_857_600));
        assert_eq!(config.trainer.api_key, "sk-1");
        assert_eq!(config.firecrawl.api_key, "");
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let env = [("WEIR_LIMITS_BODY", "1MiB"), ("WEIR_CONTROL_LISTEN", "127.0.0.1:9")];
        let config = load("limits: { body: 5MiB }", &env).unwrap();
        assert_eq!(config.limits.body, Size(1 << 20));
        assert_eq!(config.control.listen.port(), 9);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_line_and_a_cure() {
        let cases = [
            ("listen: 127.0.0.1:1\nlitsen: x\n", "litsen"),
            ("drain: soon", "write it as"),
            ("limits: { body: 0 }", "more than 0"),
            ("limits: { write_timeout: 0 }", "more than 0"),
            ("listen: nowhere", "1:9"),
            ("auth: keys\nstore: \"off\"", "`auth: keys` needs a store"),
            ("auth: key", "passthrough"),
            ("control: { listen: 0.0.0.0:8081 }", "WEIR_ADMIN_TOKEN"),
            ("store: ${NOT_SET}", "NOT_SET"),
            ("store: mysql://u:secret@h/db", "sqlite:data/weir.db"),
            ("store: data/weir.db", "postgres://"),
            ("spool: { max_bytes: 0 }", "spool.max_bytes"),
            ("objects: data/objects", "`objects`: write it as file:data/objects"),
            ("objects: s3://bodies", "AWS_ACCESS_KEY_ID"),
            ("trainer: { profile: acme }", "there are azure, fireworks, openai"),
            ("outbound: { allow: 10.0.0.0/40 }", "a network's bits are 0 to 32"),
            ("trainer: { profile: azure }", "`trainer.base_url` is missing"),
        ];
        for (yaml, expected) in cases {
            let message = load(yaml, &[]).unwrap_err().to_string();
            assert!(message.contains(expected), "{yaml}: {message}");
        }
    }

    #[test]
    fn a_bucket_takes_its_credentials_from_the_environment() {
        let env = [
            ("WEIR_OBJECTS", "s3://bodies?endpoint=http://127.0.0.1:9000"),
            ("AWS_ACCESS_KEY_ID", "AKIA1"),
            ("AWS_SECRET_ACCESS_KEY", " c2VjcmV0\n"),
            ("AWS_REGION", ""),
        ];
        load("", &env).unwrap();
        let read = environment(&env).object_credentials();
        assert_eq!(read.secret.as_ref().unwrap().expose_secret(), "c2VjcmV0");
        assert_eq!((read.key_id.as_deref(), read.region), (Some("AKIA1"), None));
    }

    #[test]
    fn openais_key_is_for_openai_alone() {
        let env = [("OPENAI_API_KEY", "sk-1")];
        let key = |yaml: &str| load(yaml, &env).unwrap().trainer.api_key;
        assert_eq!(key(""), "sk-1");
        assert_eq!(key("trainer: { profile: together }"), "");
        let config = load("trainer: { profile: together }", &env).unwrap();
        let place = config.trainer_place(None).unwrap();
        assert_eq!(
            (place.base_url.as_str(), place.has_key),
            ("https://api.together.xyz/v1", false)
        );
    }

    #[test]
    fn a_control_plane_for_others_needs_a_token() {
        let open = "control: { listen: 0.0.0.0:8081 }";
        assert!(load(open, &[("WEIR_ADMIN_TOKEN", " ")]).is_err());
        assert!(load(open, &[("WEIR_ADMIN_TOKEN", "t")]).is_ok());
    }
}
