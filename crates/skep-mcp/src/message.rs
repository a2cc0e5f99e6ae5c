//! The envelope: JSON-RPC 2.0, with whatever it carries left as text.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::{RawValue, to_raw_value};

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
/// Lists and objects of a message may be nested so deep: what only passes through here is taken apart by others.
pub const DEPTH_MAX: usize = 128;
/// Messages of one batch, whoever sends it; one with more is refused as a whole.
pub const BATCH_MAX: usize = 1024;

/// Names a request among those of its sender.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the two types that the protocol allows")]
pub enum Id {
    Number(i64),
    String(String),
}

impl Id {
    /// Write it into a text.
    pub(crate) fn write(&self, text: &mut String) {
        match self {
            Id::Number(number) => text.push_str(itoa::Buffer::new().format(*number)),
            Id::String(string) => text.push_str(&json(string)),
        }
    }
}

/// The name of a method; those that most messages have are not copied.
pub type Method = Cow<'static, str>;

/// See [`Method`].
const USUAL_METHODS: [&str; 4] = ["tools/call", "resources/read", "prompts/get", "notifications/progress"];

/// Read the name of a method.
fn method(text: &str) -> serde_json::Result<Method> {
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match USUAL_METHODS.into_iter().find(|usual| bare == Some(usual)) {
        Some(usual) => Ok(Cow::Borrowed(usual)),
        None => serde_json::from_str(text).map(Cow::Owned),
    }
}

/// A request, which wants a response.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "JSON-RPC's names")]
pub struct Request {
    pub id: Id,
    pub method: Method,
    pub params: Option<Box<RawValue>>,
}

/// A notification, which wants none.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "JSON-RPC's names")]
pub struct Notification {
    pub method: Method,
    pub params: Option<Box<RawValue>>,
}

/// A response. The id is missing only in errors about a request whose id could not be read.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "JSON-RPC's names")]
pub struct Response {
    pub id: Option<Id>,
    pub outcome: Result<Box<RawValue>, ErrorObject>,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "JSON-RPC's names")]
