//! How messages are told apart on a stream of bytes.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Messages up to so many bytes are not counted, and a connection keeps room for one: how many there can be is bounded by how
/// many connections and requests there can be.
pub const SMALL_BYTES: usize = 64 << 10;

/// Reads lines of a bounded length.
pub struct Lines<R> {
    input: R,
    bytes_max: usize,
    line: Vec<u8>,
    /// One permit for each byte that large lines may take, on all connections together.
    memory: Option<Arc<Semaphore>>,
    share: Option<OwnedSemaphorePermit>,
}

/// A line that was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// It was longer than allowed.
    TooLong,
    /// It was large, and large lines together take all the memory that there is for them.
    NoMemory,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Lines of at most `bytes_max` bytes.
    pub fn new(input: R, bytes_max: usize) -> Lines<R> {
        Lines { input, bytes_max, line: Vec::new(), memory: None, share: None }
    }

    /// The same, where large lines take their bytes from this memory.
    pub fn counted(self, memory: Option<Arc<Semaphore>>) -> Lines<R> {
        Lines { memory, ..self }
    }

    /// Wait for the beginning of a line; `false` at the end of the input. May be dropped.
    pub async fn begun(&mut self) -> io::Result<bool> {
        self.forget();
        Ok(!self.input.fill_buf().await?.is_empty())
    }

    /// What the line that was just read takes of the memory, to be kept as long as its contents.
    pub fn take_share(&mut self) -> Option<OwnedSemaphorePermit> {
        self.share.take()
    }

    /// The next line without its end; `None` at the end of the input. A last line without an end counts. Not to be
    /// dropped half-way: what was read of a line would be lost.
    pub async fn next(&mut self) -> io::Result<Option<Result<&[u8], Skipped>>> {
        self.forget();
        let (mut skipped, mut is_empty) = (None, true);
        loop {
            let chunk = self.input.fill_buf().await?;
            if chunk.is_empty() {
                if is_empty {
                    return Ok(None);
                }
                break;
            }
            is_empty = false;
            let end = memchr::memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            let length = self.line.len() + part.len();
            if skipped.is_none() && length > self.bytes_max {
                skipped = Some(Skipped::TooLong);
            }
            if skipped.is_none()
                && let Some(memory) = &self.memory
                && !hold(memory, &mut self.share, length)
            {
                skipped = Some(Skipped::NoMemory);
            }
            match skipped {
                None => self.line.extend_from_slice(part),
                Some(_) => (self.line, self.share) = (Vec::new(), None),
            }
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        Ok(Some(match skipped {
            Some(skipped) => Err(skipped),
            None => Ok(self.line.trim_ascii()),
        }))
    }

    fn forget(&mut self) {
        self.line.clear();
        self.line.shrink_to(SMALL_BYTES);
        self.share = None;
    }
}

/// Have a share of the memory grow with a message of so many bytes; `false` if there is not enough. Small messages take
/// none.
pub fn hold(memory: &Arc<Semaphore>, share: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
    if bytes <= SMALL_BYTES {
        return true;
    }
    let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let more = u32::try_from(bytes - held).unwrap_or(u32::MAX);
    let Ok(more) = Arc::clone(memory).try_acquire_many_owned(more) else { return false };
    match share {
        Some(share) => share.merge(more),
        None => *share = Some(more),
    }
    true
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::io::BufReader;

    use super::*;

    /// All lines, read through a buffer of this many bytes: that is where chunks end.
    fn lines(input: &[u8], bytes_max: usize, chunk: usize) -> Vec<Result<Vec<u8>, Skipped>> {
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
                .map(|line| if line.len() > bytes_max { Err(Skipped::TooLong) } else { Ok(line.trim_ascii().to_vec()) })
                .collect();
            prop_assert_eq!(whole, expected);
        }
    }
}
