//! Where traces go: `traces` in weir.yaml, and the variables that OpenTelemetry has for it.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Debug;
use std::fmt::Formatter;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use serde::Deserialize;

use crate::telemetry::traces::Protocol;
use crate::telemetry::traces::Settings;

use super::ConfigError;
use super::Environment;

/// Where the collector takes traces over HTTP.
const PATH: &str = "/v1/traces";
const SERVICE: &str = "service.name";
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// Where traces go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// The collector, such as `http://localhost:4318`; without one there are no traces.
    pub endpoint: Option<String>,
    /// http or grpc.
    pub protocol: TraceProtocol,
    /// The share of traces that begin here and are kept, 0 to 1.
    pub sample: f64,
    /// Sent with each export.
    pub headers: Headers,
    /// What traces call this service; `weir` when nobody says.
    pub service_name: Option<String>,
    /// What is wrong with OpenTelemetry's variables, which matters only where there are traces.
    #[serde(skip)]
    fault: Option<String>,
}

/// How the collector is spoken to.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TraceProtocol {
    /// OTLP/HTTP, in protobuf.
    Http,
    /// OTLP/gRPC.
    Grpc,
}

/// Headers by name. Their values are secrets, and do not print.
#[derive(Clone, Default, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub struct Headers(pub(super) BTreeMap<String, String>);

impl TryFrom<serde_json::Value> for Headers {
    type Error = &'static str;

    /// The message repeats nothing of what is there.
    fn try_from(value: serde_json::Value) -> Result<Self, &'static str> {
        serde_json::from_value(value).map(Self).map_err(|_| "write `headers` as { name: text }")
    }
}

impl Debug for Headers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: TraceProtocol::Http,
            sample: 1.0,
            headers: Headers::default(),
            service_name: None,
            fault: None,
        }
    }
}

