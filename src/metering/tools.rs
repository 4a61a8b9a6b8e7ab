//! Function tools as the model sees them: a TypeScript namespace, after OpenAI's harmony renderer.

use serde_json::Map;
use serde_json::Value;

/// Deepest nesting of a schema that is rendered.
const DEEPEST: usize = 32;

/// Renders the function tools of a request; None when there are none.
pub(super) fn render(tools: &Value) -> Option<String> {
    let functions: Vec<String> = tools.as_array()?.iter().filter_map(function).collect();
    if functions.is_empty() {
        return None;
    }
    let functions = functions.concat();
    Some(format!("namespace functions {{\n\n{functions}}} // namespace functions"))
}

/// A schema without `title` and `additionalProperties`, which the model is not shown.
pub(super) fn without_titles(schema: Value, depth: usize) -> Value {
    match schema {
        Value::Object(fields) if depth < DEEPEST => Value::Object(
            fields
                .into_iter()
                // A property may be called `title`: then it is a schema, not a text.
                .filter(|(key, value)| key != "additionalProperties" && !is_title(key, value))
                .map(|(key, value)| (key, without_titles(value, depth + 1)))
                .collect(),
        ),
        Value::Array(items) if depth < DEEPEST => {
            items.into_iter().map(|item| without_titles(item, depth + 1)).collect()
        }
        other => other,
    }
}

fn is_title(key: &str, value: &Value) -> bool {
    key == "title" && value.is_string()
}

/// One tool: nested under `function` in chats, flat in responses.
fn function(tool: &Value) -> Option<String> {
    let function = tool.get("function").unwrap_or(tool);
    let name = text(function, "name")?;
    let mut out = String::new();
    comment(&mut out, "", text(function, "description"));
    out.push_str("type ");
    out.push_str(name);
    match function.get("parameters").filter(|schema| has_properties(schema)) {
        Some(schema) => {
            out.push_str(" = (_: ");
            out.push_str(&kind(schema, "", 0));
            out.push_str(") => any;\n\n");
        }
        None => out.push_str(" = () => any;\n\n"),
    }
    Some(out)
}

fn has_properties(schema: &Value) -> bool {
    properties(schema).is_some_and(|fields| !fields.is_empty())
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

/// A `//` comment, a line each.
fn comment(out: &mut String, indent: &str, lines: Option<&str>) {
    for line in lines.unwrap_or_default().lines() {
        out.push_str(indent);
        out.push_str("// ");
        out.push_str(line);
        out.push('\n');
    }
}

/// A schema as a TypeScript type.
fn kind(schema: &Value, indent: &str, depth: usize) -> String {
    if depth > DEEPEST {
        return "any".to_owned();
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        return union(options.iter().map(Value::to_string));
    }
    for several in ["anyOf", "oneOf"] {
        if let Some(options) = schema.get(several).and_then(Value::as_array) {
            return union(options.iter().map(|option| kind(option, indent, depth + 1)));
        }
    }
    match schema.get("type") {
        Some(Value::Array(names)) => {
            union(names.iter().filter_map(Value::as_str).map(|name| plain(name).to_owned()))
        }
        Some(Value::String(name)) => match name.as_str() {
            "object" => object(schema, indent, depth),
            "array" => {
                let items = schema.get("items").map(|items| kind(items, indent, depth + 1));
                format!("{}[]", items.unwrap_or_else(|| "any".to_owned()))
            }
            name => plain(name).to_owned(),
        },
        _ => "any".to_owned(),
    }
}

fn union(options: impl Iterator<Item = String>) -> String {
    options.collect::<Vec<_>>().join(" | ")
}

fn plain(name: &str) -> &str {
    match name {
        "integer" => "number",
        "string" | "number" | "boolean" | "null" => name,
        _ => "any",
    }
}

fn object(schema: &Value, indent: &str, depth: usize) -> String {
    let Some(fields) = properties(schema) else { return "object".to_owned() };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let mut out = String::from("{\n");
    for (name, field) in fields {
        title(&mut out, indent, field);
        comment(&mut out, indent, text(field, "description"));
        let optional = if required.contains(&name.as_str()) { "" } else { "?" };
        let nested = kind(field, &format!("{indent}    "), depth + 1);
        out.push_str(&format!("{indent}{name}{optional}: {nested},"));
        if let Some(default) = field.get("default") {
            let bare = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
            out.push_str(&format!(" // default: {bare}"));
        }
        out.push('\n');
    }
    out.push_str(indent);
    out.push('}');
    out
}

fn title(out: &mut String, indent: &str, field: &Value) {
    if let Some(title) = text(field, "title") {
        out.push_str(&format!("{indent}// {title}\n{indent}//\n"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_function_is_shown_as_typescript() {
        let tools = json!([{"type": "function", "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "required": ["place"], "properties": {
                "place": {"type": "string", "description": "A city", "title": "Place"},
                "days": {"type": "integer", "default": 1},
                "unit": {"enum": ["c", "f"]},
                "when": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}
            }}
        }}, {"type": "function", "name": "now"}, {"type": "web_search"}]);
        let expected = r#"namespace functions {

// Tells the weather.
type weather = (_: {
days?: number, // default: 1
// Place
//
// A city
place: string,
unit?: "c" | "f",
when?: string | null[],
}) => any;

type now = () => any;

} // namespace functions"#;
        assert_eq!(render(&tools).unwrap(), expected);
    }

    #[test]
    fn hosted_tools_alone_are_not_shown() {
        assert_eq!(render(&json!([{"type": "web_search"}])), None);
        assert_eq!(render(&json!([])), None);
        assert_eq!(render(&json!("x")), None);
    }

    #[test]
    fn a_schema_loses_its_titles_but_not_a_property_of_that_name() {
        let schema = json!({"title": "Book", "additionalProperties": false,
            "properties": {"title": {"title": "Title", "type": "string"}}});
        let shown = json!({"properties": {"title": {"type": "string"}}});
        assert_eq!(without_titles(schema, 0), shown);
    }
}
