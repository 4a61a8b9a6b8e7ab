//! Searches a source's documents for people and programs.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::openai::error::ApiError;
use crate::store::Documents;
use crate::store::Filter;
use crate::store::Hit;
use crate::store::SearchQuery;
use crate::store::Sources;
use crate::store::StoreError;
use crate::telemetry::metrics::Metrics;

use super::embed::Embedder;

/// Passages when nobody says how many, and the most that anybody gets.
const TOP_K: usize = 6;
const MOST: usize = 100;
/// Characters of a question.
const LONGEST: usize = 8_000;
/// Longest wait for the question's vector; then only words are compared.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sources that are searched at once.
const MOST_SOURCES: u32 = 1000;
/// The code of a source without an index.
const NOT_READY: &str = "source_not_ready";

/// Answers searches. A clone is the same.
#[derive(Clone)]
pub struct Searcher {
    /// What is searched.
    pub sources: Sources,
    /// Its index.
    pub documents: Documents,
    /// Makes the question's vector.
    pub embedder: Embedder,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    query: String,
    source: String,
    #[serde(default)]
    top_k: Option<usize>,
    #[serde(default)]
    filter: Wanted,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    url_prefix: Option<String>,
    metadata: Map<String, Value>,
}

impl Searcher {
    /// Answers the body of `POST /api/search`. `patience` is how long the question's vector is waited
    /// for, where somebody has less than usual; without one only words are compared.
    ///
    /// # Errors
    /// 400 names the field, 404 and 409 the source; 503 says that the store is away.
    pub async fn answer(&self, body: &[u8], patience: Option<Duration>) -> Result<Value, ApiError> {
        let begun = Instant::now();
        let answered = self.find(body, patience.unwrap_or(PATIENCE)).await;
        let outcome = match &answered {
            Ok(answer) if answer.get("degraded").is_some() => "text_only",
            Ok(_) => "ok",
            Err(error) if error.status < 500 => "refused",
            Err(_) => "failed",
        };
        self.metrics.search(outcome, begun.elapsed());
        answered
    }

    /// Searches every source that has an index, as the command line does where none is named. Each
    /// source's best comes before any source's second: scores are made of ranks.
    ///
    /// # Errors
    /// Those of [`Self::answer`]; 409 where no source has an index.
    pub async fn everywhere(&self, query: &str, top_k: usize) -> Result<Value, ApiError> {
        let (mut hits, mut degraded, mut indexes) = (Vec::new(), false, 0);
        for source in self.sources.list("", MOST_SOURCES).await.map_err(away)? {
            let body = json!({ "query": query, "source": source.name, "top_k": top_k });
            let mut answer = match self.answer(body.to_string().as_bytes(), None).await {
                Err(error) if error.code == NOT_READY => continue,
                answered => answered?,
            };
            indexes += 1;
            degraded |= answer.get("degraded").is_some();
            for mut hit in answer["data"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                hit["source"] = source.name.as_str().into();
                hits.push(hit);
            }
        }
        if indexes == 0 {
            let message =
                "No source has an index yet; one is there when its first refresh has ended.";
            return Err(ApiError::new(409, "invalid_request_error", NOT_READY, message));
        }
        let score = |hit: &Value| hit["score"].as_f64().unwrap_or_default();
        hits.sort_by(|a, b| score(b).total_cmp(&score(a)));
        hits.truncate(top_k);
        let mut answer = json!({ "object": "list", "data": hits });
        if degraded {
            answer["degraded"] = "text_only".into();
        }
        Ok(answer)
    }

