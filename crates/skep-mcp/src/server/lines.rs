//! One message a line, over any pair of byte streams: standard input and output, TCP, Unix sockets.
//!
//! A connection may carry a session (`initialize`) and stateless requests (2026-07-28) side by side. When its input ends,
//! what was asked is still answered, within `END_TIME_MAX`; when it takes its answers too slowly, it is closed. While its answers wait to
//! be written, nothing more is read from it.

use std::{io, num::NonZeroU32, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Principal, Server, Share, code, local,
    rate::Rate,
    session::{Session, SessionOptions},
    sink::{self, Outbox, Sink, Text, Unwritten},
};
use crate::{
    framing::{Lines, Memory, Skipped},
    message::{ErrorObject, Incoming, parse},
    pace::Paced,
    revision::Revision,
};

/// Messages that wait to be written on one connection; whoever has another one waits.
const QUEUE_MAX: usize = 64;
/// Time that running requests get when there will be no more.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// Changes a result before it is sent: the method, the result.
pub type Finish = fn(&str, Box<RawValue>) -> Box<RawValue>;

/// What a connection allows beyond the specification.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who the transport says the caller is.
    pub principal: Arc<dyn Principal>,
    /// Requests of a caller that never sends `initialize` are taken as this revision's; `None` refuses them.
    pub unannounced: Option<Revision>,
    /// Whether there is a method `batch`, and lists of messages are taken in every revision.
    pub has_batch_method: bool,
    /// Changes the results of sessions before they are sent.
    pub finish: Option<Finish>,
    /// Requests that are taken each second, and at once after a pause; each one more is answered with an error.
    pub requests_per_second_max: Option<NonZeroU32>,
    /// What large messages take until they are answered comes from here.
    pub memory: Option<Memory>,
}

impl Default for Options {
    /// Nothing; all callers are one principal.
    fn default() -> Options {
        Options {
            principal: local(),
            unannounced: None,
            has_batch_method: false,
            finish: None,
            requests_per_second_max: None,
            memory: None,
        }
    }
}

/// Serve one connection until its input ends, it takes nothing more, or the server stops.
pub async fn serve(
    server: &Server,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    options: Options,
) -> io::Result<()> {
    let Options { principal, unannounced, has_batch_method, finish, requests_per_second_max, memory } = options;
    let (to, waiting, unwritten) = Outbox::open(QUEUE_MAX, server.inner.limits.memories.of(principal.name()));
    let options = SessionOptions { unannounced, has_batch_method, finish, is_dual: true };
    let session = Session::new(&server.inner, principal, to.clone(), options);
    let _closed_at_the_end = session.closed().clone().drop_guard();
    let written = CancellationToken::new();
    let reading = async {
        let lines = Lines::new(BufReader::new(input), server.inner.limits.message_bytes_max).counted(memory);
        let rate = requests_per_second_max.map(|per_second| Rate::new(per_second, Instant::now()));
        let read = session.closed().run_until_cancelled(read(server, &session, lines, rate, &to)).await;
        // What is cut off by a caller that has gone shows in writing.
        let _ = timeout(END_TIME_MAX, session.answered_all()).await;
        written.cancel();
        read.unwrap_or(Ok(()))
    };
    let writing = write(output, (waiting, unwritten), &written, server.inner.limits.write_time_max);
    tokio::pin!(reading, writing);
    let result = tokio::select! {
        read = &mut reading => read.and(writing.await), // what is left
        written = &mut writing => written, // it takes nothing more
    };
    session.close();
    result
}

/// Take messages until there are no more.
async fn read(
    server: &Server,
    session: &Arc<Session>,
    mut lines: Lines<impl AsyncBufRead + Unpin>,
    mut rate: Option<Rate>,
    to: &Sink,
) -> io::Result<()> {
    let limits = &server.inner.limits;
    let refuse = async |code: i64, message: String| {
        let error = ErrorObject::new(code, message);
        to.end(Some(sink::error(None, &error).into())).await;
    };
    while lines.begun().await? {
        let Ok(line) = timeout(limits.body_time_max, lines.next()).await else {
            let message = format!("the message did not arrive within {}s", limits.body_time_max.as_secs_f64());
            refuse(code::INVALID_REQUEST, message).await;
            return Ok(());
        };
        let Some(line) = line? else { break };
        let parsed = match line {
            Ok([]) => continue, // an empty line says nothing
            Ok(line) => parse(line),
            Err(Skipped::TooLong) => {
                let message = format!("the message is longer than {} bytes", limits.message_bytes_max);
                refuse(code::INVALID_REQUEST, message).await;
                continue;
            }
            Err(Skipped::NoMemory(none)) => {
                refuse(code::BUSY, none.to_string()).await;
                continue;
            }
        };
        let answers = &to.clone().keeping(lines.take_held().map(|held| Share(Arc::new(held))));
        let taken = match &mut rate {
            Some(rate) => rate.judge(parsed, session.has_batch_method(), Instant::now()),
            None => parsed,
        };
        match taken {
            Ok(Incoming::Single(message)) => drop(session.receive(message, answers).await), // while more is read
            Ok(Incoming::Batch(messages)) if messages.len() > limits.batch_max => {
                refuse(code::INVALID_REQUEST, format!("at most {} messages go into one batch", limits.batch_max)).await;
            }
            Ok(Incoming::Batch(messages)) if session.takes_batches() => session.receive_batch(messages, answers).await,
            Ok(Incoming::Batch(_)) => {
                let message = "batches ended with 2025-03-26; send one message at a time".to_owned();
                refuse(code::INVALID_REQUEST, message).await;
            }
            Err(malformed) => to.end(Some(sink::error(malformed.id.as_ref(), &malformed.error).into())).await,
        }
        to.ready().await;
    }
    Ok(())
}

/// Write what is queued, until there will be no more.
async fn write(
    output: impl AsyncWrite + Unpin,
    (mut queue, unwritten): (mpsc::Receiver<Text>, Arc<Unwritten>),
    last: &CancellationToken,
    time_max: Duration,
) -> io::Result<()> {
    let mut output = Paced::new(output, time_max);
    loop {
        let text = tokio::select! {
            biased;
            text = queue.recv() => text,
            () = last.cancelled(), if !queue.is_closed() => {
                queue.close(); // what is in it still comes
                continue;
            }
        };
        let Some(text) = text else {
            let _ = output.shutdown().await; // the other side may be gone
            return Ok(());
        };
        let bytes = text.len();
        let mut line = text.into_line();
        while let Some(piece) = line.pop() {
            output.write_all(&piece).await?;
        }
        unwritten.written(bytes);
        if queue.is_empty() {
            output.flush().await?;
        }
    }
}
