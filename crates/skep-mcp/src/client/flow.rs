//! How much a server may say that nobody asked for: notifications, questions, and what is no
//! message.
//!
//! Answers are not counted: there is one for each call. The rest is counted by number and size in a
//! bucket that fills again evenly. A server that says more is read more slowly, so that it has to
//! wait before it can write (back-pressure); one that goes on like this is given up. So a server
//! that floods its output costs its own calls time, and the hub next to nothing.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What a server may say in a second, in messages; a large one counts as several.
const MESSAGES_PER_SECOND_MAX: u32 = 5_000;
/// Bytes that count as one message.
const MESSAGE_BYTES: usize = 4 << 10;
/// So much more may come at once after a pause.
const BURST_MAX: Duration = Duration::from_secs(2);
/// A server that says more than it may for so long is given up.
const FLOOD_TIME_MAX: Duration = Duration::from_secs(30);

/// What one server has said of late.
#[derive(Debug, Default)]
pub struct Flow(Mutex<Option<Said>>);

#[derive(Clone, Copy, Debug)]
struct Said {
    /// When all of it will have been paid for.
    paid_at: Instant,
    /// Since when there has been something to pay for without a pause, and more than may come at
    /// once.
    flooding_since: Option<Instant>,
}

impl Flow {
    /// Something came in that nobody asked for. Returns when more may be read; whether it has not
    /// gone on for too long.
    pub async fn pass(&self, bytes: usize) -> bool {
        let (wait, is_bearable) = self.take(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        is_bearable
    }

    /// The same, or why the server is given up.
    pub(super) async fn bear(&self, bytes: usize) -> Result<(), String> {
        if self.pass(bytes).await { Ok(()) } else { Err(flooded("output", "messages")) }
    }

    fn take(&self, bytes: usize, now: Instant) -> (Duration, bool) {
        let messages = u32::try_from(1 + bytes / MESSAGE_BYTES).unwrap_or(u32::MAX);
        let price = (Duration::from_secs(1) / MESSAGES_PER_SECOND_MAX).saturating_mul(messages);
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = said.filter(|said| said.paid_at > now).unwrap_or(Said { paid_at: now, flooding_since: None });
        let paid_at = before.paid_at + price;
        let wait = paid_at.saturating_duration_since(now).saturating_sub(BURST_MAX);
        let flooding_since = before.flooding_since.or((!wait.is_zero()).then_some(now));
        *said = Some(Said { paid_at, flooding_since });
        (wait, flooding_since.is_none_or(|since| now - since < FLOOD_TIME_MAX))
    }
}

/// Why a server is given up that floods one of its streams with so many of these.
pub fn flooded(stream: &str, what: &str) -> String {
    let seconds = FLOOD_TIME_MAX.as_secs();
    format!(
        "the server floods its {stream}: for {seconds} s it had more than {MESSAGES_PER_SECOND_MAX} {what} a second to say unasked"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Say so many messages of this size one after the other, as fast as they are read. How long
    /// that took, if it was borne.
    fn say(flow: &Flow, messages: u32, bytes: usize) -> Option<Duration> {
        let began = Instant::now();
        let mut now = began;
        for _ in 0..messages {
            let (wait, is_bearable) = flow.take(bytes, now);
            now += wait;
            is_bearable.then_some(())?;
        }
        Some(now - began)
    }

    #[test]
    fn a_talkative_server_is_read_at_once_and_a_flood_only_as_fast_as_allowed() {
        let burst = MESSAGES_PER_SECOND_MAX * 2;
        assert_eq!(say(&Flow::default(), burst, 100), Some(Duration::ZERO));
        let seconds = say(&Flow::default(), burst + 3 * MESSAGES_PER_SECOND_MAX, 100).unwrap().as_secs_f64();
        assert!((2.9..3.1).contains(&seconds), "{seconds} s");
        let large = 1 << 20; // counts as 257
        let seconds = say(&Flow::default(), 5 * MESSAGES_PER_SECOND_MAX / 257, large).unwrap().as_secs_f64();
        assert!((2.8..3.1).contains(&seconds), "{seconds} s");
    }

    #[test]
    fn a_flood_that_does_not_end_is_given_up_and_one_with_pauses_is_not() {
        assert_eq!(say(&Flow::default(), 40 * MESSAGES_PER_SECOND_MAX, 100), None);
        let flow = Flow::default();
        let mut now = Instant::now();
        for _ in 0..20 {
            for _ in 0..5 * MESSAGES_PER_SECOND_MAX {
                let (wait, is_bearable) = flow.take(100, now);
                assert!(is_bearable);
                now += wait;
            }
            now += BURST_MAX;
        }
    }
}
