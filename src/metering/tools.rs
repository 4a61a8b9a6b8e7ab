//! Function tools as the model sees them: a TypeScript namespace, after OpenAI's harmony renderer.
//! And the schema of an answer, as JSON.

use std::collections::HashSet;

use crate::metering::json::Fields;
use crate::metering::json::Raw;
use crate::metering::json::each;
use crate::metering::json::each_object;

/// Deepest nesting of a schema that is rendered.
const DEEPEST: usize = 32;

/// How many times their JSON's length tools may have before references stay closed, so that a few
/// which name each other do not become millions.
const MOST_REFERRED: usize = 4;

/// Renders the function tools of a request; None when there are none.
pub(super) fn render(tools: Raw<'_>) -> Option<String> {
    let mut out = String::from("namespace functions {\n\n");
    let (start, most) = (out.len(), MOST_REFERRED * tools.get().len());
    each_object(tools, |tool| {
        function(&mut out, &tool, most);
    });
    (out.len() > start).then(|| out + "} // namespace functions")
}

/// One tool: nested under `function` in chats, flat in responses.
fn function(out: &mut String, tool: &Fields<'_>, most: usize) -> Option<()> {
    let nested = tool.object("function");
    let function = nested.as_ref().unwrap_or(tool);
    let name = function.text("name")?;
    comment(out, "", function.text("description").as_deref());
    out.push_str("type ");
    out.push_str(&name);
    match function.object("parameters") {
        Some(schema) if has_properties(&schema) => {
            out.push_str(" = (_: ");
            comment(out, "", schema.text("description").as_deref());
            Types { out, definitions: Definitions::of(&schema), most }.object(&schema, "", 0);
            out.push_str(") => any;\n\n");
        }
        _ => out.push_str(" = () => any;\n\n"),
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

/// What `#/$defs/…` and `#/definitions/…` refer to.
struct Definitions<'a>([Option<Fields<'a>>; 2]);

impl<'a> Definitions<'a> {
    const PLACES: [&'static str; 2] = ["$defs", "definitions"];

    fn of(schema: &Fields<'a>) -> Self {
        Self(Self::PLACES.map(|place| schema.object(place)))
    }

    fn get(&self, reference: &str) -> Option<Raw<'a>> {
        let (place, name) = reference.strip_prefix("#/")?.split_once('/')?;
        let at = Self::PLACES.iter().position(|known| *known == place)?;
        self.0.get(at)?.as_ref()?.get(name)
    }
}

/// Writes schemas as TypeScript types.
struct Types<'a, 'o> {
    out: &'o mut String,
    definitions: Definitions<'a>,
    /// Length of `out` from which on references stay closed.
    most: usize,
}

impl<'a> Types<'a, '_> {
    fn kind(&mut self, schema: Raw<'a>, indent: &str, depth: usize) {
        let schema = if depth > DEEPEST { None } else { Fields::of(schema) };
        let Some(schema) = schema else { return self.out.push_str("any") };
        if let Some(options) = schema.get("enum").filter(Raw::is_array) {
            return self.union(options, |types, option| types.out.push_str(&option.written()));
        }
        for several in ["anyOf", "oneOf"] {
            if let Some(options) = schema.get(several).filter(Raw::is_array) {
                return self.union(options, |types, option| types.kind(option, indent, depth + 1));
            }
        }
        let referred = schema.text("$ref").and_then(|name| self.definitions.get(&name));
        if let Some(referred) = referred.filter(|_| self.out.len() < self.most) {
            return self.kind(referred, indent, depth + 1);
        }
        let Some(name) = schema.get("type") else { return self.out.push_str("any") };
        if name.is_array() {
            return self.union(name, |types, name| {
                types.out.push_str(plain(&name.text().unwrap_or_default()));
            });
        }
        match name.text().as_deref() {
            Some("object") => self.object(&schema, indent, depth),
            Some("array") => {
                match schema.get("items") {
                    Some(items) => self.kind(items, indent, depth + 1),
                    None => self.out.push_str("any"),
                }
                self.out.push_str("[]");
            }
            name => self.out.push_str(plain(name.unwrap_or_default())),
        }
    }

    fn union(&mut self, options: Raw<'a>, mut option: impl FnMut(&mut Self, Raw<'a>)) {
        let mut first = true;
        each(options, |raw| {
            if !std::mem::take(&mut first) {
                self.out.push_str(" | ");
            }
            option(self, raw);
        });
    }

    fn object(&mut self, schema: &Fields<'a>, indent: &str, depth: usize) {
        let Some(fields) = schema.object("properties") else { return self.out.push_str("object") };
        let mut required = HashSet::new();
        if let Some(names) = schema.get("required") {
            each(names, |name| required.extend(name.text()));
        }
        self.out.push_str("{\n");
        for (name, field) in fields.iter() {
            let shown = Fields::of(field).unwrap_or(Fields::NONE);
            title(self.out, indent, &shown);
            comment(self.out, indent, shown.text("description").as_deref());
            let colon = if required.contains(&name) { ": " } else { "?: " };
            for part in [indent, &name, colon] {
                self.out.push_str(part);
            }
            self.kind(field, &format!("{indent}    "), depth + 1);
            self.out.push(',');
            if let Some(default) = shown.get("default") {
                self.out.push_str(" // default: ");
                self.out.push_str(&default.text().unwrap_or_else(|| default.written()));
            }
            self.out.push('\n');
        }
        self.out.push_str(indent);
        self.out.push('}');
    }
}

