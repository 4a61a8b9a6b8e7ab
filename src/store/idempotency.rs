//! Requests that are sent twice and done once: under one `Idempotency-Key` the second is answered
//! as the first one was.
//!
//! Answers may hold secrets, such as a new key. They are kept for a day, sealed with the
//! `Idempotency-Key` and the caller's token, of which the store has neither.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderName;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use ring::aead;
use ring::digest;
use ring::hmac;
use ring::rand::SecureRandom as _;
use ring::rand::SystemRandom;
use serde::Deserialize;
use serde::Serialize;
use sqlx::AnyPool;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;

use crate::openai::error::ApiError;

use super::database::Database;
use super::database::StoreError;
use super::sweep::now;

/// For how long an answer is kept, in milliseconds.
const KEPT: i64 = 24 * 3600 * 1000;
/// Characters of a key.
const LONGEST_KEY: usize = 255;
/// Bytes of an answer's body; a longer one is not kept.
const LONGEST_BODY: usize = 1 << 20;

/// Marks an answer that was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Reads the header `Idempotency-Key`.
///
/// # Errors
/// It is empty, too long, or not printable.
pub fn idempotency_key(header: Option<&HeaderValue>) -> Result<Option<&str>, ApiError> {
    let Some(header) = header else { return Ok(None) };
    let key = header.to_str().ok().filter(|key| (1..=LONGEST_KEY).contains(&key.len()));
    key.map(Some).ok_or_else(|| {
        let message = format!(
            "The header Idempotency-Key has to have 1 to {LONGEST_KEY} characters of printable \
             ASCII, such as a UUID."
        );
        ApiError::bad_request("invalid_parameter", message).param("Idempotency-Key")
    })
}

/// A request that is to be done once.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who asks.
    pub caller: &'a str,
    /// For what, such as `POST /api/keys`: each route has keys of its own.
    pub route: &'a str,
    /// The `Idempotency-Key`.
    pub key: &'a str,
    /// The caller's token, which seals the answer; may be empty.
    pub token: &'a [u8],
    /// The rest of the request: another one under the same key is refused.
    pub request: &'a [u8],
}

/// How a request stands that came with a key.
#[derive(Debug)]
pub enum Turn {
    /// It is the first: the caller does it, and then says what it has answered.
    First(Claim),
    /// It is answered: as it was before, or with 409.
    Over(Response<Bytes>),
}

/// The right to answer first.
#[derive(Debug)]
pub struct Claim {
    id: String,
    seal: [u8; 32],
}

/// Keys and answers of a store.
#[derive(Clone, Debug)]
pub struct Idempotency {
    database: Database,
    pool: AnyPool,
}

impl Idempotency {
    /// Those of a store that is in use. To be called on a runtime.
    ///
    /// # Errors
    /// The store's URL cannot be used.
    pub fn of(database: &Database) -> Result<Self, StoreError> {
        Ok(Self { pool: database.pool()?, database: database.clone() })
    }

    /// Says whose turn it is. Forgets what is older than a day.
    ///
    /// # Errors
    /// The store is away.
    pub async fn begin(&self, asked: &Asked<'_>) -> Result<Turn, StoreError> {
        let parts = [asked.caller, asked.route, asked.key].map(str::as_bytes);
        let claim =
            Claim { id: hash(&parts.join(&0)), seal: seal_key(asked.token, &parts.join(&0)) };
        let request = hash(asked.request);
        let first = match self.database.within(self.insert(&claim, &request)).await {
            Err(StoreError::NoLedger { .. }) => {
                self.database.migrate().await?;
                self.database.within(self.insert(&claim, &request)).await?
            }
            first => first?,
        };
        if first { Ok(Turn::First(claim)) } else { self.again(&claim, &request).await }
    }

    /// True for the first one of a day.
    async fn insert(&self, claim: &Claim, request: &str) -> sqlx::Result<bool> {
        let now = now();
        let mut connection = self.pool.acquire().await?;
        let mut transaction = self.database.begin(&mut connection).await?;
        let over = self.database.instant(1);
        let over = format!("delete from idempotency_keys where created_at < {over}");
        let over = sqlx::query(AssertSqlSafe(over)).bind(now - KEPT);
        over.execute(&mut *transaction).await?;
        let insert = format!(
            "insert into idempotency_keys (key_hash, request_hash, created_at) \
             values ($1, $2, {}) on conflict (key_hash) do nothing",
            self.database.instant(3)
        );
        let insert = sqlx::query(AssertSqlSafe(insert)).bind(&claim.id);
        let insert = insert.bind(request).bind(now).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(insert.rows_affected() > 0)
    }

    /// How a request stands that came before.
    async fn again(&self, claim: &Claim, request: &str) -> Result<Turn, StoreError> {
        let sql = "select request_hash, answer from idempotency_keys where key_hash = $1";
        let statement = sqlx::query(sql).bind(&claim.id).fetch_optional(&self.pool);
        let row = self.database.within(statement).await?;
        let read = |row: sqlx::any::AnyRow| Ok((row.try_get(0)?, row.try_get(1)?));
        let row: Option<(String, Option<String>)> = row
            .map(read)
            .transpose()
            .map_err(|error: sqlx::Error| self.database.unavailable(&error))?;
        Ok(match row {
            Some((hash, _)) if hash != request => Turn::Over(refused(
                "idempotency_key_reused",
                "The Idempotency-Key came before with another body; choose a new key.",
            )),
            Some((_, Some(sealed))) => Turn::Over(open(&claim.seal, &sealed).map_or_else(
                || {
                    let message = "The Idempotency-Key came before with another token: its answer cannot be read.";
                    refused("idempotency_key_reused", message)
                },
                Answer::again,
            )),
            _ => Turn::Over(running()),
        })
    }

