//! Events over WebSocket (RFC 6455): one connection with any number of subscriptions, each with a filter of its own.
//!
//! Messages are text frames with an object of JSON. A client sends `subscribe`, `unsubscribe` and `ping`; it is sent
//! `subscribed`, `event`, `reset`, `unsubscribed`, `pong` and `error`, each with the `id` that the client gave to the
//! subscription.
//!
//! A browser's page cannot set `Authorization`, so a token may come as a protocol that the client offers
//! ([`offered_token`]). It does not come in the address, which is written to logs and kept in histories.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{
        State,
        ws::{
            CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{SinkExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use serde_json::{Value, json};
use skep_core::{
    app::EventFollower,
    db::{DbError, News},
    policy::{Permit, Read},
};
use skep_mcp::server::http::Fields;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Place, Wanted, batch, failed};
use crate::server::{
    http::{Caller, Shared},
    problem::{Kind, Problem},
};

/// The protocol that a client may offer, and must if it offers a token.
const PROTOCOL: &str = "skep";
/// How an offered protocol begins that is a token, in base64url without padding.
const TOKEN_PROTOCOL: &str = "skep.token.";
/// Bytes of a client's message.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Subscriptions of one connection.
const SUBSCRIPTIONS_MAX: usize = 256;
/// Bytes of the name of a subscription.
const ID_BYTES_MAX: usize = 128;
/// How often a silent client is asked whether it is there. One that does not answer until the next time is gone.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Time for saying goodbye.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

/// The token that a request offers as a protocol, if it wants to speak WebSocket.
pub(in crate::server) fn offered_token(headers: &Fields<'_>) -> Option<Vec<u8>> {
    headers.text("upgrade").filter(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))?;
    let offered = headers.all("sec-websocket-protocol").filter_map(|offered| std::str::from_utf8(offered).ok());
    let token = offered.flat_map(|offered| offered.split(',')).find_map(|one| one.trim().strip_prefix(TOKEN_PROTOCOL));
    URL_SAFE_NO_PAD.decode(token?).ok()
}

/// `GET /ws`.
pub(super) async fn open(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let permit = caller.permit::<Read>()?;
    let bad = |rejection: WebSocketUpgradeRejection| {
        Problem::new(Kind::BadRequest, format!("this path speaks WebSocket: {}", rejection.body_text()))
    };
    let upgrade = upgrade.map_err(bad)?;
    let (place, open) = (hub.live.enter(&caller.0.principal)?, hub.live.sockets.token());
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(async move |socket| {
        let mut connection = Connection::new(hub, permit, place, socket);
        let goodbye = connection.converse().await;
        let _ = timeout(CLOSE_TIME_MAX, connection.socket.send(Message::Close(goodbye))).await;
        drop((connection, open));
    }))
}

/// What a client says.
#[derive(serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Subscribe {
        id: String,
        #[serde(alias = "task_id")]
        task: Option<String>,
        run: Option<String>,
        #[serde(alias = "agent_id")]
        agent: Option<String>,
        #[serde(default)]
        kinds: Vec<String>,
        /// Begin after this number, and not now.
        after: Option<i64>,
    },
    Unsubscribe {
        id: String,
    },
    Ping {},
}

/// The other side is gone, or is to go: what it is told.
struct Gone(Option<CloseFrame>);

impl From<axum::Error> for Gone {
    fn from(_: axum::Error) -> Gone {
        Gone(None)
    }
}

struct Connection {
    hub: Arc<Shared>,
    permit: Permit<Read>,
    place: Place,
    socket: WebSocket,
    subscriptions: HashMap<String, Subscription>,
    /// What happens next, of each subscription.
    reading: FuturesUnordered<BoxFuture<'static, Reading>>,
    ping: Interval,
    is_heard: bool,
}

/// A subscription that goes on for as long as this is there.
struct Subscription {
    _place: Place,
    _ended: DropGuard,
}

/// What one subscription has read.
struct Reading {
    id: String,
    ended: CancellationToken,
    follower: EventFollower,
    /// `None` if it has ended.
    news: Option<Result<News, DbError>>,
}

impl Connection {
    fn new(hub: Arc<Shared>, permit: Permit<Read>, place: Place, socket: WebSocket) -> Connection {
        let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (subscriptions, reading) = (HashMap::new(), FuturesUnordered::new());
        Connection { hub, permit, place, socket, subscriptions, reading, ping, is_heard: true }
    }

    /// Go on until either side ends. Returns what the client is told then.
    async fn converse(&mut self) -> Option<CloseFrame> {
        let ended = self.place.ended.clone();
        let conversation = async {
            loop {
                if let Err(Gone(frame)) = self.step().await {
                    return frame;
                }
            }
        };
        let Some(frame) = ended.run_until_cancelled(conversation).await else {
            let is_stopping = self.hub.live.stop.is_cancelled();
            return Some(match is_stopping {
                true => goodbye(close_code::AWAY, "the hub is stopping"),
                false => goodbye(close_code::POLICY, "the token is not known any more"),
            });
        };
        frame
    }

