//! Texts to vectors, by the gateway's own `/v1/embeddings`: so that policy, limits and cost apply.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use thiserror::Error;

use crate::metering::money::Usd;
use crate::metering::tokens::Encoding;

/// Bounds of one request, after OpenAI's `CreateEmbeddingRequest` (November 2026): inputs, tokens of
/// each, and tokens of all, of which 20,000 are left for those who count otherwise.
const MOST_INPUTS: usize = 2048;
const LONGEST_INPUT: u64 = 8192;
const MOST_TOKENS: u64 = 280_000;
/// Coordinates of one answer: so that it stays below the 8 MiB that the gateway holds to read its
/// usage. In base64 each takes 5⅓ bytes.
const MOST_COORDINATES: usize = 1_400_000;
/// What a vector has at most where nobody says.
const LARGEST_VECTOR: u32 = 3072;

/// Times that a request is sent, and the pause after the first; it doubles.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The most that an answer's `Retry-After` is waited for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Posts a body to `/v1/embeddings` of this gateway in the name of a caller.
pub type Post = Arc<dyn Fn(String, Bytes) -> Posting + Send + Sync>;
/// What [`Post`] returns.
pub type Posting = Pin<Box<dyn Future<Output = Posted> + Send>>;

/// What the gateway answered.
#[derive(Clone, Debug, Default)]
pub struct Posted {
    /// HTTP status.
    pub status: u16,
    /// When it may be asked again, where it says so.
    pub retry_after: Option<Duration>,
    /// What it cost, where that is known.
    pub cost: Option<Usd>,
    /// Its body.
    pub body: Bytes,
}

/// Makes vectors. A clone is the same one.
#[derive(Clone)]
pub struct Embedder {
    post: Post,
    tries: u32,
}

/// Vectors in the order of their texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedded {
    /// One for each text.
    pub vectors: Vec<Vec<f32>>,
    /// What the provider counted.
    pub tokens: u64,
    /// What it cost; what has no price is not in it.
    pub cost: Usd,
}

