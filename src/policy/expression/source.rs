//! The condition's text, and where in it each parsed part stands.

use std::ops::Range;

use cel::common::ast::Expr;
use cel::common::ast::SourceInfo;
use cel::parser::Expression as Parsed;

/// The text with what is needed to point into it.
pub(super) struct Source<'s> {
    pub(super) text: &'s str,
    info: SourceInfo,
    brackets: Vec<Range<usize>>,
}

impl<'s> Source<'s> {
    /// `text` has been parsed, `info` says where the parts' own tokens are.
    pub(super) fn new(text: &'s str, info: SourceInfo) -> Self {
        Self { text, info, brackets: brackets(text) }
    }

    /// The bytes of a part, with what it is made of.
    pub(super) fn span(&self, part: &Parsed) -> Range<usize> {
        let mut span = self.extent(part);
        // Widened until every bracket has its partner: `a + b) * c` becomes `(a + b) * c`.
        loop {
            let cut =
                |pair: &&Range<usize>| span.contains(&pair.start) != span.contains(&(pair.end - 1));
            let Some(pair) = self.brackets.iter().find(cut) else { return span };
            span = join(&span, pair);
        }
    }

    /// A part as it is written, cut short when it is long.
    pub(super) fn quote(&self, part: &Parsed) -> String {
        const LONGEST: usize = 40;
        let text = self.text.get(self.span(part)).unwrap_or_default();
        if text.chars().count() <= LONGEST {
            return format!("`{text}`");
        }
        let start: String = text.chars().take(LONGEST - 1).collect();
        format!("`{start}…`")
    }

    /// The name of a called function: it stands before the bracket, which is what the parser marks.
    pub(super) fn function_name(&self, part: &Parsed, name: &str) -> Range<usize> {
        let token = self.token(part);
        let before = self.text.get(..token.start).unwrap_or_default().trim_end();
        match before.strip_suffix(name) {
            Some(rest) => rest.len()..before.len(),
            None => token,
        }
    }

    fn extent(&self, part: &Parsed) -> Range<usize> {
        let mut span = self.token(part);
        match &part.expr {
            Expr::Call(call) => {
                for inner in call.target.iter().map(AsRef::as_ref).chain(&call.args) {
                    span = join(&span, &self.extent(inner));
                }
                if call.func_name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                    span = join(&span, &self.function_name(part, &call.func_name));
                }
            }
            Expr::Select(select) => {
                let rest = self.text.get(span.end..).unwrap_or_default();
                let gap = rest.len() - rest.trim_start().len();
                span.end += gap + select.field.len();
                span = join(&span, &self.extent(&select.operand));
            }
            _ => {}
        }
        span
    }

    fn token(&self, part: &Parsed) -> Range<usize> {
        let (start, last) = self.info.offset_for(part.id).unwrap_or_default();
        let at = |offset: u32| usize::try_from(offset).unwrap_or_default();
        at(start)..at(last).saturating_add(1)
    }
}

fn join(left: &Range<usize>, right: &Range<usize>) -> Range<usize> {
    left.start.min(right.start)..left.end.max(right.end)
}

/// Each pair of brackets, from the opening one to behind the closing one.
fn brackets(text: &str) -> Vec<Range<usize>> {
    let (mut open, mut pairs) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(rest) = text.as_bytes().get(at..).filter(|rest| !rest.is_empty()) {
        match rest {
            [b'(' | b'[' | b'{', ..] => open.push(at),
            [b')' | b']' | b'}', ..] => pairs.extend(open.pop().map(|start| start..at + 1)),
            [b'/', b'/', ..] => at += rest.iter().take_while(|byte| **byte != b'\n').count() - 1,
            [b'"' | b'\'', ..] => {
                let is_raw = at > 0 && matches!(text.as_bytes().get(at - 1), Some(b'r' | b'R'));
                at += literal(rest, is_raw) - 1;
            }
            _ => {}
        }
        at += 1;
    }
    pairs
}

/// How long the string literal is that `text` starts with, quotes included.
fn literal(text: &[u8], is_raw: bool) -> usize {
    let quote = text.first().copied().unwrap_or_default();
    let quotes = if text.starts_with(&[quote; 3]) { 3 } else { 1 };
    let mut at = quotes;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        match rest {
            [b'\\', ..] if !is_raw => at += 1,
            _ if rest.iter().take(quotes).filter(|byte| **byte == quote).count() == quotes => {
                return at + quotes;
            }
            _ => {}
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_paired_outside_of_strings_and_comments() {
        let pairs = |text| {
            brackets(text).iter().map(|pair| text.get(pair.clone()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(pairs("f(a[1])"), ["[1]", "f(a[1])".trim_start_matches('f')]);
        assert_eq!(pairs(r#"f("(", '\')(', "")"#), [r#"("(", '\')(', "")"#]);
        assert_eq!(pairs(r#"(r"\", '''a'b(''')"#), [r#"(r"\", '''a'b(''')"#]);
        assert_eq!(pairs("(1 // )\n)"), ["(1 // )\n)"]);
        assert_eq!(pairs("(\"unclosed)"), Vec::<&str>::new());
    }
}
