//! The contents of files, as they are: `GET` and `PUT /api/v1/workspaces/{task_id}/files/{path}`.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use skep_core::{
    app::App,
    file::{Revision, Written},
    limits::FILE_BYTES_MAX,
    policy::{self, Permit, Right},
};
use skep_mcp::{framing, server::http::Fields};
use skep_tools::{
    room::Room,
    shared::{
        self,
        files::{self, Draft, Kept},
    },
};

use super::{Arguments, FILE, entity_tag, is_known, not_modified, refused, run};
use crate::{
    api,
    hub::calls::Performed,
    server::{
        http::{Caller, Shared},
        problem::{Kind, Problem, json_response},
    },
};

/// What a browser may do with a file that anybody may have written: show it.
const ONLY_SHOWN: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");
/// Media types by the end of a name. What a browser would run is text, like all else that is UTF-8.
const MEDIA_TYPES: [(&str, &str); 8] = [
    (".json", "application/json"),
    (".md", "text/markdown; charset=utf-8"),
    (".csv", "text/csv; charset=utf-8"),
    (".png", "image/png"),
    (".jpg", "image/jpeg"),
    (".jpeg", "image/jpeg"),
    (".gif", "image/gif"),
    (".pdf", "application/pdf"),
];

/// Which file is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    task_id: String,
    path: String,
    agent_id: Option<String>,
    /// As it was then; as it is now, if that is not said.
    revision: Option<u64>,
}

/// Which file is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    task_id: String,
    path: String,
    agent_id: Option<String>,
    base_revision: Option<u64>,
    token: Option<i64>,
    /// Whether to merge the text with what others have written since `base_revision`.
    #[serde(default)]
    merge: bool,
}

/// What there is to be sent of a file.
enum Found {
    /// Its contents.
    Contents(Revision, Vec<u8>),
    /// The caller has it already.
    Known(Revision),
    /// It was deleted in this revision.
    Deleted(Revision),
    Nothing,
}

/// The contents of a file; as JSON for who accepts that and not everything.
pub(super) async fn read(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    if wants_json(request.headers()) {
        return run(&FILE, &hub, &caller, request).await;
    }
    let call = hub.calls.authorise::<policy::Call>(&caller.0, Some(FILE.tool))?;
    let (mut parts, _) = request.into_parts();
    let Wanted { task_id, path, agent_id, revision } = read_members(Arguments::of(&hub, FILE.tool, &mut parts).await?)?;
    let (app, permit) = open::<policy::Read>(&hub, &caller, &task_id, agent_id.as_deref())?;
    let headers = parts.headers;
    let look = |room: Room| async move {
        let Some(found) = files::find(&app, &permit, &path, revision).await? else { return Ok(Found::Nothing) };
        if found.sha256.is_none() {
            return Ok(Found::Deleted(found));
        }
        if is_known(&headers, Some(&entity_tag(found.number))) {
            return Ok(Found::Known(found));
        }
        room.fit(usize::try_from(found.size).unwrap_or(usize::MAX))?;
        let (_, bytes) = files::contents(&app, &permit, &found.path, Some(found.number)).await?;
        Ok(Found::Contents(found, bytes))
    };
    let Performed { result, room } = hub.calls.perform(&call, FILE.tool, look).await?;
    match result.map_err(|error| refused(error, false))? {
        Found::Contents(revision, bytes) => Ok(contents(&revision, bytes, &room)),
        Found::Known(revision) => Ok(not_modified(Some(entity_tag(revision.number)))),
        Found::Deleted(Revision { path, number, .. }) => {
            let message = format!("{path} was deleted in revision {number}; ?revision= gives an earlier one");
            Err(Problem::new(Kind::NotFound, message))
        }
        Found::Nothing => Err(Problem::new(Kind::NotFound, "there is no such file, or no such revision of it")),
    }
}