    /// Keeps an answer that is to be given again; one that is not, such as an error that may pass,
    /// is forgotten.
    ///
    /// # Errors
    /// The store is away: the key is in use for a day.
    pub async fn end(&self, claim: &Claim, answer: &Response<Bytes>) -> Result<(), StoreError> {
        // 422 tells of work that was done in vain.
        let stays = answer.status().is_success() || answer.status().as_u16() == 422;
        let stays = stays && answer.body().len() <= LONGEST_BODY;
        let statement = match seal(&claim.seal, &Answer::of(answer)).filter(|_| stays) {
            Some(sealed) => {
                let sql = "update idempotency_keys set answer = $2 where key_hash = $1";
                sqlx::query(sql).bind(&claim.id).bind(sealed)
            }
            None => sqlx::query("delete from idempotency_keys where key_hash = $1").bind(&claim.id),
        };
        self.database.within(statement.execute(&self.pool)).await.map(drop)
    }
}

fn refused(code: &'static str, message: &'static str) -> Response<Bytes> {
    let error = ApiError::new(409, "invalid_request_error", code, message);
    let mut response = Response::new(error.param("Idempotency-Key").to_json());
    *response.status_mut() = StatusCode::CONFLICT;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn running() -> Response<Bytes> {
    let message = "A request with this Idempotency-Key has begun and not ended. Where its gateway \
                   was stopped meanwhile, look whether it was done before you choose a new key.";
    let mut response = refused("idempotency_in_progress", message);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// What was answered, to be sealed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    status: u16,
    /// Names and values.
    headers: Vec<(String, String)>,
    #[serde(with = "coded")]
    body: Bytes,
}

impl Answer {
    fn of(response: &Response<Bytes>) -> Self {
        let kept = response.headers().iter().filter(|(name, _)| *name != header::CONTENT_LENGTH);
        let kept = kept.filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        });
        let (status, body) = (response.status().as_u16(), response.body().clone());
        Self { status, headers: kept.collect(), body }
    }

    /// The same once more, marked.
    fn again(self) -> Response<Bytes> {
        let mut response = Response::new(self.body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or_default();
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), value.try_into()) {
                response.headers_mut().append(name, value);
            }
        }
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

fn hash(bytes: &[u8]) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, bytes))
}

/// Another digest than that in the store: who reads the store cannot open what is sealed.
fn seal_key(token: &[u8], asked: &[u8]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, token));
    context.update(b"answer\0");
    context.update(asked);
    let mut key = [0; 32];
    key.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
    key
}

fn sealer(key: &[u8; 32]) -> Option<aead::LessSafeKey> {
    let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key).ok()?;
    Some(aead::LessSafeKey::new(key))
}

/// `None` where the system has no randomness.
fn seal(key: &[u8; 32], answer: &Answer) -> Option<String> {
    let mut nonce = [0; aead::NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).ok()?;
    let mut text = serde_json::to_vec(answer).ok()?;
    let unique = aead::Nonce::assume_unique_for_key(nonce);
    sealer(key)?.seal_in_place_append_tag(unique, aead::Aad::empty(), &mut text).ok()?;
    Some(STANDARD.encode([nonce.as_slice(), &text].concat()))
}

fn open(key: &[u8; 32], sealed: &str) -> Option<Answer> {
    let sealed = STANDARD.decode(sealed).ok()?;
    let (nonce, text) = sealed.split_first_chunk::<{ aead::NONCE_LEN }>()?;
    let nonce = aead::Nonce::assume_unique_for_key(*nonce);
    let mut text = text.to_vec();
    let opened = sealer(key)?.open_in_place(nonce, aead::Aad::empty(), &mut text).ok()?;
    serde_json::from_slice(opened).ok()
}

/// Bytes in JSON.
mod coded {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(body: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(body))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Bytes, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_opens_with_its_key_and_token_only_and_hides_its_words() {
        let answer = || Answer {
            status: 201,
            headers: vec![("cache-control".to_owned(), "no-store".to_owned())],
            body: Bytes::from_static(b"{\"key\":\"wk-secret\"}"),
        };
        let key = seal_key(b"token", b"k");
        let sealed = seal(&key, &answer()).unwrap();
        assert_eq!(open(&key, &sealed), Some(answer()));
        let raw = STANDARD.decode(&sealed).unwrap();
        assert!(!String::from_utf8_lossy(&raw).contains("secret"));
        for (token, asked) in [("token", "l"), ("other", "k"), ("", "k")] {
            assert_eq!(open(&seal_key(token.as_bytes(), asked.as_bytes()), &sealed), None);
        }
        assert_ne!(seal(&key, &answer()), Some(sealed), "no nonce is used twice");
    }

    #[test]
    fn a_key_has_1_to_255_printable_characters() {
        let read = |key: &[u8]| {
            let header = HeaderValue::from_bytes(key).unwrap();
            idempotency_key(Some(&header)).map(|key| key.map(str::len))
        };
        assert_eq!(idempotency_key(None), Ok(None));
        assert_eq!(read(&[b'k'; 255]), Ok(Some(255)));
        for wrong in [b"".as_slice(), &[b'k'; 256], "ü".as_bytes()] {
            assert_eq!(read(wrong).unwrap_err().status, 400);
        }
    }
}
