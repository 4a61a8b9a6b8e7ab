//! From text to CEL's syntax tree; what is wrong with the syntax, in a sentence each.

use std::ops::Range;

use cel::Env;
use cel::ParseError;
use cel::common::ast::Expr;
use cel::parser::Expression as Parsed;

use super::Complaint;
use super::source::Source;

/// Longer ones are programs and belong elsewhere.
const MAX_BYTES: usize = 4 * 1024;
/// Brackets in brackets, and `?:` in `?:`: keeps the parser's stack under half a megabyte.
const MAX_BRACKETS: u16 = 32;
/// Levels of the tree, of which a chain such as `a + b + c` makes one per operator.
const MAX_DEPTH: u32 = 64;

/// Parses `text`.
pub(super) fn parse(text: &str) -> Result<(Parsed, Source<'_>), Complaint> {
    let whole = 0..text.len();
    if text.len() > MAX_BYTES {
        let message = format!("the condition has {} bytes, {MAX_BYTES} are allowed", text.len());
        return Err(Complaint::new(whole, message).help("split the rule into several"));
    }
    if text.trim().is_empty() {
        return Err(Complaint::new(whole, "the condition is empty").help("`true` always holds"));
    }
    // Without macros: `has` and those that loop arrive as the calls that are written.
    let env = Env::default().with_optional_support(false);
    let parser = env.parser().max_recursion_depth(MAX_BRACKETS);
    match parser.parse_with_source_info(text) {
        Ok((tree, _)) if is_deeper(&tree, MAX_DEPTH) => Err(too_deep(text)),
        Ok((tree, info)) => Ok((tree, Source::new(text, info))),
        Err(errors) => Err(complaint(text, &errors.errors)),
    }
}

fn too_deep(text: &str) -> Complaint {
    Complaint::new(0..text.len(), "the condition is nested too deeply")
        .help(format!("at most {MAX_BRACKETS} brackets or `?:` and {MAX_DEPTH} operators in a row"))
}

fn is_deeper(tree: &Parsed, left: u32) -> bool {
    let Some(left) = left.checked_sub(1) else { return true };
    match &tree.expr {
        Expr::Call(call) => {
            let mut inner = call.target.iter().map(AsRef::as_ref).chain(&call.args);
            inner.any(|inner| is_deeper(inner, left))
        }
        Expr::Select(select) => is_deeper(&select.operand, left),
        Expr::List(list) => list.elements.iter().any(|inner| is_deeper(inner, left)),
        // Others are refused without a look inside.
        _ => false,
    }
}

/// The first thing that is wrong; what follows from it is left out.
fn complaint(text: &str, errors: &[ParseError]) -> Complaint {
    if errors.iter().any(|error| error.msg.contains("Recursion limit")) {
        return too_deep(text);
    }
    let is_own = |error: &&ParseError| !is_consequence(&error.msg);
    let Some(error) = errors.iter().find(is_own).or(errors.first()) else {
        return Complaint::new(0..text.len(), "this is no condition");
    };
    let at = offset(text, error.pos);
    let message = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let (said, help) = sentence(message, text, at);
    Complaint { span: word(text, at), message: said, help }
}

/// Reported about a tree that is incomplete because of another error, or about giving up.
fn is_consequence(message: &str) -> bool {
    message.starts_with("Incomplete")
        || message.starts_with("No `")
        || message.contains("recovery attempt limit")
}

/// What the parser says, shortened: it lists everything that could have stood there instead.
fn sentence(message: &str, text: &str, at: usize) -> (String, Option<String>) {
    let found = text.get(word(text, at)).unwrap_or_default();
    if message.starts_with("token recognition error") {
        return unknown_token(found);
    }
    if let Some(missing) = message.strip_prefix("missing '") {
        let missing = missing.split('\'').next().unwrap_or_default();
        let place =
            if found.is_empty() { "at the end".into() } else { format!("before `{found}`") };
        return (format!("`{missing}` is missing {place}"), None);
    }
    if message.starts_with("reserved identifier") {
        return (format!("`{found}` is a reserved word of CEL"), None);
    }
    if message.contains("int literal") || message.contains("double literal") {
        return ("this number is out of range".into(), None);
    }
    if message.starts_with("invalid string") || message.starts_with("invalid bytes") {
        return ("a backslash in this string means nothing".into(), Some(RAW.into()));
    }
    if message.starts_with("unsupported syntax") {
        return ("optional and quoted fields are not allowed in policies".into(), None);
    }
    if found.is_empty() {
        return ("the condition ends too early".into(), None);
    }
    (format!("`{found}` is not expected here"), unexpected(text, at, found))
}

const RAW: &str = r#"write `\\` for a backslash, or a raw string: r"\d+""#;

fn unknown_token(found: &str) -> (String, Option<String>) {
    let help = match found {
        "=" => "`==` compares",
        "&" => "`&&` is and",
        "|" => "`||` is or",
        _ if found.starts_with(['"', '\'']) => {
            let message = "this string has no end, or a backslash in it means nothing";
            return (message.into(), Some(RAW.into()));
        }
        _ => return (format!("`{found}` means nothing in a condition"), None),
    };
    (format!("`{found}` is no operator"), Some(help.into()))
}

/// Helps those who write as in other languages.
fn unexpected(text: &str, at: usize, found: &str) -> Option<String> {
    let before = text.get(..at).unwrap_or_default();
    let previous = before.split_whitespace().next_back().unwrap_or_default();
    let is_any = |words: [&str; 3]| {
        words
            .iter()
            .any(|word| word.eq_ignore_ascii_case(found) || word.eq_ignore_ascii_case(previous))
    };
    if is_any(["and", "or", "not"]) {
        return Some("write `&&` for and, `||` for or, `!` for not".into());
    }
    if before.ends_with(|last: char| last.is_ascii_digit()) {
        return Some("numbers are digits alone: 200000".into());
    }
    None
}

/// Byte offset of a line and column, which count characters from 1.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let back = |count: isize| usize::try_from(count - 1).unwrap_or_default();
    let before: usize = text.split_inclusive('\n').take(back(line)).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    before + rest.char_indices().nth(back(column)).map_or(rest.len(), |(at, _)| at)
}

/// The word, operator or character at `at`; empty at the end.
fn word(text: &str, at: usize) -> Range<usize> {
    let rest = text.get(at..).unwrap_or_default();
    let length = |is_in: fn(&u8) -> bool| rest.bytes().take_while(is_in).count();
    let letters = length(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let signs = length(|byte| b"=!<>&|".contains(byte));
    let first = rest.chars().next().map_or(0, char::len_utf8);
    at..at + letters.max(signs).max(first)
}
