//! Function tools as the model sees them: a TypeScript namespace, after OpenAI's harmony renderer.
//! And the schema of an answer, as JSON.

use std::collections::HashSet;

use serde_json::value::RawValue;

use crate::metering::json::Fields;
use crate::metering::json::each;
use crate::metering::json::is_array;
use crate::metering::json::is_text;
use crate::metering::json::text;

/// Deepest nesting of a schema that is rendered.
const DEEPEST: usize = 32;

/// Renders the function tools of a request; None when there are none.
pub(super) fn render(tools: &RawValue) -> Option<String> {
    let mut functions = String::new();
    each(tools, |tool| {
        if let Some(tool) = Fields::of(tool) {
            function(&mut functions, &tool);
        }
    });
    if functions.is_empty() {
        return None;
    }
    Some(format!("namespace functions {{\n\n{functions}}} // namespace functions"))
}

/// One tool: nested under `function` in chats, flat in responses.
fn function(out: &mut String, tool: &Fields<'_>) -> Option<()> {
    let nested = tool.object("function");
    let function = nested.as_ref().unwrap_or(tool);
    let name = function.text("name")?;
    comment(out, "", function.text("description").as_deref());
    out.push_str("type ");
    out.push_str(&name);
    let parameters = function.object("parameters").filter(has_properties);
    match parameters {
        Some(schema) => {
            out.push_str(" = (_: ");
            object(out, &schema, "", 0);
            out.push_str(") => any;\n\n");
        }
        None => out.push_str(" = () => any;\n\n"),
    }
    Some(())
}

fn has_properties(schema: &Fields<'_>) -> bool {
    schema.object("properties").is_some_and(|fields| !fields.is_empty())
}

/// A `//` comment, a line each.
fn comment(out: &mut String, indent: &str, lines: Option<&str>) {
    for line in lines.unwrap_or_default().lines() {
        for part in [indent, "// ", line, "\n"] {
            out.push_str(part);
        }
    }
}

/// A schema as a TypeScript type.
fn kind(out: &mut String, schema: &RawValue, indent: &str, depth: usize) {
    let schema = if depth > DEEPEST { None } else { Fields::of(schema) };
    let Some(schema) = schema else { return out.push_str("any") };
    if let Some(options) = schema.get("enum").filter(|raw| is_array(raw)) {
        return union(out, options, |out, option| out.push_str(option.get()));
    }
    for several in ["anyOf", "oneOf"] {
        if let Some(options) = schema.get(several).filter(|raw| is_array(raw)) {
            return union(out, options, |out, option| kind(out, option, indent, depth + 1));
        }
    }
    let Some(name) = schema.get("type") else { return out.push_str("any") };
    if is_array(name) {
        return union(out, name, |out, name| out.push_str(plain(&text(name).unwrap_or_default())));
    }
    match text(name).as_deref() {
        Some("object") => object(out, &schema, indent, depth),
        Some("array") => {
            match schema.get("items") {
                Some(items) => kind(out, items, indent, depth + 1),
                None => out.push_str("any"),
            }
            out.push_str("[]");
        }
        name => out.push_str(plain(name.unwrap_or_default())),
    }
}

fn union(out: &mut String, options: &RawValue, mut option: impl FnMut(&mut String, &RawValue)) {
    let mut first = true;
    each(options, |raw| {
        if !std::mem::take(&mut first) {
            out.push_str(" | ");
        }
        option(out, raw);
    });
}

fn plain(name: &str) -> &str {
    match name {
        "integer" => "number",
        "string" | "number" | "boolean" | "null" => name,
        _ => "any",
    }
}

