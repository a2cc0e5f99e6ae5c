//! One message a line, over any pair of byte streams: standard input and output, TCP, Unix sockets.
//!
//! A connection may carry a session (`initialize`) and stateless requests (2026-07-28) side by side. When its input ends,
//! what was asked is still answered, within `END_TIME_MAX`; when it takes nothing, it is closed.

use std::{io, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Server, code,
    session::{Customs, Session},
    sink::{self, Sink},
};
use crate::{
    framing::{Lines, TooLong},
    message::{ErrorObject, Incoming, parse},
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
    pub principal: Arc<str>,
    /// Requests of a caller that never sends `initialize` are taken as this revision's; `None` refuses them.
    pub unannounced: Option<Revision>,
    /// Whether there is a method `batch`, and lists of messages are taken in every revision.
    pub has_batch_method: bool,
    /// Changes the results of sessions before they are sent.
    pub finish: Option<Finish>,
}

impl Default for Options {
    /// Nothing.
    fn default() -> Options {
        Options { principal: "".into(), unannounced: None, has_batch_method: false, finish: None }
    }
}

/// Serve one connection until its input ends, it takes nothing more, or the server stops.
pub async fn serve(
    server: &Server,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    options: Options,
) -> io::Result<()> {
    let Options { principal, unannounced, has_batch_method, finish } = options;
    let (queue, waiting) = mpsc::channel(QUEUE_MAX);
    let to = Sink::Queue(queue);
    let customs = Customs { unannounced, has_batch_method, finish, is_dual: true };
    let session = Session::new(&server.inner, principal, to.clone(), customs);
    let _closed_at_the_end = session.closed().clone().drop_guard();
    let written = CancellationToken::new();
    let reading = async {
        let read = session.closed().run_until_cancelled(read(server, &session, input, &to)).await;
        // What is cut off by a caller that has gone shows in writing.
        let _ = timeout(END_TIME_MAX, session.answered_all()).await;
        written.cancel();
        read.unwrap_or(Ok(()))
    };
    let writing = write(output, waiting, &written, server.inner.limits.write_time_max);
    tokio::pin!(reading, writing);
    let result = tokio::select! {
        read = &mut reading => read.and(writing.await), // what is left
        written = &mut writing => written, // it takes nothing more
    };
    session.close();
    result
}

/// Take messages until there are no more.
async fn read(server: &Server, session: &Arc<Session>, input: impl AsyncRead + Unpin, to: &Sink) -> io::Result<()> {
    let limits = &server.inner.limits;
    let mut lines = Lines::new(BufReader::new(input), limits.message_bytes_max);
    let refuse = async |message: String| {
        let error = ErrorObject::new(code::INVALID_REQUEST, message);
        to.end(Some(sink::error(None, &error))).await;
    };
    while let Some(line) = lines.next().await? {
        match line {
            Ok([]) => {} // an empty line says nothing
            Ok(line) => match parse(line) {
                Ok(Incoming::Single(message)) => session.receive(message, to).await,
                Ok(Incoming::Batch(messages)) if messages.len() > limits.batch_max => {
                    refuse(format!("at most {} messages go into one batch", limits.batch_max)).await;
                }
                Ok(Incoming::Batch(messages)) if session.takes_batches() => session.receive_batch(messages, to).await,
                Ok(Incoming::Batch(_)) => {
                    refuse("batches ended with 2025-03-26; send one message at a time".to_owned()).await;
                }
                Err(malformed) => to.end(Some(sink::error(malformed.id.as_ref(), &malformed.error))).await,
            },
            Err(TooLong) => refuse(format!("the message is longer than {} bytes", limits.message_bytes_max)).await,
        }
    }
    Ok(())
}

/// Write what is queued, until there will be no more.
async fn write(
    mut output: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<String>,
    last: &CancellationToken,
    time_max: Duration,
) -> io::Result<()> {
    loop {
        let text = tokio::select! {
            biased;
            text = queue.recv() => text,
            () = last.cancelled(), if !queue.is_closed() => {
                queue.close(); // what is in it still comes
                continue;
            }
        };
        let Some(mut text) = text else { return Ok(()) };
        text.push('\n');
        let slow = |_| io::Error::new(io::ErrorKind::TimedOut, "the caller takes nothing");
        timeout(time_max, output.write_all(text.as_bytes())).await.map_err(slow)??;
        if queue.is_empty() {
            timeout(time_max, output.flush()).await.map_err(slow)??;
        }
    }
}
