//! How many requests of one connection are taken in a second (contract S2: 100).
//!
//! A bucket: so many requests may come at once, and it fills again evenly. A request that finds it empty is answered with an
//! error that says when to try again; nothing of it is run, and nothing else on the connection is held up. The bucket is kept
//! as the time at which it will be full, so that nothing is lost to rounding.

use std::{num::NonZeroU32, time::Duration};

use serde::de::IgnoredAny;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use super::code;
use crate::message::{ErrorObject, Incoming, Malformed, Message, Request};

/// The requests of one connection.
pub(super) struct Rate {
    per_second: u32,
    /// When as many as a second allows may come at once again. More than a second away after a method `batch` with more
    /// calls than that.
    full_at: Instant,
}

/// What it takes to fill an empty bucket.
const SECOND: Duration = Duration::from_secs(1);

impl Rate {
    pub(super) fn new(per_second: NonZeroU32, now: Instant) -> Rate {
        Rate { per_second: per_second.get(), full_at: now }
    }

    /// What of it is taken; the rest becomes errors. Responses and notifications are not counted.
    pub(super) fn judge(
        &mut self,
        incoming: Result<Incoming, Malformed>,
        has_batch_method: bool,
        now: Instant,
    ) -> Result<Incoming, Malformed> {
        let mut judge = |message: Message| match &message {
            Message::Request(request) => match self.take(calls(request, has_batch_method), now) {
                Ok(()) => Ok(message),
                Err(wait) => Err(Malformed { id: Some(request.id.clone()), error: self.too_many(wait) }),
            },
            _ => Ok(message),
        };
        match incoming {
            Ok(Incoming::Single(message)) => judge(message).map(Incoming::Single),
            Ok(Incoming::Batch(messages)) => {
                Ok(Incoming::Batch(messages.into_iter().map(|message| message.and_then(&mut judge)).collect()))
            }
            Err(malformed) => Err(malformed),
        }
    }

    /// Take so many at once, or say how long to wait. More than ever fit are taken when the bucket is full, and owed.
    fn take(&mut self, count: u32, now: Instant) -> Result<(), Duration> {
        let each = SECOND / self.per_second;
        let missing = self.full_at.saturating_duration_since(now);
        let wait = (missing + each * count.min(self.per_second)).saturating_sub(SECOND);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full_at = self.full_at.max(now) + each * count;
        Ok(())
    }

    fn too_many(&self, wait: Duration) -> ErrorObject {
        let wait_ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let message =
            format!("this connection sends more than {} requests a second; try again in {wait_ms} ms", self.per_second);
        ErrorObject::new(code::BUSY, message).with_data(&json!({ "reason": "rate_limit", "retryAfterMs": wait_ms }))
    }
}

/// The calls that a request stands for: each call of the method `batch` counts.
fn calls(request: &Request, has_batch_method: bool) -> u32 {
    if !has_batch_method || request.method != "batch" {
        return 1;
    }
    let params = request.params.as_deref().map_or("", RawValue::get);
    serde_json::from_str::<Vec<IgnoredAny>>(params)
        .map_or(1, |calls| u32::try_from(calls.len().max(1)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32) -> (Rate, Instant) {
        let now = Instant::now();
        (Rate::new(NonZeroU32::new(per_second).unwrap(), now), now)
    }

    #[test]
    fn as_many_as_a_second_allows_may_come_at_once_and_then_evenly() {
        let (mut rate, start) = rate(100);
        let taken = |rate: &mut Rate, now| (0..1000).filter(|_| rate.take(1, now).is_ok()).count();
        assert_eq!(taken(&mut rate, start), 100);
        let wait = rate.take(1, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(10));
        assert_eq!(taken(&mut rate, start + wait), 1, "the wait that is told is enough");
        assert_eq!(taken(&mut rate, start + wait + Duration::from_millis(500)), 50);
        assert_eq!(taken(&mut rate, start + Duration::from_secs(3600)), 100, "idleness is not saved up");
    }

    #[test]
    fn a_batch_counts_its_calls_and_one_that_never_fits_is_owed() {
        let (mut rate, start) = rate(10);
        assert_eq!(rate.take(50, start), Ok(()));
        assert_eq!(rate.take(1, start), Err(Duration::from_millis(4100)));
        assert_eq!(rate.take(50, start + Duration::from_secs(4)), Err(Duration::from_secs(1)));
        assert_eq!(rate.take(50, start + Duration::from_secs(5)), Ok(()));
    }

    #[test]
    fn each_request_is_either_taken_or_answered_and_responses_always_pass() {
        let (mut rate, start) = rate(2);
        let message = |text: &str| crate::message::parse(text.as_bytes());
        let ping = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        let batch = format!("[{},{},{}]", ping("1"), ping("\"1\""), ping("3"));
        let Ok(Incoming::Batch(judged)) = rate.judge(message(&batch), true, start) else { panic!("it is a batch") };
        let refused: Vec<_> = judged.into_iter().filter_map(Result::err).collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].id, Some(crate::message::Id::Number(3)));
        assert_eq!(refused[0].error.code, code::BUSY);
        let data = refused[0].error.data.as_ref().unwrap().get();
        assert_eq!(data, r#"{"reason":"rate_limit","retryAfterMs":500}"#);
        let nearly = start + Duration::from_nanos(499_999_999);
        let refused = rate.judge(message(&ping("5")), true, nearly).err().unwrap();
        assert!(refused.error.data.unwrap().get().contains(r#""retryAfterMs":1}"#), "never none");
        let calls = r#"{"jsonrpc":"2.0","id":4,"method":"batch","params":[{"method":"ping"},{"method":"ping"}]}"#;
        assert!(rate.judge(message(calls), true, start + Duration::from_millis(500)).is_err(), "two, and one is left");
        assert!(rate.judge(message(calls), false, start + Duration::from_millis(500)).is_ok(), "any other method");
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        assert!(rate.judge(message(answer), true, start).is_ok());
    }
}
