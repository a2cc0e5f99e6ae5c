//! The metadata of requests: what 2026-07-28 wants with each, and older revisions must not see.

use std::borrow::Cow;

use memchr::memmem;
use serde::{Serialize, Serializer};
use serde_json::{Value, value::RawValue};

use super::Setup;
use crate::{revision::Revision, server::Members};

const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const PROGRESS_TOKEN: &str = "progressToken";

/// The parameters of a request, as they are sent.
pub(super) enum Params<'a> {
    /// There are none.
    None,
    /// As they came, or as somebody wrote them.
    Text(Cow<'a, RawValue>),
    /// Taken apart and changed.
    Members(Members<'a>),
}

impl Params<'_> {
    /// `None` where there are none.
    pub(super) fn present(&self) -> Option<&Self> {
        (!matches!(self, Params::None)).then_some(self)
    }

    /// What they consist of.
    pub(super) fn members(&self) -> Option<Cow<'_, Members<'_>>> {
        match self {
            Params::None => None,
            Params::Text(text) => Members::parse(text).map(Cow::Owned),
            Params::Members(members) => Some(Cow::Borrowed(members)),
        }
    }
}

impl Serialize for Params<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Params::None => serializer.serialize_unit(),
            Params::Text(text) => text.serialize(serializer),
            Params::Members(members) => members.serialize(serializer),
        }
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
    /// wanted, and the era's metadata is put in or taken out. All else keeps its bytes; parameters that need no change
    /// are not looked into.
    pub(super) fn put_in<'a>(&self, params: Option<&'a RawValue>, id: i64) -> Params<'a> {
        let as_it_is = || params.map_or(Params::None, |params| Params::Text(Cow::Borrowed(params)));
        let has_meta = || params.is_some_and(|params| memmem::find(params.get().as_bytes(), b"\"_meta\"").is_some());
        if !self.is_modern && !self.wants_progress && !has_meta() {
            return as_it_is();
        }
        let mut members = match params.map(Members::parse) {
            Some(Some(members)) => members,
            Some(None) => return as_it_is(), // no object; the server says what it thinks of it
            None => Members::default(),
        };
        let mut meta = members.get_in_text("_meta").and_then(Members::parse).unwrap_or_default();
        meta.remove(PROGRESS_TOKEN);
        if self.wants_progress {
            meta.put(PROGRESS_TOKEN, id);
        }
        if self.is_modern {
            meta.put(PROTOCOL_VERSION, Revision::V2026_07_28.as_str());
            meta.put(CLIENT_CAPABILITIES, self.capabilities);
            if meta.get(CLIENT_INFO).is_none() {
                meta.put(CLIENT_INFO, &self.setup.info);
            }
        } else {
            for name in [PROTOCOL_VERSION, CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL] {
                meta.remove(name);
            }
        }
        let is_empty = |members: &Members<'_>| members.iter().next().is_none();
        if is_empty(&meta) {
            members.remove("_meta");
        } else {
            members.set("_meta", meta.into_raw());
        }
        if params.is_none() && is_empty(&members) { Params::None } else { Params::Members(members) }
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
        let params = params.map(|text| RawValue::from_string(text.to_owned()).unwrap());
        meta.put_in(params.as_deref(), 7).present().map(|params| serde_json::to_string(params).unwrap())
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
        assert_eq!(put(false, false, Some(r#"{ "x" : 1 }"#)).unwrap(), r#"{ "x" : 1 }"#);
        assert_eq!(put(false, false, None), None);
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
