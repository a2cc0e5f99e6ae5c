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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::io::BufReader;

    use super::*;

    /// All lines, read through a buffer of this many bytes: that is where chunks end.
    fn lines(input: &[u8], bytes_max: usize, chunk: usize) -> Vec<Result<Vec<u8>, TooLong>> {
        let mut lines = Lines::new(BufReader::with_capacity(chunk, input), bytes_max);
        let mut all = Vec::new();
        while let Some(line) = lines.next().now_or_never().unwrap().unwrap() {
            all.push(line.map(<[u8]>::to_vec));
        }
        all
    }

    proptest! {
        #[test]
        fn the_ends_of_chunks_mean_nothing(
            input in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            bytes_max in 0_usize..20,
            chunk in 1_usize..50,
        ) {
            let whole = lines(&input, bytes_max, input.len().max(1));
            prop_assert_eq!(&lines(&input, bytes_max, chunk), &whole);
            let mut expected: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
            expected.pop_if(|last| last.is_empty());
            let expected: Vec<_> = expected
                .into_iter()
                .map(|line| if line.len() > bytes_max { Err(TooLong) } else { Ok(line.trim_ascii().to_vec()) })
                .collect();
            prop_assert_eq!(whole, expected);
        }
    }
}
