//! The process's environment: variables that stand for keys, and those that keys refer to as `${NAME}`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use secrecy::SecretString;

use crate::policy::Settings as PolicySettings;
use crate::policy::expand;
use crate::policy::units::Seconds;
use crate::policy::units::Size;
use crate::store::Credentials;

use super::Auth;
use super::Config;
use super::ConfigError;
use super::Firecrawl;
use super::LogFormat;
use super::Tls;
use super::TraceProtocol;
use super::traces;

/// The process's environment, read once.
#[derive(Clone, Debug, Default)]
pub struct Environment(pub(super) BTreeMap<String, String>);

impl Environment {
    /// All variables that are text.
    pub fn of_process() -> Self {
        let text = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self(text.collect())
    }

    /// What policy files may refer to as `${NAME}`.
    pub fn for_policies(&self) -> PolicySettings {
        PolicySettings { env: self.0.clone(), ..PolicySettings::default() }
    }

    /// The token of the control plane; an empty one is none.
    pub fn admin_token(&self) -> Option<SecretString> {
        self.secret("WEIR_ADMIN_TOKEN")
    }

    /// The secret of the users' hashes; an empty one is none.
    pub fn user_secret(&self) -> Option<SecretString> {
        self.secret("WEIR_USER_SECRET")
    }

    /// The credentials of the object store; only a bucket needs them.
    pub fn object_credentials(&self) -> Credentials {
        Credentials {
            key_id: self.text("AWS_ACCESS_KEY_ID"),
            secret: self.secret("AWS_SECRET_ACCESS_KEY"),
            session_token: self.secret("AWS_SESSION_TOKEN"),
            region: self.text("AWS_REGION"),
        }
    }

    fn secret(&self, name: &str) -> Option<SecretString> {
        self.text(name).map(SecretString::from)
    }

    /// A variable's value without blanks around it; an empty one is none.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let text = self.0.get(name)?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Config {
    /// Sets every key that has a variable.
    pub(super) fn set_all(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        environment.0.iter().try_for_each(|(name, value)| {
            self.set(name, value).map_err(|message| ConfigError(format!("{name}: {message}")))
        })
    }

