//! One entry of `tag`, `header` or `request.metadata`.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;

use super::EvalError;
use super::node::Node;
use super::node::Text;
use super::variables::Map;
use crate::policy::facts::Facts;

/// Where an entry is found. Names that stand in the condition are made ready for the look-up.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Header { name: HeaderName, label: Arc<str> },
    Metadata { key: Box<str>, label: Arc<str> },
    Computed { map: Map, key: Text },
}

impl Entry {
    /// An entry with a fixed name; `None` when no header can have that name.
    pub(super) fn named(map: Map, key: &str) -> Option<Self> {
        let label = label(map, key);
        let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok();
        Some(match map {
            Map::Header => Self::Header { name: header(key)?, label },
            Map::Tag => Self::Header { name: header(&format!("x-weir-tag-{key}"))?, label },
            Map::Metadata => Self::Metadata { key: key.into(), label },
        })
    }

    pub(super) fn find<'a>(
        &'a self,
        facts: &'a Facts<'_>,
    ) -> Result<Option<Cow<'a, str>>, EvalError> {
        Ok(match self {
            Self::Header { name, .. } => {
                facts.headers.get(name).and_then(|value| value.to_str().ok()).map(Cow::Borrowed)
            }
            Self::Metadata { key, .. } => facts.metadata(key),
            Self::Computed { map, key } => {
                let key = key.eval(facts)?;
                match map {
                    Map::Header => facts.header(&key).map(Cow::Borrowed),
                    Map::Metadata => facts.metadata(&key),
                    Map::Tag => facts.tag(&key).map(Cow::Borrowed),
                }
            }
        })
    }

    pub(super) fn get<'a>(&'a self, facts: &'a Facts<'_>) -> Result<Cow<'a, str>, EvalError> {
        self.find(facts)?.ok_or_else(|| match self {
            Self::Header { label, .. } | Self::Metadata { label, .. } => {
                EvalError::Missing(Arc::clone(label))
            }
            Self::Computed { map, key } => match key.eval(facts) {
                Ok(key) => EvalError::Missing(label(*map, &key)),
                Err(error) => error,
            },
        })
    }

    /// Whether its value is a secret that `explain` must not show.
    pub(super) fn is_secret(&self) -> bool {
        const SECRETS: [&str; 5] =
            ["authorization", "proxy-authorization", "cookie", "api-key", "x-api-key"];
        match self {
            Self::Header { name, .. } => SECRETS.contains(&name.as_str()),
            Self::Metadata { .. } => false,
            // It may come out at any of them.
            Self::Computed { map, .. } => *map == Map::Header,
        }
    }
}

/// `tag["app"]`.
pub(super) fn label(map: Map, key: &str) -> Arc<str> {
    format!("{}[{key:?}]", map.name()).into()
}