fn object(out: &mut String, schema: &Fields<'_>, indent: &str, depth: usize) {
    let Some(fields) = schema.object("properties") else { return out.push_str("object") };
    let mut required = HashSet::new();
    if let Some(names) = schema.get("required") {
        each(names, |name| required.extend(text(name)));
    }
    out.push_str("{\n");
    for (name, field) in fields.iter() {
        let shown = Fields::of(field).unwrap_or_default();
        title(out, indent, &shown);
        comment(out, indent, shown.text("description").as_deref());
        out.push_str(indent);
        out.push_str(name);
        out.push_str(if required.contains(name) { ": " } else { "?: " });
        kind(out, field, &format!("{indent}    "), depth + 1);
        out.push(',');
        if let Some(default) = shown.get("default") {
            out.push_str(" // default: ");
            out.push_str(&text(default).unwrap_or(default.get().into()));
        }
        out.push('\n');
    }
    out.push_str(indent);
    out.push('}');
}

fn title(out: &mut String, indent: &str, field: &Fields<'_>) {
    if let Some(title) = field.text("title") {
        for part in [indent, "// ", &title, "\n", indent, "//\n"] {
            out.push_str(part);
        }
    }
}

/// A schema as one line of JSON, without `title` and `additionalProperties`, which the model is not
/// shown.
pub(super) fn schema(schema: &RawValue) -> String {
    let mut out = String::new();
    line(&mut out, schema, 0);
    out
}

fn line(out: &mut String, value: &RawValue, depth: usize) {
    if let Some(text) = text(value) {
        return quoted(out, &text);
    }
    if depth > DEEPEST {
        return out.push_str(value.get());
    }
    if is_array(value) {
        let mut first = true;
        out.push('[');
        each(value, |element| {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            line(out, element, depth + 1);
        });
        return out.push(']');
    }
    let Some(fields) = Fields::of(value) else { return out.push_str(value.get()) };
    // A property may be called `title`: then it is a schema, not a text.
    let hidden = |name, value| name == "additionalProperties" || name == "title" && is_text(value);
    out.push('{');
    let shown = fields.iter().filter(|(name, value)| !hidden(*name, value));
    for (number, (name, value)) in shown.enumerate() {
        if number > 0 {
            out.push(',');
        }
        quoted(out, name);
        out.push(':');
        line(out, value, depth + 1);
    }
    out.push('}');
}

fn quoted(out: &mut String, text: &str) {
    // Text is always written.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_function_is_shown_as_typescript() {
        let tools = raw(r#"[{"type": "function", "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "required": ["place"], "properties": {
                "place": {"type": "string", "description": "A city", "title": "Place"},
                "days": {"type": "integer", "default": 1},
                "unit": {"enum": ["c", "f"]},
                "when": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}
            }}
        }}, {"type": "function", "name": "now"}, {"type": "web_search"}]"#);
        let expected = r#"namespace functions {

// Tells the weather.
type weather = (_: {
// Place
//
// A city
place: string,
days?: number, // default: 1
unit?: "c" | "f",
when?: string | null[],
}) => any;

type now = () => any;

} // namespace functions"#;
        assert_eq!(render(tools).unwrap(), expected);
    }

    #[test]
    fn hosted_tools_alone_are_not_shown() {
        for none in [r#"[{"type": "web_search"}]"#, "[]", "\"x\"", "{}", "[1,[],null]"] {
            assert_eq!(render(raw(none)), None, "{none}");
        }
    }

    #[test]
    fn a_schema_loses_its_titles_but_not_a_property_of_that_name() {
        let book = raw(r#"{"title": "Book", "additionalProperties": false, "required": ["title", 1],
            "properties": {"title": {"title": "Title", "type": "string", "description": "\u00fc\""}}}"#);
        let shown = r#"{"required":["title",1],"properties":{"title":{"type":"string","description":"ü\""}}}"#;
        assert_eq!(schema(book), shown);
    }

    #[test]
    fn a_schema_without_end_is_shown_in_part() {
        let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(90), close.repeat(90));
        let nested = deep(r#"{"properties":{"a":{"type":"object"},"b":"#, "}}");
        assert!(schema(raw(&nested)).len() > 1000);
        let tool = format!(r#"[{{"name":"f","parameters":{nested}}}]"#);
        assert!(render(raw(&tool)).unwrap().contains("a?: object"));
    }
}
