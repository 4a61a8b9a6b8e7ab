//! The way to Redis: a server, a server behind sentinels, or a cluster.

use std::fmt;
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::Client;
use redis::ConnectionAddr;
use redis::IntoConnectionInfo as _;
use redis::RedisResult;
use redis::Script;
use redis::TlsMode;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::SentinelClient;
use redis::sentinel::SentinelClientBuilder;
use redis::sentinel::SentinelServerType;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_millis(500);
/// Longest wait for an answer; a server that hangs is left.
const ANSWER: Duration = Duration::from_millis(250);
/// Port of a sentinel where none is written.
const SENTINEL_PORT: u16 = 26_379;
const CURE: &str = "write it as redis://:password@host:6379/0, rediss://… for TLS, \
                    redis+sentinel://host:26379,host2:26379/master or redis+cluster://host:6379,host2:6379";

/// Where Redis is. Prints without credentials.
#[derive(Clone)]
pub struct Redis {
    shown: String,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    One(Box<Client>),
    Sentinel(Sentinel),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
struct Sentinel {
    nodes: Vec<(String, u16)>,
    master: String,
    database: i64,
    tls: bool,
    user: Option<String>,
    password: Option<String>,
}

/// An open connection.
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Redis {
    /// Reads the setting `redis`.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write, and repeats no password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = || CURE.to_owned();
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let places = rest.rsplit_once('@').map_or(rest, |(_, places)| places);
        let shown = format!("{scheme}://{}", places.split('?').next().unwrap_or(places));
        let tls = scheme.starts_with("rediss");
        let kind = match scheme {
            "redis" | "rediss" => Kind::One(Box::new(Client::open(url).map_err(|_| wrong())?)),
            "redis+sentinel" | "rediss+sentinel" => {
                Kind::Sentinel(Sentinel::parse(rest, tls).ok_or_else(wrong)?)
            }
            "redis+cluster" | "rediss+cluster" => {
                Kind::Cluster(Box::new(cluster(rest, tls).ok_or_else(wrong)?))
            }
            _ => return Err(wrong()),
        };
        Ok(Self { shown, kind })
    }

    /// Opens a connection and brings `script` there.
    pub(super) async fn connect(&self, script: &Script) -> RedisResult<Link> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let mut connection = match &self.kind {
            Kind::One(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await?
            }
            Kind::Sentinel(sentinel) => {
                sentinel.client()?.get_async_connection_with_config(&config).await?
            }
            Kind::Cluster(client) => {
                return Ok(Link::Cluster(client.get_async_connection().await?));
            }
        };
        script.load_async(&mut connection).await?;
        Ok(Link::One(connection))
    }
}

impl Sentinel {
    /// Reads `[user:password@]host[:port],…/master[/database]`.
    fn parse(rest: &str, tls: bool) -> Option<Self> {
        let (user, password, places) = credentials(rest);
        let (nodes, master) = places.split_once('/')?;
        let (master, database) = master.split_once('/').unwrap_or((master, "0"));
        let nodes: Option<Vec<_>> = nodes.split(',').map(place).collect();
        let nodes = nodes.filter(|nodes| !nodes.is_empty() && !master.is_empty())?;
        let (master, database) = (master.to_owned(), database.parse().ok()?);
        Some(Self { nodes, master, database, tls, user, password })
    }

    fn client(&self) -> RedisResult<SentinelClient> {
        let nodes = self.nodes.iter().map(|(host, port)| match self.tls {
            false => ConnectionAddr::Tcp(host.clone(), *port),
            true => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
        });
        let mut builder =
            SentinelClientBuilder::new(nodes, &self.master, SentinelServerType::Master)?
                .set_client_to_redis_db(self.database);
        if self.tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(user) = &self.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.password {
            builder = builder.set_client_to_redis_password(password);
        }
        builder.build()
    }
}

/// Reads `[user:password@]host:port,…`.
fn cluster(rest: &str, tls: bool) -> Option<ClusterClient> {
    let (user, password, places) = credentials(rest);
    let scheme = if tls { "rediss" } else { "redis" };
    let nodes = places.trim_end_matches('/').split(',').map(|place| format!("{scheme}://{place}/"));
    let nodes: Option<Vec<_>> = nodes.map(|url| url.into_connection_info().ok()).collect();
    let mut builder = ClusterClient::builder(nodes?)
        .retries(0)
        .connection_timeout(CONNECT)
        .response_timeout(ANSWER);
    if let Some(user) = user {
        builder = builder.username(user);
    }
    if let Some(password) = password {
        builder = builder.password(password);
    }
    builder.build().ok()
}

/// User, password, and what follows them.
fn credentials(rest: &str) -> (Option<String>, Option<String>, &str) {
    let Some((credentials, places)) = rest.rsplit_once('@') else { return (None, None, rest) };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let given = |text: &str| (!text.is_empty()).then(|| decoded(text));
    (given(user), given(password), places)
}

/// A part of a URL without its percent signs.
fn decoded(text: &str) -> String {
    let pair = format!("={}", text.replace('+', "%2B"));
    let decoded = form_urlencoded::parse(pair.as_bytes()).next();
    decoded.map_or_else(String::new, |(_, value)| value.into_owned())
}

fn place(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (text, SENTINEL_PORT),
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

impl Link {
    /// Runs the script for each key with its message: one round trip, in a cluster one for each.
    pub(super) async fn run(
        &mut self,
        script: &Script,
        messages: &[(String, String)],
    ) -> RedisResult<Vec<Vec<i64>>> {
        match self {
            Self::One(connection) => {
                let mut pipe = redis::pipe();
                for (key, message) in messages {
                    pipe.cmd("EVALSHA").arg(script.get_hash()).arg(1).arg(key).arg(message);
                }
                pipe.query_async(connection).await
            }
            Self::Cluster(connection) => {
                let mut replies = Vec::with_capacity(messages.len());
                for (key, message) in messages {
                    replies.push(script.key(key).arg(message).invoke_async(connection).await?);
                }
                Ok(replies)
            }
        }
    }

    /// Notes that this gateway lives; returns how many do.
    pub(super) async fn greet(&mut self, script: &Script, gateway: &str) -> RedisResult<Vec<i64>> {
        let mut call = script.key(GATEWAYS);
        let call = call.arg(gateway);
        match self {
            Self::One(connection) => call.invoke_async(connection).await,
            Self::Cluster(connection) => call.invoke_async(connection).await,
        }
    }
}

/// The key of the gateways that live.
const GATEWAYS: &str = "weir:gateways";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_is_a_url_and_shows_no_password() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("rediss://u:s3cret@cache.example:6380/2", "rediss://cache.example:6380/2"),
            ("redis+sentinel://:s3cret@a,b:26380/main", "redis+sentinel://a,b:26380/main"),
            ("redis+cluster://a:6379,b:6379", "redis+cluster://a:6379,b:6379"),
        ] {
            assert_eq!(Redis::parse(url).unwrap().to_string(), shown);
        }
        for wrong in ["", "127.0.0.1:6379", "http://s3cret@h", "redis+sentinel://s3cret@a"] {
            let message = Redis::parse(wrong).unwrap_err();
            assert!(message.contains("redis://") && !message.contains("s3cret"), "{message}");
        }
    }

    #[test]
    fn credentials_are_percent_decoded() {
        let (user, password, places) = credentials("weir:p%40ss+1@a:1,b:2/m");
        assert_eq!((user.as_deref(), password.as_deref()), (Some("weir"), Some("p@ss+1")));
        assert_eq!(places, "a:1,b:2/m");
    }
}
