//! Asks providers when their models end: `GET /v1/models` tells a `shutdown_date`.

use bytes::Bytes;
use http::HeaderMap;
use http::Method;
use http::header;
use http_body_util::BodyExt as _;
use http_body_util::Limited;
use serde::Deserialize;

use crate::metering::catalogue::Date;
use crate::policy::Policy;
use crate::policy::Upstream;
use crate::upstream::OutBody;
use crate::upstream::Outgoing;
use crate::upstream::Upstreams;

use super::live::LiveStats;

/// Largest list that is read.
const LARGEST_LIST: usize = 4 << 20;

#[derive(Deserialize)]
struct List {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    shutdown_date: Option<String>,
}

/// Asks every provider for which the gateway has a key. A provider that does not answer, or tells
/// no dates, leaves what is known.
pub async fn look(upstreams: &Upstreams, policy: &Policy, live: &LiveStats) {
    for upstream in policy.upstreams().filter(|upstream| upstream.authorization.is_some()) {
        match ask(upstreams, upstream).await {
            Ok(list) => note(&list, upstream, live),
            Err(reason) => {
                tracing::warn!(upstream = %upstream.name, reason, "could not ask when models end");
            }
        }
    }
}

async fn ask(upstreams: &Upstreams, upstream: &Upstream) -> Result<List, String> {
    let mut headers = HeaderMap::new();
    headers.extend(upstream.authorization.clone().map(|key| (header::AUTHORIZATION, key)));
    let body = OutBody::whole(Bytes::new());
    let (method, path) = (Method::GET, "/models".into());
    let outgoing = Outgoing { method, path, headers, body, upgrade: false };
    let answer = upstreams.send(upstream, outgoing).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("it answered {status}"));
    }
    let read = Limited::new(answer.into_body(), LARGEST_LIST).collect();
    let read = tokio::time::timeout(upstream.timeouts.idle, read).await;
    let body = read.map_err(|_| "its list does not end")?.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| format!("its list: {error}"))
}

fn note(list: &List, upstream: &Upstream, live: &LiveStats) {
    for model in &list.data {
        if let Some(date) = model.shutdown_date.as_deref().and_then(Date::parse) {
            live.shutdown(&upstream.name, &model.id, date.days_since_epoch());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::AsyncReadExt as _;
    use tokio::io::AsyncWriteExt as _;

    use crate::policy::Settings;
    use crate::policy::Sources;

    use super::*;

    #[tokio::test]
    async fn what_a_provider_says_goes_before_the_catalogue() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let yaml = format!(
            "upstreams:\n  openai: {{ base_url: 'http://{}/v1', api_key: k }}\n",
            listener.local_addr().unwrap()
        );
        let sources = Sources::of(BTreeMap::from([("a.yaml".to_owned(), yaml)]));
        let policy = Policy::check(&sources, &Settings::default()).policy.unwrap();
        let provider = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            let list = r#"{"data":[{"id":"gpt-4.1","shutdown_date":"2030-01-02"},{"id":"gpt-4",
                "shutdown_date":null},{"id":"x","shutdown_date":"soon"}]}"#;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", list.len());
            stream.write_all(format!("{head}{list}").as_bytes()).await.unwrap();
            String::from_utf8_lossy(request.get(..read).unwrap()).into_owned()
        });
        let (upstreams, live) = (Upstreams::new(&policy).unwrap(), LiveStats::default());
        look(&upstreams, &policy, &live).await;
        let request = provider.await.unwrap();
        assert!(request.starts_with("GET /v1/models HTTP/1.1\r\n") && request.contains("Bearer k"));
        let day = |date| Date::parse(date).map(Date::days_since_epoch);
        assert_eq!(live.shutdown_day(&policy, "gpt-4.1"), day("2030-01-02"));
        // The catalogue's.
        assert_eq!(live.shutdown_day(&policy, "gpt-4"), day("2026-10-23"));
        assert_eq!(live.shutdown_day(&policy, "x"), None);
    }
}
