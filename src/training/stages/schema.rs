//! Whether arguments satisfy a function's JSON Schema, as far as it says types, members, choices
//! and bounds; of what else it says nothing is held against an example.

use serde_json::Value;

/// Schemas may contain themselves.
const MAX_DEPTH: usize = 64;

/// Whether a value satisfies a schema.
pub(in crate::training) fn holds(schema: &Value, value: &Value) -> bool {
    Checked { root: schema }.holds(schema, value, 0)
}

struct Checked<'a> {
    root: &'a Value,
}

impl Checked<'_> {
    fn holds(&self, schema: &Value, value: &Value, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            return true;
        }
        let Some(keywords) = schema.as_object() else { return schema != &Value::Bool(false) };
        keywords.iter().all(|(name, wanted)| self.keyword(schema, name, wanted, value, depth + 1))
    }

    fn keyword(
        &self,
        schema: &Value,
        name: &str,
        wanted: &Value,
        value: &Value,
        depth: usize,
    ) -> bool {
        let list = || wanted.as_array().map_or(&[][..], Vec::as_slice);
        let passes = |one: &&Value| self.holds(one, value, depth);
        match name {
            "$ref" => self.resolved(wanted).is_none_or(|at| self.holds(at, value, depth)),
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|one| is_type(one, value)),
                one => is_type(one, value),
            },
            "enum" => list().contains(value),
            "const" => wanted == value,
            "allOf" => list().iter().all(|one| passes(&one)),
            "anyOf" => list().iter().any(|one| passes(&one)),
            "oneOf" => list().iter().filter(passes).count() == 1,
            "not" => !self.holds(wanted, value, depth),
            _ => match value {
                Value::Object(_) => self.members(schema, name, wanted, value, depth),
                Value::Array(items) => self.items(name, wanted, items, depth),
                Value::String(text) => length(name, wanted, text.chars().count(), "Length"),
                Value::Number(number) => bound(name, wanted, number.as_f64().unwrap_or_default()),
                _ => true,
            },
        }
    }

    fn members(
        &self,
        schema: &Value,
        name: &str,
        wanted: &Value,
        value: &Value,
        depth: usize,
    ) -> bool {
        let Some(members) = value.as_object() else { return true };
        match (name, wanted) {
            ("required", Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).all(|name| members.contains_key(name))
            }
            ("properties", Value::Object(properties)) => members.iter().all(|(name, value)| {
                properties.get(name).is_none_or(|schema| self.holds(schema, value, depth))
            }),
            ("additionalProperties", wanted) => {
                // Patterns are not read: what they might allow is allowed.
                let known = |name: &str| {
                    schema.get("patternProperties").is_some()
                        || schema.get("properties").is_some_and(|known| known.get(name).is_some())
                };
                let others = members.iter().filter(|(name, _)| !known(name));
                others.into_iter().all(|(_, value)| self.holds(wanted, value, depth))
            }
            _ => length(name, wanted, members.len(), "Properties"),
        }
    }

    fn items(&self, name: &str, wanted: &Value, items: &[Value], depth: usize) -> bool {
        match name {
            "items" if wanted.is_object() => {
                items.iter().all(|item| self.holds(wanted, item, depth))
            }
            _ => length(name, wanted, items.len(), "Items"),
        }
    }

    /// A place in the same schema; any other place is not known.
    fn resolved(&self, target: &Value) -> Option<&Value> {
        self.root.pointer(target.as_str()?.strip_prefix('#')?)
    }
}

fn is_type(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("number") => value.is_number(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract().abs() < f64::EPSILON),
        _ => true,
    }
}

/// `minLength`, `maxItems` and their like.
fn length(name: &str, wanted: &Value, length: usize, of: &str) -> bool {
    let Some(wanted) = wanted.as_u64().and_then(|wanted| usize::try_from(wanted).ok()) else {
        return true;
    };
    match name.strip_suffix(of) {
        Some("min") => length >= wanted,
        Some("max") => length <= wanted,
        _ => true,
    }
}

fn bound(name: &str, wanted: &Value, number: f64) -> bool {
    let Some(wanted) = wanted.as_f64() else { return true };
    match name {
        "minimum" => number >= wanted,
        "maximum" => number <= wanted,
        "exclusiveMinimum" => number > wanted,
        "exclusiveMaximum" => number < wanted,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_schema_says_is_held_against_a_value() {
        let schema = json!({
            "type": "object",
            "required": ["city"],
            "additionalProperties": false,
            "properties": {
                "city": { "type": "string", "minLength": 2 },
                "days": { "type": "integer", "minimum": 1, "maximum": 7 },
                "unit": { "enum": ["c", "f"] },
                "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" }, "maxItems": 2 },
                "when": { "anyOf": [{ "type": "null" }, { "const": "now" }] },
            },
            "$defs": { "tag": { "type": ["string", "number"] } },
        });
        for good in [
            json!({ "city": "Bonn" }),
            json!({ "city": "Bonn", "days": 7.0, "unit": "c", "tags": ["a", 1], "when": null }),
        ] {
            assert!(holds(&schema, &good), "{good}");
        }
        for bad in [
            json!([]),
            json!({}),
            json!({ "city": "B" }),
            json!({ "city": "Bonn", "days": 0 }),
            json!({ "city": "Bonn", "days": 1.5 }),
            json!({ "city": "Bonn", "unit": "k" }),
            json!({ "city": "Bonn", "tags": [true] }),
            json!({ "city": "Bonn", "tags": ["a", "b", "c"] }),
            json!({ "city": "Bonn", "when": "then" }),
            json!({ "city": "Bonn", "colour": "red" }),
        ] {
            assert!(!holds(&schema, &bad), "{bad}");
        }
    }

    #[test]
    fn a_schema_that_contains_itself_comes_to_an_end() {
        let schema = json!({ "$ref": "#" });
        assert!(holds(&schema, &json!({})));
    }
}