fn plain(name: &str) -> &str {
    match name {
        "integer" => "number",
        "string" | "number" | "boolean" | "null" => name,
        _ => "any",
    }
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
pub(super) fn schema(schema: Raw<'_>) -> String {
    let mut out = String::new();
    line(&mut out, schema, 0);
    out
}

fn line(out: &mut String, value: Raw<'_>, depth: usize) {
    if let Some(text) = value.text() {
        return quoted(out, &text);
    }
    if depth > DEEPEST {
        return out.push_str(&value.written());
    }
    if value.is_array() {
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
    let Some(fields) = Fields::of(value) else { return out.push_str(&value.written()) };
    // A property may be called `title`: then it is a schema, not a text.
    let hidden = |name: &str, value: &Raw<'_>| {
        name == "additionalProperties" || name == "title" && value.is_text()
    };
    out.push('{');
    let shown = fields.iter().filter(|(name, value)| !hidden(name, value));
    for (number, (name, value)) in shown.enumerate() {
        if number > 0 {
            out.push(',');
        }
        quoted(out, &name);
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

    fn raw(text: &str) -> Raw<'_> {
        Raw::new(text.as_bytes())
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
    fn what_a_schema_refers_to_is_shown_in_its_place() {
        let tool = raw(r##"[{"name":"f","parameters":{"description":"Where.","properties":
            {"at":{"$ref":"#/$defs/P"},"no":{"$ref":"#/x"}},"$defs":{"P":{"enum":[1,2]}}}}]"##);
        assert!(render(tool).unwrap().contains("(_: // Where.\n{\nat?: 1 | 2,\nno?: any,\n}"));
    }

    #[test]
    fn references_that_name_each_other_come_to_an_end() {
        let twice = r##"{"properties":{"a":{"$ref":"#/$defs/P"},"b":{"$ref":"#/$defs/P"}},"type":"object"}"##;
        let tool = format!(
            r#"{{"name":"f","parameters":{{"properties":{{"x":{twice}}},"$defs":{{"P":{twice}}}}}}}"#
        );
        let tools = format!("[{}]", vec![tool; 100].join(","));
        let shown = render(raw(&tools)).unwrap();
        assert!(shown.len() < 6 * tools.len(), "{} of {}", shown.len(), tools.len());
    }

    #[test]
    fn hosted_tools_alone_are_not_shown() {
        for none in [r#"[{"type": "web_search"}]"#, "[]", "\"x\"", "{}", "[1,[],null]"] {
            assert_eq!(render(raw(none)), None, "{none}");
        }
    }

    #[test]
    fn a_schema_loses_its_titles_but_not_a_property_of_that_name() {
        let book = raw(
            r#"{"title": "Book", "additionalProperties": false, "required": ["title", 1],
            "properties": {"title": {"title": "Title", "type": "string", "description": "\u00fc\""}}}"#,
        );
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
