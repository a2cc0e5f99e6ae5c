//! JSON-RPC in lines over TCP: the Model Context Protocol, with what S2's clients expect beside it.
//!
//! Where the hub has a token, a connection says it first: `{"jsonrpc":"2.0","id":0,"method":"authenticate",
//! "params":{"token":"…"}}`. What does not begin as JSON is cut off at once: a web page can have its browser send an HTTP
//! request here, and a body that it chose must not be read as messages.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use serde_json::{Value, json};
use skep_mcp::{
    framing,
    message::{self, Incoming, Message},
    server::{code, lines},
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    connections::{Stream as _, prepare},
    guard,
    http::Shared,
    mcp,
    refusal::{REFUSALS_AT_ONCE_MAX, Refusal},
    tls::Tls,
    tokens::{Known, Tokens},
};
use crate::hub::principals;

/// Bytes of the message that brings the token.
const TOKEN_MESSAGE_BYTES_MAX: usize = 4096;

/// What all connections share.
pub(super) struct Lines {
    hub: Arc<Shared>,
    /// One for each connection that may be open, at all listeners together.
    open: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    connections_max: usize,
    tls: Option<Tls>,
    head_time_max: Duration,
    write_time_max: Duration,
    requests_per_second_max: Option<NonZeroU32>,
}

impl Lines {
    pub(super) fn new(hub: Arc<Shared>, options: &Options, open: Arc<Semaphore>) -> Lines {
        Lines {
            hub,
            open,
            refusals: Arc::new(Semaphore::new(REFUSALS_AT_ONCE_MAX)),
            connections_max: options.connections_max,
            tls: options.tls.clone(),
            head_time_max: options.head_time_max,
            write_time_max: options.write_time_max,
            requests_per_second_max: options.requests_per_second_max,
        }
    }

    /// The connection as a task, or `None` if there are far too many.
    pub(super) fn admit(self: &Arc<Self>, stream: TcpStream) -> Option<impl Future<Output = ()> + Send + use<>> {
        if let Err(error) = prepare(&stream, self.write_time_max) {
            tracing::debug!(%error, "a connection could not be set up");
        }
        let is_admitted = self.hub.guard.admits().admit(|| stream.user());
        let (permit, refusal) = Refusal::place(is_admitted, &self.open, &self.refusals)?;
        let lines = Arc::clone(self);
        Some(async move {
            let _counted = permit;
            let ended = match &lines.tls {
                None => {
                    let (input, output) = stream.into_split();
                    lines.serve(input, output, refusal).await
                }
                Some(tls) => match tls.accept_lines(stream, lines.head_time_max).await {
                    Ok(stream) => {
                        let (input, output) = tokio::io::split(stream);
                        Box::pin(lines.serve(input, output, refusal)).await
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke off");
            }
        })
    }

    async fn serve(
        &self,
        input: impl AsyncRead + Unpin,
        output: impl AsyncWrite + Unpin,
        refusal: Option<Refusal>,
    ) -> std::io::Result<()> {
        match refusal {
            None => self.converse(input, output).await,
            Some(refusal) => timeout(refusal.time_max(), self.refuse(input, output, refusal)).await.unwrap_or(Ok(())),
        }
    }

    /// Say why, and wait until that was heard.
    async fn refuse(
        &self,
        mut input: impl AsyncRead + Unpin,
        mut output: impl AsyncWrite + Unpin,
        refusal: Refusal,
    ) -> std::io::Result<()> {
        let too_many =
            || format!("{} connections are open, and no more are taken; try again in a moment", self.connections_max);
        let (code, message) = match refusal {
            Refusal::TooMany => (code::BUSY, too_many()),
            Refusal::Stranger => (code::INVALID_REQUEST, guard::STRANGER.to_owned()),
        };
        let error = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code, "message": message } });
        output.write_all(format!("{error}\n").as_bytes()).await?;
        output.shutdown().await?;
        tokio::io::copy(&mut input, &mut tokio::io::sink()).await.map(drop)
    }

    async fn converse(
        &self,
        input: impl AsyncRead + Unpin,
        mut output: impl AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        let mut input = BufReader::new(input);
        let (mut principal, mut revoked) = (Arc::clone(principals::carried_local()), CancellationToken::new());
        // Idle connections are welcome once they have said something.
        if self.hub.guard.admits().wants_token() {
            let tokens = self.hub.guard.tokens();
            let opened = timeout(self.head_time_max, authenticate(&tokens, &mut input)).await;
            let (text, known) = opened.unwrap_or_else(|_| Ok((String::new(), None)))?;
            output.write_all(text.as_bytes()).await?;
            output.flush().await?;
            match known {
                Some(known) => (principal, revoked) = (Arc::clone(&known.principal), known.revoked.clone()),
                None => return Ok(()),
            }
        } else if !timeout(self.head_time_max, begins_as_json(&mut input)).await.unwrap_or(Ok(false))? {
            return Ok(());
        }
        let options = lines::Options {
            memory: Some(self.hub.bodies.memory(principal.name())),
            principal,
            unannounced: Some(mcp::UNANNOUNCED),
            has_batch_method: true,
            finish: Some(mcp::finish),
            requests_per_second_max: self.requests_per_second_max,
        };
        let serving = lines::serve(&self.hub.mcp.server, input, output, options);
        revoked.run_until_cancelled(serving).await.unwrap_or(Ok(()))
    }
}

async fn begins_as_json(input: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<bool> {
    loop {
        let chunk = input.fill_buf().await?;
        match chunk.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) => return Ok(matches!(chunk[at], b'{' | b'[')),
            None if chunk.is_empty() => return Ok(false),
            None => {
                let blank = chunk.len();
                input.consume(blank);
            }
        }
    }
}

/// The answer to the first message, and the token that it brought.
async fn authenticate<'a>(
    tokens: &'a Tokens,
    input: &mut (impl AsyncBufRead + Unpin),
) -> std::io::Result<(String, Option<&'a Arc<Known>>)> {
    let mut lines = framing::Lines::new(input, TOKEN_MESSAGE_BYTES_MAX);
    let line = match lines.next().await? {
        Some(Ok(line)) if line.starts_with(b"{") => line,
        _ => return Ok((String::new(), None)),
    };
    let Ok(Incoming::Single(Message::Request(request))) = message::parse(line) else {
        return Ok((String::new(), None));
    };
    let params: Value = request.params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
    let given = params["token"].as_str().filter(|_| request.method == "authenticate");
    let known = given.and_then(|given| tokens.find(given.as_bytes()));
    let mut answer = json!({ "jsonrpc": "2.0", "id": request.id });
    match known {
        Some(_) => answer["result"] = json!({ "status": "ok" }),
        None => {
            let message = "this hub wants its token first: {\"method\":\"authenticate\",\"params\":{\"token\":\"…\"}}";
            answer["error"] = json!({ "code": -32600, "message": message });
        }
    }
    Ok((format!("{answer}\n"), known))
}
