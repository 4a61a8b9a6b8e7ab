//! The last question of a conversation, and the place before it where one more message can stand.

use crate::openai::request::RequestView;
use crate::openai::request::field;
use crate::openai::scan::Span;
use crate::openai::splice::Edit;
use crate::openai::splice::Text;
use crate::openai::walk::Walk;

const SYSTEM: &str = "system";
const DEVELOPER: &str = "developer";

/// A message of the gateway's own, for the model and not from the user.
#[derive(Clone, Copy, Debug)]
pub struct Insert<'a> {
    /// The field that holds the conversation: [`crate::openai::endpoint::Endpoint::conversation`].
    pub conversation: &'a str,
    /// What it says.
    pub text: &'a str,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the list's element that stands there, as a message of this role.
    Before(usize, &'static str),
    /// The conversation is this text alone: it becomes the second of two.
    Alone(Span),
}

impl RequestView {
    /// What the user said last in the conversation that this field holds. `None` where nobody has
    /// said anything, or the last message of the user's has no text.
    pub fn question(&self, body: &[u8], conversation: &str) -> Option<String> {
        let (_, text) = self.last_question(body, conversation)?;
        Some(text).filter(|text| !text.trim().is_empty())
    }

    /// The edits that put a message directly before the last question, in the order of their
    /// places; none where there is no question.
    pub(super) fn insertion<'a>(&self, body: &[u8], insert: Insert<'a>) -> Vec<Edit<'a>> {
        let edit = |at, text| Edit { span: Span::at(at), text };
        match self.last_question(body, insert.conversation) {
            None => Vec::new(),
            Some((Place::Before(at, role), _)) => {
                vec![edit(at, Text::Message(role, insert.text)), edit(at, Text::Raw(","))]
            }
            Some((Place::Alone(said), _)) => vec![
                edit(said.start, Text::Raw("[")),
                edit(said.start, Text::Message(SYSTEM, insert.text)),
                edit(said.start, Text::Raw(r#",{"role":"user","content":"#)),
                edit(said.end, Text::Raw("}]")),
            ],
        }
    }

    fn last_question(&self, body: &[u8], conversation: &str) -> Option<(Place, String)> {
        let walk = Walk(std::str::from_utf8(body).ok()?);
        let all = field(body, &self.members, conversation)?.value;
        // Messages are always a list.
        if conversation == "input"
            && let Some(said) = walk.string(all)
        {
            return Some((Place::Alone(all), said.into_owned()));
        }
        let mut role = SYSTEM;
        let mut last = None;
        for element in walk.elements(all) {
            let members = walk.members(element);
            match walk.member(&members, "role").map(|role| walk.part(role)) {
                Some(r#""system""#) => role = SYSTEM,
                // Whose instructions are called so may not want the other word beside it.
                Some(r#""developer""#) => role = DEVELOPER,
                Some(r#""user""#) => {
                    last = Some((element.start, walk.member(&members, "content")));
                }
                _ => {}
            }
        }
        let (at, content) = last?;
        Some((Place::Before(at, role), content.map(|c| said(walk, c)).unwrap_or_default()))
    }
}

/// The text of a message's content, which may be in parts.
fn said(walk: Walk<'_>, content: Span) -> String {
    if let Some(text) = walk.string(content) {
        return text.into_owned();
    }
    let parts = walk.elements(content).into_iter();
    let texts = parts.filter_map(|part| {
        let text = walk.member(&walk.members(part), "text")?;
        walk.string(text)
    });
    texts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;

    use crate::openai::request::Patch;

    use super::*;

    const SAYS: &str = "see \"a\"\n☂";

    fn view(body: &str) -> RequestView {
        RequestView::parse_model_optional(body.as_bytes()).unwrap()
    }

    fn question(conversation: &str, body: &str) -> Option<String> {
        view(body).question(body.as_bytes(), conversation)
    }

    fn inserted(conversation: &str, body: &str) -> String {
        let insert = Some(Insert { conversation, text: SAYS });
        let raw = Bytes::copy_from_slice(body.as_bytes());
        let spliced = view(body).splice(&raw, &Patch { insert, ..Patch::default() }).into_bytes();
        let text = String::from_utf8(spliced.to_vec()).unwrap();
        serde_json::from_str::<Value>(&text).unwrap();
        text
    }

    /// The body in which `@` stands for the message of that role.
    fn with_message(body: &str, role: &str) -> String {
        let message = format!("{{\"role\":\"{role}\",\"content\":\"see \\\"a\\\"\\n☂\"}}");
        body.replace('@', &message)
    }

    #[test]
    fn a_message_goes_directly_before_the_last_one_of_the_users() {
        for (after, role) in [
            (r#"{"model":"m","messages":[ @,{"role":"user","content":"hi"} ]}"#, "system"),
            (
                r#"{"messages":[{"role":"system","content":"x"} , @,{"content":"hi","role":"user"}],"n": 1.0}"#,
                "system",
            ),
            (
                r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},
  @,{"role":"user","content":[{"type":"text","text":"hi"}]},{"role":"assistant","tool_calls":[]},{"role":"tool","content":"{\"role\":\"user\"}"}]}"#,
                "system",
            ),
            (
                r#"{"messages":[{"role":"developer","content":"x"},@,{"role":"user","content":"hi"}]}"#,
                "developer",
            ),
        ] {
            let body = after.replace("@,", "");
            assert_eq!(inserted("messages", &body), with_message(after, role), "{body}");
        }
    }

    #[test]
    fn the_input_of_a_response_is_a_list_or_becomes_one() {
        let list = r#"{"input":[{"type":"message","role":"assistant","content":[]},@,{"role":"user","content":[{"type":"input_text","text":"hi"}]}]}"#;
        assert_eq!(inserted("input", &list.replace("@,", "")), with_message(list, "system"));
        let text = r#"{"model":"m","input" : "h\u0069 \"☂\"" }"#;
        let expected = r#"{"model":"m","input" : [@,{"role":"user","content":"h\u0069 \"☂\""}] }"#;
        assert_eq!(inserted("input", text), with_message(expected, "system"));
    }

    #[test]
    fn other_changes_are_made_beside_it() {
        let body = r#"{"stream":true,"model":"a","input":"hi"}"#;
        let insert = Some(Insert { conversation: "input", text: "x" });
        let patch = Patch { model: Some("b"), ask_usage: true, insert, ..Patch::default() };
        let spliced = view(body).splice(&Bytes::from_static(body.as_bytes()), &patch).into_bytes();
        let expected = r#"{"stream":true,"model":"b","input":[{"role":"system","content":"x"},{"role":"user","content":"hi"}],"stream_options":{"include_usage":true}}"#;
        assert_eq!(spliced, expected);
    }

    #[test]
    fn what_a_policy_sets_instead_of_the_conversation_stays() {
        let body = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
        let set = serde_json::value::to_raw_value("x").unwrap();
        let insert = Some(Insert { conversation: "messages", text: "x" });
        let patch = Patch { insert, set: &[("messages", &set)], ..Patch::default() };
        let spliced = view(body).splice(&Bytes::from_static(body.as_bytes()), &patch).into_bytes();
        assert_eq!(spliced, r#"{"messages":"x"}"#);
    }

    #[test]
    fn a_question_is_the_text_of_the_users_last_message() {
        for (conversation, body, expected) in [
            ("messages", r#"{"messages":[{"role":"user","content":"a\n\u0062"}]}"#, Some("a\nb")),
            (
                "messages",
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u"}},{"type":"text","text":"b"}]}]}"#,
                Some("a\nb"),
            ),
            ("input", r#"{"input":"a"}"#, Some("a")),
            (
                "input",
                r#"{"input":[{"role":"user","content":"a"},{"type":"function_call_output","output":"b"}]}"#,
                Some("a"),
            ),
            // Nothing that could be looked for.
            ("messages", r#"{"messages":[{"role":"user","content":" \n"}]}"#, None),
            (
                "messages",
                r#"{"messages":[{"role":"user","content":"a"},{"role":"user","content":[{"type":"image_url"}]}]}"#,
                None,
            ),
            ("messages", r#"{"messages":[{"role":"assistant","content":"a"}]}"#, None),
            ("messages", r#"{"messages":[]}"#, None),
            ("messages", r#"{"messages":"a"}"#, None),
            ("messages", r#"{"input":"a"}"#, None),
            ("input", r#"{"input":""}"#, None),
            ("input", r#"{"input":7}"#, None),
            (
                "messages",
                r#"{"messages":[1,null,{"role":"user"},{"role":"user","content":{}}]}"#,
                None,
            ),
        ] {
            assert_eq!(question(conversation, body).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn without_a_question_the_body_is_the_same_buffer() {
        let body = Bytes::from_static(br#"{"messages":[{"role":"assistant","content":"a"}]}"#);
        let insert = Some(Insert { conversation: "messages", text: "x" });
        let view = RequestView::parse_model_optional(&body).unwrap();
        let spliced = view.splice(&body, &Patch { insert, ..Patch::default() }).into_bytes();
        assert_eq!(spliced.as_ptr(), body.as_ptr());
    }
}
