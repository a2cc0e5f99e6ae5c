//! How messages are told apart on a stream of bytes.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// Messages up to so many bytes are not counted, and a connection keeps room for one: how many there can be is bounded by how
/// many connections and requests there can be.
pub const SMALL_BYTES: usize = 64 << 10;
/// How long a message waits for memory. A caller that takes nothing of its answer is closed after the same time, and what
/// that answer took is free again.
pub const ROOM_TIME_MAX: Duration = Duration::from_secs(30);
/// How often a message is in memory while it is read and taken out of its envelope.
const COPIES: usize = 2;
/// Bytes of a message whose length is not known, up to which it takes no more than they need. Longer ones take as much as the
/// longest: a message that asked for more step by step could wait for others that do the same.
const STEP_BYTES: usize = 1 << 20;
/// Bytes that are kept of the beginning and of the end of a line that is skipped, where its id stands.
const ENDS_BYTES: usize = 512;

/// Bytes that many messages share.
#[derive(Clone, Debug)]
pub struct Pool {
    /// One permit for each byte that nobody has.
    free: Arc<Semaphore>,
    /// Bytes of all of it.
    whole: usize,
}

impl Pool {
    /// A pool of so many bytes.
    pub fn new(bytes: usize) -> Pool {
        let whole = bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Pool::of(Arc::new(Semaphore::new(whole)), whole)
    }

    /// A pool of so many bytes, for each of which this has a permit.
    pub fn of(free: Arc<Semaphore>, whole: usize) -> Pool {
        Pool { free, whole }
    }

