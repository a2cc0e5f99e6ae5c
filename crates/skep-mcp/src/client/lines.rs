//! One message a line, over any pair of byte streams.

use std::{io, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use super::{
    Handler, Limits,
    link::{Link, Outgoing},
};
use crate::framing::{Lines, Memory};

/// What is read from a server, and what is written to it.
pub struct Streams {
    /// From the server.
    pub input: Box<dyn AsyncRead + Send + Unpin>,
    /// To it. Closed when the connection is.
    pub output: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Opens streams to a server, more than once if need be: some servers do not survive the question which era they speak.
pub trait Dial: Send {
    /// Open new streams. Those that were opened before are of no use any more.
    fn dial(&mut self) -> BoxFuture<'_, io::Result<Streams>>;
}

/// A server behind a TCP address.
#[derive(Clone, Debug)]
pub struct Tcp(
    /// `host:port`.
    pub String,
);

impl Dial for Tcp {
    fn dial(&mut self) -> BoxFuture<'_, io::Result<Streams>> {
        Box::pin(async {
            let stream = TcpStream::connect(&self.0).await?;
            stream.set_nodelay(true)?; // small messages must not wait for each other's acknowledgement
            let (input, output) = stream.into_split();
            Ok(Streams { input: Box::new(input), output: Box::new(output) })
        })
    }
}

/// A link over these streams.
pub(super) fn link(streams: Streams, handler: Arc<dyn Handler>, limits: &Limits) -> Arc<Link> {
    let (link, queue) = Link::new(handler, limits);
    let Streams { input, output } = streams;
    link.tasks.spawn(read(Arc::clone(&link), input, limits.message_bytes_max, limits.memories.of("")));
    link.tasks.spawn(write(Arc::clone(&link), output, queue, limits.write_time_max));
    link
}

async fn read(link: Arc<Link>, input: Box<dyn AsyncRead + Send + Unpin>, bytes_max: usize, memory: Option<Memory>) {
    let reading = async {
        let mut lines = Lines::new(BufReader::with_capacity(64 << 10, input), bytes_max).waiting(memory);
        loop {
            let mut held = None;
            let taken = match lines.next_counted(&mut held).await {
                Ok(Some(Ok([]))) => link.receive_nothing().await,
                Ok(Some(Ok(line))) => link.receive(line, held).await,
                Ok(Some(Err(skipped))) => link.receive_skipped(lines.skipped_ends(), skipped, bytes_max).await,
                Ok(None) => return "the server ended its output".to_owned(),
                Err(error) => return format!("its output cannot be read: {error}"),
            };
            if let Err(reason) = taken {
                link.give_up(&reason);
                return reason;
            }
        }
    };
    if let Some(reason) = link.closed().run_until_cancelled(reading).await {
        link.shut(&reason);
    }
}

async fn write(
    link: Arc<Link>,
    mut output: Box<dyn AsyncWrite + Send + Unpin>,
    mut queue: mpsc::Receiver<Outgoing>,
    time_max: Duration,
) {
    let writing = async {
        while let Some(Outgoing { mut text, .. }) = queue.recv().await {
            text.push('\n');
            let written = async {
                output.write_all(text.as_bytes()).await?;
                output.flush().await
            };
            match timeout(time_max, written).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return format!("its input cannot be written: {error}"),
                Err(_) => return format!("the server takes no input for {} s", time_max.as_secs()),
            }
        }
        "it was closed".to_owned()
    };
    let reason = link.closed().run_until_cancelled(writing).await;
    if let Some(reason) = reason {
        link.shut(&reason);
    }
    let _ = timeout(time_max, output.shutdown()).await; // the server sees the end of its input
}
