//! Those who follow the log of a workspace from its beginning, over an event stream or a WebSocket, now at one hub and
//! now at another.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::{
    cluster::{Cluster, HUBS, OPERATOR, PATIENCE},
    writer::number,
};

/// How long a reader stays at a hub at most, and how long it hears nothing before it goes to another one.
const STAY_MS_MAX: u64 = 5000;
const SILENCE_MAX: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    EventStream,
    WebSocket,
}

pub(crate) struct Reader {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) task: &'static str,
    pub(crate) way: Way,
    pub(crate) rng: fastrand::Rng,
    pub(crate) events: Vec<Value>,
}

impl Reader {
    /// Follow until there is an end, the last number of each log, and it is reached. Gives everything that was read, in order.
    pub(crate) async fn run(
        mut self,
        mut end: watch::Receiver<Option<HashMap<&'static str, i64>>>,
    ) -> (&'static str, Way, Vec<Value>) {
        let (mut hub, mut ends) = (self.rng.usize(..HUBS), None);
        loop {
            let target = end.borrow_and_update().as_ref().map(|ends| ends[self.task]);
            if target.is_some_and(|target| self.last() >= target) {
                return (self.task, self.way, self.events);
            }
            if target.is_some() && ends.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                self.complain("does not come to the end of the log", target);
                return (self.task, self.way, self.events);
            }
            if let Some(url) = self.cluster.hubs[hub].url() {
                let stay = Duration::from_millis(self.rng.u64(STAY_MS_MAX / 5..STAY_MS_MAX));
                let follow = timeout(stay, async {
                    match self.way {
                        Way::EventStream => self.stream(&url).await,
                        Way::WebSocket => self.socket(&url).await,
                    }
                });
                tokio::select! {
                    _ = follow => {}
                    _ = end.changed() => {}
                }
            }
            hub = (hub + 1) % HUBS;
            sleep(PAUSE).await;
        }
    }

    fn last(&self) -> i64 {
        self.events.last().map_or(0, |event| number(event, "number"))
    }

    fn complain(&self, what: &str, about: impl std::fmt::Debug) {
        let (way, task, last) = (self.way, self.task, self.last());
        self.cluster.notes.complain(format!("the reader of {task} by {way:?}, after {last}: {what}: {about:?}"));
    }

    fn take(&mut self, event: Value) {
        if number(&event, "number") != self.last() + 1 {
            self.complain("an event is missing or comes twice", &event);
        }
        self.cluster.notes.read_event();
        self.events.push(event);
    }

    /// Returns when it is time to go to another hub.
    async fn stream(&mut self, url: &str) -> Option<()> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.get(format!("{url}/api/v1/events?task={}&after=0", self.task)).bearer_auth(OPERATOR);
        let mut request = request.header("accept", "text/event-stream");
        if self.last() > 0 {
            request = request.header("last-event-id", self.last());
        }
        let mut response = request.send().await.ok()?;
        if response.status() == 503 {
            return None;
        }
        if response.status() != 200 {
            let (status, text) = (response.status(), response.text().await);
            self.complain("it cannot follow", (status, text));
            return None;
        }
        let mut unread = String::new();
        let mut rest = Vec::new();
        loop {
            while let Some((block, after)) = unread.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let (kind, data) = (field("event: "), field("data: "));
                unread = after.to_owned();
                match (kind.as_deref(), data) {
                    (Some("error"), _) => return None,
                    (Some("reset"), data) => self.complain("the log was reset", data),
                    (_, Some(data)) => self.take(serde_json::from_str(&data).ok()?),
                    (_, None) => {}
                }
            }
            rest.extend_from_slice(&timeout(SILENCE_MAX, response.chunk()).await.ok()?.ok()??);
            let valid = match std::str::from_utf8(&rest) {
                Ok(text) => text.len(),
                Err(error) => error.valid_up_to(),
            };
            unread += std::str::from_utf8(&rest[..valid]).unwrap();
            rest.drain(..valid);
        }
    }

    async fn socket(&mut self, url: &str) -> Option<()> {
        let mut request = format!("{}/ws", url.replace("http://", "ws://")).into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {OPERATOR}").parse().unwrap());
        let (mut socket, _) = connect_async(request).await.ok()?;
        let subscribe = json!({ "type": "subscribe", "id": "a", "task": self.task, "after": self.last() });
        socket.send(Message::text(subscribe.to_string())).await.ok()?;
        loop {
            let Message::Text(text) = timeout(SILENCE_MAX, socket.next()).await.ok()??.ok()? else { continue };
            let mut said: Value = serde_json::from_str(&text).ok()?;
            match said["type"].as_str() {
                Some("event") => self.take(said["event"].take()),
                Some("subscribed") => {}
                Some("error") if said["problem"]["status"] == 503 => return None,
                _ => {
                    self.complain("it cannot follow", said);
                    return None;
                }
            }
        }
    }
}