    /// How many bytes more are to be taken, so that `taken` are `bytes`; what is too much is given back. Who wants more than
    /// there is wants all of it, so that there is always room for one message.
    fn missing(&self, taken: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> u32 {
        let bytes = bytes.min(self.whole);
        let has = taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if let Some(spare) = has.checked_sub(bytes) {
            drop(taken.as_mut().and_then(|taken| taken.split(spare)));
        }
        u32::try_from(bytes.saturating_sub(has)).unwrap_or(u32::MAX)
    }

    /// Take so many bytes in all, or none more than before.
    fn try_take(&self, taken: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
        let missing = self.missing(taken, bytes);
        let more = Arc::clone(&self.free).try_acquire_many_owned(missing);
        more.map(|more| add(taken, more)).is_ok()
    }

    /// The same, and wait for them until then.
    async fn take(&self, taken: &mut Option<OwnedSemaphorePermit>, bytes: usize, until: Instant) -> bool {
        if self.try_take(taken, bytes) {
            return true;
        }
        let more = Arc::clone(&self.free).acquire_many_owned(self.missing(taken, bytes));
        let Ok(Ok(more)) = timeout_at(until, more).await else { return false };
        add(taken, more);
        true
    }
}

fn add(taken: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match taken {
        Some(taken) => taken.merge(more),
        None => *taken = Some(more),
    }
}

/// Bytes after which a line that does not end is none: nothing that follows could be told apart.
const ENDLESS_BYTES: usize = 256 << 20;

/// The memory of large messages.
#[derive(Clone, Debug)]
pub struct Memory {
    /// What all of them may take together.
    pub all: Pool,
    /// What those of this caller may take, where that is less.
    pub own: Option<Pool>,
}

/// What a message takes of the memory, while it lives.
#[derive(Debug, Default)]
pub struct Held {
    own: Option<OwnedSemaphorePermit>,
    all: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// What both take.
    pub(crate) fn with(mut self, other: Held) -> Held {
        for (taken, more) in [(&mut self.own, other.own), (&mut self.all, other.all)] {
            more.into_iter().for_each(|more| add(taken, more));
        }
        self
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.all.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Give back what it takes above so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        for taken in [&mut self.own, &mut self.all].into_iter().flatten() {
            drop(taken.num_permits().checked_sub(bytes).and_then(|spare| taken.split(spare)));
        }
    }
}

/// A piece of a message, for which memory is held as long as somebody has it.
struct Piece {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The same bytes, which give back what is held for them when nobody has them any more.
pub fn counted(bytes: Bytes, held: Arc<Held>) -> Bytes {
    Bytes::from_owner(Piece { bytes, _held: held })
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
    /// Hold so many bytes, if they are free. Small messages take nothing.
    pub fn hold(&self, held: &mut Option<Held>, bytes: usize) -> Result<(), NoMemory> {
        if bytes <= SMALL_BYTES { Ok(()) } else { self.hold_all(held, bytes) }
    }

    /// The same, also for small messages.
    pub(crate) fn hold_all(&self, held: &mut Option<Held>, bytes: usize) -> Result<(), NoMemory> {
        let mut taken = held.take().unwrap_or_default();
        let own = self.own.as_ref().filter(|own| !own.try_take(&mut taken.own, bytes));
        let result = match own {
            Some(own) => Err(NoMemory::Own(own.whole)),
            None if self.all.try_take(&mut taken.all, bytes) => Ok(()),
            None => Err(NoMemory::All),
        };
        *held = Some(taken);
        result
    }

    /// The same, and wait for them until then.
    pub async fn make_room(&self, held: &mut Option<Held>, bytes: usize, until: Instant) -> Result<(), NoMemory> {
        if bytes <= SMALL_BYTES {
            *held = None;
            return Ok(());
        }
        let held = held.get_or_insert_default();
        if let Some(own) = &self.own
            && !own.take(&mut held.own, bytes, until).await
        {
            return Err(NoMemory::Own(own.whole));
        }
        if self.all.take(&mut held.all, bytes, until).await { Ok(()) } else { Err(NoMemory::All) }
    }

    /// The same for a message of so many bytes that is being read.
    pub(crate) async fn make_room_to_read(&self, held: &mut Option<Held>, bytes: usize) -> Result<(), NoMemory> {
        let bytes = if bytes <= SMALL_BYTES { bytes } else { COPIES.saturating_mul(bytes) };
        self.make_room(held, bytes, Instant::now() + ROOM_TIME_MAX).await
    }

    /// The same for one of which so many bytes have come in, and that may have `bytes_max`.
    pub(crate) async fn make_room_for_more(
        &self,
        held: &mut Option<Held>,
        bytes: usize,
        bytes_max: usize,
    ) -> Result<(), NoMemory> {
        let step = if bytes <= SMALL_BYTES {
            bytes
        } else if bytes <= STEP_BYTES {
            STEP_BYTES.min(bytes_max)
        } else {
            bytes_max
        };
        self.make_room_to_read(held, step).await
    }
}

/// Where large messages have their memory from, by principal. Without such they are not counted.
#[derive(Clone, Default)]
pub struct Memories(Option<Arc<MemoryOf>>);

type MemoryOf = dyn Fn(&str) -> Memory + Send + Sync;

impl Memories {
    /// Each principal's is this.
    pub fn new(of: impl Fn(&str) -> Memory + Send + Sync + 'static) -> Memories {
        Memories(Some(Arc::new(of)))
    }

    /// That of this principal.
    pub fn of(&self, principal: &str) -> Option<Memory> {
        self.0.as_ref().map(|of| of(principal))
    }
}

impl fmt::Debug for Memories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Memories").field(&self.0.is_some()).finish()
    }
}

