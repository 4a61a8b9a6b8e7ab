//! The functions: what there is, what they take, and what is refused.

use cel::common::ast::CallExpr;
use cel::common::ast::Expr;
use cel::parser::Expression as Parsed;
use regex::Regex;
use regex::RegexBuilder;

use super::Complaint;
use super::check;
use super::check::Checker;
use super::check::Typed;
use super::node::Bool;
use super::node::Double;
use super::node::Int;
use super::node::Text;
use super::node::TextTest;
use super::suggest;
use super::variables;

/// Each with the way to write it.
const FUNCTIONS: &[(&str, &str)] = &[
    ("contains", "text.contains(\"part\")"),
    ("startsWith", "text.startsWith(\"part\")"),
    ("endsWith", "text.endsWith(\"part\")"),
    ("matches", "text.matches(\"pattern\")"),
    ("lowerAscii", "text.lowerAscii()"),
    ("upperAscii", "text.upperAscii()"),
    ("size", "size(list)"),
    ("has", "has(tag.name)"),
    ("int", "int(value)"),
    ("double", "double(value)"),
    ("string", "string(value)"),
];

/// CEL's macros that walk a list.
const LOOPS: [&str; 6] = ["all", "exists", "exists_one", "existsOne", "map", "filter"];

/// Memory that one compiled pattern may take.
const MAX_PATTERN_BYTES: usize = 4 << 20;