    /// Sets the key that an environment variable stands for; others are not ours.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "WEIR_LISTEN" => self.listen = address(value)?,
            "WEIR_TLS_CERTIFICATE" => self.tls_file(|tls| &mut tls.certificate, value),
            "WEIR_TLS_KEY" => self.tls_file(|tls| &mut tls.key, value),
            "WEIR_CONTROL_LISTEN" => self.control.listen = address(value)?,
            "WEIR_STORE" => value.clone_into(&mut self.store),
            "WEIR_VECTORS" => value.clone_into(&mut self.vectors),
            "WEIR_OBJECTS" => value.clone_into(&mut self.objects),
            "WEIR_REDIS" => self.redis = (!value.is_empty()).then(|| value.to_owned()),
            "WEIR_POLICIES" => self.policies = value.into(),
            "WEIR_AUTH" => self.auth = auth(value)?,
            "WEIR_SPOOL_DIR" => self.spool.dir = value.into(),
            "WEIR_SPOOL_MAX_BYTES" => self.spool.max_bytes = size(value)?,
            "WEIR_LIMITS_BODY" => self.limits.body = size(value)?,
            "WEIR_LIMITS_HEADER" => self.limits.header = size(value)?,
            "WEIR_LIMITS_HEADER_TIMEOUT" => self.limits.header_timeout = seconds(value)?,
            "WEIR_LIMITS_IDLE_TIMEOUT" => self.limits.idle_timeout = seconds(value)?,
            "WEIR_LIMITS_WRITE_TIMEOUT" => self.limits.write_timeout = seconds(value)?,
            "WEIR_LIMITS_CONNECTIONS" => self.limits.connections = number(value)?,
            "WEIR_DRAIN_NOTICE" => self.drain_notice = seconds(value)?,
            "WEIR_DRAIN" => self.drain = seconds(value)?,
            "WEIR_UPGRADE_SOCKET" => self.upgrade_socket = value.into(),
            "WEIR_TRAINER_PROFILE" => value.clone_into(&mut self.trainer.profile),
            "WEIR_TRAINER_BASE_URL" => value.clone_into(&mut self.trainer.base_url),
            "WEIR_TRAINER_WEBHOOK_SECRET" => value.clone_into(&mut self.trainer.webhook_secret),
            "WEIR_TRAINER_API_KEY" => value.clone_into(&mut self.trainer.api_key),
            "WEIR_FIRECRAWL_BASE_URL" => value.clone_into(&mut self.firecrawl.base_url),
            "WEIR_FIRECRAWL_API_KEY" => value.clone_into(&mut self.firecrawl.api_key),
            "WEIR_FIRECRAWL_WEBHOOK_SECRET" => {
                value.clone_into(&mut self.firecrawl.webhook_secret);
            }
            "WEIR_OUTBOUND_ALLOW" => self.outbound.allow = value.parse()?,
            "WEIR_TRACES_ENDPOINT" => {
                self.traces.endpoint = (!value.is_empty()).then(|| value.to_owned());
            }
            "WEIR_TRACES_PROTOCOL" => self.traces.protocol = trace_protocol(value)?,
            "WEIR_TRACES_SAMPLE" => self.traces.sample = traces::share(value)?,
            "WEIR_TRACES_HEADERS" => {
                self.traces.headers.0 = traces::pairs(value)?.into_iter().collect();
            }
            "WEIR_TRACES_SERVICE_NAME" => {
                self.traces.service_name = (!value.is_empty()).then(|| value.to_owned());
            }
            "WEIR_LOG_LEVEL" => value.clone_into(&mut self.log.level),
            "WEIR_LOG_FORMAT" => self.log.format = log_format(value)?,
            _ => {}
        }
        Ok(())
    }

    fn tls_file(&mut self, field: impl FnOnce(&mut Tls) -> &mut String, value: &str) {
        let empty = || Tls { certificate: String::new(), key: String::new() };
        value.clone_into(field(self.tls.get_or_insert_with(empty)));
    }

    /// Replaces `${NAME}`; an unset variable leaves a key empty and is an error elsewhere.
    pub(super) fn resolve(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        let settings = environment.for_policies();
        // Nobody else is to see OpenAI's key.
        if self.trainer.profile == "openai" && self.trainer.api_key.is_empty() {
            "${OPENAI_API_KEY}".clone_into(&mut self.trainer.api_key);
        }
        let secret = &mut self.trainer.webhook_secret;
        let Firecrawl { api_key, webhook_secret, .. } = &mut self.firecrawl;
        let headers = self.traces.headers.0.values_mut();
        for key in
            [&mut self.trainer.api_key, secret, api_key, webhook_secret].into_iter().chain(headers)
        {
            *key = expand(key, &settings).unwrap_or_default();
        }
        let mut needed: Vec<(&str, &mut String)> = vec![
            ("store", &mut self.store),
            ("vectors", &mut self.vectors),
            ("objects", &mut self.objects),
            ("trainer.base_url", &mut self.trainer.base_url),
            ("firecrawl.base_url", &mut self.firecrawl.base_url),
        ];
        if let Some(redis) = &mut self.redis {
            needed.push(("redis", redis));
        }
        if let Some(endpoint) = &mut self.traces.endpoint {
            needed.push(("traces.endpoint", endpoint));
        }
        for (key, text) in needed {
            *text = expand(text, &settings).map_err(|variable| {
                ConfigError(format!(
                    "`{key}` needs the environment variable {variable}, which is not set"
                ))
            })?;
        }
        Ok(())
    }
}

fn address(value: &str) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| format!("`{value}` is no address; write it as 127.0.0.1:8080"))
}

fn auth(value: &str) -> Result<Auth, String> {
    match value {
        "passthrough" => Ok(Auth::Passthrough),
        "keys" => Ok(Auth::Keys),
        _ => Err(format!("`{value}` is neither passthrough nor keys")),
    }
}

fn log_format(value: &str) -> Result<LogFormat, String> {
    match value {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{value}` is neither text nor json")),
    }
}

fn trace_protocol(value: &str) -> Result<TraceProtocol, String> {
    match value {
        "http" => Ok(TraceProtocol::Http),
        "grpc" => Ok(TraceProtocol::Grpc),
        _ => Err(format!("`{value}` is neither http nor grpc")),
    }
}

fn size(value: &str) -> Result<Size, String> {
    Size::parse(value).ok_or_else(|| format!("`{value}` is no size; write it as 64KiB or 100MiB"))
}

fn seconds(value: &str) -> Result<Seconds, String> {
    Seconds::parse(value).ok_or_else(|| format!("`{value}` is no duration; write it as 10s or 5m"))
}

fn number(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("`{value}` is no whole number"))
}
