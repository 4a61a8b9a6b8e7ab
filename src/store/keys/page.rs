//! Pages of keys: there are so few that all are read, and one page is shown.

use serde::Serialize;
use uuid::Uuid;

use crate::store::database::Database;
use crate::store::database::StoreError;
use crate::store::ledger::BadParameter;

use super::Key;
use super::list_keys;

/// Keys of one page when nobody says how many, and the most that anybody gets.
const PAGE: usize = 20;
const LARGEST_PAGE: usize = 1000;

/// Which keys are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyQuery {
    all: bool,
    limit: Option<usize>,
    after: Option<Uuid>,
    ascending: bool,
}

/// One page.
#[derive(Clone, Debug, Serialize)]
pub struct KeyPage {
    object: &'static str,
    /// The keys, the newest first unless asked otherwise.
    pub data: Vec<Key>,
    first_id: Option<Uuid>,
    last_id: Option<Uuid>,
    /// Whether more follow.
    pub has_more: bool,
}

impl KeyQuery {
    /// Reads parameters by their names.
    ///
    /// # Errors
    /// The first parameter that cannot be used.
    pub fn parse<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, BadParameter> {
        let mut query = Self::default();
        for (name, value) in parameters {
            query
                .set(name, value)
                .map_err(|message| BadParameter { name: name.to_owned(), message })?;
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("revoked", "true") => self.all = true,
            ("revoked", "false") => self.all = false,
            ("order", "asc") => self.ascending = true,
            ("order", "desc") => self.ascending = false,
            ("limit", _) => {
                let limit = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
                let wrong = || format!("`{value}` is not between 1 and {LARGEST_PAGE}");
                self.limit = Some(limit.ok_or_else(wrong)?);
            }
            ("after", _) => {
                let id = Uuid::try_parse(value).map_err(|_| format!("`{value}` is no key's id"))?;
                self.after = Some(id);
            }
            ("order", _) => return Err(format!("`{value}` is neither asc nor desc")),
            ("revoked", _) => return Err(format!("`{value}` is neither true nor false")),
            _ => return Err("is no parameter; there are limit, after, order, revoked".to_owned()),
        }
        Ok(())
    }
}

/// One page of the keys. `now` is in milliseconds since 1970.
///
/// # Errors
/// The store is away.
pub async fn page_of_keys(
    database: &Database,
    query: &KeyQuery,
    now: i64,
) -> Result<KeyPage, StoreError> {
    let mut data = list_keys(database, query.all, now).await?;
    if query.ascending {
        data.reverse();
    }
    if let Some(after) = query.after {
        // Ids grow with time, so that a key that has gone in between has a place, too.
        data.retain(|key| if query.ascending { key.id > after } else { key.id < after });
    }
    let limit = query.limit.unwrap_or(PAGE);
    let has_more = data.len() > limit;
    data.truncate(limit);
    let (first_id, last_id) = (data.first().map(|key| key.id), data.last().map(|key| key.id));
    Ok(KeyPage { object: "list", data, first_id, last_id, has_more })
}
