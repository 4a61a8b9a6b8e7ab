//! Where a request goes below a provider's base URL.

use http::uri::PathAndQuery;

/// What follows the path of a provider's base URL, query included: `/chat/completions?x=1`.
#[derive(Clone, Debug)]
pub enum Path {
    /// Written for this request.
    Own(String),
    /// A client's own, of which so many bytes are the gateway's base path.
    Client(PathAndQuery, usize),
}

impl Path {
    /// The whole path and query at a provider whose base URL has the path `base`. Most providers
    /// have the gateway's: then it is what the client wrote, neither put together nor read again.
    pub(super) fn below(self, base: &str) -> PathAndQuery {
        let whole = match &self {
            Self::Own(rest) => format!("{base}{rest}"),
            Self::Client(whole, start) => match whole.as_str().split_at_checked(*start) {
                Some((given, _)) if given == base => return whole.clone(),
                Some((_, rest)) => format!("{base}{rest}"),
                None => base.to_owned(),
            },
        };
        PathAndQuery::try_from(whole).unwrap_or_else(|_| PathAndQuery::from_static("/"))
    }
}

impl From<String> for Path {
    fn from(rest: String) -> Self {
        Self::Own(rest)
    }
}

impl From<&str> for Path {
    fn from(rest: &str) -> Self {
        rest.to_owned().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_put_behind_the_providers_base() {
        let client = |whole: &'static str| Path::Client(PathAndQuery::from_static(whole), 3);
        for (path, base, whole) in [
            (client("/v1/models?x=1"), "/v1", "/v1/models?x=1"),
            (client("/v1/models?x=1"), "/openai/v1", "/openai/v1/models?x=1"),
            (client("/v1/models"), "", "/models"),
            (client("/v1"), "/v2", "/v2"),
            (client("/v1"), "", "/"),
            ("?token=1".into(), "/hook", "/hook?token=1"),
            ("/jobs".into(), "/v1", "/v1/jobs"),
            ("/not a path".into(), "/v1", "/"),
        ] {
            assert_eq!(path.below(base).as_str(), whole);
        }
    }
}
