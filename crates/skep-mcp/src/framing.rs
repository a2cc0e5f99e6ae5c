//! How messages are told apart on a stream of bytes.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Reads lines of a bounded length.
pub struct Lines<R> {
    input: R,
    bytes_max: usize,
    line: Vec<u8>,
}

/// A line that was longer than allowed; it was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Lines of at most `bytes_max` bytes.
    pub fn new(input: R, bytes_max: usize) -> Lines<R> {
        Lines { input, bytes_max, line: Vec::new() }
    }

    /// The next line without its end; `None` at the end of the input. A last line without an end counts. Not to be
    /// dropped half-way: what was read of a line would be lost.
    pub async fn next(&mut self) -> io::Result<Option<Result<&[u8], TooLong>>> {
        self.line.clear();
        let (mut is_too_long, mut is_empty) = (false, true);
        loop {
            let chunk = self.input.fill_buf().await?;
            if chunk.is_empty() {
                if is_empty {
                    return Ok(None);
                }
                break;
            }
            is_empty = false;
            let end = chunk.iter().position(|&byte| byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            is_too_long |= self.line.len() + part.len() > self.bytes_max;
            if !is_too_long {
                self.line.extend_from_slice(part);
            }
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        Ok(Some(if is_too_long { Err(TooLong) } else { Ok(self.line.trim_ascii()) }))
    }
}