pub struct ErrorObject {
    pub code: i64,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl ErrorObject {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> ErrorObject {
        ErrorObject { code, message: message.into(), data: None }
    }

    /// The same with data.
    pub fn with_data(self, data: &impl Serialize) -> ErrorObject {
        ErrorObject { data: to_raw_value(data).ok(), ..self }
    }
}

/// One message.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "JSON-RPC's names")]
pub enum Message {
    Request(Request),
    Notification(Notification),
    Response(Response),
}

impl Message {
    /// Its text, in one line.
    pub fn to_line(&self) -> String {
        let text = match self {
            Message::Request(Request { id, method, params }) => {
                return request_line(id, method, params.as_deref().map(RawValue::get));
            }
            Message::Notification(Notification { method, params }) => {
                format!(r#"{{"jsonrpc":"2.0","method":{}{}}}"#, json(method), member(params.as_deref()))
            }
            Message::Response(Response { id, outcome }) => match outcome {
                Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, json(id)),
                Err(error) => format!(r#"{{"jsonrpc":"2.0","id":{},"error":{}}}"#, json(id), json(error)),
            },
        };
        one_line(text)
    }
}

/// The text of a request, in one line.
pub(crate) fn request_line(id: &Id, method: &str, params: Option<&str>) -> String {
    let (id, method) = (json(id), json(method));
    let (name, params) = params.map_or(("", ""), |params| (r#","params":"#, params));
    one_line([r#"{"jsonrpc":"2.0","id":"#, &id, r#","method":"#, &method, name, params, "}"].concat())
}

/// What others wrote may be in several lines: outside of strings they mean nothing in JSON, and within strings there are
/// none.
pub(crate) fn one_line(text: String) -> String {
    if is_one_line(&text) { text } else { text.replace(['\n', '\r'], " ") }
}

pub(crate) fn is_one_line(text: &str) -> bool {
    memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_none()
}

fn member(params: Option<&(impl Serialize + ?Sized)>) -> String {
    params.map_or(String::new(), |params| format!(r#","params":{}"#, json(params)))
}

pub(crate) fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// What came in at once.
#[derive(Debug)]
pub enum Incoming {
    /// One message.
    Single(Message),
    /// A list of messages (2025-03-26); each stands for itself.
    Batch(Vec<Result<Message, Malformed>>),
}

/// What came in is no message.
#[derive(Clone, Debug)]
pub struct Malformed {
    /// The id, if it could be read.
    pub id: Option<Id>,
    /// The answer.
    pub error: ErrorObject,
}

/// The members that mean something in an envelope.
#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Name {
    Jsonrpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    #[serde(other)]
    Other,
}

/// An envelope, taken apart.
#[derive(Default)]
struct Raw<'a> {
    members: [Option<&'a RawValue>; 6],
    /// One of them is there twice.
    has_duplicate: bool,
    /// The id is.
    has_ids: bool,
}

impl<'a> Raw<'a> {
    fn get(&self, name: Name) -> Option<&'a RawValue> {
        self.members.get(name as usize).copied().flatten()
    }

    /// The same, where `null` says as much as nothing: some libraries write it for what they leave out.
    fn value(&self, name: Name) -> Option<&'a RawValue> {
        self.get(name).filter(|value| value.get() != "null")
    }
}

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Raw<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
                let mut raw = Raw::default();
                while let Some(name) = map.next_key::<Name>()? {
                    let value = map.next_value::<&RawValue>()?;
                    let Some(member) = raw.members.get_mut(name as usize) else { continue };
                    if member.replace(value).is_some() {
                        raw.has_duplicate = true;
                        raw.has_ids |= matches!(name, Name::Id);
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Read what came in at once.
pub fn parse(text: &[u8]) -> Result<Incoming, Malformed> {
    if !text.trim_ascii_start().starts_with(b"[") {
        return read(text).map(Incoming::Single);
    }
    let parts: Vec<&RawValue> = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
    if parts.is_empty() {
        return Err(malformed(None, INVALID_REQUEST, "a batch must not be empty"));
    }
    if parts.len() > BATCH_MAX {
        return Err(malformed(None, INVALID_REQUEST, format!("a batch has at most {BATCH_MAX} messages")));
    }
    if is_too_deep(text) {
        return Err(too_deep());
    }
    Ok(Incoming::Batch(parts.into_iter().map(|part| read(part.get().as_bytes())).collect()))
}

fn not_json(error: &serde_json::Error) -> Malformed {
    malformed(None, PARSE_ERROR, format!("this is not JSON: {error}"))
}

fn too_deep() -> Malformed {
    malformed(None, INVALID_REQUEST, format!("the message is nested deeper than {DEPTH_MAX}"))
}

/// Whether valid JSON is nested deeper than it may be. Most has fewer brackets than that, which is quickly seen: in parts whose
/// number fits a byte, many bytes are looked at at once.
fn is_too_deep(json: &[u8]) -> bool {
    let opening = |part: &[u8]| part.iter().map(|byte| u8::from(matches!(byte, b'[' | b'{'))).sum::<u8>();
    let opening: usize = json.chunks(usize::from(u8::MAX)).map(|part| usize::from(opening(part))).sum();
    opening > DEPTH_MAX && depth(json) > DEPTH_MAX
}

/// How deep valid JSON is nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn read(text: &[u8]) -> Result<Message, Malformed> {
    // As a whole it is quickly seen to be UTF-8; what is not gets its error from the other.
    let parsed = std::str::from_utf8(text).map_or_else(|_| serde_json::from_slice(text), serde_json::from_str);
    let raw: Raw<'_> = match parsed {
        Ok(raw) if text.trim_ascii_start().starts_with(b"{") => raw,
        read => {
            // What is no JSON at all is told before what is no message.
            serde_json::from_slice::<&RawValue>(text).map_err(|error| not_json(&error))?;
            let why = match read {
                Err(error) if text.trim_ascii_start().starts_with(b"{") => error.to_string(),
                _ => "a message is an object".to_owned(),
            };
            return Err(malformed(None, INVALID_REQUEST, why));
        }
    };
    if is_too_deep(text) {
        return Err(too_deep());
    }
    let id: Option<Id> = raw.get(Name::Id).and_then(|id| serde_json::from_str(id.get()).ok());
    let id = id.filter(|_| !raw.has_ids);
    let invalid = |message: &str| Err(malformed(id.clone(), INVALID_REQUEST, message));
    if raw.has_duplicate {
        return invalid("a member of the message is there twice; which one is meant cannot be known");
    }
    if raw.get(Name::Jsonrpc).map(RawValue::get) != Some("\"2.0\"") {
        return invalid("`jsonrpc` must be \"2.0\"");
    }
    match (raw.get(Name::Method), raw.get(Name::Result), raw.value(Name::Error)) {
        (Some(method), None, None) => {
            let Ok(method) = self::method(method.get()) else {
                return invalid("`method` must be a string");
            };
            let params = raw.value(Name::Params).map(RawValue::to_owned);
            if params.as_deref().is_some_and(|params| !params.get().starts_with(['{', '['])) {
                return invalid("`params` must be an object");
            }
            match (raw.get(Name::Id), id) {
                (None, _) => Ok(Message::Notification(Notification { method, params })),
                (Some(_), Some(id)) => Ok(Message::Request(Request { id, method, params })),
                (Some(_), None) => Err(malformed(None, INVALID_REQUEST, "`id` must be a string or an integer")),
            }
        }
        (None, Some(result), None) if id.is_some() => {
            Ok(Message::Response(Response { id, outcome: Ok(result.to_owned()) }))
        }
        (None, Some(_), None) => invalid("a result needs the `id` of its request, a string or an integer"),
        (None, None, Some(error)) => match serde_json::from_str(error.get()) {
            Ok(error) => Ok(Message::Response(Response { id, outcome: Err(error) })),
            Err(_) => invalid("`error` must have `code` and `message`"),
        },
        _ => invalid("a message has either `method`, `result` or `error`"),
    }
}

fn malformed(id: Option<Id>, code: i64, message: impl Into<String>) -> Malformed {
    Malformed { id, error: ErrorObject::new(code, message) }
}

#[cfg(test)]
mod tests;
