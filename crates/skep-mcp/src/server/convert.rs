//! What a service gives, in the form of the caller's revision.
//!
//! Most results need no change and are not even parsed: a member that must go or come is first looked for as text, which
//! costs a fraction of parsing and leaves megabytes of content alone.

use std::ops::Range;

use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    Caller, Description, Members, Outcome, code,
    edited::{Edited, Fate},
    peer::missing_capability,
};
use crate::{
    message::{ErrorObject, json},
    revision::Revision,
    spans::{self, Span},
};

/// Where a result of 2026-07-28 names its server.
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// A result of fewer bytes is looked through sooner than it is searched for a name.
const SMALL: usize = 1024;
/// Bytes of all that is added to a result, but for the server's name.
const FIRST_SIZE: usize = 128;
/// Characters of an unknown kind of result that an error names.
const KIND_CHARS_SHOWN: usize = 50;
/// Members of results that older revisions do not have.
const MODERN_MEMBERS: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

/// Whose result it is that a caller of 2026-07-28 gets.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// This server's own.
    Server,
    /// A service's, for this caller: it may be complete, or ask for what the caller declared that it answers.
    Service(&'a Caller),
}

/// The answer to a request of an older revision.
pub(super) fn lowered(method: &str, outcome: Outcome, to: Revision) -> Result<Edited, ErrorObject> {
    match outcome {
        Ok(result) => lower(method, result, to),
        Err(error) => Err(lower_error(method, error)),
    }
}

/// The answer to a request of 2026-07-28. `uri`: that in its parameters.
pub(super) fn lifted(
    method: &str,
    uri: impl FnOnce() -> Option<String>,
    outcome: Outcome,
    of: Of<'_>,
    info: &RawValue,
) -> Result<Edited, ErrorObject> {
    let result = outcome.map_err(|error| lift_error(error, uri))?;
    lift(method, result, of, info)
}

/// Check the kind of a service's result, which callers take for this server's word.
fn check_kind(kind: &str, result: &str, caller: &Caller) -> Result<(), ErrorObject> {
    match serde_json::from_str::<String>(kind).as_deref() {
        Ok("input_required") => check_requests(result, caller),
        _ => check_complete(kind),
    }
}

/// The same, where nothing may be asked any more.
pub(super) fn check_complete(kind: &str) -> Result<(), ErrorObject> {
    let is_complete = serde_json::from_str::<String>(kind).is_ok_and(|kind| kind == "complete");
    if is_complete { Ok(()) } else { Err(unknown_kind(kind)) }
}

/// What a result asks its caller must be what that declared.
fn check_requests(result: &str, caller: &Caller) -> Result<(), ErrorObject> {
    let requests = spans::members(result).into_iter().flatten().filter(|span| span.name == "inputRequests");
    for requests in requests {
        for request in spans::members(requests.value).into_iter().flatten() {
            let request: Wanted = serde_json::from_str(request.value).map_err(|_| {
                ErrorObject::new(code::INTERNAL_ERROR, "the server asked for something that is no request")
            })?;
            let params = request.params.as_deref().unwrap_or(RawValue::NULL);
            caller
                .allows(&request.method, params)
                .map_err(|required| missing_capability(&request.method, &required))?;
        }
    }
    Ok(())
}

/// A request within a result.
#[derive(serde::Deserialize)]
struct Wanted {
    method: String,
    params: Option<Box<RawValue>>,
}

fn unknown_kind(kind: &str) -> ErrorObject {
    let kind: String = kind.chars().take(KIND_CHARS_SHOWN).collect();
    ErrorObject::new(
        code::INTERNAL_ERROR,
        format!("the server answered with a kind of result that nobody asked for: {kind}"),
    )
}

/// The same for a result that is kept as it is, in a task of 2026-07-28: only errors change.
pub(super) fn error_of(outcome: Outcome, uri: impl FnOnce() -> Option<String>) -> Outcome {
    outcome.map_err(|error| lift_error(error, uri))
}