/// Reads lines of a bounded length.
pub struct Lines<R> {
    input: R,
    bytes_max: usize,
    line: Vec<u8>,
    memory: Option<Memory>,
    held: Option<Held>,
    /// Whether a large line waits for memory, instead of being skipped.
    is_patient: bool,
    /// The beginning and the end of the line that was skipped last.
    ends: Vec<u8>,
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
        let (line, ends) = (Vec::new(), Vec::new());
        Lines { input, bytes_max, line, memory: None, held: None, is_patient: false, ends }
    }

    /// The same, where large lines take their bytes from this memory.
    pub fn counted(self, memory: Option<Memory>) -> Lines<R> {
        Lines { memory, ..self }
    }

    /// The same, where large lines wait for their bytes, and nothing is read meanwhile.
    pub(crate) fn waiting(self, memory: Option<Memory>) -> Lines<R> {
        Lines { memory, is_patient: true, ..self }
    }

    /// The beginning and the end of the line that was just skipped.
    pub(crate) fn skipped_ends(&self) -> &[u8] {
        &self.ends
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
        let read = self.read().await?;
        Ok(read.map(|read| read.map(|()| self.line.trim_ascii())))
    }

    /// The same, with what it takes of the memory.
    pub(crate) async fn next_counted(&mut self, held: &mut Option<Held>) -> io::Result<Option<Result<&[u8], Skipped>>> {
        let read = self.read().await?;
        *held = self.held.take();
        Ok(read.map(|read| read.map(|()| self.line.trim_ascii())))
    }

    async fn read(&mut self) -> io::Result<Option<Result<(), Skipped>>> {
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
            if let (None, Some(memory)) = (skipped, &self.memory) {
                let room = match self.is_patient {
                    true => memory.make_room_for_more(&mut self.held, length, self.bytes_max).await,
                    false => memory.hold(&mut self.held, length),
                };
                skipped = room.err().map(Skipped::NoMemory);
            }
            match skipped {
                None => self.line.extend_from_slice(part),
                Some(_) => {
                    let begun = std::mem::take(&mut self.line);
                    self.held = None;
                    keep_ends(&mut self.ends, &begun);
                    keep_ends(&mut self.ends, part);
                }
            }
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        Ok(Some(skipped.map_or(Ok(()), Err)))
    }

    fn forget(&mut self) {
        self.line.clear();
        self.line.shrink_to(SMALL_BYTES);
        self.held = None;
        self.ends.clear();
    }
}

/// Add to the beginning and the end of something what comes next of it.
fn keep_ends(ends: &mut Vec<u8>, part: &[u8]) {
    let (head, rest) = part.split_at(part.len().min(ENDS_BYTES.saturating_sub(ends.len())));
    ends.extend_from_slice(head);
    ends.extend_from_slice(&rest[rest.len().saturating_sub(ENDS_BYTES)..]);
    if let Some(between) = ends.len().checked_sub(2 * ENDS_BYTES) {
        ends.drain(ENDS_BYTES..ENDS_BYTES + between);
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
        let memory = |bytes, own| Memory { all: Pool::new(bytes), own };
        let own = memory(4 * whole, Some(Pool::new(whole)));
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

    #[tokio::test]
    async fn who_finds_no_room_waits_for_it_and_not_for_ever() {
        const TIME: Duration = Duration::from_millis(20);
        let whole = 3 * SMALL_BYTES;
        let memory = Memory { all: Pool::new(whole), own: Some(Pool::new(2 * SMALL_BYTES)) };
        let room = async |held: &mut _, bytes| memory.make_room(held, bytes, Instant::now() + TIME).await;
        let free = || memory.all.free.available_permits();
        let (first, second) = (&mut None, &mut None);
        room(first, 2 * whole).await.unwrap();
        assert_eq!(free(), 0, "who wants more than there is has all of it");
        assert_eq!(room(second, 2 * SMALL_BYTES).await, Err(NoMemory::Own(2 * SMALL_BYTES)));
        *second = None;
        let (waited, ()) = tokio::join!(room(second, 2 * SMALL_BYTES), async { *first = None });
        waited.unwrap();
        room(second, SMALL_BYTES + 1).await.unwrap();
        assert_eq!(free(), whole - SMALL_BYTES - 1, "what is not needed is given back");
        second.as_mut().unwrap().shrink(1);
        assert_eq!(free(), whole - 1);
    }

    #[test]
    fn of_a_line_that_is_skipped_both_ends_are_known() {
        let middle = "x".repeat(10_000);
        for chunk in [1, 7, 600, 20_000] {
            let text = format!("{{\"id\":1,{middle},\"id\":2}}\n");
            let mut lines = Lines::new(BufReader::with_capacity(chunk, text.as_bytes()), 100);
            assert_eq!(lines.next().now_or_never().unwrap().unwrap(), Some(Err(Skipped::TooLong)));
            let ends = String::from_utf8(lines.skipped_ends().to_vec()).unwrap();
            assert!(ends.starts_with("{\"id\":1,x") && ends.ends_with("x,\"id\":2}"), "{ends}");
            assert!(ends.len() <= 2 * ENDS_BYTES);
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
