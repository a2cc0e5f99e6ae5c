//! How messages are told apart on a stream of bytes.

use std::{io, sync::Arc};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Messages up to so many bytes are not counted, and a connection keeps room for one: how many there can be is bounded by how
/// many connections and requests there can be.
pub const SMALL_BYTES: usize = 64 << 10;

/// Bytes after which a line that does not end is none: nothing that follows could be told apart.
const ENDLESS_BYTES: usize = 256 << 20;

/// The memory of large messages.
#[derive(Clone, Debug)]
pub struct Memory {
    /// One permit for each byte that all of them may take together.
    pub all: Arc<Semaphore>,
    /// One for each byte that those of this caller may take, where that is less; and how many there are.
    pub own: Option<(Arc<Semaphore>, usize)>,
}

/// What a message takes of the memory, while it lives.
#[derive(Debug)]
pub struct Held {
    bytes: usize,
    permits: Vec<OwnedSemaphorePermit>,
}

/// There is no memory for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMemory {
    /// Others have it.
    #[error("too many large messages at once; try again in a moment")]
    All,
    /// Its sender has as much as one may.
    #[error(
        "this one and the large messages that you have under way are more than {0} bytes, which is what one principal may \
         have; wait for an answer to one of them"
    )]
    Own(usize),
}

impl Memory {
    /// Have what is held grow with a message of so many bytes. Small messages take nothing.
    pub fn hold(&self, held: &mut Option<Held>, bytes: usize) -> Result<(), NoMemory> {
        if bytes <= SMALL_BYTES {
            return Ok(());
        }
        let before = held.as_ref().map_or(0, |held| held.bytes);
        let more = u32::try_from(bytes - before).unwrap_or(u32::MAX);
        let take = |of: &Arc<Semaphore>, none| Arc::clone(of).try_acquire_many_owned(more).map_err(|_| none);
        let own = self.own.as_ref().map(|(own, whole)| take(own, NoMemory::Own(*whole))).transpose()?;
        let taken = own.into_iter().chain([take(&self.all, NoMemory::All)?]);
        match held {
            None => *held = Some(Held { bytes, permits: taken.collect() }),
            Some(held) => {
                held.bytes = bytes;
                held.permits.iter_mut().zip(taken).for_each(|(held, more)| held.merge(more));
            }
        }
        Ok(())
    }
}

/// Reads lines of a bounded length.
pub struct Lines<R> {
    input: R,
    bytes_max: usize,
    line: Vec<u8>,
    memory: Option<Memory>,
    held: Option<Held>,
}

/// A line that was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// It was longer than allowed.
    TooLong,
    /// It was large, and there is no memory for it.
    NoMemory(NoMemory),
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Lines of at most `bytes_max` bytes.
    pub fn new(input: R, bytes_max: usize) -> Lines<R> {
        Lines { input, bytes_max, line: Vec::new(), memory: None, held: None }
    }

    /// The same, where large lines take their bytes from this memory.
    pub fn counted(self, memory: Option<Memory>) -> Lines<R> {
        Lines { memory, ..self }
    }

    /// Wait for the beginning of a line; `false` at the end of the input. May be dropped.
    pub async fn begun(&mut self) -> io::Result<bool> {
        self.forget();
        Ok(!self.input.fill_buf().await?.is_empty())
    }

    /// What the line that was just read takes of the memory, to be kept as long as its contents.
    pub fn take_held(&mut self) -> Option<Held> {
        self.held.take()
    }

    /// The next line without its end; `None` at the end of the input. A last line without an end counts. Not to be
    /// dropped half-way: what was read of a line would be lost. A line without end is an error.
    pub async fn next(&mut self) -> io::Result<Option<Result<&[u8], Skipped>>> {
        self.forget();
        let (mut skipped, mut is_empty, mut bytes) = (None, true, 0_usize);
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
            bytes += part.len();
            if bytes > ENDLESS_BYTES.max(self.bytes_max) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line does not end"));
            }
            if skipped.is_none() && length > self.bytes_max {
                skipped = Some(Skipped::TooLong);
            }
            if skipped.is_none()
                && let Some(memory) = &self.memory
                && let Err(none) = memory.hold(&mut self.held, length)
            {
                skipped = Some(Skipped::NoMemory(none));
            }
            match skipped {
                None => self.line.extend_from_slice(part),
                Some(_) => (self.line, self.held) = (Vec::new(), None),
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
        self.held = None;
    }
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

    #[test]
    fn what_is_held_grows_with_the_message_and_is_given_back_with_it() {
        let whole = 3 * SMALL_BYTES;
        let memory = |permits, own| Memory { all: Arc::new(Semaphore::new(permits)), own };
        let own = memory(4 * whole, Some((Arc::new(Semaphore::new(whole)), whole)));
        for (memory, none) in [(memory(whole, None), NoMemory::All), (own, NoMemory::Own(whole))] {
            let (held, other) = (&mut None, &mut None);
            memory.hold(held, SMALL_BYTES).unwrap();
            assert!(held.is_none(), "small messages are free");
            memory.hold(held, 2 * SMALL_BYTES).unwrap();
            memory.hold(held, whole).unwrap();
            assert_eq!(memory.hold(other, SMALL_BYTES + 1), Err(none));
            *held = None;
            memory.hold(other, whole).unwrap();
        }
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
