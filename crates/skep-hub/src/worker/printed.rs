//! What commands print while they run, line by line, for whoever watches the run. It is kept nowhere: the whole output is
//! part of the task's answer.
//!
//! A watcher who is slow holds up neither commands nor tasks: lines that find no room are left out, and counted.

use std::mem;

use skep_sandbox::{Piece, Stream};
use tokio::sync::mpsc::{Receiver, Sender, channel as bounded};

/// Lines that wait for the watcher; more are left out.
const LINES_MAX: usize = 1024;
/// Bytes of one line; a longer one is shown in parts.
const LINE_BYTES_MAX: usize = 4 << 10;
/// Pieces of output that wait to be taken apart.
pub(super) const PIECES_MAX: usize = 4;

/// A line that the command of a task has printed.
#[derive(Clone, Debug, PartialEq)]
pub struct Printed {
    /// Name of the task in the plan.
    pub task: String,
    /// To where it was printed.
    pub stream: Stream,
    /// The line, without its end.
    pub text: String,
    /// Lines of this task before this one that found no room.
    pub left_out: usize,
}

/// From the tasks of a run to who watches it.
pub fn channel() -> (Sender<Printed>, Receiver<Printed>) {
    bounded(LINES_MAX)
}

/// Take apart what a task prints, until it prints no more.
pub(super) async fn pass_on(task: &str, mut pieces: Receiver<Piece>, to: &Sender<Printed>) {
    let mut lines = Lines { task, to, begun: Default::default(), left_out: 0 };
    while let Some(piece) = pieces.recv().await {
        lines.take(piece.stream, &piece.bytes);
    }
    lines.end();
}

struct Lines<'a> {
    task: &'a str,
    to: &'a Sender<Printed>,
    /// Lines without an end, of standard output and standard error.
    begun: [Vec<u8>; 2],
    left_out: usize,
}

impl Lines<'_> {
    fn take(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let begun = &mut self.begun[stream as usize];
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let room = LINE_BYTES_MAX - begun.len();
            match end {
                Some(end) if end <= room => {
                    begun.extend_from_slice(&bytes[..end]);
                    bytes = &bytes[end + 1..];
                    self.send(stream);
                }
                None if bytes.len() < room => {
                    begun.extend_from_slice(bytes);
                    return;
                }
                _ => {
                    begun.extend_from_slice(&bytes[..room]);
                    bytes = &bytes[room..];
                    self.send(stream);
                }
            }
        }
    }

    fn send(&mut self, stream: Stream) {
        let line = mem::take(&mut self.begun[stream as usize]);
        let text = String::from_utf8_lossy(&line);
        // Of a line that was written over, as of a progress bar, the last state.
        let text = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default().to_owned();
        let printed = Printed { task: self.task.to_owned(), stream, text, left_out: self.left_out };
        match self.to.try_send(printed) {
            Ok(()) => self.left_out = 0,
            Err(_) => self.left_out += 1,
        }
    }

    fn end(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.begun[stream as usize].is_empty() {
                self.send(stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[(Stream, &[u8])], room: usize) -> Vec<Printed> {
        let (to, mut from) = bounded(room);
        let mut lines = Lines { task: "t", to: &to, begun: Default::default(), left_out: 0 };
        pieces.iter().for_each(|(stream, bytes)| lines.take(*stream, bytes));
        lines.end();
        std::iter::from_fn(|| from.try_recv().ok()).collect()
    }

    #[test]
    fn lines_are_whole_however_they_come_and_those_of_both_streams_are_not_mixed() {
        use Stream::{Stderr, Stdout};
        let pieces: [(Stream, &[u8]); 6] = [
            (Stdout, b"one\ntw"),
            (Stderr, b"warn"),
            (Stdout, b"o \xc3"),
            (Stdout, b"\xa4\r\n\n10%\r20%\rdone"),
            (Stderr, b"ing\n"),
            (Stdout, b"\nlast"),
        ];
        let shown: Vec<(Stream, String)> = lines(&pieces, 9).into_iter().map(|line| (line.stream, line.text)).collect();
        let expected =
            [(Stdout, "one"), (Stdout, "two ä"), (Stdout, ""), (Stderr, "warning"), (Stdout, "done"), (Stdout, "last")];
        assert_eq!(shown, expected.map(|(stream, text)| (stream, text.to_owned())));
    }

    #[test]
    fn a_long_line_comes_in_parts_and_what_finds_no_room_is_counted() {
        let long = "x".repeat(LINE_BYTES_MAX + 10);
        let parts = lines(&[(Stream::Stdout, long.as_bytes()), (Stream::Stdout, b"\n")], 9);
        assert_eq!(parts.iter().map(|part| part.text.len()).collect::<Vec<_>>(), [LINE_BYTES_MAX, 10]);

        let (to, mut from) = bounded(2);
        let mut lines = Lines { task: "t", to: &to, begun: Default::default(), left_out: 0 };
        lines.take(Stream::Stdout, b"1\n2\n3\n4\n");
        assert_eq!(from.try_recv().unwrap().text, "1");
        lines.take(Stream::Stdout, b"5\n");
        let left: Vec<Printed> = std::iter::from_fn(|| from.try_recv().ok()).collect();
        assert_eq!((left[1].text.as_str(), left[1].left_out), ("5", 2));
    }
}
