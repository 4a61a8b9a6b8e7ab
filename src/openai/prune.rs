//! Takes texts out of a request's prompts without touching any other byte.
//!
//! A model that was trained on prompts without a piece is to be asked without it, too.

use bytes::Bytes;

use crate::openai::scan::Span;
use crate::openai::scan::object;
use crate::openai::splice::Edit;
use crate::openai::splice::Text;
use crate::openai::splice::apply;
use crate::openai::walk::Walk;

/// Roles whose texts are pruned, as in training data.
const SYSTEM: [&str; 2] = ["system", "developer"];
const USER: &str = "user";

/// The body without `pieces` in the texts of its system and user messages; `None` when there is
/// nothing to take out. A system message of which nothing is left goes as a whole.
pub fn prune(body: &[u8], pieces: &[String]) -> Option<Bytes> {
    let text = std::str::from_utf8(body).ok()?;
    let walk = Walk(text);
    let mut cuts = Cuts { walk, pieces, made: Vec::new() };
    for member in object(body)? {
        match walk.part(member.name) {
            "messages" | "input" if walk.part(member.value).starts_with('[') => {
                cuts.messages(member.value);
            }
            // An input that is a text is the user's; instructions are the system's.
            "input" | "instructions" => cuts.text(member.value),
            _ => {}
        }
    }
    if cuts.made.is_empty() {
        return None;
    }
    let mut edits: Vec<Edit<'_>> = cuts.made.iter().map(Cut::edit).collect();
    Some(apply(body, &mut edits))
}

/// A range of the body, and what is there instead.
struct Cut {
    span: Span,
    /// A text to be quoted; `None` for nothing at all.
    text: Option<String>,
}

impl Cut {
    fn edit(&self) -> Edit<'_> {
        let text = self.text.as_deref().map_or(Text::Raw(""), Text::Quoted);
        Edit { span: self.span, text }
    }
}

struct Cuts<'a> {
    walk: Walk<'a>,
    pieces: &'a [String],
    made: Vec<Cut>,
}

impl Cuts<'_> {
    fn messages(&mut self, list: Span) {
        let walk = self.walk;
        let elements = walk.elements(list);
        let mut gone = Vec::new();
        for (at, element) in elements.iter().enumerate() {
            let members = walk.members(*element);
            let role = walk.member(&members, "role").map(|role| walk.part(role).trim_matches('"'));
            let is_system = role.is_some_and(|role| SYSTEM.contains(&role));
            let Some(content) = walk.member(&members, "content") else { continue };
            if !is_system && role != Some(USER) {
                continue;
            }
            // The last one that is left stays: without a message it would be no request.
            let may_go = is_system && gone.len() + 1 < elements.len();
            if may_go && self.pruned(content).is_some_and(|text| text.is_empty()) {
                gone.push(at);
            } else if walk.part(content).starts_with('[') {
                self.parts(content);
            } else {
                self.text(content);
            }
        }
        for run in gone.chunk_by(|one, next| one + 1 == *next) {
            self.made.extend(whole(&elements, run).map(|span| Cut { span, text: None }));
        }
    }

    fn parts(&mut self, content: Span) {
        for part in self.walk.elements(content) {
            if let Some(text) = self.walk.member(&self.walk.members(part), "text") {
                self.text(text);
            }
        }
    }

    fn text(&mut self, span: Span) {
        if let Some(text) = self.pruned(span) {
            self.made.push(Cut { span, text: Some(text) });
        }
    }

    /// What is left of a text; `None` for one that holds no piece, and for what is no text.
    fn pruned(&self, span: Span) -> Option<String> {
        let mut text = self.walk.string(span)?;
        let mut changed = false;
        for piece in self.pieces.iter().filter(|piece| !piece.is_empty()) {
            if text.contains(piece.as_str()) {
                text = text.replace(piece.as_str(), "").trim().to_owned().into();
                changed = true;
            }
        }
        changed.then(|| text.into_owned())
    }
}

/// Neighbours with the comma that goes with them: the one behind them, or at the end of the list
/// the one before.
fn whole(elements: &[Span], run: &[usize]) -> Option<Span> {
    let (first, last) = (*run.first()?, *run.last()?);
    match elements.get(last + 1) {
        Some(next) => Some(Span { start: elements.get(first)?.start, end: next.start }),
        None => {
            let before = elements.get(first.checked_sub(1)?)?;
            Some(Span { start: before.end, end: elements.get(last)?.end })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pruned(body: &str, pieces: &[&str]) -> Option<String> {
        let pieces: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        prune(body.as_bytes(), &pieces).map(|body| String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn only_the_texts_that_hold_a_piece_change() {
        let body = r#"{ "model":"m", "n": 1.0,"messages":[{"role":"system","content":"Be kind. Answer in \"French\"!"},
 {"role":"assistant","content":"Be kind."},{"content":[{"type":"text","text":"Be kind. é?"},{"type":"image_url","image_url":{"url":"Be kind."}}],"role":"user"}] }"#;
        let expected = body
            .replace(r#""Be kind. Answer in \"French\"!""#, r#""Answer in \"French\"!""#)
            .replace(r#""text":"Be kind. é?""#, r#""text":"é?""#);
        assert_eq!(pruned(body, &["Be kind."]), Some(expected));
        assert_eq!(pruned(body, &["Be rude."]), None);
        assert_eq!(pruned(body, &[""]), None);
    }

    #[test]
    fn a_piece_is_found_however_it_is_escaped() {
        let body = r#"{"messages":[{"role":"user","content":"a\u0020b\nc"}]}"#;
        let expected = r#"{"messages":[{"role":"user","content":"c"}]}"#;
        assert_eq!(pruned(body, &["a b\n"]).as_deref(), Some(expected));
    }

    #[test]
    fn a_system_message_of_which_nothing_is_left_goes_as_a_whole() {
        let system = r#"{"role":"system","content":"long prompt"}"#;
        let user = r#"{"role":"user","content":"hi"}"#;
        let body = |list: &str| format!(r#"{{"messages":[{list}]}}"#);
        for (before, after) in [
            (format!("{system} , {user}"), user.to_owned()),
            (format!("{user}, {system}"), user.to_owned()),
            (format!("{user},{system},{user}"), format!("{user},{user}")),
            (format!("{user},{system}, {system}"), user.to_owned()),
            (format!("{system},{system} ,{user}"), user.to_owned()),
            // Without a message it would be no request.
            (system.to_owned(), r#"{"role":"system","content":""}"#.to_owned()),
        ] {
            assert_eq!(pruned(&body(&before), &["long prompt"]), Some(body(&after)), "{before}");
        }
    }

    #[test]
    fn instructions_and_inputs_of_responses_are_pruned_too() {
        let body = r#"{"instructions":"X Be short","input":"X hi"}"#;
        let expected = r#"{"instructions":"Be short","input":"hi"}"#;
        assert_eq!(pruned(body, &["X"]).as_deref(), Some(expected));
        let items =
            r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"X hi"}]}]}"#;
        assert_eq!(pruned(items, &["X"]), Some(items.replace("X hi", "hi")));
    }

    #[test]
    fn what_is_odd_stays_as_it_is() {
        for body in ["", "[]", r#"{"messages":[1,{"role":"user"},{"role":"user","content":null}]}"#]
        {
            assert_eq!(pruned(body, &["X"]), None, "{body}");
        }
    }
}
