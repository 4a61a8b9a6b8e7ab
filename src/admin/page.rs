//! `after`, `limit` and `order`: how a list is asked for, and how its page looks.

use axum::Json;
use axum::response::IntoResponse as _;
use axum::response::Response;
use serde_json::Value;
use serde_json::json;

use crate::openai::error::ApiError;

use super::fine_tune::wrong;

/// Rows of a page when nobody says how many, and at most.
const USUAL: u32 = 20;
const LARGEST: u32 = 100;

/// Which part of a list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Rows at most.
    pub(super) limit: u32,
    /// The id of the last row of the page before.
    pub(super) after: Option<String>,
    /// Whether the first or the oldest comes first.
    pub(super) ascending: bool,
}

impl Page {
    /// The first page, the newest first.
    pub(super) fn newest() -> Self {
        Self { limit: USUAL, after: None, ascending: false }
    }

    /// The first page, in the order of names; a list that is short by its nature comes as a whole.
    pub(super) fn by_name() -> Self {
        Self { limit: LARGEST, after: None, ascending: true }
    }

    /// Reads the parameters of a list that has no others.
    ///
    /// # Errors
    /// The first one that cannot be used.
    pub(super) fn read(mut self, parameters: &[(String, String)]) -> Result<Self, ApiError> {
        for (name, value) in parameters {
            if !self.set(name, value)? {
                return Err(wrong(name, "is no parameter; there are after, limit and order"));
            }
        }
        Ok(self)
    }

    /// Reads one parameter; whether it is one of these.
    ///
    /// # Errors
    /// A value that cannot be used.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<bool, ApiError> {
        match (name, value) {
            ("after", _) => self.after = Some(value.to_owned()),
            ("limit", _) => {
                let limit = value.parse().ok().filter(|limit| (1..=LARGEST).contains(limit));
                let range = || wrong(name, &format!("`{value}` is not between 1 and {LARGEST}"));
                self.limit = limit.ok_or_else(range)?;
            }
            ("order", "asc") => self.ascending = true,
            ("order", "desc") => self.ascending = false,
            ("order", _) => {
                return Err(wrong(name, &format!("`{value}` is neither asc nor desc")));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The page of a list that is here as a whole, in ascending order. A row's id is at `key`.
    ///
    /// # Errors
    /// `after` is no row's id.
    pub(super) fn of(&self, mut rows: Vec<Value>, key: &str) -> Result<Response, ApiError> {
        if !self.ascending {
            rows.reverse();
        }
        let from = match &self.after {
            None => 0,
            Some(after) => {
                let at = rows.iter().position(|row| row.get(key) == Some(&json!(after)));
                at.ok_or_else(|| wrong("after", &format!("`{after}` is nothing of this list")))? + 1
            }
        };
        Ok(self.shown(rows.split_off(from), key))
    }

    /// The page of rows that begin where it does; one more than `limit` says that there are more.
    pub(super) fn shown(&self, mut rows: Vec<Value>, key: &str) -> Response {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let id =
            |row: Option<&Value>| row.and_then(|row| row.get(key)).cloned().unwrap_or_default();
        let (first, last) = (id(rows.first()), id(rows.last()));
        Json(json!({
            "object": "list", "data": rows, "first_id": first, "last_id": last, "has_more": has_more,
        }))
        .into_response()
    }
}
