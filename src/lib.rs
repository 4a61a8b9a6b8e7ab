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
//! | [`metering`] | prices, money, tokens | `openai` | `tiktoken_rs` |
//! | [`policy`] | the policy folder: upstreams and models | `openai`, `metering` | `arc_swap`, `serde_saphyr` |
//! | [`telemetry`] | every metric series, the log | `openai`, `metering` | `prometheus`, `tracing_subscriber`, `tracing_log` |
//! | [`upstream`] | the way to a provider: connections, TLS, gates, retry budget | `openai`, `policy`, `telemetry` | `rustls`, `tokio_rustls`, `rustls_native_certs`, `socket2`, `dashmap` |
//! | [`proxy`] | the data plane: the journey of one request | `openai`, `metering`, `policy`, `telemetry`, `upstream` | `flate2` |
//! | [`admin`] | the control plane's routes | `openai`, `policy`, `telemetry` | `utoipa`, `utoipa_axum` |
//! | [`simulator`] | the stand-in for OpenAI | `openai` | |
//! | [`server`] | listeners, sessions, drain | `openai`, `telemetry`, `proxy`, `admin` | `pingora`, `async_trait` |

pub mod openai;
