//! Lists in OpenAI's shape: `after`, `limit`, `order`, and whether there is more.

use serde_json::{Value, json};

use crate::simulator::refusal::Refusal;

/// How a list is asked for.
pub(super) struct Listing {
    after: Option<String>,
    limit: usize,
    oldest_first: bool,
}

impl Listing {
    /// Reads the query; `limit` is what the endpoint answers when none is given.
    pub(super) fn of(query: &[(String, String)], limit: usize) -> Result<Self, Refusal> {
        let asked = match find(query, "limit") {
            Some(text) => text.parse().map_err(|_| wrong_limit(text))?,
            None => limit,
        };
        if !(1..=10_000).contains(&asked) {
            return Err(wrong_limit(&asked.to_string()));
        }
        let oldest_first = find(query, "order") == Some("asc");
        Ok(Self { after: find(query, "after").map(str::to_owned), limit: asked, oldest_first })
    }
}

fn wrong_limit(got: &str) -> Refusal {
    Refusal::bad(format!(
        "Invalid 'limit': expected an integer between 1 and 10000, but got {got}."
    ))
    .param("limit")
    .code("invalid_value")
}

/// The value of a query key.
pub(super) fn find<'a>(query: &'a [(String, String)], key: &str) -> Option<&'a str> {
    query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// One page of things that come oldest first. An `after` that is not there refuses.
pub(super) fn page(mut things: Vec<Value>, listing: &Listing) -> Result<Value, Refusal> {
    if !listing.oldest_first {
        things.reverse();
    }
    let start = match &listing.after {
        None => 0,
        Some(id) => {
            let place = things.iter().position(|thing| thing["id"] == id.as_str());
            let message = || Refusal::bad(format!("No such object: {id}")).param("after");
            place.ok_or_else(message)? + 1
        }
    };
    let has_more = things.len() > start + listing.limit;
    let data: Vec<Value> = things.into_iter().skip(start).take(listing.limit).collect();
    let id = |thing: Option<&Value>| thing.map_or(Value::Null, |thing| thing["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    Ok(json!({
        "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let things: Vec<Value> = (0..5).map(|i| json!({"id": i.to_string()})).collect();
        let asked = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            page(things.clone(), &Listing::of(&pairs, 2).unwrap()).unwrap()
        };
        let first = asked(&[]);
        assert_eq!((&first["first_id"], &first["last_id"]), (&json!("4"), &json!("3")));
        let last = asked(&[("after", "1")]);
        assert_eq!(last["data"], json!([{"id": "0"}]));
        assert_eq!((&first["has_more"], &last["has_more"]), (&json!(true), &json!(false)));
    }
}