    async fn find(&self, body: &[u8], patience: Duration) -> Result<Value, ApiError> {
        let asked = parse(body)?;
        let source = self.sources.find(&asked.source).await.map_err(away)?;
        let source = source.ok_or_else(|| {
            let message = format!("There is no source `{}`.", asked.source);
            ApiError::new(404, "invalid_request_error", "source_not_found", message).param("source")
        })?;
        let index = self.documents.live(&source.id.to_string()).await.map_err(away)?;
        let index = index.ok_or_else(|| {
            let message = format!(
                "`{}` has no index yet; it is there when its first refresh has ended.",
                source.name
            );
            ApiError::new(409, "invalid_request_error", NOT_READY, message).param("source")
        })?;
        let texts = [asked.query.clone()];
        let embedder = self.embedder.impatient();
        let made = embedder.embed(&source.name, &index.shape.model, source.dimensions, &texts);
        let vector = match tokio::time::timeout(patience, made).await {
            Ok(Ok(made)) => {
                let vector = made.vectors.into_iter().next();
                vector.filter(|vector| fits(vector, &source.name, index.shape.dimensions))
            }
            Ok(Err(error)) => {
                tracing::warn!(source = source.name, %error, "a question has no vector: only its words are compared");
                None
            }
            Err(_) => None,
        };
        let degraded = vector.is_none();
        let query = SearchQuery {
            text: asked.query,
            vector,
            top_k: asked.top_k.unwrap_or(TOP_K),
            filter: Filter { url_prefix: asked.filter.url_prefix, metadata: asked.filter.metadata },
        };
        let hits = self.documents.search(&index, &query).await.map_err(away)?;
        let mut answer = json!({ "object": "list", "source": source.name,
            "data": hits.iter().map(show).collect::<Vec<_>>() });
        if degraded {
            answer["degraded"] = "text_only".into();
        }
        Ok(answer)
    }
}

/// Whether a vector can be compared with those of the index: a model may have changed behind its
/// name, and words find something until the next refresh tells.
fn fits(vector: &[f32], source: &str, dimensions: u32) -> bool {
    let fits = u32::try_from(vector.len()) == Ok(dimensions);
    if !fits {
        tracing::warn!(
            source,
            made = vector.len(),
            dimensions,
            "the model makes vectors of another length than the index has: only words are compared"
        );
    }
    fits
}

/// A passage as it is shown.
fn show(hit: &Hit) -> Value {
    json!({
        "object": "search.result", "url": hit.url, "title": hit.title, "heading": hit.heading,
        "text": hit.text, "tokens": hit.tokens, "score": hit.score,
        "scores": {
            "vector": hit.vector_score, "vector_rank": hit.vector_rank,
            "text": hit.text_score, "text_rank": hit.text_rank,
        },
    })
}

fn parse(body: &[u8]) -> Result<Asked, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let asked: Asked = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let place = error.path().to_string();
        let how = r#"write {"query": "how do I …", "source": "docs"}"#;
        let place = if place == "." { "body".to_owned() } else { place };
        bad(&place, &format!("{}; {how}", error.inner()))
    })?;
    if asked.query.trim().is_empty() || asked.query.chars().count() > LONGEST {
        return Err(bad("query", &format!("it has to have 1 to {LONGEST} characters")));
    }
    if asked.top_k.is_some_and(|wanted| !(1..=MOST).contains(&wanted)) {
        return Err(bad("top_k", &format!("it has to be 1 to {MOST}")));
    }
    let plain = |value: &Value| !(value.is_object() || value.is_array() || value.is_null());
    match asked.filter.metadata.iter().find(|(_, value)| !plain(value)) {
        Some((name, _)) => {
            let place = format!("filter.metadata.{name}");
            Err(bad(&place, "it has to be a text, a number, true or false"))
        }
        None => Ok(asked),
    }
}

fn bad(field: &str, message: &str) -> ApiError {
    ApiError::bad_request("invalid_parameter", format!("`{field}`: {message}."))
        .param(field.to_owned())
}

fn away(error: StoreError) -> ApiError {
    tracing::warn!(%error, "documents cannot be searched");
    ApiError::new(503, "api_error", "store_unavailable", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_searched_for_is_named() {
        for (body, param) in [
            ("{}", "body"),
            (r#"{"query":"x"}"#, "body"),
            (r#"{"query":" ","source":"d"}"#, "query"),
            (r#"{"query":"x","source":"d","top_k":0}"#, "top_k"),
            (r#"{"query":"x","source":"d","top_k":"a"}"#, "top_k"),
            (r#"{"query":"x","source":"d","k":1}"#, "k"),
            (r#"{"query":"x","source":"d","filter":{"metadata":{"a":[]}}}"#, "filter.metadata.a"),
        ] {
            let error = parse(body.as_bytes()).map(drop).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {}", error.message);
        }
    }
}