impl Traces {
    /// Takes over what OpenTelemetry's variables say.
    pub(super) fn read_standard(&mut self, environment: &Environment) {
        let of = |name: &str| {
            let own = environment.text(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
            own.or_else(|| environment.text(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let base = environment.text("OTEL_EXPORTER_OTLP_ENDPOINT");
        let base = base.map(|base| format!("{}{PATH}", base.trim_end_matches('/')));
        let endpoint = environment.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or(base);
        self.endpoint = endpoint.or_else(|| self.endpoint.take());
        self.service_name =
            environment.text("OTEL_SERVICE_NAME").or_else(|| self.service_name.take());
        let is_off = environment.text("OTEL_SDK_DISABLED").is_some_and(|value| value == "true")
            || environment.text("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        if is_off {
            self.endpoint = None;
        }
        let protocol = match of("PROTOCOL").as_deref() {
            None => Ok(self.protocol),
            Some("http/protobuf") => Ok(TraceProtocol::Http),
            Some("grpc") => Ok(TraceProtocol::Grpc),
            Some(_) => Err("OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf or grpc".to_owned()),
        };
        let read = protocol.map(|protocol| self.protocol = protocol);
        let read = read.and_then(|()| self.read_sampler(environment));
        // The exporter reads them by itself, and leaves out what it cannot read.
        let read = read.and_then(|()| {
            let headers = of("HEADERS").unwrap_or_default();
            let headers = pairs(&headers).and_then(|pairs| header_map(pairs.into_iter()));
            headers.map(drop).map_err(|wrong| format!("OTEL_EXPORTER_OTLP_HEADERS: {wrong}"))
        });
        self.fault = read.err();
    }

    /// Who follows a caller keeps what the caller keeps, whatever the sampler; so its names differ
    /// in the share alone.
    fn read_sampler(&mut self, environment: &Environment) -> Result<(), String> {
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        match environment.text("OTEL_TRACES_SAMPLER").as_deref() {
            Some("always_on" | "parentbased_always_on") => self.sample = 1.0,
            Some("always_off" | "parentbased_always_off") => self.sample = 0.0,
            None | Some("traceidratio" | "parentbased_traceidratio") => {
                if let Some(value) = environment.text(ARGUMENT) {
                    self.sample = share(&value).map_err(|wrong| format!("{ARGUMENT}: {wrong}"))?;
                }
            }
            Some(_) => {
                return Err("OTEL_TRACES_SAMPLER must be always_on, always_off or traceidratio, \
                            or one of them behind parentbased_"
                    .to_owned());
            }
        }
        Ok(())
    }

    /// Where traces go; `None` where there are none.
    pub(super) fn settings(
        &self,
        environment: &Environment,
    ) -> Result<Option<Settings>, ConfigError> {
        let fail = |key: &str, wrong: String| ConfigError(format!("`traces.{key}`: {wrong}"));
        if !(0.0..=1.0).contains(&self.sample) {
            return Err(fail("sample", "it must be between 0 and 1".to_owned()));
        }
        let headers = self.headers.0.iter().filter(|(_, value)| !value.is_empty());
        let headers = headers.map(|(name, value)| (name.clone(), value.clone()));
        let headers = header_map(headers).map_err(|wrong| fail("headers", wrong))?;
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        let endpoint =
            collector(endpoint, self.protocol).map_err(|wrong| fail("endpoint", wrong))?;
        if let Some(fault) = &self.fault {
            return Err(ConfigError(fault.clone()));
        }
        let protocol = match self.protocol {
            TraceProtocol::Http => Protocol::Http,
            TraceProtocol::Grpc => Protocol::Grpc,
        };
        let attributes = self.attributes(environment)?;
        Ok(Some(Settings { endpoint, protocol, sample: self.sample, headers, attributes }))
    }

    fn attributes(&self, environment: &Environment) -> Result<Vec<(String, String)>, ConfigError> {
        let given = environment.text(ATTRIBUTES).unwrap_or_default();
        let wrong = |wrong| ConfigError(format!("{ATTRIBUTES}: {wrong}"));
        let mut attributes = pairs(&given).map_err(wrong)?;
        let is_named = attributes.iter().any(|(name, _)| name == SERVICE);
        if let Some(name) = &self.service_name {
            attributes.retain(|(name, _)| name != SERVICE);
            attributes.push((SERVICE.to_owned(), name.clone()));
        } else if !is_named {
            attributes.push((SERVICE.to_owned(), "weir".to_owned()));
        }
        Ok(attributes)
    }
}

/// The collector's address, as it is asked. What is wrong is said without repeating it: it may hold
/// a secret.
fn collector(endpoint: &str, protocol: TraceProtocol) -> Result<Uri, String> {
    let wrong = || {
        "write it as http://host:4318 or https://host, for grpc http://host:4317; what the collector \
         wants for a password goes into `traces.headers`"
            .to_owned()
    };
    let mut parts = Uri::try_from(endpoint).map_err(|_| wrong())?.into_parts();
    let is_web =
        parts.scheme.as_ref().is_some_and(|scheme| matches!(scheme.as_str(), "http" | "https"));
    let is_plain = parts.authority.as_ref().is_some_and(|host| !host.as_str().contains('@'));
    if !is_web || !is_plain {
        return Err(wrong());
    }
    let has_path = parts.path_and_query.as_ref().is_some_and(|path| path.as_str() != "/");
    parts.path_and_query = match protocol {
        // The service's name is the path there.
        TraceProtocol::Grpc => Some(http::uri::PathAndQuery::from_static("/")),
        TraceProtocol::Http if has_path => parts.path_and_query,
        TraceProtocol::Http => Some(http::uri::PathAndQuery::from_static(PATH)),
    };
    Uri::from_parts(parts).map_err(|_| wrong())
}

fn header_map(pairs: impl Iterator<Item = (String, String)>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let Ok(name) = HeaderName::try_from(name) else {
            return Err("a name is no name of a header".to_owned());
        };
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| format!("the value of {name} cannot be sent as a header"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// A share of all, 0 to 1.
pub(super) fn share(value: &str) -> Result<f64, String> {
    let share = value.trim().parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{value}` is no share; write a number between 0 and 1"))
}

/// `name=value,name=value`, with `%2C` for what would end a value. What is wrong is said without
/// repeating it.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let (name, value) = (name.trim(), plain(value.trim())?);
        (!name.is_empty()).then(|| (name.to_owned(), value))
    };
    let pairs = parts.map(|part| {
        pair(part)
            .ok_or_else(|| "write it as name=value,name=value, with %2C for a comma".to_owned())
    });
    pairs.collect()
}

/// A text without its percent signs.
fn plain(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::tests::environment;
    use crate::config::tests::load;

    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn settings(yaml: &str, env: &[(&str, &str)]) -> Option<Settings> {
        load(yaml, env).unwrap().traces.settings(&environment(env)).unwrap()
    }

    #[test]
    fn without_a_collector_there_are_no_traces() {
        assert!(settings("", &[]).is_none());
        assert!(settings("traces: { endpoint: null, sample: 0.5 }", &[]).is_none());
        let wrong = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")];
        assert!(settings("", &wrong).is_none(), "what is for others does not stop the start");
        let off = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_SDK_DISABLED", "true")];
        assert!(settings("", &off).is_none());
        let none = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_TRACES_EXPORTER", "none")];
        assert!(settings("", &none).is_none());
    }

    #[test]
    fn the_collectors_address_is_completed() {
        let at =
            |yaml: &str, env: &[(&str, &str)]| settings(yaml, env).unwrap().endpoint.to_string();
        let file = "traces: { endpoint: http://c:4318 }";
        assert_eq!(at(file, &[]), "http://c:4318/v1/traces");
        let whole = "traces: { endpoint: https://c/otlp/v1/traces }";
        assert_eq!(at(whole, &[]), "https://c/otlp/v1/traces");
        let grpc = "traces: { endpoint: http://c:4317, protocol: grpc }";
        assert_eq!(at(grpc, &[]), "http://c:4317/");
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/otlp/");
        assert_eq!(at(file, &[base]), "https://c/otlp/v1/traces");
        let over_grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert_eq!(at("", &[base, over_grpc]), "https://c/");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t/spans");
        assert_eq!(at(file, &[base, own]), "http://t/spans");
        let ours = ("WEIR_TRACES_ENDPOINT", "http://w:1");
        assert_eq!(at(file, &[base, own, ours]), "http://w:1/v1/traces");
    }

    #[test]
    fn variables_go_before_the_file_and_weirs_own_before_the_standard_ones() {
        let yaml = "traces: { endpoint: http://c, sample: 0.1, service_name: file }";
        let standard = [
            ("OTEL_SERVICE_NAME", "standard"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.2"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=a%2Cb"),
        ];
        let name = |settings: &Settings| {
            settings.attributes.iter().find(|(name, _)| name == SERVICE).unwrap().1.clone()
        };
        let read = settings(yaml, &standard).unwrap();
        assert_eq!((read.sample, name(&read).as_str()), (0.2, "standard"));
        assert!(read.attributes.contains(&("deployment.environment.name".into(), "a,b".into())));
        let ours = [("WEIR_TRACES_SAMPLE", "0.3"), ("WEIR_TRACES_SERVICE_NAME", "ours")];
        let read = settings(yaml, &[&standard[..], &ours].concat()).unwrap();
        assert_eq!((read.sample, name(&read).as_str()), (0.3, "ours"));
        let bare = "traces: { endpoint: http://c }";
        assert_eq!(name(&settings(bare, &[]).unwrap()), "weir");
        assert_eq!(name(&settings(bare, &standard[2..]).unwrap()), "other");
        for (sampler, sample) in [("always_off", 0.0), ("parentbased_traceidratio", 0.2)] {
            let env = [standard[1], ("OTEL_TRACES_SAMPLER", sampler)];
            let read: f64 = settings(bare, &env).unwrap().sample;
            assert!((read - sample).abs() < f64::EPSILON, "{sampler}: {read}");
        }
    }

    #[test]
    fn headers_come_from_everywhere_and_do_not_print() {
        let yaml =
            "traces: { endpoint: http://c, headers: { x-key: \"${KEY}\", x-none: \"${NO}\" } }";
        let read = settings(yaml, &[("KEY", "sk-canary")]).unwrap();
        assert_eq!(read.headers.get("x-key").unwrap(), "sk-canary");
        assert!(!read.headers.contains_key("x-none"));
        let config = load(yaml, &[("KEY", "sk-canary")]).unwrap();
        let shown = format!("{config:?} {read:?}");
        assert!(!shown.contains("canary"), "{shown}");
        let read = settings(yaml, &[("WEIR_TRACES_HEADERS", "a=b=c, d=%20e")]).unwrap();
        assert_eq!(
            (&read.headers["a"], &read.headers["d"]),
            (&"b=c".parse().unwrap(), &" e".parse().unwrap())
        );
    }

    #[test]
    fn what_cannot_be_used_stops_the_start_and_repeats_no_secret() {
        let on = "traces: { endpoint: http://c }";
        let cases: [(&str, Variables<'_>, &str); 15] = [
            ("traces: { headers: canary }", &[], "write `headers` as { name: text }"),
            ("traces: { headers: { a: [canary] } }", &[], "write `headers` as { name: text }"),
            ("traces: { sample: 2 }", &[], "`traces.sample`: it must be between 0 and 1"),
            ("traces: { sampel: 1 }", &[], "sampel"),
            ("traces: { protocol: thrift }", &[], "grpc"),
            ("traces: { endpoint: \"c:4318\" }", &[], "`traces.endpoint`: write it as http://"),
            ("traces: { endpoint: \"http://u:canary@c\" }", &[], "goes into `traces.headers`"),
            ("traces: { headers: { \"a b\": canary } }", &[], "`traces.headers`: a name"),
            ("traces: { headers: { a: \"canary\\n\" } }", &[], "the value of a cannot be sent"),
            ("traces: { headers: { a: canary }, sampel: 1 }", &[], "sampel"),
            (on, &[("WEIR_TRACES_SAMPLE", "all")], "WEIR_TRACES_SAMPLE: `all` is no share"),
            (on, &[("WEIR_TRACES_HEADERS", "canary")], "WEIR_TRACES_HEADERS: write it as name="),
            (on, &[("OTEL_EXPORTER_OTLP_HEADERS", "canary")], "OTEL_EXPORTER_OTLP_HEADERS: write"),
            (on, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")], "http/protobuf or grpc"),
            (on, &[("OTEL_RESOURCE_ATTRIBUTES", "a=%zz")], "OTEL_RESOURCE_ATTRIBUTES: write it"),
        ];
        for (yaml, env, expected) in cases {
            let message = load(yaml, env).map(|_: Config| ()).unwrap_err().to_string();
            assert!(message.contains(expected), "{yaml}: {message}");
            assert!(!message.contains("canary"), "{yaml}: {message}");
        }
    }
}
