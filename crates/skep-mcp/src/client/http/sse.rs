//! HTTP+SSE of 2024-11-05: one stream carries all that the server says; its first event names the address for what the
//! client says.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use reqwest::{
    Url,
    header::{ACCEPT, CONTENT_TYPE},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    EVENT_STREAM, Response, Target,
    events::{Event, Parser},
    failed, is_event_stream, shown,
};
use crate::client::{
    CallError, Setup,
    link::{Link, Outgoing},
};

/// Messages that are on their way to the server at once; some servers answer the request only when they are done.
const POSTS_MAX: usize = 64;

/// Open the stream, and a link over it.
pub(in crate::client) async fn link(target: Target, setup: &Setup) -> Result<Arc<Link>, CallError> {
    let request = target.client.get(target.url.clone()).headers(target.headers.clone()).header(ACCEPT, EVENT_STREAM);
    let response = Response::from(request.send().await.map_err(|error| failed(&error))?);
    if !response.status().is_success() || !is_event_stream(&response) {
        let status = response.status().as_u16();
        let text = super::body(response, setup.limits.message_bytes_max).await.unwrap_or_default();
        return Err(CallError::Http { status, text: shown(&text) });
    }
    let mut events = Events { response, parser: Parser::new(setup.limits.message_bytes_max), ready: Vec::new() };
    let endpoint = loop {
        match events.next().await? {
            Some(Event { name, data }) if name == "endpoint" => break data,
            Some(_) => {}
            None => return Err(CallError::Protocol("the stream ended before its first event".to_owned())),
        }
    };
    let address = target.url.join(endpoint.trim());
    // An address elsewhere would be told this server's keys.
    let address = address.ok().filter(|address| address.origin() == target.url.origin());
    let Some(address) = address else {
        return Err(CallError::Protocol(format!(
            "the stream names an address elsewhere: {}",
            shown(endpoint.as_bytes())
        )));
    };
    let (link, queue) = Link::new(Arc::clone(&setup.handler), &setup.limits);
    link.tasks.spawn(read(Arc::clone(&link), events));
    link.tasks.spawn(write(Arc::clone(&link), target, address, queue, setup.limits.write_time_max));
    Ok(link)
}

struct Events {
    response: Response,
    parser: Parser,
    ready: Vec<Event>,
}

impl Events {
    async fn next(&mut self) -> Result<Option<Event>, CallError> {
        while self.ready.is_empty() {
            match self.response.chunk().await? {
                Some(part) => self.ready = self.parser.push(&part)?,
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
                    link.receive(data.as_bytes());
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
    target: Target,
    address: Url,
    mut queue: mpsc::Receiver<Outgoing>,
    time_max: std::time::Duration,
) {
    let post = async |Outgoing { text, call }: Outgoing| {
        let request = target.client.post(address.clone()).headers(target.headers.clone());
        let request = request.header(CONTENT_TYPE, "application/json").body(text);
        let error = match timeout(time_max, request.send()).await {
            Ok(Ok(response)) if response.status().is_success() => return,
            Ok(Ok(response)) => {
                let status = response.status().as_u16();
                CallError::Http {
                    status,
                    text: shown(&super::body(response.into(), super::SHOWN_MAX).await.unwrap_or_default()),
                }
            }
            Ok(Err(error)) => failed(&error),
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
