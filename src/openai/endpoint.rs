//! Which routes of the API are understood, and what they are called.

use http::Method;

/// A route of the API: the four that are counted, routed and priced, and all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
    /// Whatever passes through as it is.
    Other,
}

impl Endpoint {
    /// The endpoint of a request. `path` is without its query and must match exactly: a trailing
    /// slash or `/v1/responses/{id}` is `Other`.
    pub fn of(method: &Method, path: &str) -> Self {
        if method != Method::POST {
            return Self::Other;
        }
        match path {
            "/v1/chat/completions" => Self::ChatCompletions,
            "/v1/responses" => Self::Responses,
            "/v1/completions" => Self::Completions,
            "/v1/embeddings" => Self::Embeddings,
            _ => Self::Other,
        }
    }

    /// The path below `/v1/`; `other` for what passes through.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat/completions",
            Self::Responses => "responses",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Other => "other",
        }
    }

    /// The field of its requests that holds a conversation.
    pub fn conversation(self) -> Option<&'static str> {
        match self {
            Self::ChatCompletions => Some("messages"),
            Self::Responses => Some("input"),
            Self::Completions | Self::Embeddings | Self::Other => None,
        }
    }

    /// OpenTelemetry's `gen_ai.operation.name`.
    pub fn operation(self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Responses => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_post_to_the_exact_path_is_understood() {
        let post = |path| Endpoint::of(&Method::POST, path);
        assert_eq!(post("/v1/chat/completions"), Endpoint::ChatCompletions);
        assert_eq!(post("/v1/responses"), Endpoint::Responses);
        assert_eq!(post("/v1/completions"), Endpoint::Completions);
        assert_eq!(post("/v1/embeddings"), Endpoint::Embeddings);
        for path in ["/v1/chat/completions/", "/v1/responses/r_1", "/V1/embeddings", "/v1", ""] {
            assert_eq!(post(path), Endpoint::Other, "{path}");
        }
        assert_eq!(Endpoint::of(&Method::GET, "/v1/chat/completions"), Endpoint::Other);
    }

    #[test]
    fn names_are_paths_and_operations_are_opentelemetrys() {
        let of = |endpoint: Endpoint| (endpoint.name(), endpoint.operation());
        assert_eq!(of(Endpoint::ChatCompletions), ("chat/completions", "chat"));
        assert_eq!(of(Endpoint::Responses), ("responses", "chat"));
        assert_eq!(of(Endpoint::Completions), ("completions", "text_completion"));
        assert_eq!(of(Endpoint::Embeddings), ("embeddings", "embeddings"));
        assert_eq!(of(Endpoint::Other), ("other", "other"));
    }
}
