//! The smallest JSON value that satisfies a JSON Schema.

use std::cell::Cell;

use serde_json::{Map, Value, json};

/// Deeper than this only what a schema insists on is made: schemas may contain themselves.
const FULL_DEPTH: usize = 6;
/// Deeper than this everything is null.
const MAX_DEPTH: usize = 40;
/// Most values that one instance is made of; what comes after is null.
const MAX_VALUES: usize = 10_000;

/// A value for a schema: required properties, first choices, least lengths. `{}` for no schema.
pub(super) fn instance(schema: &Value) -> Value {
    if schema.is_null() {
        return json!({});
    }
    Maker { root: schema, left: Cell::new(MAX_VALUES) }.make(schema, "value", 0)
}

struct Maker<'a> {
    root: &'a Value,
    /// Values that may still be made: a schema that insists on itself twice grows without end.
    left: Cell<usize>,
}

impl Maker<'_> {
    /// `name` is the property the value is for; it makes strings readable.
    fn make(&self, schema: &Value, name: &str, depth: usize) -> Value {
        if depth > MAX_DEPTH || self.left.get() == 0 {
            return Value::Null;
        }
        self.left.set(self.left.get() - 1);
        if let Some(found) = fixed(schema) {
            return found;
        }
        if let Some(target) = schema["$ref"].as_str() {
            return self.resolve(target).map_or(Value::Null, |at| self.make(at, name, depth + 1));
        }
        if let Some(choice) = self.choice(schema, depth) {
            return self.make(choice, name, depth + 1);
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return self.all_of(schema, parts, name, depth);
        }
        match kind(schema, depth) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, name, depth),
            "integer" => integer(schema),
            "number" => number(schema),
            "boolean" => json!(true),
            "null" => Value::Null,
            _ => json!(string(schema, name)),
        }
    }

    /// The first alternative; deep inside, one that ends the recursion if there is one.
    fn choice<'s>(&self, schema: &'s Value, depth: usize) -> Option<&'s Value> {
        let choices = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array())?;
        let ends = |choice: &&Value| choice["type"] == "null" || choice["type"] == "string";
        let short = choices.iter().find(ends).filter(|_| depth > FULL_DEPTH);
        short.or_else(|| choices.first())
    }

    fn resolve(&self, target: &str) -> Option<&Value> {
        self.root.pointer(target.strip_prefix('#')?)
    }

    fn all_of(&self, schema: &Value, parts: &[Value], name: &str, depth: usize) -> Value {
        let own = schema.get("properties").map(|_| self.object(schema, depth));
        let mut merged = Map::new();
        let made = parts.iter().map(|part| self.make(part, name, depth + 1)).chain(own);
        let mut last = Value::Null;
        for value in made {
            match value {
                Value::Object(fields) => merged.extend(fields),
                other => last = other,
            }
        }
        if merged.is_empty() { last } else { Value::Object(merged) }
    }

    fn object(&self, schema: &Value, depth: usize) -> Value {
        let required = schema["required"].as_array().into_iter().flatten();
        let fields = required.filter_map(Value::as_str).map(|name| {
            let property = &schema["properties"][name];
            (name.to_owned(), self.make(property, name, depth + 1))
        });
        Value::Object(fields.collect())
    }

    fn array(&self, schema: &Value, name: &str, depth: usize) -> Value {
        let least = schema["minItems"].as_u64().unwrap_or(0).min(1000);
        let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
        let wanted = if depth > FULL_DEPTH { least } else { least.max(1).min(most) };
        let first = schema["prefixItems"].as_array().map_or(0, Vec::len);
        let wanted = usize::try_from(wanted).unwrap_or(1).max(first);
        let items = (0..wanted).map(|index| {
            let item = schema["prefixItems"].get(index).unwrap_or(&schema["items"]);
            self.make(item, name, depth + 1)
        });
        items.collect()
    }
}

/// `const`, or the first of `enum`.
fn fixed(schema: &Value) -> Option<Value> {
    schema.get("const").or_else(|| schema.get("enum")?.get(0)).cloned()
}

