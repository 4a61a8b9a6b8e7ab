//! weir, an OpenAI-compatible LLM gateway: every client of a platform points its OpenAI base URL at
//! it. It chooses the model, forwards the bytes, reads the usage, prices it and measures all of it.
//!
//! # The map
//!
//! Rooms, and who may use whom. `tests/it/map.rs` reads this table and fails on a breach. A newcomer
//! starts at [`proxy::Gateway::handle`]: one request on one screen.
//!
//! | room | knows | may use | outside crates that live only there |
//! |---|---|---|---|
//! | [`openai`] | the API as data: request, stream, response, usage, error | | |
//! | [`metering`] | prices, money, tokens | `openai` | `tiktoken_rs`, `regex_syntax`, `rustc_hash` |
//! | [`redact`] | secrets and personal data in text | | `aho_corasick` |
//! | [`policy`] | the policy folder: who gets which model, and why; checks, tests, reload | `openai`, `metering` | `cel`, `notify`, `schemars`, `serde_saphyr` |
//! | [`telemetry`] | every metric series, the log, traces | `openai`, `metering`, `background` | `prometheus`, `tracing_subscriber`, `opentelemetry`, `opentelemetry_http`, `opentelemetry_otlp`, `opentelemetry_sdk` |
//! | [`background`] | tasks beside the requests: when each ran last, what went wrong | | |
//! | [`upstream`] | the way to a provider: connections, TLS, gates, retry budget | `openai`, `policy`, `telemetry` | `tokio_rustls`, `rustls_native_certs`, `reqwest` |
//! | [`store`] | whatever outlives the process: spool, database, ledger, objects | `openai`, `metering`, `telemetry`, `background`, `redact` | `sqlx`, `crc32fast`, `half`, `object_store`, `subtle`, `thread_priority` |
//! | [`limits`] | who may use how much: counters, reservations, leases from Redis | `metering`, `policy`, `telemetry`, `background`, `store` | `redis` |
//! | [`proxy`] | the data plane: the journey of one request | `openai`, `metering`, `policy`, `redact`, `telemetry`, `upstream`, `store`, `limits` | |
//! | [`training`] | from captured calls to training data and tuned models | `openai`, `metering`, `policy`, `redact`, `store`, `telemetry`, `background`, `upstream` | `unicode_normalization`, `whatlang` |
//! | [`embeddings`] | from documents to vectors | `openai`, `metering`, `policy`, `store`, `telemetry`, `background`, `upstream` | `chrono_tz`, `croner`, `encoding_rs`, `htmd`, `text_splitter`, `url` |
//! | [`hooks`] | webhooks out | `policy`, `telemetry`, `background`, `upstream`, `store` | |
//! | [`admin`] | the control plane's routes | `openai`, `metering`, `policy`, `redact`, `telemetry`, `background`, `store`, `upstream`, `limits`, `training`, `embeddings`, `hooks` | `tar`, `utoipa`, `utoipa_axum` |
//! | [`simulator`] | the stand-in for OpenAI | `openai` | |
//! | [`server`] | listeners, sessions, drain | `openai`, `telemetry`, `background`, `upstream`, `proxy`, `admin` | `pingora`, `async_trait` |
//!
//! [`config`], [`app`] and [`cli`] see everything, and no room sees them.

pub mod admin;
pub mod app;
pub mod background;
pub mod cli;
pub mod config;
pub mod embeddings;
pub mod hooks;
pub mod limits;
pub mod metering;
pub mod openai;
pub mod policy;
pub mod proxy;
pub mod redact;
pub mod server;
pub mod simulator;
pub mod store;
pub mod telemetry;
pub mod training;
pub mod upstream;
