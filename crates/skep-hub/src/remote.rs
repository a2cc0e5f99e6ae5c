//! Calling tools at other hubs: which one, and what it means when it does not answer.
//!
//! The least loaded hub that is well is asked. One that fails is set aside for a while, longer each time, and the next
//! is asked. What matters is whether the call **may have run**: a refused connection or a hub that says it is busy has
//! run nothing, so the call goes elsewhere; a connection that breaks later leaves it open, so only a tool that changes
//! nothing by being called twice is called again. Where none answers, the caller is told and decides
//! ([`crate::executor`] runs the tool here).

mod events;
mod judge;
mod show;

use std::{
    fmt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::{Client, Response, Url, header, redirect};
use serde_json::{Map, Value, json};
use skep_tools::{
    error::ToolError,
    tool::{Annotations, Answer, Call},
};

use self::judge::{judge, message, said};
pub use self::{
    events::{EventStream, StreamEvent},
    show::ShowError,
};
use crate::{
    api::{Health, HealthStatus},
    problem,
};

/// Hubs that one client may be given.
pub const HUBS_MAX: usize = 64;
/// Time to connect to a hub.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// Time for a hub to say how it is.
const HEALTH_TIME_MAX: Duration = Duration::from_secs(1);
/// What a hub said about its load is believed for so long.
const HEALTH_FRESH: Duration = Duration::from_secs(1);
/// Time beyond the deadline of a call, unless the user says otherwise: to wait for its turn at the hub, to stop, and to come back.
const MARGIN: Duration = Duration::from_secs(15);
/// The deadline of a call that has none.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a hub is set aside at first; each failure in a row doubles it.
const ASIDE_MIN: Duration = Duration::from_millis(500);
/// How long a hub is set aside at most.
const ASIDE_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How the path of a Unix socket begins, and whom requests there address.
const UNIX: &str = "unix:";
const ON_SOCKETS: &str = "http://localhost";
/// Unused connections are closed after so long, well before a hub closes them (30 s): a call that meets a connection
/// just as it is closed may or may not have run.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);

/// A client of one or more hubs.
pub struct Hubs {
    hubs: Vec<Hub>,
    views: Mutex<Vec<View>>,
    /// Held while hubs are asked how they are, so that many calls at once ask once.
    looking: tokio::sync::Mutex<()>,
    token: Option<String>,
    margin: Duration,
}

struct Hub {
    /// As the user wrote it, for messages.
    name: String,
    process: Url,
    health: Url,
    /// All hubs at addresses have one, and each at a Unix socket its own.
    client: Client,
}

/// What is known about a hub.
#[derive(Debug, Default)]
struct View {
    /// Calls of this client that are there now.
    own: usize,
    seen: Option<Seen>,
    aside: Option<Aside>,
    /// Failures in a row.
    failures: u32,
}

/// What a hub said about itself.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    degraded: bool,
    /// Calls that ran and waited there.
    calls: usize,
    /// How many of them were this client's.
    own: usize,
    at_once: usize,
}

#[derive(Clone, Debug)]
struct Aside {
    until: Instant,
    why: Why,
}

/// Why a hub was not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is nothing to connect to.
    Unreachable(String),
    /// It did not say in time how it is.
    Slow,
    /// It has too much to do.
    Busy,
    /// It takes no new calls.
    Draining,
    /// It says that it cannot work.
    Unhealthy,
    /// It does not want this call: its status and its message.
    Refused(u16, String),
    /// It has no such tool.
    NoSuchTool,
    /// What answers there is no hub.
    NotAHub(String),
    /// The connection broke after the call was sent.
    Broken(String),
    /// No answer came in time after the call was sent.
    Silent(Duration),
    /// It stopped while the call ran.
    Stopped,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Unreachable(why) => write!(f, "cannot be reached ({why})"),
            Why::Slow => write!(f, "did not say within {}s how it is", HEALTH_TIME_MAX.as_secs_f64()),
            Why::Busy => f.write_str("is busy"),
            Why::Draining => f.write_str("is stopping"),
            Why::Unhealthy => f.write_str("is not well"),
            Why::Refused(status, message) => write!(f, "refused the call ({status}: {message})"),
            Why::NoSuchTool => f.write_str("has no such tool"),
            Why::NotAHub(what) => write!(f, "does not answer like a hub ({what})"),
            Why::Broken(why) => write!(f, "broke off ({why})"),
            Why::Silent(time) => write!(f, "did not answer within {}s", time.as_secs_f64()),
            Why::Stopped => f.write_str("stopped while the call ran"),
        }
    }
}