    async fn step(&mut self) -> Result<(), Gone> {
        tokio::select! {
            message = self.socket.recv() => {
                self.is_heard = true;
                match message.ok_or(Gone(None))?? {
                    Message::Text(text) => self.receive(&text).await,
                    Message::Binary(_) => Err(Gone(Some(goodbye(close_code::UNSUPPORTED, "messages are text")))),
                    Message::Close(_) => Err(Gone(None)),
                    Message::Ping(_) | Message::Pong(_) => Ok(()), // pings are answered below
                }
            }
            Some(read) = self.reading.next() => self.tell(read).await,
            _ = self.ping.tick() => {
                if !std::mem::take(&mut self.is_heard) {
                    return Err(Gone(None));
                }
                Ok(self.socket.send(Message::Ping(Default::default())).await?)
            }
        }
    }

    async fn receive(&mut self, text: &str) -> Result<(), Gone> {
        let answer = match serde_json::from_str(text) {
            Ok(Request::Subscribe { id, task, run, agent, kinds, after }) => {
                let wanted = Wanted { task, run, agent, kinds };
                match self.subscribe(&id, wanted, after).await {
                    Ok(after) => json!({ "type": "subscribed", "id": id, "after": after }),
                    Err(problem) => error(Some(&id), problem),
                }
            }
            Ok(Request::Unsubscribe { id }) => match self.subscriptions.remove(&id) {
                Some(_) => json!({ "type": "unsubscribed", "id": id }),
                None => error(Some(&id), Problem::new(Kind::NotFound, "there is no such subscription")),
            },
            Ok(Request::Ping {}) => json!({ "type": "pong" }),
            Err(why) => {
                let message =
                    format!("{why}; expected {{\"type\": \"subscribe\", \"id\": \"…\"}}, `unsubscribe` or `ping`");
                error(None, Problem::new(Kind::BadRequest, message))
            }
        };
        self.send(answer).await
    }

    async fn subscribe(&mut self, id: &str, wanted: Wanted, after: Option<i64>) -> Result<i64, Problem> {
        let bad = |message: String| Problem::new(Kind::BadRequest, message);
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(bad(format!("the id of a subscription has 1 to {ID_BYTES_MAX} bytes")));
        }
        let count = self.subscriptions.len();
        let Entry::Vacant(vacant) = self.subscriptions.entry(id.to_owned()) else {
            return Err(Problem::new(Kind::Conflict, "there is a subscription with this id; end it first"));
        };
        if count >= SUBSCRIPTIONS_MAX {
            return Err(Problem::busy(
                Kind::Busy,
                format!("a connection has at most {SUBSCRIPTIONS_MAX} subscriptions"),
            ));
        }
        let place = self.hub.live.enter(&self.permit.actor().principal)?;
        let mut follower = self.hub.live.follow(&self.permit, wanted)?;
        match after {
            Some(after) => follower.go_on_after(after),
            None => drop(follower.skip_to_end().await.map_err(failed)?),
        }
        let (after, ended) = (follower.number(), CancellationToken::new());
        vacant.insert(Subscription { _place: place, _ended: ended.clone().drop_guard() });
        self.reading.push(read(id.to_owned(), ended, follower));
        Ok(after)
    }

    async fn tell(&mut self, reading: Reading) -> Result<(), Gone> {
        let Reading { id, ended, mut follower, news } = reading;
        let Some(news) = news.filter(|_| !ended.is_cancelled()) else { return Ok(()) };
        match news {
            Ok(News::Events(events)) => {
                let name = Value::from(id.as_str());
                for (_, event) in batch(&mut follower, events) {
                    let text = format!("{{\"type\":\"event\",\"id\":{name},\"event\":{event}}}");
                    self.socket.feed(Message::Text(text.into())).await?;
                }
                self.socket.flush().await?;
            }
            Ok(News::Reset { first, last }) => {
                self.send(json!({ "type": "reset", "id": id, "first": first, "last": last })).await?;
            }
            Err(why) => {
                self.subscriptions.remove(&id);
                return self.send(error(Some(&id), failed(why))).await;
            }
        }
        self.reading.push(read(id, ended, follower));
        Ok(())
    }

    async fn send(&mut self, message: Value) -> Result<(), Gone> {
        Ok(self.socket.send(Message::Text(message.to_string().into())).await?)
    }
}

/// Wait for what a subscription reads next.
fn read(id: String, ended: CancellationToken, mut follower: EventFollower) -> BoxFuture<'static, Reading> {
    Box::pin(async move {
        let news = ended.run_until_cancelled(follower.next()).await;
        Reading { id, ended, follower, news }
    })
}

fn error(id: Option<&str>, problem: Problem) -> Value {
    json!({ "type": "error", "id": id, "problem": problem.into_json() })
}

fn goodbye(code: u16, reason: &'static str) -> CloseFrame {
    CloseFrame { code, reason: Utf8Bytes::from_static(reason) }
}
