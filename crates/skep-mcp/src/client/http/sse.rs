//! HTTP+SSE of 2024-11-05: one stream carries all that the server says; its first event names the address for what the
//! client says.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use reqwest::{
    Method, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::TaskTracker;

use super::{
    EVENT_STREAM, Response, Target,
    events::{Event, Parser},
    failed, shown,
};
use crate::{
    client::{
        CallError, Setup,
        auth::Access,
        link::{Link, Outgoing},
    },
    framing::{Held, Memory},
};

/// Messages that are on their way to the server at once; some servers answer the request only when they are done.
const POSTS_MAX: usize = 64;

/// Open the stream, and a link over it.
pub(in crate::client) async fn link(target: Target, setup: &Setup) -> Result<Arc<Link>, CallError> {
    let (link, queue) = Link::new(Arc::clone(&setup.handler), &setup.limits);
    let access = target.authorization.clone().map(Access::new);
    let sender = Sender { target, access, tasks: link.tasks.clone() };
    if let Some(access) = &sender.access {
        access.begin(&sender.tasks).await?;
    }
    let target = &sender.target;
    let accept = (ACCEPT, HeaderValue::from_static(EVENT_STREAM));
    let response = sender.send(Method::GET, &target.url, accept, Bytes::new()).await?;
    if !response.status().is_success() || !response.is_event_stream() {
        let status = response.status().as_u16();
        let text = super::body(response, super::REFUSAL_BYTES_MAX, None, &mut None).await.unwrap_or_default();
        return Err(CallError::Http { status, text: shown(&text) });
    }
    let parser = Parser::new(setup.limits.message_bytes_max);
    let memory = setup.limits.memories.of("");
    let mut events = Events { response, parser, ready: Vec::new(), memory, held: None };
    let endpoint = loop {
        match events.next().await? {
            Some(Event { name, data }) if name == "endpoint" => break data,
            Some(_) => {}
            None => return Err(CallError::Protocol("the stream ended before its first event".to_owned())),
        }
    };
    let address = target.url.join(std::str::from_utf8(&endpoint).unwrap_or_default().trim());
    // An address elsewhere would be told this server's keys.
    let address = address.ok().filter(|address| address.origin() == target.url.origin());
    let Some(address) = address else {
        return Err(CallError::Protocol(format!("the stream names an address elsewhere: {}", shown(&endpoint))));
    };
    link.tasks.spawn(read(Arc::clone(&link), events));
    link.tasks.spawn(write(Arc::clone(&link), sender, address, queue, setup.limits.write_time_max));
    Ok(link)
}

/// The way to the server, with the token that it wants.
struct Sender {
    target: Target,
    access: Option<Access>,
    tasks: TaskTracker,
}

impl Sender {
    /// Send a request with this header besides those that each has; again if the server wants another token and there is one.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        (name, value): (HeaderName, HeaderValue),
        body: Bytes,
    ) -> Result<Response, CallError> {
        let send = async || {
            let mut headers = self.target.headers.clone();
            headers.insert(name.clone(), value.clone());
            headers.extend(self.access.as_ref().and_then(|access| access.headers(&method, url)).into_iter().flatten());
            let request = self.target.client.request(method.clone(), url.clone()).headers(headers).body(body.clone());
            request.send().await.map(Response::from).map_err(|error| failed(&error))
        };
        let Some(access) = &self.access else { return send().await };
        if access.is_stale() {
            access.begin(&self.tasks).await?;
        }
        let seen = access.changes();
        let response = send().await?;
        match response.challenge() {
            None => Ok(response),
            Some(challenge) => access.again(&self.tasks, seen, challenge, Response::challenge, send).await,
        }
    }
}

struct Events {
    response: Response,
    parser: Parser,
    ready: Vec<Event>,
    /// Where large events have their memory from, and what one takes.
    memory: Option<Memory>,
    held: Option<Held>,
}

impl Events {
    async fn next(&mut self) -> Result<Option<Event>, CallError> {
        while self.ready.is_empty() {
            match self.response.chunk().await? {
                Some(part) => {
                    self.parser.make_room(self.memory.as_ref(), &mut self.held, &part).await?;
                    self.ready = self.parser.push(&part)?;
                }
                None => return Ok(None),
            }
        }
        Ok(Some(self.ready.remove(0)))
    }
}

async fn read(link: Arc<Link>, mut events: Events) {
    let reading = async {
        loop {
            match events.next().await {
                Ok(Some(Event { name, data })) if matches!(name.as_str(), "" | "message") => {
                    if let Err(reason) = link.receive(&data, events.held.take()).await {
                        link.give_up(&reason);
                        return reason;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return "the server ended its stream".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    };
    if let Some(reason) = link.closed().run_until_cancelled(reading).await {
        link.shut(&reason);
    }
}

async fn write(
    link: Arc<Link>,
    sender: Sender,
    address: Url,
    mut queue: mpsc::Receiver<Outgoing>,
    time_max: std::time::Duration,
) {
    let post = async |Outgoing { text, call }: Outgoing| {
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sending = sender.send(Method::POST, &address, json, text.into());
        let error = match timeout(time_max, sending).await {
            Ok(Ok(response)) if response.status().is_success() => return,
            Ok(Ok(response)) => {
                let status = response.status().as_u16();
                let text = shown(&super::body(response, super::SHOWN_MAX, None, &mut None).await.unwrap_or_default());
                CallError::Http { status, text }
            }
            Ok(Err(error)) => error,
            Err(_) => CallError::TimedOut(time_max),
        };
        if let Some(id) = call {
            link.fail(id, error);
        }
    };
    let writing = async {
        let mut posts = FuturesUnordered::new();
        loop {
            tokio::select! {
                outgoing = queue.recv(), if posts.len() < POSTS_MAX => match outgoing {
                    Some(outgoing) => posts.push(post(outgoing)),
                    None => return,
                },
                Some(()) = posts.next(), if !posts.is_empty() => {}
            }
        }
    };
    let _ = link.closed().run_until_cancelled(writing).await;
}