/// Add what 2026-07-28 wants on every result (`resultType`, the server's name) and on those that may be cached.
fn lift(method: &str, result: Box<RawValue>, of: Of<'_>, info: &RawValue) -> Result<Edited, ErrorObject> {
    let text = result.get();
    let is_cacheable = matches!(
        method,
        "server/discover"
            | "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
    );
    let Some(inside) = text.strip_prefix('{') else { return Err(not_an_object(method)) };
    let has = |name: &str| has_member(text, name);
    let is_looked_into = is_cacheable || text.len() < SMALL || has("resultType") || has("_meta") || has_escapes(text);
    let (mut kind, mut meta, mut has_time, mut has_scope) = (None, None, false, false);
    for span in spans::members(text).filter(|_| is_looked_into).into_iter().flatten() {
        match &*span.name {
            // Of two, some callers take the first and others the last.
            "resultType" if kind.is_some() => return Err(said_twice("resultType")),
            "resultType" => kind = Some(span.value),
            "_meta" if meta.is_some() => return Err(said_twice("_meta")),
            "_meta" => meta = Some(span),
            "ttlMs" => has_time = true,
            "cacheScope" => has_scope = true,
            _ => {}
        }
    }
    if let (Some(kind), Of::Service(caller)) = (kind, of) {
        check_kind(kind, text, caller)?;
    }
    let mut first = String::with_capacity(FIRST_SIZE + info.get().len());
    if kind.is_none() {
        first.push_str(r#""resultType":"complete","#);
    }
    let is_complete = |kind| serde_json::from_str::<String>(kind).is_ok_and(|kind| kind == "complete");
    if is_cacheable && kind.is_none_or(is_complete) {
        first.push_str(if has_time { "" } else { r#""ttlMs":0,"# });
        first.push_str(if has_scope { "" } else { r#""cacheScope":"private","# });
    }
    if meta.is_none() {
        first.extend(["\"_meta\":{\"", SERVER_INFO, "\":", info.get(), "},"]);
    }
    if inside.trim_start().starts_with('}') {
        first.pop();
    }
    let named = meta.map_or_else(Vec::new, |meta| naming_server(&meta, info));
    let mut edited = Edited::from(result);
    if !first.is_empty() {
        edited.change(1..1, first);
    }
    for (place, text) in named {
        edited.change(place, text);
    }
    Ok(edited)
}

/// The changes by which the metadata of a result names this server, whomever it named before.
fn naming_server(meta: &Span<'_>, info: &RawValue) -> Vec<(Range<usize>, String)> {
    let begin = meta.place.end - meta.value.len();
    let named = format!("\"{SERVER_INFO}\":{}", info.get());
    let Some(inside) = meta.value.strip_prefix('{') else {
        return vec![(begin..meta.place.end, format!("{{{named}}}"))]; // there is none
    };
    let named_by: Vec<_> =
        spans::members(meta.value).into_iter().flatten().filter(|member| member.name == SERVER_INFO).collect();
    if !named_by.is_empty() {
        let others = named_by.into_iter().filter(|member| member.value != info.get());
        let place = |member: Span<'_>| begin + member.place.end - member.value.len()..begin + member.place.end;
        return others.map(|member| (place(member), info.get().to_owned())).collect();
    }
    let comma = if inside.trim_start().starts_with('}') { "" } else { "," };
    vec![(begin + 1..begin + 1, named + comma)]
}

/// Whether the name of a member may be written in another way than as it is.
fn has_escapes(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), br"\u00").is_some()
}

fn said_twice(name: &str) -> ErrorObject {
    ErrorObject::new(code::INTERNAL_ERROR, format!("the server answered with two members {name:?}"))
}

/// Whether there may be a member of this name, at any depth.
fn has_member(text: &str, name: &str) -> bool {
    let finder = memchr::memmem::Finder::new(name);
    finder.find_iter(text.as_bytes()).any(|at| text.as_bytes()[..at].ends_with(b"\""))
}

fn not_an_object(method: &str) -> ErrorObject {
    ErrorObject::new(code::INTERNAL_ERROR, format!("the server's result of {method} is not an object"))
}

/// Codes that 2026-07-28 does not have.
fn lift_error(error: ErrorObject, uri: impl FnOnce() -> Option<String>) -> ErrorObject {
    const URL_ELICITATION_REQUIRED: i64 = -32042;
    match error.code {
        code::RESOURCE_NOT_FOUND => {
            let error = ErrorObject { code: code::INVALID_PARAMS, ..error };
            match (&error.data, uri()) {
                (None, Some(uri)) => error.with_data(&json!({ "uri": uri })),
                _ => error,
            }
        }
        URL_ELICITATION_REQUIRED => ErrorObject { code: code::INVALID_PARAMS, ..error },
        _ => error,
    }
}

/// Codes that older revisions do not have.
fn lower_error(method: &str, error: ErrorObject) -> ErrorObject {
    let names_uri = error.data.as_deref().and_then(Members::parse).is_some_and(|data| data.get("uri").is_some());
    let code = match error.code {
        code::INVALID_PARAMS if method == "resources/read" && names_uri => code::RESOURCE_NOT_FOUND,
        code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION => code::INVALID_PARAMS,
        code => code,
    };
    ErrorObject { code, ..error }
}

/// Take out what the revision does not know.
fn lower(method: &str, result: Box<RawValue>, to: Revision) -> Result<Edited, ErrorObject> {
    let is_older = to < Revision::V2025_06_18;
    let has = |name: &str| has_member(result.get(), name);
    let is_touched = match method {
        _ if result.get().len() < SMALL => true,
        "tools/call" => has("structuredContent") || (is_older && has("content")),
        "prompts/get" => is_older,
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" => true,
        _ => false,
    };
    if !is_touched && !MODERN_MEMBERS.into_iter().any(has) && !has_escapes(result.get()) {
        return Ok(result.into());
    }
    let items = |span: &Span<'_>, edit: &dyn Fn(&mut Members<'_>)| edit_items(span.value, edit);
    let mut fault = None;
    let edited = Edited::new(result, |span| match (method, &*span.name) {
        (_, "resultType") => {
            fault = fault.take().or(check_complete(span.value).err()); // what asks for input was answered before
            Fate::Goes
        }
        (_, name) if MODERN_MEMBERS.contains(&name) => Fate::Goes,
        // It came with 2025-06-18, and until 2026-07-28 it had to be an object.
        ("tools/call", "structuredContent") if is_older || !span.value.starts_with('{') => Fate::Goes,
        ("tools/call", "content") if is_older => items(span, &|content| lower_content(content, to)),
        ("prompts/get", "messages") if is_older => items(span, &|message| {
            edit_member(message, "content", |content| lower_content(content, to));
        }),
        ("tools/list", "tools") => items(span, &|tool| lower_tool(tool, to)),
        ("prompts/list", "prompts")
        | ("resources/list", "resources")
        | ("resources/templates/list", "resourceTemplates") => items(span, &|item| lower_item(item, to)),
        _ => Fate::Stays,
    });
    fault.map_or(Ok(edited), Err)
}

/// A kind of content that the revision does not know becomes text that says what it is.
fn lower_content(content: &mut Members<'_>, to: Revision) {
    let text = match content.read::<String>("type").as_deref() {
        Some("resource_link") if to < Revision::V2025_06_18 => {
            let (name, uri): (Option<String>, Option<String>) = (content.read("name"), content.read("uri"));
            format!("[resource {}: {}]", name.unwrap_or_default(), uri.unwrap_or_default())
        }
        Some("audio") if to < Revision::V2025_03_26 => {
            format!("[audio, {}]", content.read::<String>("mimeType").unwrap_or_default())
        }
        _ => return,
    };
    let mut lowered = Members::default();
    lowered.put("type", "text");
    lowered.put("text", text);
    *content = lowered;
}

fn lower_tool(tool: &mut Members<'_>, to: Revision) {
    lower_item(tool, to);
    let is_object = |schema: &RawValue| {
        Members::parse(schema).and_then(|schema| schema.read::<String>("type")).as_deref() == Some("object")
    };
    if to < Revision::V2025_06_18 || tool.get("outputSchema").is_some_and(|schema| !is_object(schema)) {
        tool.remove("outputSchema");
    }
    if to < Revision::V2025_03_26 {
        tool.remove("annotations");
    }
    if to < Revision::V2025_11_25 {
        tool.remove("execution");
    }
}

fn lower_item(item: &mut Members<'_>, to: Revision) {
    if to < Revision::V2025_11_25 {
        item.remove("icons");
    }
    if to < Revision::V2025_06_18 {
        item.remove("title");
        item.remove("_meta");
    }
}

/// Change each object of a list.
fn edit_items(list: &str, edit: &dyn Fn(&mut Members<'_>)) -> Fate {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(list) else { return Fate::Stays };
    let edited = items.into_iter().map(|item| match Members::parse(item) {
        Some(mut item) => {
            edit(&mut item);
            item.into_raw()
        }
        None => item.to_owned(),
    });
    Fate::Becomes(json(&edited.collect::<Vec<_>>()))
}

fn edit_member(members: &mut Members<'_>, name: &str, edit: impl Fn(&mut Members<'_>)) {
    if let Some(mut member) = members.get(name).and_then(Members::parse) {
        edit(&mut member);
        members.set(name, member.into_raw());
    }
}

/// The result of `initialize`.
pub(super) fn initialize(description: Description, revision: Revision) -> Box<RawValue> {
    let Description { mut info, mut capabilities, instructions } = description;
    remove(&mut capabilities, &["extensions"]);
    if revision < Revision::V2025_03_26 {
        remove(&mut capabilities, &["completions"]);
    }
    if revision < Revision::V2025_11_25 {
        remove(&mut info, &["icons", "websiteUrl", "description"]);
        remove(&mut capabilities, &["tasks"]);
    }
    if revision < Revision::V2025_06_18 {
        remove(&mut info, &["title"]);
    }
    let mut result = Members::default();
    result.put("protocolVersion", revision.as_str());
    result.put("capabilities", capabilities);
    result.put("serverInfo", info);
    if let Some(instructions) = instructions {
        result.put("instructions", instructions);
    }
    result.into_raw()
}

/// The result of `server/discover`.
pub(super) fn discover(description: Description) -> Box<RawValue> {
    /// Nothing here changes while the server runs but what its upstreams can do.
    const TTL_MS: u32 = 60_000;
    let Description { mut capabilities, instructions, .. } = description;
    remove(&mut capabilities, &["tasks"]);
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovered {
        supported_versions: [&'static str; 1],
        capabilities: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        instructions: Option<String>,
        ttl_ms: u32,
        cache_scope: &'static str,
    }
    let discovered = Discovered {
        supported_versions: supported(),
        capabilities,
        instructions,
        ttl_ms: TTL_MS,
        cache_scope: "private",
    };
    to_raw_value(&discovered).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The revisions that a request may name in its metadata. Those before are negotiated by `initialize`.
pub(super) fn supported() -> [&'static str; 1] {
    [Revision::V2026_07_28.as_str()]
}

fn remove(object: &mut Value, names: &[&str]) {
    if let Value::Object(members) = object {
        for name in names {
            members.shift_remove(*name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::Id, server::sink::Text};

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn lifted(method: &str, text: &str) -> String {
        let text =
            Text::response(&Id::Number(1), lift(method, raw(text), Of::Server, &raw(r#"{"name":"s"}"#))).into_bytes();
        let text = std::str::from_utf8(&text).unwrap();
        text.strip_prefix(r#"{"jsonrpc":"2.0","id":1,"result":"#).unwrap().strip_suffix('}').unwrap().to_owned()
    }

    fn lowered(method: &str, text: &str, to: Revision) -> String {
        lower(method, raw(text), to).ok().unwrap().into_raw().get().to_owned()
    }

    const META: &str = r#""_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}}"#;

    #[test]
    fn a_result_of_2026_says_that_it_is_complete_and_whose_it_is() {
        assert_eq!(
            lifted("tools/call", r#"{"content":[]}"#),
            format!(r#"{{"resultType":"complete",{META},"content":[]}}"#)
        );
        assert_eq!(lifted("x", "{ }"), format!(r#"{{"resultType":"complete",{META} }}"#));
        let task = r#"{"resultType":"task","taskId":"t"}"#;
        assert_eq!(lifted("tools/call", task), format!(r#"{{{META},"resultType":"task","taskId":"t"}}"#));
        let own = r#"{"_meta":{"a":1},"content":[]}"#;
        assert_eq!(
            lifted("tools/call", own),
            r#"{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"},"a":1},"content":[]}"#
        );
        let other = r#"{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"bank"},"a":1}}"#;
        assert_eq!(lifted("tools/call", other), other.replace("bank", "s"), "whoever it says that it is");
        assert!(lift("tools/call", raw("[]"), Of::Server, RawValue::NULL).is_err());
    }

    #[test]
    fn a_service_gives_no_kind_of_result_that_its_caller_did_not_declare() {
        let capabilities = std::sync::Arc::new(json!({ "roots": {} }));
        let caller =
            Caller { revision: Revision::V2026_07_28, capabilities, principal: super::super::local(), session: None };
        let code_of = |text: &str| {
            let large = text.replacen('{', &format!(r#"{{"content":"{}","#, "x".repeat(SMALL)), 1);
            let codes = [text, &large].map(|text| {
                lift("tools/call", raw(text), Of::Service(&caller), RawValue::NULL).err().map_or(0, |error| error.code)
            });
            assert_eq!(codes[0], codes[1], "{text}");
            codes[0]
        };
        let wanting = |method: &str| {
            format!(r#"{{"resultType":"input_required","inputRequests":{{"k":{{"method":"{method}"}}}}}}"#)
        };
        assert_eq!([code_of(r#"{"resultType":"complete"}"#), code_of(&wanting("roots/list"))], [0, 0]);
        assert_eq!(code_of(&wanting("sampling/createMessage")), code::MISSING_CAPABILITY);
        for text in [
            r#"{"resultType":"task","taskId":"t"}"#,
            r#"{"result\u0054ype":"task"}"#,
            r#"{"resultType":7}"#,
            r#"{"resultType":"complete","resultType":"task"}"#,
            r#"{"resultType":"input_required","inputRequests":{"k":1}}"#,
            r#"{"_meta":{},"\u005fmeta":{}}"#,
        ] {
            assert_eq!(code_of(text), code::INTERNAL_ERROR, "{text}");
        }
        for text in [r#"{"resultType":"task"}"#, r#"{"result\u0054ype":"task"}"#] {
            let large = text.replacen('{', &format!(r#"{{"content":"{}","#, "x".repeat(SMALL)), 1);
            assert!(
                [text, &large].into_iter().all(|text| lower("tools/call", raw(text), Revision::V2025_11_25).is_err())
            );
        }
    }

    #[test]
    fn a_large_result_is_sent_as_it_lies() {
        for (own, first) in
            [("", format!(r#""resultType":"complete",{META},"#)), (r#""resultType":"complete","#, String::new())]
        {
            let meta = if own.is_empty() { String::new() } else { format!("{META},") };
            let result = raw(&format!(r#"{{{own}{meta}"content":"{}"}}"#, "x".repeat(1 << 20)));
            let (address, text) = (result.get().as_ptr(), result.get().to_owned());
            let lifted = lift("tools/call", result, Of::Server, &raw(r#"{"name":"s"}"#));
            let mut text_of_it = Text::response(&Id::Number(1), lifted);
            let parts: Vec<_> = std::iter::from_fn(|| text_of_it.pop()).collect();
            let expected = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{{first}{}}}"#, &text[1..]);
            assert!(parts.concat() == expected.into_bytes());
            let large = parts.iter().max_by_key(|part| part.len()).unwrap();
            assert_eq!(large.as_ptr() as usize - address as usize, usize::from(own.is_empty()), "not copied");
        }
    }

    #[test]
    fn no_less_where_a_caller_must_not_see_all_of_it_or_is_told_more() {
        let large = "x".repeat(1 << 20);
        for (before, after) in [("", r#","ttlMs":1"#), (r#""resultType":"complete","#, "")] {
            let result = raw(&format!(r#"{{{before}"content":"{large}"{after}}}"#));
            let address = result.get().as_ptr();
            let lowered = lower("tools/call", result, Revision::V2025_11_25).ok().unwrap();
            assert!(lowered.parts().collect::<String>() == format!(r#"{{"content":"{large}"}}"#));
            let mut pieces = lowered.into_pieces().into_iter();
            let found = pieces.find(|piece| piece.len() > 1 << 20).unwrap();
            assert!(found.as_ptr() as usize - (address as usize) < 32, "not copied");
        }
        let result = raw(&format!(r#"{{"content":"{large}","_meta":{{}}}}"#));
        let lifted = lift("tools/call", result, Of::Server, &raw(r#"{"name":"s"}"#))
            .unwrap_or_else(|error| panic!("{}", error.message));
        let text = lifted.parts().collect::<String>();
        assert!(text == format!(r#"{{"resultType":"complete","content":"{large}",{META}}}"#));
    }

    #[test]
    fn a_result_that_an_older_caller_knows_is_not_written_anew() {
        let text = r#"{"structuredContent": {"resultType": 1, "ttlMs": 2},"content":[]}"#;
        let result = raw(text);
        let address = result.get().as_ptr();
        let lowered = lower("tools/call", result, Revision::V2025_06_18).ok().unwrap().into_raw();
        assert_eq!((lowered.get().as_ptr(), lowered.get()), (address, text));
    }

    #[test]
    fn what_may_be_cached_says_for_how_long_and_by_whom() {
        let list = lifted("tools/list", r#"{"tools":[],"ttlMs":5}"#);
        assert_eq!(list, format!(r#"{{"resultType":"complete","cacheScope":"private",{META},"tools":[],"ttlMs":5}}"#));
        let input = lifted("resources/read", r#"{"resultType":"input_required","requestState":"s"}"#);
        assert!(!input.contains("ttlMs"), "{input}");
    }

    #[test]
    fn an_older_caller_gets_nothing_that_it_does_not_know() {
        let tool = r#"{"tools":[{"name":"a","title":"A","icons":[],"inputSchema":{},"outputSchema":{"type":"object"},"annotations":{},"x":1}],"ttlMs":1,"cacheScope":"public","resultType":"complete"}"#;
        assert_eq!(
            lowered("tools/list", tool, Revision::V2024_11_05),
            r#"{"tools":[{"name":"a","inputSchema":{},"x":1}]}"#
        );
        assert_eq!(
            lowered("tools/list", tool, Revision::V2025_06_18),
            r#"{"tools":[{"name":"a","title":"A","inputSchema":{},"outputSchema":{"type":"object"},"annotations":{},"x":1}]}"#
        );
        let result = r#"{"content":[{"type":"audio","data":"","mimeType":"audio/wav"},{"type":"resource_link","uri":"a:b","name":"n"},{"type":"text","text":"t"}],"structuredContent":{"a":1}}"#;
        assert_eq!(
            lowered("tools/call", result, Revision::V2024_11_05),
            r#"{"content":[{"type":"text","text":"[audio, audio/wav]"},{"type":"text","text":"[resource n: a:b]"},{"type":"text","text":"t"}]}"#
        );
        assert_eq!(lowered("tools/call", result, Revision::V2025_11_25), result);
        let list = r#"{"content":[],"structuredContent":[1]}"#;
        assert_eq!(lowered("tools/call", list, Revision::V2025_11_25), r#"{"content":[]}"#, "not an object");
    }

    #[test]
    fn a_missing_resource_has_the_code_of_the_revision() {
        let missing = || ErrorObject::new(code::INVALID_PARAMS, "no such resource").with_data(&json!({"uri": "a:b"}));
        assert_eq!(lower_error("resources/read", missing()).code, code::RESOURCE_NOT_FOUND);
        assert_eq!(lower_error("tools/call", missing()).code, code::INVALID_PARAMS);
        let old = ErrorObject::new(code::RESOURCE_NOT_FOUND, "no such resource");
        let new = lift_error(old, || Some("a:b".to_owned()));
        assert_eq!((new.code, new.data.unwrap().get()), (code::INVALID_PARAMS, r#"{"uri":"a:b"}"#));
    }
}
