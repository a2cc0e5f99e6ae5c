//! The result of a server's tool as the answer of a call, made of the text that the server sent.
//!
//! As a value, a result takes several times its memory, and time to be read and written again. So the members are not parsed:
//! they are found in the text, and the answer is made of pieces of it.

use std::{mem, ops::Range};

use bytes::Bytes;
use serde_json::{Map, Value, value::RawValue};
use skep_mcp::spans;
use skep_tools::{error::ToolError, tool::Answer};

use super::tool::RESERVED;

/// Pieces of so many bytes are copied, as each piece has a cost of its own; longer ones stay where they are.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// An answer as JSON, in the form that [`Answer::to_json`] has.
pub(crate) struct PassedOn {
    /// What it consists of, in this order.
    pub(crate) pieces: Vec<Bytes>,
    /// Bytes of memory that the pieces keep.
    pub(crate) bytes_kept: usize,
}

impl PassedOn {
    /// The answer with the members of a result, and `text` for what is text in it. Gives a result back that must be read to
    /// be understood: it is none, or says that the tool failed, or asks for something.
    pub(crate) fn new(result: Box<RawValue>) -> Result<PassedOn, Box<RawValue>> {
        let Some(parts) = parts(result.get()) else { return Err(result) };
        let whole = Bytes::from(String::from(Box::<str>::from(result)));
        let mut bytes_kept = if parts.iter().any(|part| matches!(part, Part::Kept(_))) { whole.len() } else { 0 };
        let pieces = parts.into_iter().map(|part| match part {
            Part::Kept(place) => whole.slice(place),
            Part::Copied(text) => {
                bytes_kept += text.capacity();
                Bytes::from(text)
            }
        });
        let pieces = pieces.collect();
        Ok(PassedOn { pieces, bytes_kept })
    }

    /// The same as values.
    pub(crate) fn into_answer(self) -> Result<Answer, ToolError> {
        let value: Result<Map<String, Value>, _> = serde_json::from_slice(&self.pieces.concat());
        let mut value =
            value.map_err(|error| ToolError::failed(format!("the server's answer cannot be read: {error}")))?;
        value.shift_remove("status");
        Ok(Answer { value, cached: false })
    }
}

enum Part {
    /// What is there in the text of the result.
    Kept(Range<usize>),
    Copied(String),
}

/// An answer that is being made of a result.
struct Parts<'a> {
    result: &'a str,
    done: Vec<Part>,
    copied: String,
}

impl Parts<'_> {
    fn write(&mut self, text: &str) {
        self.copied.push_str(text);
    }

    /// Write what is in this place of the result.
    fn keep(&mut self, place: Range<usize>) {
        if place.len() <= COPIED_BYTES_MAX {
            self.copied.push_str(self.result.get(place).unwrap_or_default());
            return;
        }
        self.close();
        self.done.push(Part::Kept(place));
    }

    fn close(&mut self) {
        if !self.copied.is_empty() {
            self.done.push(Part::Copied(mem::take(&mut self.copied)));
        }
    }
}