/// A hub that was not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Its address.
    pub hub: String,
    /// What was wrong.
    pub why: Why,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.hub, self.why)
    }
}

/// An answer of a hub.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// What came of the call, as if the tool had been called here.
    pub result: Result<Answer, ToolError>,
    /// Who gave it.
    pub hub: String,
    /// Who was not used before.
    pub passed_over: Vec<PassedOver>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// Nothing was run: run it elsewhere.
    #[error("no hub answers: {}", list(.passed_over))]
    NoneAnswers {
        /// All of them.
        passed_over: Vec<PassedOver>,
    },
    /// It may have run, wholly or in part, and doing it twice may do harm: look what has happened before trying again.
    #[error("{hub} {why}: the call may have run there, so it was not made again")]
    MayHaveRun {
        /// Where.
        hub: String,
        /// What went wrong.
        why: Why,
        /// Who was not used before.
        passed_over: Vec<PassedOver>,
    },
}

/// Several in one sentence.
pub fn list(passed_over: &[PassedOver]) -> String {
    passed_over.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// An address that cannot be a hub's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHubs {
    /// This one.
    #[error("{url:?} is not the address of a hub: {why}; one looks like http://127.0.0.1:8000")]
    Url {
        /// As it was written.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// None, or far too many.
    #[error("1 to {HUBS_MAX} hubs can be used, not {0}")]
    Count(usize),
    /// The token cannot be sent.
    #[error("the token has characters that cannot be sent")]
    Token,
    /// The system's certificates cannot be read, or the like.
    #[error("no HTTP client can be made: {0}")]
    Client(String),
}

/// How asking one hub failed.
enum Failure {
    NotRun(Why),
    MayHaveRun(Why),
}

impl Hubs {
    /// A client of these hubs. All get the same token. Nothing is sent yet.
    pub fn new<S: AsRef<str>>(urls: impl IntoIterator<Item = S>, token: Option<String>) -> Result<Hubs, BadHubs> {
        let client = client(None)?;
        let hubs: Vec<Hub> = urls.into_iter().map(|url| Hub::parse(url.as_ref(), &client)).collect::<Result<_, _>>()?;
        if hubs.is_empty() || hubs.len() > HUBS_MAX {
            return Err(BadHubs::Count(hubs.len()));
        }
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(BadHubs::Token);
        }
        let views = hubs.iter().map(|_| View::default()).collect();
        Ok(Hubs { hubs, views: Mutex::new(views), looking: tokio::sync::Mutex::default(), token, margin: MARGIN })
    }

    /// Wait so much longer than a call's deadline for its answer.
    pub fn with_margin(self, margin: Duration) -> Hubs {
        Hubs { margin, ..self }
    }

    /// Make a call where there is least to do. The annotations say whether it may be made twice.
    pub async fn call(&self, call: &Call, annotations: Annotations) -> Result<Answered, HubError> {
        let repeatable = annotations.read_only_hint || annotations.idempotent_hint;
        let mut passed_over = Vec::new();
        loop {
            self.look(&passed_over).await;
            let Some((hub, visit)) = self.choose(&mut passed_over) else {
                return Err(HubError::NoneAnswers { passed_over });
            };
            let name = hub.name.clone();
            let (why, not_run) = match self.ask(hub, call).await {
                Ok(result) => {
                    visit.was_well();
                    return Ok(Answered { result, hub: name, passed_over });
                }
                Err(Failure::NotRun(why)) => (why, true),
                Err(Failure::MayHaveRun(why)) => (why, false),
            };
            visit.failed(&why);
            if !not_run && !repeatable {
                return Err(HubError::MayHaveRun { hub: name, why, passed_over });
            }
            passed_over.push(PassedOver { hub: name, why });
        }
    }

    /// Ask the hubs how they are, all at once, where that is not known.
    async fn look(&self, passed_over: &[PassedOver]) {
        let _one_at_a_time = self.looking.lock().await;
        let now = Instant::now();
        let unknown: Vec<usize> = {
            let views = self.views();
            let of_interest = |index: &usize| {
                !was_passed_over(passed_over, &self.hubs[*index])
                    && views[*index].aside.as_ref().is_none_or(|aside| aside.until <= now)
                    && views[*index].seen.is_none_or(|seen| seen.at + HEALTH_FRESH <= now)
            };
            (0..self.hubs.len()).filter(of_interest).collect()
        };
        let looks = unknown.iter().map(|&index| async move { (index, self.health(&self.hubs[index]).await) });
        for (index, seen) in join_all(looks).await {
            let view = &mut self.views()[index];
            match seen {
                Ok(seen) => view.is_well(Seen { own: view.own, ..seen }),
                Err(why) => view.set_aside(&self.hubs[index].name, why),
            }
        }
    }

    /// The least loaded hub of those that are well, and why the others are not used.
    fn choose(&self, passed_over: &mut Vec<PassedOver>) -> Option<(&Hub, Visit<'_>)> {
        let mut views = self.views();
        let mut best: Option<(usize, (bool, f64))> = None;
        for (index, (hub, view)) in self.hubs.iter().zip(views.iter()).enumerate() {
            if was_passed_over(passed_over, hub) {
                continue;
            }
            match (&view.aside, &view.seen) {
                (Some(aside), _) => passed_over.push(PassedOver { hub: hub.name.clone(), why: aside.why.clone() }),
                (None, None) => passed_over.push(PassedOver { hub: hub.name.clone(), why: Why::Slow }),
                (None, Some(seen)) => {
                    let rank = (seen.degraded, seen.load(view.own));
                    if best.is_none_or(|(_, than)| rank < than) {
                        best = Some((index, rank));
                    }
                }
            }
        }
        let (index, _) = best?;
        views[index].own += 1;
        Some((&self.hubs[index], Visit { hubs: self, index }))
    }

    async fn health(&self, hub: &Hub) -> Result<Seen, Why> {
        let request = self.with_token(hub.client.get(hub.health.clone())).timeout(HEALTH_TIME_MAX);
        let response = request.send().await.map_err(|error| match error.is_timeout() && !error.is_connect() {
            true => Why::Slow,
            false => Why::Unreachable(innermost(&error)),
        })?;
        let status = response.status();
        let answer = object(response).await.map_err(|error| match error.is_timeout() {
            true => Why::Slow,
            false => Why::NotAHub(innermost(&error)),
        })?;
        let Some(answer) = answer else { return Err(Why::NotAHub(status.to_string())) };
        let said = message(&answer);
        match serde_json::from_value::<Health>(answer.into()) {
            Ok(Health { status: HealthStatus::Draining, .. }) => Err(Why::Draining),
            Ok(Health { status: HealthStatus::Unhealthy, .. }) => Err(Why::Unhealthy),
            Ok(health) => Ok(Seen {
                at: Instant::now(),
                degraded: health.status == HealthStatus::Degraded,
                calls: health.calls_running.saturating_add(health.calls_waiting),
                own: 0,
                at_once: health.calls_at_once.max(1),
            }),
            Err(_) if status.is_client_error() => Err(Why::Refused(status.as_u16(), said)),
            Err(_) => Err(Why::NotAHub(status.to_string())),
        }
    }

    async fn ask(&self, hub: &Hub, call: &Call) -> Result<Result<Answer, ToolError>, Failure> {
        let deadline = call.deadline.unwrap_or(DEADLINE);
        let body = json!({"tool": call.tool, "args": call.arguments, "timeout": deadline.as_secs_f64()});
        let request = self.with_token(hub.client.post(hub.process.clone())).timeout(deadline + self.margin);
        let request = request.header(header::ACCEPT, format!("application/json, {}", problem::MEDIA_TYPE)).json(&body);
        let lost = |error: reqwest::Error| match error {
            error if error.is_connect() => Failure::NotRun(Why::Unreachable(innermost(&error))),
            error if error.is_timeout() => Failure::MayHaveRun(Why::Silent(deadline + self.margin)),
            error => Failure::MayHaveRun(Why::Broken(innermost(&error))),
        };
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let answer = object(response).await.map_err(lost)?;
        judge(call, status, answer)
    }

    fn with_token(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn views(&self) -> MutexGuard<'_, Vec<View>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The JSON object that a response holds, if it holds one and not more than allowed.
async fn object(mut response: Response) -> Result<Option<Map<String, Value>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(serde_json::from_slice(&bytes).ok())
}

/// The cause at the bottom: "connection refused" says more than "error sending request".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn was_passed_over(passed_over: &[PassedOver], hub: &Hub) -> bool {
    passed_over.iter().any(|passed| passed.hub == hub.name)
}

