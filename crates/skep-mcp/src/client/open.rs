//! How a connection begins: which era does the server speak?
//!
//! A server of 2026-07-28 answers `server/discover`; what an older one does with it is anybody's guess: most answer with
//! some error, some are silent, some die. So every answer but a good one, silence, and the end of the streams lead to
//! `initialize`, on the same streams where that may work, and on new ones where it does not (2026-07-28, versioning).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::time::timeout;

use super::{
    CallError, Dial, Info, Setup, Transport,
    asking::{Asking, Meta},
    flight::Flight,
    http::{Http, Target},
    lines,
    link::Link,
};
use crate::{
    message::{ErrorObject, Notification},
    revision::Revision,
    server::{Members, code},
};

/// What is asked of older servers; they answer with a revision of their own if they do not know it.
const OLDER: Revision = Revision::V2025_11_25;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DiscoverResult {
    supported_versions: Vec<String>,
    #[serde(default)]
    capabilities: Value,
    instructions: Option<String>,
    #[serde(rename = "_meta", default)]
    meta: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeResult {
    protocol_version: String,
    #[serde(default)]
    capabilities: Value,
    server_info: Option<Value>,
    instructions: Option<String>,
}

/// What the answer to `server/discover` means.
enum Found {
    /// It speaks 2026-07-28.
    Modern(Info),
    /// It does not, or does not say so.
    Older,
}

fn discovered(answer: Result<Box<RawValue>, CallError>) -> Found {
    let modern = Revision::V2026_07_28;
    match answer {
        Ok(result) => match serde_json::from_str::<DiscoverResult>(result.get()) {
            Ok(result) if result.supported_versions.iter().any(|version| version == modern.as_str()) => {
                Found::Modern(Info {
                    revision: modern,
                    server: result.meta.get("io.modelcontextprotocol/serverInfo").cloned(),
                    capabilities: result.capabilities,
                    instructions: result.instructions,
                })
            }
            _ => Found::Older,
        },
        Err(_) => Found::Older,
    }
}

/// Whether a server refuses the revision and yet names it as one that it supports, as it may while it is being replaced. Then it
/// is asked once more.
fn contradicts_itself(answer: &Result<Box<RawValue>, CallError>) -> bool {
    let Err(CallError::Rpc(error @ ErrorObject { code: code::UNSUPPORTED_VERSION, .. })) = answer else { return false };
    let data = error.data.as_deref().and_then(Members::parse).unwrap_or_default();
    let supported: Vec<String> = data.read("supported").unwrap_or_default();
    supported.iter().any(|version| version == Revision::V2026_07_28.as_str())
}

async fn discover(transport: Transport, setup: &Setup) -> Result<Box<RawValue>, CallError> {
    let info = setup.info.to_string();
    let meta = Meta { info: &info, is_modern: true, capabilities: &setup.capabilities, wants_progress: false };
    let asking = Asking { method: "server/discover", params: &Members::default(), meta: Some(meta) };
    let flight = Flight::new(None);
    let answer = transport.call(&asking, &flight).await;
    if contradicts_itself(&answer) { transport.call(&asking, &flight).await } else { answer }
}

fn initialize_params(setup: &Setup) -> Members<'static> {
    Members::of(&json!({
        "protocolVersion": OLDER.as_str(), "capabilities": setup.capabilities, "clientInfo": setup.info,
    }))
}

/// What the answer to `initialize` says.
fn initialized(result: &RawValue) -> Result<Info, CallError> {
    let result: InitializeResult = serde_json::from_str(result.get())
        .map_err(|error| CallError::Protocol(format!("its answer to `initialize` cannot be read: {error}")))?;
    let revision = result.protocol_version.parse::<Revision>().ok().filter(|revision| !revision.is_modern());
    let Some(revision) = revision else {
        let known: Vec<&str> = Revision::ALL.iter().map(|known| known.as_str()).collect();
        let message = format!("it speaks {:?}; known are {}", result.protocol_version, known.join(", "));
        return Err(CallError::Protocol(message));
    };
    Ok(Info {
        revision,
        server: result.server_info,
        capabilities: result.capabilities,
        instructions: result.instructions,
    })
}

/// What older servers are told when they have answered `initialize`.
fn ready() -> Notification {
    Notification { method: "notifications/initialized".into(), params: None }
}

/// Connect over lines.
pub(super) async fn lines(dial: &mut dyn Dial, setup: &Setup) -> Result<(Arc<Link>, Info), CallError> {
    let is_older = setup.revision.is_some_and(|revision| !revision.is_modern());
    if !is_older {
        let link = Guard::new(open(dial, setup).await?);
        match ask(&link.link, setup).await {
            Ok(info) => return Ok((link.keep(), info)),
            // It may have died of the question, or holds this process to the era of the first message.
            Err(error) => tracing::debug!(%error, "the server is started again, without being asked for its era"),
        }
    }
    let link = Guard::new(open(dial, setup).await?);
    let info = initialize(&link.link, setup).await?;
    Ok((link.keep(), info))
}

