//! What a command prints: kept up to a limit, and passed on as it comes.
//!
//! Owns the limit on both streams together and the sink of a request. Reading is left to whoever runs the command. A slow
//! sink holds nothing up and costs no memory: everything read is kept for the outcome anyway, and is passed on from
//! there once the sink has room.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    select,
    sync::mpsc::{Sender, error::TrySendError},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// Longest piece that a sink gets, in bytes.
pub const PIECE_BYTES_MAX: usize = 64 << 10;
/// Bytes that are read from a pipe at once.
const CHUNK_BYTES: usize = 64 << 10;
/// How often a slow sink may find the streams taking turns; beyond that, pieces of one stream are joined.
const TURNS_MAX: usize = 1024;
/// How long a sink may take for the rest after the request was cancelled.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// One of the two streams that a command prints to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Something that a command has printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it was printed.
    pub stream: Stream,
    /// What, at most [`PIECE_BYTES_MAX`]; it may begin and end anywhere, also within a character.
    pub bytes: Vec<u8>,
}

/// What a command has printed so far.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// There was more than allowed.
    pub(crate) truncated: bool,
    /// Bytes of either stream that are within the limit.
    kept: [usize; 2],
    bytes_max: u64,
    pub(crate) sink: Sink,
}

impl Output {
    pub(crate) fn new(bytes_max: u64, sink: Option<Sender<Piece>>) -> Output {
        Output { bytes_max, sink: Sink { to: sink, ..Sink::default() }, ..Output::default() }
    }

    /// Takes in what was just read into a stream, as far as there is room. `false`: there was more.
    pub(crate) fn keep(&mut self, stream: Stream) -> bool {
        let room = self.bytes_max - self.kept.iter().sum::<usize>() as u64;
        let bytes = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let kept = &mut self.kept[stream as usize];
        let new = (bytes.len() - *kept).min(usize::try_from(room).unwrap_or(usize::MAX));
        let fits = bytes.len() == *kept + new;
        bytes.truncate(*kept + new);
        *kept = bytes.len();
        self.truncated |= !fits;
        self.sink.owe(stream, new);
        fits
    }

    /// Passes one piece on, if the sink has room for it.
    pub(crate) fn pass_on(&mut self) {
        self.sink.pass_on([&self.stdout, &self.stderr]);
    }

    /// Passes everything on. Waits for the sink, which may as well be dropped.
    pub(crate) async fn pass_rest_on(&mut self, cancel: &CancellationToken) {
        let given_up = async {
            cancel.cancelled().await;
            sleep(TAKEN_WITHIN).await;
        };
        let mut given_up = std::pin::pin!(given_up);
        while self.sink.is_behind() {
            select! {
                biased;
                () = self.sink.room() => self.pass_on(),
                () = &mut given_up => return,
            }
        }
    }
}

/// Who hears of it.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    to: Option<Sender<Piece>>,
    /// What is still to be passed on: so many bytes of this stream, then so many of that.
    owed: VecDeque<(Stream, usize)>,
    /// Bytes of either stream that have been.
    passed: [usize; 2],
}

impl Sink {
    fn owe(&mut self, stream: Stream, length: usize) {
        if self.to.is_none() || length == 0 {
            return;
        }
        let full = self.owed.len() >= TURNS_MAX;
        let joined = match self.owed.back_mut() {
            Some(last) if last.0 == stream => Some(last),
            Some(_) if full => self.owed.iter_mut().rev().find(|owed| owed.0 == stream),
            _ => None,
        };
        match joined {
            Some((_, owed)) => *owed += length,
            None => self.owed.push_back((stream, length)),
        }
    }

    pub(crate) fn is_behind(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Waits until something can be passed on, or nobody is there any more.
    pub(crate) async fn room(&self) {
        if let Some(to) = &self.to {
            // If it is closed, passing on finds that out.
            let _ = to.reserve().await;
        }
    }

    fn pass_on(&mut self, streams: [&[u8]; 2]) {
        let (Some(to), Some((stream, owed))) = (&self.to, self.owed.front_mut()) else { return };
        let passed = &mut self.passed[*stream as usize];
        let length = (*owed).min(PIECE_BYTES_MAX);
        let bytes = streams[*stream as usize][*passed..*passed + length].to_vec();
        match to.try_send(Piece { stream: *stream, bytes }) {
            Ok(()) => {
                *passed += length;
                *owed -= length;
                if *owed == 0 {
                    self.owed.pop_front();
                }
            }
            Err(TrySendError::Full(_)) => (),
            Err(TrySendError::Closed(_)) => {
                self.to = None;
                self.owed.clear();
            }
        }
    }
}

/// Waits for more, and appends it. 0: there will be no more.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> std::io::Result<usize> {
    // Little at first, since most commands print little.
    into.reserve(CHUNK_BYTES.min(into.len() + 4096));
    from.read_buf(into).await
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::channel;

    use super::*;

    fn print(output: &mut Output, stream: Stream, text: &str) -> bool {
        let bytes = if stream == Stream::Stdout { &mut output.stdout } else { &mut output.stderr };
        bytes.extend_from_slice(text.as_bytes());
        output.keep(stream)
    }

    #[test]
    fn the_limit_is_one_for_both_streams_and_first_come_first_served() {
        let mut output = Output::new(5, None);
        assert!(print(&mut output, Stream::Stderr, "abc"));
        assert!(!print(&mut output, Stream::Stdout, "defg"));
        assert!(!print(&mut output, Stream::Stderr, "h"));
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"de"[..], &b"abc"[..]));
        assert!(output.truncated && !output.sink.is_behind());
    }

    #[tokio::test]
    async fn a_slow_sink_gets_everything_in_order_and_nothing_twice() {
        let (to, mut from) = channel(1);
        let mut output = Output::new(1000, Some(to));
        for turn in 0..3 {
            print(&mut output, Stream::Stdout, "out");
            print(&mut output, Stream::Stdout, &turn.to_string());
            output.pass_on();
            print(&mut output, Stream::Stderr, "err");
        }
        let mut heard = Vec::new();
        while let Ok(piece) = from.try_recv() {
            heard.push((piece.stream, String::from_utf8(piece.bytes).unwrap()));
            output.pass_on();
        }
        let expected = [("out0", "err"), ("out1", "err"), ("out2", "err")];
        let expected = expected.iter().flat_map(|(out, err)| [(Stream::Stdout, *out), (Stream::Stderr, *err)]);
        assert_eq!(heard, expected.map(|(stream, text)| (stream, text.to_owned())).collect::<Vec<_>>());
        assert!(!output.sink.is_behind());
    }

    #[tokio::test]
    async fn streams_that_take_turns_without_end_do_not_take_more_memory_than_they_print() {
        let (to, mut from) = channel(1);
        let mut output = Output::new(1 << 20, Some(to));
        for _ in 0..TURNS_MAX {
            print(&mut output, Stream::Stdout, "o");
            print(&mut output, Stream::Stderr, "e");
        }
        assert_eq!(output.sink.owed.len(), TURNS_MAX);
        let mut heard = 0;
        while output.sink.is_behind() {
            output.pass_on();
            heard += from.try_recv().unwrap().bytes.len();
        }
        assert_eq!(heard, 2 * TURNS_MAX);
    }

    #[tokio::test]
    async fn nobody_is_waited_for_who_has_gone() {
        let (to, from) = channel(1);
        let mut output = Output::new(1000, Some(to));
        print(&mut output, Stream::Stdout, "x");
        drop(from);
        output.pass_rest_on(&CancellationToken::new()).await;
        assert_eq!(output.stdout, b"x");
    }
}
