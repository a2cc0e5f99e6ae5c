//! The parameters of requests, and the metadata in them: what 2026-07-28 wants with each, and older revisions must not see.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::Setup;
use crate::{message::json, revision::Revision, server::Members, spans};

const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const PROGRESS_TOKEN: &str = "progressToken";
/// Bytes that the metadata of most requests comes to.
const META_SIZE: usize = 512;

/// The parameters of a request, as they are sent. Some requests have none.
pub(super) struct Params(Option<String>);

impl Params {
    /// There are none.
    pub(super) const NONE: Params = Params(None);

    /// Their text.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// A member of them, as a type; `None` also where it does not fit.
    pub(super) fn read<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        let member = spans::members(self.text()?)?.find(|member| member.name == name)?;
        serde_json::from_str(member.value).ok()
    }
}

impl From<Box<RawValue>> for Params {
    fn from(params: Box<RawValue>) -> Params {
        Params(Some(Box::<str>::from(params).into_string()))
    }
}

/// What is said about a request.
pub(super) struct Meta<'a> {
    pub(super) setup: &'a Setup,
    pub(super) is_modern: bool,
    pub(super) capabilities: &'a Value,
    pub(super) wants_progress: bool,
}

impl Meta<'_> {
    /// The parameters of request `id` as they are sent: the caller's progress token gives way to the id, if progress is
    /// wanted, and the era's metadata is put in or taken out. All else keeps its bytes.
    pub(super) fn put_in(&self, params: &Members<'_>, id: i64) -> Params {
        let mut text = String::with_capacity(params.len_in_bytes() + META_SIZE);
        text.push('{');
        let mut is_written = false;
        for (name, value) in params.iter() {
            if name != "_meta" {
                write_named(&mut text, name, value.get());
            } else if !is_written {
                self.write(&mut text, Some(value.get()), id);
                is_written = true;
            } // else the same twice: what follows is not meant
        }
        if !is_written {
            self.write(&mut text, None, id);
        }
        if params.is_empty() && text == "{" {
            return Params::NONE;
        }
        text.push('}');
        Params(Some(text))
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
            write_own(text, PROTOCOL_VERSION, &json(Revision::V2026_07_28.as_str()));
            write_own(text, CLIENT_CAPABILITIES, &json(self.capabilities));
            if !names_client {
                write_own(text, CLIENT_INFO, &json(&self.setup.info));
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
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_plain { write_own(object, name, value) } else { write_member(object, &json(name), value) }
}

fn begin_member(object: &mut String) {
    if !object.ends_with('{') {
        object.push(',');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn put(is_modern: bool, wants_progress: bool, params: Option<&str>) -> Option<String> {
        let setup = Setup {
            info: json!({ "name": "test", "version": "1" }),
            capabilities: json!({}),
            handler: Arc::new(()),
            limits: super::super::Limits::default(),
            revision: None,
        };
        let meta = Meta { setup: &setup, is_modern, capabilities: &json!({ "roots": {} }), wants_progress };
        let params = params.map_or(Members::default(), |text| serde_json::from_str(text).unwrap());
        meta.put_in(&params, 7).text().map(str::to_owned)
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
