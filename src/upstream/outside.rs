//! Addresses that users name: only those of the public internet, unless the operator allows others.
//!
//! Whoever may register a webhook or a source must not reach the operator's own network through the
//! gateway. A name is resolved, what it resolves to is checked, and the connection goes to what was
//! checked; redirects are not followed.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::StatusCode;
use reqwest::Client;
use reqwest::Url;
use reqwest::dns::Addrs;
use reqwest::dns::Name;
use reqwest::dns::Resolve;
use reqwest::dns::Resolving;
use serde::Deserialize;
use thiserror::Error;

const CONNECT: Duration = Duration::from_secs(5);
/// Of an answer no more is read, in bytes.
const MOST_READ: usize = 64 << 10;

/// Hosts and networks that may be reached although they are not public.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Allowed {
    hosts: Vec<String>,
    networks: Vec<(IpAddr, u8)>,
}

/// Why a URL is not used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// It is no URL of a web server.
    #[error(
        "`{0}` is not a URL that begins with http:// or https:// and names a host, without a user or password in it"
    )]
    Malformed(String),
    /// It leads into a network that is not public.
    #[error(
        "{host} is {address}, which is not a public address; `outbound.allow` in weir.yaml can name the host or its network"
    )]
    Private {
        /// The URL's host.
        host: String,
        /// What it stands for.
        address: IpAddr,
    },
    /// Its name is not known.
    #[error("the host {host} cannot be resolved: {reason}")]
    Unresolved {
        /// The URL's host.
        host: String,
        /// What the resolver said.
        reason: String,
    },
}

/// What a server outside answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status; redirects are not followed.
    pub status: StatusCode,
    /// The first 64 KiB of its body.
    pub body: Bytes,
}

/// A way to servers that users name.
#[derive(Clone, Debug)]
pub struct Outside {
    client: Client,
    allowed: Arc<Allowed>,
}

impl Outside {
    /// A way that gives up on a call after `deadline`.
    ///
    /// # Errors
    /// A sentence, when TLS cannot be set up.
    pub fn new(allowed: Allowed, deadline: Duration) -> Result<Self, String> {
        let allowed = Arc::new(allowed);
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT.min(deadline))
            .timeout(deadline)
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Guard(Arc::clone(&allowed))))
            .build()
            .map_err(|error| format!("no client for webhooks: {error}"))?;
        Ok(Self { client, allowed })
    }

    /// Looks where a URL leads, without connecting.
    ///
    /// # Errors
    /// What is wrong with it. Of several addresses one that is not public is enough.
    pub async fn check(&self, url: &str) -> Result<(), Refused> {
        let url = parse(url)?;
        let host = host(&url);
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.allowed.check(host, address);
        }
        let port = url.port_or_known_default().unwrap_or(443);
        resolve(&self.allowed, host, port).await.map(drop)
    }

    /// Posts a body.
    ///
    /// # Errors
    /// A sentence that names the host, never the path, which may be a secret.
    pub async fn post(&self, url: &str, headers: HeaderMap, body: Bytes) -> Result<Answer, String> {
        let url = parse(url).map_err(|refused| refused.to_string())?;
        // An address in the URL is not resolved, so nobody else looks at it.
        if let Ok(address) = host(&url).parse::<IpAddr>() {
            self.allowed.check(host(&url), address).map_err(|refused| refused.to_string())?;
        }
        let sent = self.client.post(url).headers(headers).body(body).send().await;
        let mut answer = sent.map_err(said)?;
        let mut read = BytesMut::new();
        // The answer counts by its status; a body that breaks off does not make it a failure.
        while let Ok(Some(chunk)) = answer.chunk().await {
            let room = MOST_READ - read.len();
            read.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            if read.len() == MOST_READ {
                break;
            }
        }
        Ok(Answer { status: answer.status(), body: read.freeze() })
    }
}

impl Allowed {
    fn names(&self, host: &str) -> bool {
        self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    fn check(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let address = address.to_canonical();
        let inside = |network: &(IpAddr, u8)| contains(*network, address);
        if is_public(address) || self.names(host) || self.networks.iter().any(inside) {
            return Ok(());
        }
        Err(Refused::Private { host: host.to_owned(), address })
    }
}

impl FromStr for Allowed {
    type Err = String;