/// The answer that a result makes; `None` if it must be read to be understood.
fn parts(result: &str) -> Option<Vec<Part>> {
    let mut parts = Parts { result, done: Vec::new(), copied: r#"{"status":"ok""#.to_owned() };
    let mut content = 0..0;
    for member in spans::members(result)? {
        let value = member.place.end - member.value.len()..member.place.end;
        match &*member.name {
            "isError" if member.value == "false" => continue,
            "resultType" if member.value == r#""complete""# => continue,
            "isError" | "resultType" => return None,
            "content" => content = value,
            "text" => continue,
            name if RESERVED.contains(&name) => continue,
            _ => {}
        }
        parts.write(",");
        parts.keep(member.place);
    }
    parts.write(r#","text":""#);
    for (index, place) in texts(result, content).enumerate() {
        if index > 0 {
            parts.write(r"\n");
        }
        parts.keep(place);
    }
    parts.write(r#""}"#);
    parts.close();
    Some(parts.done)
}

/// Where the texts are of which a content consists, without their quotation marks.
fn texts(result: &str, content: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let items = result.get(content.clone()).and_then(spans::items).into_iter().flatten();
    items.filter_map(move |place| {
        let begin = content.start + place.start;
        let item = result.get(begin..content.start + place.end)?;
        let text = spans::members(item)?.filter(|member| member.name == "text").last()?;
        let is_string = text.value.starts_with('"');
        is_string.then(|| begin + text.place.end - text.value.len() + 1..begin + text.place.end - 1)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::tool::answer, *};

    fn passed_on(result: &Value) -> Option<Value> {
        let result = serde_json::value::to_raw_value(result).unwrap();
        let answer = PassedOn::new(result).ok()?;
        Some(serde_json::from_slice(&answer.pieces.concat()).unwrap())
    }

    /// What is answered if the result is parsed.
    fn parsed(result: &Value) -> Option<Value> {
        let value = answer("s__t", &serde_json::value::to_raw_value(result).unwrap()).ok()?;
        Some(Answer { value, cached: false }.to_json())
    }

    #[test]
    fn what_is_large_is_not_copied() {
        let text = format!("{}\n\u{e4}\"", "x".repeat(100_000));
        let result = json!({ "content": [{ "type": "text", "text": text }, { "text": "b" }], "isError": false });
        let raw = serde_json::value::to_raw_value(&result).unwrap();
        let length = raw.get().len();
        let answer = PassedOn::new(raw).unwrap_or_else(|_| panic!("it is complete"));
        assert!(answer.bytes_kept < length + 1000, "{} bytes for {length}", answer.bytes_kept);
        let read: Value = serde_json::from_slice(&answer.pieces.concat()).unwrap();
        assert_eq!(read["text"], format!("{text}\nb"));
        assert_eq!(Some(read), parsed(&result));
        assert_eq!(answer.into_answer().unwrap().to_json(), parsed(&result).unwrap());
    }

    #[test]
    fn what_must_be_read_to_be_understood_is_not_passed_on() {
        for result in [
            json!([1]),
            json!({ "isError": true, "content": [] }),
            json!({ "resultType": "input_required" }),
            json!({ "resultType": 7 }),
        ] {
            assert_eq!(passed_on(&result), None, "{result}");
        }
    }

    #[test]
    fn many_small_pieces_become_few() {
        let parts: Vec<Value> = (0..10_000).map(|n| json!({ "text": n.to_string() })).collect();
        let answer = PassedOn::new(serde_json::value::to_raw_value(&json!({ "content": parts })).unwrap());
        assert!(answer.is_ok_and(|answer| answer.pieces.len() <= 3));
    }

    fn content() -> impl Strategy<Value = Value> {
        let part = prop_oneof![
            ".{0,6}".prop_map(|text| json!({ "type": "text", "text": text })),
            (4090_usize..4100).prop_map(|bytes| json!({ "text": "\"".repeat(bytes), "annotations": { "text": 7 } })),
            Just(json!({ "type": "image", "data": "" })),
            Just(json!({ "text": 7 })),
            Just(json!(["text"])),
        ];
        prop_oneof![prop::collection::vec(part, 0..4).prop_map(Value::from), Just(json!("no list")), Just(json!({}))]
    }

    proptest! {
        #[test]
        fn what_is_passed_on_says_the_same_as_what_is_parsed(
            content in prop::option::of(content()),
            others in prop::collection::btree_map(
                prop_oneof!["[a-d]{1,2}", "structuredContent|text|status|cached|code|_meta|isError|resultType|te\"xt"],
                prop_oneof![Just(json!(false)), Just(json!("complete")), Just(json!([1, { "text": "no" }]))],
                0..5,
            ),
        ) {
            let mut result: Map<String, Value> = others.into_iter().collect();
            result.extend(content.map(|content| ("content".to_owned(), content)));
            let result = Value::Object(result);
            match passed_on(&result) {
                Some(answer) => prop_assert_eq!(Some(answer), parsed(&result)),
                None => prop_assert!(result.get("isError").or(result.get("resultType")).is_some()),
            }
        }
    }
}
