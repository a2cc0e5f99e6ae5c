//! The metadata of requests: what 2026-07-28 wants with each, and older revisions must not see.

use serde_json::{Value, value::RawValue};

use super::Setup;
use crate::{revision::Revision, server::Members};

const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const PROGRESS_TOKEN: &str = "progressToken";

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
    pub(super) fn put_in(&self, params: Option<Box<RawValue>>, id: i64) -> Option<Box<RawValue>> {
        let has_meta = params.as_deref().is_some_and(|params| params.get().contains("\"_meta\""));
        if !self.is_modern && !self.wants_progress && !has_meta {
            return params;
        }
        let mut members = match params.as_deref().map(Members::parse) {
            Some(Some(members)) => members,
            Some(None) => return params, // no object; the server says what it thinks of it
            None => Members::default(),
        };
        let mut meta = members.get("_meta").and_then(Members::parse).unwrap_or_default();
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
        let is_nothing = params.is_none() && is_empty(&members);
        (!is_nothing).then(|| members.into_raw())
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
        meta.put_in(params, 7).map(|params| params.get().to_owned())
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