/// Write a file: the body is its contents.
pub(super) async fn write(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    const TOOL: &str = "file_write";
    let call = hub.calls.authorise::<policy::Call>(&caller.0, Some(TOOL))?;
    let (mut parts, body) = request.into_parts();
    let arguments = Arguments::of(&hub, TOOL, &mut parts).await?;
    let is_conditional = arguments.condition().is_some();
    let Target { task_id, path, agent_id, base_revision, token, merge } = read_members(arguments)?;
    let (app, permit) = open::<policy::Write>(&hub, &caller, &task_id, agent_id.as_deref())?;
    let whole = hub.bodies.read_within(&caller.0.principal, &parts.headers, body, FILE_BYTES_MAX).await?;
    let (bytes, share) = whole.into_parts();
    let write = |_: Room| async move {
        let draft = Draft { path: files::path_of(&path)?, bytes, base: base_revision, token, merge };
        let kept = files::write(&app, &permit, draft).await;
        drop(share);
        kept
    };
    let Performed { result, .. } = hub.calls.perform(&call, TOOL, write).await?;
    let Kept { written, merged_with, .. } = result.map_err(|error| refused(error, is_conditional))?;
    let Written { revision, is_new } = written;
    let status = if is_new && revision.number == 1 { StatusCode::CREATED } else { StatusCode::OK };
    let answer = api::FileWritten {
        path: revision.path.to_string(),
        size: revision.size,
        revision: revision.number,
        sha256: revision.sha256.unwrap_or_default(),
        unchanged: !is_new,
        merged_with,
    };
    let mut response = json_response(status, &answer);
    response.headers_mut().insert(header::ETAG, entity_tag(revision.number));
    Ok(response)
}

/// The store, and the caller's right in a workspace.
fn open<R: Right>(hub: &Shared, caller: &Caller, task: &str, agent: Option<&str>) -> Result<(App, Permit<R>), Problem> {
    let permit = caller.permit::<R>()?;
    let app = hub.app.clone().ok_or_else(|| Problem::new(Kind::Unavailable, "this hub has no store with files"))?;
    Ok((app, permit.within(Some(task), agent).map_err(shared::refused)?))
}

fn read_members<T: DeserializeOwned>(arguments: Arguments) -> Result<T, Problem> {
    let members = Value::Object(arguments.into_members());
    serde_json::from_value(members).map_err(|error| Problem::new(Kind::BadRequest, error.to_string()))
}

/// The contents of a revision, which take their share of the memory until they are sent.
fn contents(revision: &Revision, bytes: Vec<u8>, room: &Room) -> Response {
    let media_type = media_type(revision.path.as_str(), &bytes);
    let bytes = Bytes::from(bytes);
    let body = match room.take() {
        Some(held) => framing::counted(bytes, Arc::new(held)),
        None => bytes,
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::ETAG, entity_tag(revision.number)),
        (header::CONTENT_SECURITY_POLICY, ONLY_SHOWN),
    ];
    (headers, body).into_response()
}

fn media_type(path: &str, bytes: &[u8]) -> &'static str {
    let is_end = |end: &str| {
        path.len() >= end.len() && path.as_bytes()[path.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
    };
    let known = MEDIA_TYPES.iter().find(|(end, _)| is_end(end)).map(|(_, media_type)| *media_type);
    match (known, std::str::from_utf8(bytes).is_ok()) {
        (Some(media_type), is_text) if is_text || !media_type.contains("utf-8") => media_type,
        (_, true) => "text/plain; charset=utf-8",
        (_, false) => "application/octet-stream",
    }
}

/// Whether the caller accepts JSON and not everything, as programs do that do not say what they want.
fn wants_json(headers: &HeaderMap) -> bool {
    let accept = Fields::from(headers).text(header::ACCEPT.as_str()).unwrap_or("*/*");
    let kinds = || accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds().any(|kind| kind == "application/json") && !kinds().any(|kind| kind == "*/*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_media_type_that_its_name_and_contents_say_and_none_that_a_browser_runs() {
        for (path, bytes, expected) in [
            ("a.json", &b"{}"[..], "application/json"),
            ("pics/a.PNG", b"\x89PNG", "image/png"),
            ("a.html", b"<script>", "text/plain; charset=utf-8"),
            ("a.svg", b"<svg/>", "text/plain; charset=utf-8"),
            ("a.md", b"\xff", "application/octet-stream"),
            ("\u{e4}", "\u{e4}".as_bytes(), "text/plain; charset=utf-8"),
            ("a", b"\x00\xff", "application/octet-stream"),
        ] {
            assert_eq!(media_type(path, bytes), expected, "{path}");
        }
    }

    #[test]
    fn json_is_for_who_asks_for_it_alone() {
        let wants = |accept: &'static str| {
            wants_json(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(wants("application/json") && wants("application/json;q=0.9, application/problem+json"));
        assert!(!wants("*/*") && !wants("application/json, text/plain, */*") && !wants("text/plain"));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