/// What speaks HTTP, on a Unix socket if one is named.
fn client(socket: Option<&Path>) -> Result<Client, BadHubs> {
    let mut client = Client::builder()
        .connect_timeout(CONNECT_TIME_MAX)
        .pool_idle_timeout(IDLE_TIME_MAX)
        .redirect(redirect::Policy::none()) // a call goes where the user said
        .retry(reqwest::retry::never()) // whether to try again is decided here
        .http1_only()
        .no_proxy();
    if let Some(path) = socket {
        client = client.unix_socket(path);
    }
    client.build().map_err(|error| BadHubs::Client(innermost(&error)))
}

impl Hub {
    fn parse(text: &str, at_addresses: &Client) -> Result<Hub, BadHubs> {
        let bad = |why: String| BadHubs::Url { url: text.to_owned(), why };
        let (address, client) = match text.strip_prefix(UNIX).map(Path::new) {
            Some(path) if path.is_absolute() => (ON_SOCKETS, client(Some(path))?),
            Some(_) => return Err(bad("the path of the socket does not begin with a slash".to_owned())),
            None => (text, at_addresses.clone()),
        };
        let mut url = Url::parse(address).map_err(|error| bad(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("it does not begin with http:// or https://".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it holds more than host, port and path".to_owned()));
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let below = |path| url.join(path).map_err(|error| bad(error.to_string()));
        Ok(Hub {
            name: text.trim_end_matches('/').to_owned(),
            process: below("process")?,
            health: below("health")?,
            client,
        })
    }
}

impl Seen {
    /// Share of its capacity that is in use: what it said, and what this client has sent there since.
    fn load(&self, own: usize) -> f64 {
        let calls = (self.calls + own).saturating_sub(self.own).max(own);
        calls as f64 / self.at_once as f64
    }
}

impl View {
    fn is_well(&mut self, seen: Seen) {
        self.seen = Some(seen);
        self.aside = None;
    }

    fn set_aside(&mut self, hub: &str, why: Why) {
        let time = ASIDE_MIN.saturating_mul(1 << self.failures.min(16)).min(ASIDE_MAX);
        tracing::warn!(hub, %why, aside_s = time.as_secs_f64(), "a hub is set aside");
        self.failures = self.failures.saturating_add(1);
        self.seen = None;
        self.aside = Some(Aside { until: Instant::now() + time, why });
    }
}

/// One call at one hub.
struct Visit<'a> {
    hubs: &'a Hubs,
    index: usize,
}

impl Visit<'_> {
    fn was_well(&self) {
        self.hubs.views()[self.index].failures = 0;
    }

    /// Set the hub aside, unless it is this call that it does not want.
    fn failed(&self, why: &Why) {
        let about_the_call = matches!(why, Why::Refused(400 | 413 | 415 | 422, _));
        if !about_the_call {
            self.hubs.views()[self.index].set_aside(&self.hubs.hubs[self.index].name, why.clone());
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let view = &mut self.hubs.views()[self.index];
        view.own = view.own.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_of_a_hub_is_refused_with_the_reason() {
        let refused = |url: &str| Hubs::new([url], None).err().map(|error| error.to_string()).unwrap_or_default();
        let one = "one looks like http://127.0.0.1:8000";
        for (url, why) in [
            ("localhost:8000", "it does not begin with http:// or https://"),
            ("ftp://hub", "it does not begin with http:// or https://"),
            ("hub", "relative URL without a base"),
            ("http://user:secret@hub", "it holds more than host, port and path"),
            ("unix:hub.sock", "the path of the socket does not begin with a slash"),
            ("http://hub/?a=b", "it holds more than host, port and path"),
        ] {
            assert_eq!(refused(url), format!("{url:?} is not the address of a hub: {why}; {one}"));
        }
        assert_eq!(Hubs::new::<&str>([], None).err(), Some(BadHubs::Count(0)));
        assert_eq!(Hubs::new(["http://hub"], Some("two words".to_owned())).err(), Some(BadHubs::Token));
        let below = Hub::parse("https://example.com/hives/7/", &client(None).unwrap()).unwrap();
        assert_eq!(below.process.as_str(), "https://example.com/hives/7/process");
        assert_eq!(below.name, "https://example.com/hives/7");
    }

    #[test]
    fn a_hub_that_fails_again_and_again_is_left_alone_for_longer_but_not_forever() {
        let mut view = View::default();
        let mut aside_s = Vec::new();
        for _ in 0..40 {
            let now = Instant::now();
            view.set_aside("hub", Why::Slow);
            aside_s.push(view.aside.as_ref().unwrap().until.duration_since(now).as_secs_f64().round());
        }
        assert_eq!(aside_s[1..8], [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(aside_s[39], 30.0);
    }

    #[test]
    fn what_was_sent_since_the_hub_was_seen_counts() {
        let seen = Seen { at: Instant::now(), degraded: false, calls: 6, own: 2, at_once: 4 };
        assert_eq!(seen.load(2), 1.5);
        assert_eq!(seen.load(4), 2.0);
        assert_eq!(seen.load(0), 1.0, "two of the six have ended");
        assert_eq!(Seen { calls: 0, ..seen }.load(1), 0.25, "never less than this client's own");
    }
}