impl Checker<'_> {
    /// A call of a function, `f(x)` or `x.f()`.
    pub(super) fn function(&mut self, part: &Parsed, call: &CallExpr) -> Option<Typed> {
        let name = call.func_name.as_str();
        let Some((_, usage)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
            return self.unknown_function(part, name);
        };
        match (name, call.target.as_deref(), call.args.as_slice()) {
            ("has", None, [field]) => self.has(field),
            ("size", None, [of]) | ("size", Some(of), []) => self.size(of),
            ("matches", Some(text), [pattern]) | ("matches", None, [text, pattern]) => {
                self.matches(text, pattern)
            }
            ("contains", Some(text), [inner]) => self.test(TextTest::Contains, name, text, inner),
            ("startsWith", Some(text), [inner]) => {
                self.test(TextTest::StartsWith, name, text, inner)
            }
            ("endsWith", Some(text), [inner]) => self.test(TextTest::EndsWith, name, text, inner),
            ("lowerAscii", Some(text), []) => {
                Some(Typed::Text(Text::Lower(Box::new(self.text(name, text)?))))
            }
            ("upperAscii", Some(text), []) => {
                Some(Typed::Text(Text::Upper(Box::new(self.text(name, text)?))))
            }
            ("int", None, [value]) => self.int_of(value),
            ("double", None, [value]) => self.double_of(value),
            ("string", None, [value]) => self.string_of(value),
            _ => self.refuse(part, format!("`{name}` is written as {usage}")),
        }
    }

    fn unknown_function(&mut self, part: &Parsed, name: &str) -> Option<Typed> {
        let span = self.source.function_name(part, name);
        let complaint = if LOOPS.contains(&name) {
            Complaint::new(
                span,
                format!("`{name}` is not allowed in policies: it loops, a condition must be quick"),
            )
            .help("`in` looks for one item: \"critical\" in key.tags")
        } else {
            let names = || FUNCTIONS.iter().map(|(known, _)| *known);
            let help = match suggest::nearest(name, names()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
            };
            Complaint::new(span, format!("there is no function `{name}`")).help(help)
        };
        self.complaints.push(complaint);
        None
    }

    fn has(&mut self, field: &Parsed) -> Option<Typed> {
        let name = check::path(field).filter(|name| variables::variable(name).is_some());
        if let Some(name) = name {
            let message = format!("`{name}` is always there");
            return self.refuse_with(field, message, "absent fields are empty or 0");
        }
        let usage = "`has` asks for an entry of a map by its name";
        let Expr::Select(select) = &field.expr else {
            return self.refuse_with(field, usage, "has(tag.name), or \"name\" in tag");
        };
        let Typed::Map(map) = self.check(&select.operand)? else {
            return self.refuse_with(field, usage, "has(tag.name), or \"name\" in tag");
        };
        let entry = self.entry(field, map, &select.field)?;
        Some(Typed::Bool(Bool::Has(Box::new(entry))))
    }

    fn size(&mut self, of: &Parsed) -> Option<Typed> {
        Some(Typed::Int(match self.check(of)? {
            Typed::Text(text) => Int::LengthOf(Box::new(text)),
            Typed::Texts(texts) => Int::CountOf(Box::new(texts)),
            other => {
                let found = format!("{} is {}", self.source.quote(of), other.described());
                return self
                    .refuse(of, format!("`size` takes a string or a list of them; {found}"));
            }
        }))
    }

    fn test(&mut self, test: TextTest, name: &str, text: &Parsed, part: &Parsed) -> Option<Typed> {
        let sides = (self.text(name, text), self.text(name, part));
        Some(Typed::Bool(Bool::Test(test, Box::new((sides.0?, sides.1?)))))
    }

    fn matches(&mut self, text: &Parsed, pattern: &Parsed) -> Option<Typed> {
        let (text, found) = (self.text("matches", text), self.text("matches", pattern));
        let Text::Const(written) = found? else {
            let message = "a pattern has to be a string that is known when policies load";
            return self.refuse(pattern, message);
        };
        let built = RegexBuilder::new(&written).size_limit(MAX_PATTERN_BYTES).build();
        let pattern: Regex = match built {
            Ok(pattern) => pattern,
            Err(error) => {
                return self.refuse(pattern, format!("this pattern is wrong: {}", reason(&error)));
            }
        };
        Some(Typed::Bool(Bool::Matches(Box::new((text?, pattern)))))
    }

    fn int_of(&mut self, value: &Parsed) -> Option<Typed> {
        Some(Typed::Int(match self.check(value)? {
            Typed::Int(node) => node,
            Typed::Uint(value) => Int::Const(value),
            Typed::Double(node) => Int::OfDouble(Box::new(node)),
            Typed::Text(node) => Int::OfText(Box::new(node)),
            other => return self.no_conversion("int", value, &other),
        }))
    }

    fn double_of(&mut self, value: &Parsed) -> Option<Typed> {
        Some(Typed::Double(match self.check(value)? {
            Typed::Double(node) => node,
            Typed::Int(node) => node.widened(),
            Typed::Uint(value) => Int::Const(value).widened(),
            Typed::Text(node) => Double::OfText(Box::new(node)),
            other => return self.no_conversion("double", value, &other),
        }))
    }

    fn string_of(&mut self, value: &Parsed) -> Option<Typed> {
        Some(Typed::Text(match self.check(value)? {
            Typed::Text(node) => node,
            Typed::Bool(node) => Text::OfBool(Box::new(node)),
            Typed::Int(node) => Text::OfInt(Box::new(node)),
            Typed::Uint(value) => Text::OfInt(Box::new(Int::Const(value))),
            Typed::Double(node) => Text::OfDouble(Box::new(node)),
            other => return self.no_conversion("string", value, &other),
        }))
    }

    fn no_conversion<T>(&mut self, name: &str, part: &Parsed, found: &Typed) -> Option<T> {
        let (quoted, is) = (self.source.quote(part), found.described());
        self.refuse(part, format!("`{name}` cannot convert {quoted}, which is {is}"))
    }

    fn text(&mut self, name: &str, part: &Parsed) -> Option<Text> {
        match self.check(part)? {
            Typed::Text(node) => Some(node),
            other => {
                let (quoted, is) = (self.source.quote(part), other.described());
                self.refuse(part, format!("`{name}` works on strings; {quoted} is {is}"))
            }
        }
    }
}

/// The last line of what the regex crate says; the rest draws the pattern again.
fn reason(error: &regex::Error) -> String {
    let said = error.to_string();
    let last = said.lines().next_back().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}