    /// Reads hosts, addresses and networks between commas: `hooks.internal, 10.1.0.0/16`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut allowed = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (address, bits) =
                entry.split_once('/').map_or((entry, None), |(a, b)| (a, Some(b)));
            let Ok(address) = address.parse::<IpAddr>() else {
                if bits.is_some() || entry.contains("//") {
                    return Err(format!(
                        "`{entry}` is neither a host nor a network like 10.1.0.0/16"
                    ));
                }
                allowed.hosts.push(entry.to_owned());
                continue;
            };
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Ok(most), str::parse).ok().filter(|bits| *bits <= most);
            let bits =
                bits.ok_or_else(|| format!("`{entry}`: a network's bits are 0 to {most}"))?;
            allowed.networks.push((address, bits));
        }
        Ok(allowed)
    }
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Lets the client connect to checked addresses only.
struct Guard(Arc<Allowed>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = Arc::clone(&self.0);
        Box::pin(async move {
            // Port 0: the client puts in the URL's.
            let addresses = resolve(&allowed, name.as_str(), 0).await?;
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

fn parse(text: &str) -> Result<Url, Refused> {
    let malformed = || {
        // What stands before an `@` may be a password.
        let shown = text.rsplit('@').next().unwrap_or_default();
        Refused::Malformed(shown.chars().take(200).collect())
    };
    let url = Url::parse(text).map_err(|_| malformed())?;
    let bare = url.username().is_empty() && url.password().is_none();
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    if web && bare { Ok(url) } else { Err(malformed()) }
}

/// The URL's host, an IPv6 address without its brackets.
fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_matches(['[', ']'])
}

async fn resolve(allowed: &Allowed, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refused> {
    let unresolved = |reason: String| Refused::Unresolved { host: host.to_owned(), reason };
    let found = tokio::time::timeout(CONNECT, tokio::net::lookup_host((host, port))).await;
    let found = found.map_err(|_| unresolved("no answer within 5 s".to_owned()))?;
    let addresses: Vec<_> = found.map_err(|error| unresolved(error.to_string()))?.collect();
    for address in &addresses {
        allowed.check(host, address.ip())?;
    }
    if addresses.is_empty() {
        return Err(unresolved("it has no address".to_owned()));
    }
    Ok(addresses)
}

/// What went wrong, without the URL.
fn said(error: reqwest::Error) -> String {
    let error = error.without_url();
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    super::root_cause(&error)
}

fn contains(network: (IpAddr, u8), address: IpAddr) -> bool {
    let common = |most: u8, differing: u128| differing.checked_shr((most - network.1).into());
    // A shift by all bits leaves none to compare.
    let same = |most, differing| common(most, differing).unwrap_or(0) == 0;
    match (network.0, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            same(32, u128::from(base.to_bits() ^ address.to_bits()))
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => same(128, base.to_bits() ^ address.to_bits()),
        _ => false,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// After IANA's registry of special-purpose addresses for IPv4 (RFC 6890 and its updates).
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (b == 18 || b == 19);
    let protocol = a == 192 && b == 0 && c == 0;
    let relay = a == 192 && b == 88 && c == 99;
    !(a == 0
        || a >= 224
        || shared
        || benchmark
        || protocol
        || relay
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation())
}

/// Global unicast is 2000::/3; of it, what carries an IPv4 address or documents is not public.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let teredo_and_kin = a == 0x2001 && b < 0x0200;
    let documentation = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000);
    let six_to_four = a == 0x2002;
    a & 0xe000 == 0x2000 && !teredo_and_kin && !documentation && !six_to_four
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside(allowed: &str) -> Outside {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Outside::new(allowed.parse().unwrap(), Duration::from_secs(2)).unwrap()
    }

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        for inside in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
        ] {
            let address: IpAddr = inside.parse().unwrap();
            assert!(Allowed::default().check(inside, address).is_err(), "{inside}");
        }
        for outside in ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"] {
            let address: IpAddr = outside.parse().unwrap();
            assert_eq!(Allowed::default().check(outside, address), Ok(()), "{outside}");
        }
    }

    #[test]
    fn an_operator_allows_hosts_addresses_and_networks() {
        let allowed: Allowed = "hooks.internal, 10.1.0.0/16,127.0.0.1, fd00::/8".parse().unwrap();
        let may = |host: &str, address: &str| allowed.check(host, address.parse().unwrap()).is_ok();
        assert!(may("HOOKS.internal", "192.168.0.1") && may("x", "10.1.2.3"));
        assert!(may("x", "127.0.0.1") && may("x", "fd12::1") && may("x", "::ffff:10.1.2.3"));
        assert!(!may("x", "10.2.0.1") && !may("x", "127.0.0.2") && !may("x", "fe80::1"));
        let refused = "10.0.0.0/33".parse::<Allowed>().unwrap_err();
        assert_eq!(refused, "`10.0.0.0/33`: a network's bits are 0 to 32");
        assert!("https://hooks.internal".parse::<Allowed>().is_err());
        let all: Allowed = "0.0.0.0/0".parse().unwrap();
        assert!(all.check("x", "10.0.0.1".parse().unwrap()).is_ok());
    }

    #[tokio::test]
    async fn a_url_is_refused_with_what_is_wrong_with_it() {
        let outside = outside("");
        for url in
            ["ftp://example.com", "example.com/hook", "https://me:secret@example.com/", "http://"]
        {
            let refused = outside.check(url).await.unwrap_err();
            assert!(matches!(refused, Refused::Malformed(_)), "{url}");
            assert!(!refused.to_string().contains("secret"));
        }
        // Ways to write 127.0.0.1 that a filter of texts would miss.
        for url in [
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::ffff:7f00:1]/",
            "http://localhost/",
        ] {
            let refused = outside.check(url).await.unwrap_err();
            assert!(matches!(refused, Refused::Private { .. }), "{url}: {refused}");
            let said = outside.post(url, HeaderMap::new(), Bytes::new()).await.unwrap_err();
            assert!(said.contains("not a public address"), "{url}: {said}");
        }
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_a_way() {
        use tokio::io::AsyncReadExt as _;
        use tokio::io::AsyncWriteExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://localhost:{}/hook", listener.local_addr().unwrap().port());
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 4096]).await.unwrap();
            let answer =
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer.as_bytes()).await.unwrap();
        });
        let answer = outside("localhost").post(&url, HeaderMap::new(), Bytes::new()).await.unwrap();
        assert_eq!(answer.status, StatusCode::FOUND);
        server.await.unwrap();
    }
}
