//! Requests as they are sent, and the metadata in them: what 2026-07-28 wants with each, and older revisions must not see.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{
    message::{json, one_line},
    revision::Revision,
    server::Members,
    spans,
};

const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const PROGRESS_TOKEN: &str = "progressToken";
/// Bytes that the envelope and the metadata of most requests come to.
const FRAME_SIZE: usize = 320;

/// A request that has no id yet.
pub(super) struct Asking<'a> {
    pub(super) method: &'a str,
    pub(super) params: &'a Members<'a>,
    /// Without it, the parameters are sent as they are.
    pub(super) meta: Option<Meta<'a>>,
}

impl Asking<'_> {
    /// The text of the request, in one line.
    pub(super) fn text(&self, id: i64) -> String {
        let mut text = String::with_capacity(self.params.len_in_bytes() + FRAME_SIZE);
        text.extend([r#"{"jsonrpc":"2.0","id":"#, itoa::Buffer::new().format(id), r#","method":"#]);
        write_string(&mut text, self.method);
        text.push_str(r#","params":"#);
        let begin = text.len();
        text.push('{');
        match &self.meta {
            Some(meta) => meta.put_in(&mut text, self.params, id),
            None => self.params.iter().for_each(|(name, value)| write_named(&mut text, name, value.get())),
        }
        match self.params.is_empty() && text.len() == begin + 1 {
            true => text.truncate(begin - r#","params":"#.len()),
            false => text.push('}'),
        }
        text.push('}');
        let mut text = one_line(text);
        text.shrink_to_fit(); // memory that is full is shared without more of it
        text
    }
}

/// What is said about a request.
pub(super) struct Meta<'a> {
    /// What this client is, as JSON.
    pub(super) info: &'a str,
    pub(super) is_modern: bool,
    pub(super) capabilities: &'a Value,
    pub(super) wants_progress: bool,
}

impl Meta<'_> {
    /// Write the parameters of request `id`: the caller's progress token gives way to the id, if progress is wanted, and the
    /// era's metadata is put in or taken out. All else keeps its bytes.
    fn put_in(&self, text: &mut String, params: &Members<'_>, id: i64) {
        let mut is_written = false;
        for (name, value) in params.iter() {
            if name != "_meta" {
                write_named(text, name, value.get());
            } else if !is_written {
                self.write(text, Some(value.get()), id);
                is_written = true;
            } // else the same twice: what follows is not meant
        }
        if !is_written {
            self.write(text, None, id);
        }
    }

    /// Write the metadata, with what was there before, unless there is none.
    fn write(&self, text: &mut String, before: Option<&str>, id: i64) {
        let begin = text.len();
        write_own(text, "_meta", "{");
        let empty = text.len();
        let mut names_client = false;
        for member in before.and_then(spans::members).into_iter().flatten() {
            let stays = match &*member.name {
                PROGRESS_TOKEN | PROTOCOL_VERSION | CLIENT_CAPABILITIES => false,
                CLIENT_INFO => self.is_modern && !std::mem::replace(&mut names_client, true),
                LOG_LEVEL => self.is_modern,
                _ => true,
            };
            if stays {
                write_member(text, member.quoted, member.value);
            }
        }
        if self.wants_progress {
            write_own(text, PROGRESS_TOKEN, &id.to_string());
        }
        if self.is_modern {
            write_own(text, PROTOCOL_VERSION, "");
            write_string(text, Revision::V2026_07_28.as_str());
            write_own(text, CLIENT_CAPABILITIES, "");
            let _ = write!(text, "{}", self.capabilities); // a text takes everything
            if !names_client {
                write_own(text, CLIENT_INFO, self.info);
            }
        }
        if text.len() == empty { text.truncate(begin) } else { text.push('}') }
    }
}

/// Write a member, and what parts it from the one before.
fn write_member(object: &mut String, quoted: &str, value: &str) {
    begin_member(object);
    for part in [quoted, ":", value] {
        object.push_str(part);
    }
}

/// The same with a name that holds nothing to be escaped.
fn write_own(object: &mut String, name: &str, value: &str) {
    begin_member(object);
    for part in ["\"", name, "\":", value] {
        object.push_str(part);
    }
}

/// The same with any name.
fn write_named(object: &mut String, name: &str, value: &str) {
    begin_member(object);
    write_string(object, name);
    object.push(':');
    object.push_str(value);
}

fn write_string(text: &mut String, string: &str) {
    let is_plain = string.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'-'));
    match is_plain {
        true => text.extend(["\"", string, "\""]),
        false => text.push_str(&json(string)),
    }
}