/// Why there are no vectors.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EmbedError {
    /// Nothing is not embedded.
    #[error("text {index} of {of} is empty; leave it out")]
    Empty {
        /// Its place, from 0.
        index: usize,
        /// How many texts there are.
        of: usize,
    },
    /// A text that no request has room for.
    #[error("text {index} has more than {LONGEST_INPUT} tokens; cut it into chunks")]
    TooLong {
        /// Its place, from 0.
        index: usize,
    },
    /// The request itself is wrong, or a policy or a budget refuses it: no use in trying again.
    #[error("the embedding model {model} refused with {status}: {message}")]
    Refused {
        /// Who was asked.
        model: String,
        /// HTTP status.
        status: u16,
        /// What the answer says.
        message: String,
    },
    /// Nobody answered, however often it was tried; later may help.
    #[error("the embedding model {model} is not available, it answered {status}: {message}")]
    Unavailable {
        /// Who was asked.
        model: String,
        /// HTTP status of the last answer.
        status: u16,
        /// What it says.
        message: String,
    },
    /// Vectors that do not fit to what was asked for, or to each other.
    #[error(
        "the embedding model {model} made vectors of {got} dimensions where {wanted} were expected; \
         set the source's `dimensions` to what it makes"
    )]
    WrongLength {
        /// Who was asked.
        model: String,
        /// The length asked for, or of the first vector.
        wanted: usize,
        /// The length that came.
        got: usize,
    },
    /// Not an answer with embeddings.
    #[error("the embedding model {model} gave an answer that cannot be read: {reason}")]
    Unreadable {
        /// Who was asked.
        model: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl EmbedError {
    /// Whether another try, later, may bring vectors.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether it is one of the texts that is wrong, and others would pass.
    pub fn is_of_text(&self) -> bool {
        match self {
            Self::Empty { .. } | Self::TooLong { .. } => true,
            Self::Refused { status, .. } => *status == 400,
            _ => false,
        }
    }
}

impl Embedder {
    /// Asks by `post`.
    pub fn new(post: Post) -> Self {
        Self { post, tries: TRIES }
    }

    /// The same without patience: each request is sent once. For those whom somebody waits for.
    #[must_use]
    pub fn impatient(&self) -> Self {
        Self { post: Arc::clone(&self.post), tries: 1 }
    }

    /// Makes a vector of each of `inputs`. `source` names who pays: its calls are recorded as
    /// `embeddings:<source>`. Waits as long as it takes to get past a provider's limits.
    ///
    /// # Errors
    /// The first thing that is wrong; nothing is kept of what came before.
    pub async fn embed(
        &self,
        source: &str,
        model: &str,
        dimensions: Option<u32>,
        inputs: &[String],
    ) -> Result<Embedded, EmbedError> {
        let asked = Asked { caller: format!("embeddings:{source}"), model, dimensions };
        let mut done = Embedded::default();
        let mut waiting: VecDeque<_> = pack(model, dimensions, inputs).await?.into();
        while let Some(part) = waiting.pop_front() {
            let texts = inputs.get(part.clone()).unwrap_or_default();
            match self.ask(&asked, texts).await {
                Ok(answer) => add(&mut done, answer, &asked)?,
                Err(EmbedError::Refused { status: 400, .. }) if texts.len() > 1 => {
                    // Too much in one, or one is wrong: its half tells.
                    let middle = part.start + part.len() / 2;
                    waiting.push_front(middle..part.end);
                    waiting.push_front(part.start..middle);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// One request, as often as it takes.
    async fn ask(&self, asked: &Asked<'_>, texts: &[String]) -> Result<Embedded, EmbedError> {
        let body = asked.body(texts);
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            let posted = (self.post)(asked.caller.clone(), body.clone()).await;
            let error = match posted.status {
                200..=299 => return asked.read(posted, texts.len()).await,
                _ => asked.refused(&posted),
            };
            if !error.is_retryable() || tries >= self.tries {
                return Err(error);
            }
            tries += 1;
            let wait =
                posted.retry_after.map_or_else(|| shortened(pause), |asked| asked.max(pause));
            tracing::debug!(caller = asked.caller, wait_s = wait.as_secs_f64(), %error, "embedding again");
            tokio::time::sleep(wait.min(LONGEST_ASKED)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Who asks for what.
struct Asked<'a> {
    caller: String,
    model: &'a str,
    dimensions: Option<u32>,
}

impl Asked<'_> {
    fn body(&self, texts: &[String]) -> Bytes {
        let mut body = json!({ "model": self.model, "input": texts, "encoding_format": "base64" });
        if let Some(dimensions) = self.dimensions {
            body["dimensions"] = dimensions.into();
        }
        body.to_string().into()
    }

    /// What an answer that is none says.
    fn refused(&self, posted: &Posted) -> EmbedError {
        let said: Value = serde_json::from_slice(&posted.body).unwrap_or_default();
        let text = |field: &str| said.pointer(field).and_then(Value::as_str).unwrap_or_default();
        let message = match text("/error/message") {
            "" => "it did not say why".to_owned(),
            message => message.chars().take(300).collect(),
        };
        let (model, status) = (self.model.to_owned(), posted.status);
        let spent = text("/error/type") == "insufficient_quota";
        match status {
            408 | 409 | 429 | 500..=599
                if !spent && text("/error/code") != "upstream_credentials" =>
            {
                EmbedError::Unavailable { model, status, message }
            }
            _ => EmbedError::Refused { model, status, message },
        }
    }

    /// Reads vectors, away from the reactor: there may be millions of numbers.
    async fn read(&self, posted: Posted, count: usize) -> Result<Embedded, EmbedError> {
        let unreadable =
            |reason: String| EmbedError::Unreadable { model: self.model.to_owned(), reason };
        let Posted { cost, body, .. } = posted;
        let read = tokio::task::spawn_blocking(move || read_vectors(&body, count)).await;
        let (vectors, tokens) =
            read.map_err(|error| unreadable(error.to_string()))?.map_err(unreadable)?;
        let wanted = self.dimensions.and_then(|n| usize::try_from(n).ok());
        let wanted = wanted.or_else(|| vectors.first().map(Vec::len)).unwrap_or_default();
        self.check_lengths(&vectors, wanted)?;
        Ok(Embedded { vectors, tokens, cost: cost.unwrap_or_default() })
    }

    fn check_lengths(&self, vectors: &[Vec<f32>], wanted: usize) -> Result<(), EmbedError> {
        match vectors.iter().map(Vec::len).find(|&got| got != wanted || got == 0) {
            Some(got) => Err(EmbedError::WrongLength { model: self.model.to_owned(), wanted, got }),
            None => Ok(()),
        }
    }
}

/// Adds the vectors of the next request to those of the ones before.
fn add(done: &mut Embedded, next: Embedded, asked: &Asked<'_>) -> Result<(), EmbedError> {
    if let Some(first) = done.vectors.first() {
        asked.check_lengths(&next.vectors, first.len())?;
    }
    done.vectors.extend(next.vectors);
    done.tokens += next.tokens;
    done.cost += next.cost;
    Ok(())
}

/// Cuts texts into requests that a provider takes, away from the reactor: all are counted.
async fn pack(
    model: &str,
    dimensions: Option<u32>,
    inputs: &[String],
) -> Result<Vec<Range<usize>>, EmbedError> {
    let (encoding, inputs) = (Encoding::of(model), inputs.to_vec());
    let width = usize::try_from(dimensions.unwrap_or(LARGEST_VECTOR)).unwrap_or(1).max(1);
    let most = (MOST_COORDINATES / width).clamp(1, MOST_INPUTS);
    let packed = tokio::task::spawn_blocking(move || parts(encoding, &inputs, most)).await;
    packed.unwrap_or_else(|error| {
        let model = model.to_owned();
        Err(EmbedError::Unreadable { model, reason: format!("counting failed: {error}") })
    })
}

fn parts(
    encoding: Encoding,
    inputs: &[String],
    most: usize,
) -> Result<Vec<Range<usize>>, EmbedError> {
    let mut parts = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (index, text) in inputs.iter().enumerate() {
        if text.is_empty() {
            return Err(EmbedError::Empty { index, of: inputs.len() });
        }
        let tokens = encoding.count_till(text, LONGEST_INPUT);
        let tokens = tokens.ok_or(EmbedError::TooLong { index })?;
        if index > start && (sum + tokens > MOST_TOKENS || index - start == most) {
            parts.push(start..index);
            (start, sum) = (index, 0);
        }
        sum += tokens;
    }
    if start < inputs.len() {
        parts.push(start..inputs.len());
    }
    Ok(parts)
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Row>,
    #[serde(default)]
    usage: Used,
}

#[derive(Deserialize)]
struct Row {
    index: usize,
    embedding: Coordinates,
}

/// Some servers do not know `encoding_format` and answer in numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Coordinates {
    Base64(String),
    Numbers(Vec<f32>),
}

#[derive(Default, Deserialize)]
struct Used {
    #[serde(default)]
    prompt_tokens: u64,
}

/// Vectors in the order of their texts, and the tokens that they took.
fn read_vectors(body: &[u8], count: usize) -> Result<(Vec<Vec<f32>>, u64), String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if answer.data.len() != count {
        return Err(format!("{} embeddings for {count} texts", answer.data.len()));
    }
    let mut rows = answer.data;
    rows.sort_by_key(|row| row.index);
    if rows.iter().enumerate().any(|(place, row)| row.index != place) {
        return Err("an `index` is missing, or there twice".to_owned());
    }
    let vectors: Result<Vec<_>, String> =
        rows.into_iter().map(|row| row.embedding.read()).collect();
    Ok((vectors?, answer.usage.prompt_tokens))
}

impl Coordinates {
    fn read(self) -> Result<Vec<f32>, String> {
        let vector = match self {
            Self::Numbers(numbers) => numbers,
            Self::Base64(text) => {
                let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
                let (floats, rest) = bytes.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err("an embedding is no list of 32-bit numbers".to_owned());
                }
                floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
        };
        let finite = vector.iter().all(|number| number.is_finite());
        finite.then_some(vector).ok_or_else(|| "an embedding holds what is no number".to_owned())
    }
}

/// Between half of a pause and all of it, by chance: those who failed together come back apart.
fn shortened(pause: Duration) -> Duration {
    let [.., high, low] = *uuid::Uuid::now_v7().as_bytes();
    let chance = f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX);
    pause.mul_f64(0.5 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A provider that answers by its inputs, and notes how many came in each request.
    #[derive(Clone)]
    struct Provider {
        asked: Arc<Mutex<Vec<usize>>>,
        answer: Answers,
    }

    /// By the number of the request and its texts.
    type Answers = Arc<dyn Fn(usize, &[String]) -> Posted + Send + Sync>;

    impl Provider {
        fn new(answer: impl Fn(usize, &[String]) -> Posted + Send + Sync + 'static) -> Self {
            Self { asked: Arc::default(), answer: Arc::new(answer) }
        }

        fn embedder(&self) -> Embedder {
            let provider = self.clone();
            Embedder::new(Arc::new(move |caller, body| {
                assert_eq!(caller, "embeddings:docs");
                let body: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(body["encoding_format"], "base64");
                let texts: Vec<String> = serde_json::from_value(body["input"].clone()).unwrap();
                let mut asked = provider.asked.lock().unwrap();
                asked.push(texts.len());
                let posted = (provider.answer)(asked.len(), &texts);
                Box::pin(async move { posted })
            }))
        }

        fn asked(&self) -> Vec<usize> {
            self.asked.lock().unwrap().clone()
        }
    }

    /// Two coordinates: the text's length, and 1.
    fn vectors(texts: &[String]) -> Posted {
        let row = |(index, text): (usize, &String)| {
            let length = u16::try_from(text.len()).unwrap();
            let bytes = [f32::from(length).to_le_bytes(), 1f32.to_le_bytes()].concat();
            json!({ "object": "embedding", "index": index, "embedding": STANDARD.encode(bytes) })
        };
        // The last first: the order of an answer is its `index`.
        let data: Vec<_> = texts.iter().enumerate().map(row).rev().collect();
        let body = json!({ "data": data, "usage": { "prompt_tokens": texts.len() } });
        Posted { status: 200, body: body.to_string().into(), ..Posted::default() }
    }

    fn error(status: u16, kind: &str, message: &str) -> Posted {
        let body = json!({ "error": { "message": message, "type": kind } }).to_string();
        Posted { status, body: body.into(), ..Posted::default() }
    }

    fn texts(lengths: &[usize]) -> Vec<String> {
        lengths.iter().map(|&length| "x".repeat(length)).collect()
    }

    async fn embed(provider: &Provider, inputs: &[String]) -> Result<Embedded, EmbedError> {
        provider.embedder().embed("docs", "text-embedding-3-small", None, inputs).await
    }

    #[tokio::test]
    async fn vectors_come_in_the_order_of_their_texts() {
        let provider = Provider::new(|_, texts| vectors(texts));
        let done = embed(&provider, &texts(&[3, 1, 2])).await.unwrap();
        assert_eq!(done.vectors, [[3.0, 1.0], [1.0, 1.0], [2.0, 1.0]]);
        assert_eq!((done.tokens, provider.asked()), (3, vec![3]));
        assert_eq!(embed(&provider, &[]).await.unwrap(), Embedded::default());
    }

    #[tokio::test]
    async fn requests_are_filled_up_to_the_apis_limits_and_not_beyond() {
        let inputs: Vec<_> = (0..3000).map(|_| "hi".to_owned()).collect();
        // 1,400,000 coordinates are 455 vectors of 3072, or the 2048 that the API takes of few.
        let at = |most| parts(Encoding::Cl100kBase, &inputs, most).unwrap();
        assert_eq!(at(2048), [0..2048, 2048..3000]);
        let provider = Provider::new(|_, texts| vectors(texts));
        embed(&provider, &inputs[..500]).await.unwrap();
        assert_eq!(provider.asked(), [455, 45]);
        // 8,000 words of one token each: 35 of them are 280,000 tokens.
        let long = vec![" the".repeat(8_000); 36];
        assert_eq!(parts(Encoding::Cl100kBase, &long, 2048).unwrap(), [0..35, 35..36]);
    }

    #[tokio::test]
    async fn a_text_that_no_request_takes_is_named() {
        let provider = Provider::new(|_, texts| vectors(texts));
        let empty = ["a".to_owned(), String::new()];
        let refused = embed(&provider, &empty).await.unwrap_err();
        assert_eq!(refused.to_string(), "text 1 of 2 is empty; leave it out");
        let long = [" the".repeat(8_193)];
        assert_eq!(embed(&provider, &long).await, Err(EmbedError::TooLong { index: 0 }));
        assert!(provider.asked().is_empty());
    }

    #[tokio::test]
    async fn a_request_that_is_refused_goes_in_halves_until_the_wrong_text_is_alone() {
        let provider = Provider::new(|_, texts| match texts.iter().any(|text| text.len() == 9) {
            true => error(400, "invalid_request_error", "bad input"),
            false => vectors(texts),
        });
        let refused = embed(&provider, &texts(&[1, 2, 3, 9])).await.unwrap_err();
        assert!(refused.is_of_text() && refused.to_string().contains("bad input"), "{refused}");
        assert_eq!(provider.asked(), [4, 2, 2, 1, 1]);
        // One that is only too much in one gets through.
        let provider = Provider::new(|_, texts| match texts.len() {
            3.. => error(400, "invalid_request_error", "too much"),
            _ => vectors(texts),
        });
        let done = embed(&provider, &texts(&[1, 2, 3, 4])).await.unwrap();
        assert_eq!(done.vectors.iter().map(|v| v[0]).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(provider.asked(), [4, 2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_is_busy_is_asked_again_when_it_says() {
        let provider = Provider::new(|count, texts| match count {
            1 => Posted {
                retry_after: Some(Duration::from_secs(90)),
                ..error(429, "requests", "slow down")
            },
            2 => error(503, "api_error", "overloaded"),
            _ => vectors(texts),
        });
        let begun = tokio::time::Instant::now();
        embed(&provider, &texts(&[1])).await.unwrap();
        // 90 s as asked, then between 1 and 2 s.
        let waited = begun.elapsed().as_secs_f64();
        assert!((91.0..=92.1).contains(&waited), "{waited}");
        assert_eq!(provider.asked().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_stays_away_is_given_up_and_a_spent_budget_at_once() {
        let provider = Provider::new(|_, _| error(500, "api_error", "broken"));
        let failed = embed(&provider, &texts(&[1])).await.unwrap_err();
        assert!(failed.is_retryable() && provider.asked().len() == 6, "{failed}");
        assert!(
            provider.embedder().impatient().embed("docs", "m", None, &texts(&[1])).await.is_err()
        );
        assert_eq!(provider.asked().len(), 7);
        let provider = Provider::new(|_, _| error(429, "insufficient_quota", "spent"));
        let failed = embed(&provider, &texts(&[1])).await.unwrap_err();
        assert!(!failed.is_retryable() && provider.asked().len() == 1, "{failed}");
    }

    #[tokio::test]
    async fn vectors_of_another_length_are_an_error_that_says_what_to_set() {
        let provider = Provider::new(|_, texts| vectors(texts));
        let embedder = provider.embedder();
        let failed = embedder.embed("docs", "m", Some(3), &texts(&[1])).await.unwrap_err();
        assert!(failed.to_string().contains("of 2 dimensions where 3 were expected"), "{failed}");
    }

    #[test]
    fn an_answer_in_numbers_is_read_and_a_broken_one_is_not() {
        let read = |body: Value| read_vectors(body.to_string().as_bytes(), 1);
        let row = |embedding: Value| json!({ "data": [{ "index": 0, "embedding": embedding }] });
        assert_eq!(read(row(json!([0.5, 1]))), Ok((vec![vec![0.5, 1.0]], 0)));
        for wrong in [json!([]), json!({ "data": [] }), row(json!("AAA")), row(json!("AAAA"))] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
        let infinite = STANDARD.encode(f32::INFINITY.to_le_bytes());
        assert!(read(row(json!(infinite))).unwrap_err().contains("no number"));
        let twice = json!({ "data": [{ "index": 1, "embedding": [1] }] });
        assert!(read(twice).unwrap_err().contains("index"));
    }
}
