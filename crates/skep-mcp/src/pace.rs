//! Callers that take their answers too slowly: what waits for them takes memory that others wait for.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::timer::Timer;

/// Bytes that a caller must take each second, on average, of an answer for which it keeps others waiting.
pub const BYTES_PER_SECOND_MIN: u64 = 32 << 10;

/// Bytes that the kernel, on both sides, may take or hold back at once, whatever the other side reads meanwhile.
const LUMP_BYTES: u64 = 4 << 20;

/// A stream that breaks off when the other side takes what is written too slowly.
///
/// A write may wait for `time_max`, and for as much longer as what was taken since the last flush takes at
/// [`BYTES_PER_SECOND_MIN`], but for no more than [`LUMP_BYTES`] ahead. So the other side cannot hold an answer for long with a
/// byte now and then, and one that is as fast as that is not cut off, though the kernel takes what it is given in lumps. Whoever
/// writes flushes when all is written.
#[derive(Debug)]
pub struct Paced<S> {
    stream: S,
    time_max: Duration,
    /// Bytes that were taken since the last flush, without waiting.
    taken: u64,
    waiting: Option<Waiting>,
}

/// A write could not go on at once, and nothing was flushed since.
#[derive(Debug)]
struct Waiting {
    deadline: Instant,
    timer: Timer,
}

impl<S> Paced<S> {
    /// A stream whose other side may take nothing for this long.
    pub fn new(stream: S, time_max: Duration) -> Paced<S> {
        Paced { stream, time_max, taken: 0, waiting: None }
    }

    /// Ready if the other side is too slow.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let waiting = self.waiting.get_or_insert_with(|| {
            let deadline = Instant::now() + self.time_max + time_for(self.taken);
            Waiting { deadline, timer: Timer::new(deadline) }
        });
        waiting.timer.poll_until(cx, waiting.deadline).map(|()| {
            let message = format!("the other side takes less than {BYTES_PER_SECOND_MIN} bytes a second");
            io::Error::new(io::ErrorKind::TimedOut, message)
        })
    }

    fn take(&mut self, bytes: usize) {
        match &mut self.waiting {
            None => self.taken = (self.taken + bytes as u64).min(LUMP_BYTES),
            Some(waiting) => {
                let latest = Instant::now() + self.time_max + time_for(LUMP_BYTES);
                waiting.deadline = (waiting.deadline + time_for(bytes as u64)).min(latest);
            }
        }
    }

    /// What came of a write.
    fn wrote(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(written) => {
                self.take(*written.as_ref().unwrap_or(&0));
                Poll::Ready(written)
            }
            Poll::Pending => self.poll_late(cx).map(Err),
        }
    }
}

/// How long it may take to take so many bytes.
fn time_for(bytes: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / BYTES_PER_SECOND_MIN)
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(flushed) => {
                (self.taken, self.waiting) = (0, None);
                Poll::Ready(flushed)
            }
            Poll::Pending => self.poll_late(cx).map(Err),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => self.poll_late(cx).map(Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::sleep,
    };

    use super::*;

    const TIME_MAX: Duration = Duration::from_millis(200);
    /// What lies between the two sides, as in the kernel.
    const BETWEEN: usize = 4 << 10;
    /// Nothing here takes so long unless it is broken, though the machine is slow.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// How long it takes until an answer of so many bytes is taken or given up, by a reader that takes so many each time.
    async fn answer(bytes: usize, taken: usize, every: Duration) -> (io::Result<()>, Duration) {
        let (ours, mut theirs) = duplex(BETWEEN);
        let mut ours = Paced::new(ours, TIME_MAX);
        let reading = async {
            let mut part = vec![0; taken];
            loop {
                sleep(every).await;
                if theirs.read_exact(&mut part).await.is_err() {
                    return;
                }
            }
        };
        let began = Instant::now();
        let writing = async {
            ours.write_all(&vec![0; bytes]).await?;
            ours.flush().await
        };
        let result = tokio::select! {
            result = writing => result,
            () = reading => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        (result, began.elapsed())
    }

    #[tokio::test]
    async fn who_takes_a_few_bytes_now_and_then_is_given_up() {
        for (taken, every_ms) in [(1, 10), (100, 10), (2000, 150)] {
            let (result, took) = answer(30_000_000, taken, Duration::from_millis(every_ms)).await;
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut, "{taken} bytes every {every_ms} ms");
            assert!(took >= TIME_MAX && took < PATIENCE, "{took:?}");
        }
    }

    #[tokio::test]
    async fn who_is_slow_but_not_too_slow_gets_all_in_whatever_lumps() {
        for (taken, every_ms) in [(16 << 10, 20), (100_000, 150)] {
            let (result, took) = answer(500_000, taken, Duration::from_millis(every_ms)).await;
            result.unwrap_or_else(|error| panic!("{taken} bytes every {every_ms} ms: {error}"));
            assert!(took > TIME_MAX, "it was not slow");
        }
    }

    #[tokio::test]
    async fn what_was_taken_before_a_flush_counts_for_nothing() {
        let (ours, mut theirs) = duplex(BETWEEN);
        let mut ours = Paced::new(ours, TIME_MAX);
        for _ in 0..200 {
            ours.write_all(&[0; BETWEEN]).await.unwrap();
            ours.flush().await.unwrap();
            theirs.read_exact(&mut [0; BETWEEN]).await.unwrap();
        }
        sleep(2 * TIME_MAX).await; // who waits for nothing may be silent
        let began = Instant::now();
        let written = ours.write_all(&[0; BETWEEN + 1]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < PATIENCE);
    }
}