fn begin_member(object: &mut String) {
    if object.as_bytes().last() != Some(&b'{') {
        object.push(',');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(is_modern: bool, wants_progress: bool, params: Option<&str>) -> Option<String> {
        let info = r#"{"name":"test","version":"1"}"#;
        let meta = Meta { info, is_modern, capabilities: &json!({ "roots": {} }), wants_progress };
        let params = params.map_or(Members::default(), |text| serde_json::from_str(text).unwrap());
        let text = Asking { method: "a/b", params: &params, meta: Some(meta) }.text(7);
        let rest = text.strip_prefix(r#"{"jsonrpc":"2.0","id":7,"method":"a/b""#).unwrap().strip_suffix('}').unwrap();
        (!rest.is_empty()).then(|| rest.strip_prefix(r#","params":"#).unwrap().to_owned())
    }

    #[test]
    fn a_request_is_one_line_of_json_whatever_is_in_it() {
        let text = r#"{"a\"ä": [1,
            2]}"#;
        let params: Members = serde_json::from_str(text).unwrap();
        let sent = Asking { method: "a\"b", params: &params, meta: None }.text(-7);
        assert!(!sent.contains('\n'));
        let sent: Value = serde_json::from_str(&sent).unwrap();
        assert_eq!(sent, json!({ "jsonrpc": "2.0", "id": -7, "method": "a\"b", "params": { "a\"ä": [1, 2] } }));
    }

    #[test]
    fn what_an_older_server_must_not_see_is_taken_out_and_the_rest_keeps_its_bytes() {
        let text = r#"{"x": 1.50, "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","a/b":[ 1e400 ],"progressToken":"t"}, "y":"\u00e4"}"#;
        assert_eq!(put(false, false, Some(text)).unwrap(), r#"{"x":1.50,"_meta":{"a/b":[ 1e400 ]},"y":"\u00e4"}"#);
        assert_eq!(
            put(false, true, Some(text)).unwrap(),
            r#"{"x":1.50,"_meta":{"a/b":[ 1e400 ],"progressToken":7},"y":"\u00e4"}"#
        );
        assert_eq!(put(false, false, Some(r#"{"_meta":{"progressToken":1}}"#)).unwrap(), "{}");
        assert_eq!(put(false, false, Some(r#"{ "x" : [ 1 ] }"#)).unwrap(), r#"{"x":[ 1 ]}"#);
        assert_eq!(put(false, false, None), None);
        let name = r#"{"a\"ä":1,"_meta":{"b\"ä":2}}"#;
        assert_eq!(put(false, true, Some(name)).unwrap(), r#"{"a\"ä":1,"_meta":{"b\"ä":2,"progressToken":7}}"#);
    }

    #[test]
    fn a_newer_server_hears_the_connections_revision_and_the_capabilities_of_the_call() {
        let text = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"1999-01-01","io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"io.modelcontextprotocol/clientInfo":{"name":"caller"}}}"#;
        let sent: Value = serde_json::from_str(&put(true, false, Some(text)).unwrap()).unwrap();
        assert_eq!(
            sent["_meta"],
            json!({ PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: { "roots": {} }, CLIENT_INFO: { "name": "caller" } })
        );
        let sent: Value = serde_json::from_str(&put(true, true, None).unwrap()).unwrap();
        assert_eq!(sent["_meta"][CLIENT_INFO]["name"], "test");
        assert_eq!(sent["_meta"]["progressToken"], 7);
    }
}