/// The type to make. Of several the first that is not null, deep inside null if it may be.
fn kind(schema: &Value, depth: usize) -> &str {
    match &schema["type"] {
        Value::String(name) => name,
        Value::Array(names) => {
            let nullable = names.iter().any(|name| name == "null");
            let first = names.iter().filter_map(Value::as_str).find(|name| *name != "null");
            first.filter(|_| !(nullable && depth > FULL_DEPTH)).unwrap_or("null")
        }
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

fn integer(schema: &Value) -> Value {
    let least = schema["minimum"].as_f64().map(f64::ceil);
    let above = schema["exclusiveMinimum"].as_f64().map(|bound| bound.floor() + 1.0);
    let most = schema["maximum"].as_f64().map(f64::floor);
    let start = least.or(above).or(most.filter(|most| *most < 1.0)).unwrap_or(1.0);
    let step = schema["multipleOf"].as_f64().filter(|step| *step >= 1.0).unwrap_or(1.0);
    // Formatting without decimals is an integer literal, whatever its size.
    let literal = format!("{:.0}", (start / step).ceil() * step);
    literal.parse::<i64>().map_or(Value::Null, Value::from)
}

fn number(schema: &Value) -> Value {
    let least = schema["minimum"].as_f64();
    let above = schema["exclusiveMinimum"].as_f64().map(|bound| bound + 0.5);
    let most = schema["maximum"].as_f64().filter(|most| *most < 1.0);
    json!(least.or(above).or(most).unwrap_or(1.0))
}

fn string(schema: &Value, name: &str) -> String {
    let text = match schema["format"].as_str() {
        Some("date-time") => "2026-01-01T00:00:00Z",
        Some("date") => "2026-01-01",
        Some("time") => "00:00:00Z",
        Some("duration") => "P1D",
        Some("email") => "user@example.com",
        Some("hostname") => "example.com",
        Some("ipv4") => "192.0.2.1",
        Some("ipv6") => "2001:db8::1",
        Some("uuid") => "00000000-0000-4000-8000-000000000000",
        Some("uri" | "url") => "https://example.com/",
        _ => name,
    };
    let least = schema["minLength"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let most = schema["maxLength"].as_u64().and_then(|n| usize::try_from(n).ok());
    let mut text: String = text.chars().take(most.unwrap_or(usize::MAX)).collect();
    let short = least.min(65_536).saturating_sub(text.chars().count());
    text.extend(std::iter::repeat_n('x', short));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_properties_enums_and_references_are_filled() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 6},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "array", "items": {"$ref": "#/$defs/day"}},
                "note": {"type": ["string", "null"]},
                "skipped": {"type": "string"},
                "count": {"type": "integer", "exclusiveMinimum": 2},
                "share": {"anyOf": [{"type": "number", "minimum": 0.5}, {"type": "null"}]},
            },
            "required": ["city", "unit", "days", "note", "count", "share"],
            "$defs": {"day": {"const": "monday"}},
        });
        assert_eq!(
            instance(&schema),
            json!({
                "city": "cityxx", "unit": "celsius", "days": ["monday"], "note": "note",
                "count": 3, "share": 0.5,
            })
        );
    }

    #[test]
    fn a_schema_that_contains_itself_ends() {
        let tree = json!({
            "type": "object",
            "properties": {
                "left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
                "children": {"type": "array", "items": {"$ref": "#"}},
            },
            "required": ["left", "children"],
        });
        let value = instance(&tree);
        assert!(value["left"]["left"].is_object());
        let endless = json!({"$ref": "#"});
        assert_eq!(instance(&endless), Value::Null);
        let twice = json!({
            "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"],
        });
        assert!(instance(&twice).is_object());
    }

    #[test]
    fn no_schema_is_an_empty_object() {
        assert_eq!(instance(&Value::Null), json!({}));
        assert_eq!(instance(&json!({"type": "object"})), json!({}));
    }
}