async fn open(dial: &mut dyn Dial, setup: &Setup) -> Result<Arc<Link>, CallError> {
    let streams = dial.dial().await.map_err(|error| CallError::Closed(error.to_string()))?;
    Ok(lines::link(streams, Arc::clone(&setup.handler), &setup.limits))
}

/// A link that is shut unless it is kept: a connection that is not finished leaves nothing open.
struct Guard {
    link: Arc<Link>,
    is_kept: bool,
}

impl Guard {
    fn new(link: Arc<Link>) -> Guard {
        Guard { link, is_kept: false }
    }

    fn keep(mut self) -> Arc<Link> {
        self.is_kept = true;
        Arc::clone(&self.link)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_kept {
            self.link.shut("it was given up");
        }
    }
}

/// Ask for the era, and if there is no good answer in time, in the older way as well; a late good answer still counts.
async fn ask(link: &Arc<Link>, setup: &Setup) -> Result<Info, CallError> {
    let limits = &setup.limits;
    let probe = discover(Transport::Link(Arc::clone(link)), setup);
    tokio::pin!(probe);
    let probed = timeout(limits.probe_time_max, &mut probe).await;
    let is_silent = probed.is_err();
    match probed.map(discovered) {
        Ok(Found::Modern(info)) => return Ok(info),
        Ok(Found::Older) | Err(_) => {}
    }
    let initializing = timeout(limits.silence_time_max, initialize(link, setup));
    tokio::pin!(initializing);
    if is_silent {
        tokio::select! {
            biased;
            answer = &mut probe => if let Found::Modern(info) = discovered(answer) {
                return Ok(info);
            },
            answer = &mut initializing => return answer.unwrap_or(Err(CallError::TimedOut(limits.silence_time_max))),
        }
    }
    initializing.await.unwrap_or(Err(CallError::TimedOut(limits.silence_time_max)))
}

async fn initialize(link: &Arc<Link>, setup: &Setup) -> Result<Info, CallError> {
    let asking = Asking { method: "initialize", params: &initialize_params(setup), meta: None };
    let result = link.call(&asking, &Flight::new(None)).await?;
    let info = initialized(&result)?;
    link.notify(ready()).await?;
    Ok(info)
}

/// Connect over HTTP: as 2026-07-28, or with a session, or as in 2024-11-05.
pub(super) async fn http(target: Target, setup: &Setup) -> Result<(Transport, Info), CallError> {
    if target.is_sse {
        return sse(target, setup).await;
    }
    let http = Http::new(target.clone(), setup);
    http.begin().await?;
    let is_older = setup.revision.is_some_and(|revision| !revision.is_modern());
    if !is_older {
        http.speak(Revision::V2026_07_28);
        match discover(Transport::Http(Arc::clone(&http)), setup).await {
            // Of the newer era, but it does not take what was sent: no other way would help.
            Err(CallError::Rpc(error)) if matches!(error.code, code::HEADER_MISMATCH | code::MISSING_CAPABILITY) => {
                return Err(CallError::Rpc(error));
            }
            Err(
                error @ (CallError::Closed(_) | CallError::Unauthorized(_) | CallError::Http { status: 401 | 403, .. }),
            ) => return Err(error),
            answer => {
                if let Found::Modern(info) = discovered(answer) {
                    return Ok((Transport::Http(http), info));
                }
            }
        }
    }
    let refused = match session(&http, setup).await {
        Ok(info) => {
            http.listen().await;
            return Ok((Transport::Http(http), info));
        }
        Err(error) => error,
    };
    http.shut();
    match &refused {
        CallError::Http { status: 400 | 404 | 405 | 406, .. } => {}
        CallError::Rpc(ErrorObject { code: code::METHOD_NOT_FOUND, .. }) => {}
        _ => return Err(refused),
    }
    sse(target, setup).await.map_err(|_| refused)
}

/// Open a session (2025-03-26 to 2025-11-25), or open it again when the server has forgotten it.
pub(super) async fn session(http: &Arc<Http>, setup: &Setup) -> Result<Info, CallError> {
    http.speak(OLDER);
    let asking = Asking { method: "initialize", params: &initialize_params(setup), meta: None };
    let result = http.initialize(&asking).await?;
    let info = initialized(&result)?;
    http.speak(info.revision);
    http.notify(ready()).await?;
    Ok(info)
}

async fn sse(target: Target, setup: &Setup) -> Result<(Transport, Info), CallError> {
    let link = Guard::new(super::http::sse_link(target, setup).await?);
    let info = initialize(&link.link, setup).await?;
    Ok((Transport::Link(link.keep()), info))
}
