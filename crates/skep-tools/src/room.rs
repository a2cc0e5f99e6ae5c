//! The memory of a call's answer: taken before a large answer is made, and kept until it is sent.
//!
//! What callers do not read stays in memory, so answers share a limited part of it, and a call that wants to make a large one
//! waits until there is room. It lets other calls have its turn meanwhile.

use std::{
    fmt::{Debug, Write as _},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Map, Value};
use skep_mcp::framing::{Held, Memory, ROOM_TIME_MAX, SMALL_BYTES};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use crate::error::ToolError;

/// How often an answer is in memory while it is put into the form in which it is sent: as a value, as its text, and as a text
/// within a text.
const COPIES: usize = 4;
/// Bytes that a value takes besides its text.
const VALUE_BYTES: usize = 72;
/// Large answers of servers are taken apart one at a time: they take several times their memory while that is done.
static WORKSHOP: Semaphore = Semaphore::const_new(1);

/// The turn of a call among those that run. A call that waits for memory, which other calls have, lets one of them go on
/// meanwhile.
pub trait Turn: Debug + Send + Sync {
    /// Let another call have it.
    fn lay_down(&self);

    /// The same for long: the call waits for what other calls bring about.
    ///
    /// # Errors
    ///
    /// [`ToolError::Busy`] if too many wait so.
    fn wait(&self) -> Result<(), ToolError>;

    /// Wait until it is this call's turn again.
    ///
    /// # Errors
    ///
    /// [`ToolError::Busy`] if that takes too long.
    fn take_up(&self) -> Pin<Box<dyn Future<Output = Result<(), ToolError>> + Send + '_>>;
}

/// Where the answer of one call has its memory from. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Room(Option<Arc<Inside>>);

#[derive(Debug)]
struct Inside {
    memory: Memory,
    held: Mutex<Option<Held>>,
    workshop: Mutex<Option<SemaphorePermit<'static>>>,
    turn: Option<Arc<dyn Turn>>,
    has_waited: AtomicBool,
}

impl Room {
    /// A room in this memory. `turn`: that of the call, if it has one.
    pub fn new(memory: Memory, turn: Option<Arc<dyn Turn>>) -> Room {
        Room(Some(Arc::new(Inside {
            memory,
            held: Mutex::default(),
            workshop: Mutex::default(),
            turn,
            has_waited: AtomicBool::new(false),
        })))
    }

    /// Have room for an answer that will be so many bytes as JSON, or wait for it until `deadline`.
    pub async fn make(&self, bytes: usize, deadline: Instant) -> Result<(), ToolError> {
        let Some(inside) = &self.0 else { return Ok(()) };
        let bytes = bytes.saturating_mul(COPIES);
        if bytes <= SMALL_BYTES {
            return Ok(());
        }
        let mut held = inside.take_held();
        // What was estimated before is not to wait for a little more: it would keep what others wait for.
        let is_enough = held.as_ref().is_some_and(|held| bytes <= held.bytes().saturating_mul(2));
        if is_enough || inside.memory.hold(&mut held, bytes).is_ok() {
            self.keep(held);
            return Ok(());
        }
        *inside.workshop() = None;
        inside.turn.iter().for_each(|turn| turn.lay_down());
        let until = deadline.min(Instant::now() + ROOM_TIME_MAX);
        let made = inside.memory.make_room(&mut held, bytes, until).await;
        made.map_err(|none| ToolError::Busy(none.to_string()))?;
        self.keep(held);
        match &inside.turn {
            Some(turn) => turn.take_up().await,
            None => Ok(()),
        }
    }

    /// The same for an answer that is there already.
    pub async fn make_for(&self, answer: &Map<String, Value>, deadline: Instant) -> Result<(), ToolError> {
        if self.0.is_none() { Ok(()) } else { self.make(weight_of(answer), deadline).await }
    }

    /// Hold exactly so many bytes, which are there already.
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn fit(&self, bytes: usize) -> Result<(), ToolError> {
        let Some(inside) = &self.0 else { return Ok(()) };
        let mut held = inside.take_held();
        inside.memory.hold(&mut held, bytes).map_err(|none| ToolError::Busy(none.to_string()))?;
        self.keep(held.filter(|_| bytes > SMALL_BYTES));
        Ok(())
    }

    /// Keep what was taken elsewhere for this answer.
    pub fn keep(&self, held: Option<Held>) {
        if let Some(inside) = &self.0 {
            *inside.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        }
    }

    /// Have an answer taken apart that is large and has its memory already, or wait for that. It goes on until it is sent.
    pub async fn take_apart(&self) -> Result<(), ToolError> {
        let Some(inside) = &self.0 else { return Ok(()) };
        inside.turn.iter().for_each(|turn| turn.lay_down());
        let busy = || ToolError::Busy("too many large answers are taken apart; try again in a moment".to_owned());
        let Ok(Ok(permit)) = timeout(ROOM_TIME_MAX, WORKSHOP.acquire()).await else { return Err(busy()) };
        *inside.workshop() = Some(permit);
        match &inside.turn {
            Some(turn) => turn.take_up().await,
            None => Ok(()),
        }
    }

    /// Let other calls have the turn of this one, which waits for what they bring about.
    ///
    /// # Errors
    ///
    /// [`ToolError::Busy`] if too many wait so.
    pub fn wait_without_turn(&self) -> Result<(), ToolError> {
        let Some(inside) = &self.0 else { return Ok(()) };
        inside.has_waited.store(true, Ordering::Relaxed);
        inside.turn.as_ref().map_or(Ok(()), |turn| turn.wait())
    }

    /// Whether the call has waited for what others bring about ([`Room::wait_without_turn`]).
    pub fn has_waited(&self) -> bool {
        self.0.as_ref().is_some_and(|inside| inside.has_waited.load(Ordering::Relaxed))
    }

    /// What the answer takes, for work that may go on when its call has ended. It is to be kept again after that.
    pub fn lend(&self) -> Option<Held> {
        self.0.as_ref()?.take_held()
    }

    /// What the answer takes, to be kept with it now that it is in the form in which it is sent.
    pub fn take(&self) -> Option<Held> {
        let inside = self.0.as_ref()?;
        *inside.workshop() = None;
        inside.take_held()
    }
}

impl Inside {
    fn take_held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn workshop(&self) -> MutexGuard<'_, Option<SemaphorePermit<'static>>> {
        self.workshop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value as JSON, whose memory is about as long as the text: one that is made longer as it comes may take twice as much.
pub fn text_of(value: &Value) -> String {
    let mut text = String::with_capacity(weight(value));
    let _ = write!(text, "{value}"); // writing to a String cannot fail
    text.shrink_to_fit();
    text
}

/// About so many bytes.
fn weight_of(members: &Map<String, Value>) -> usize {
    members.iter().map(|(name, value)| name.len() + weight(value)).sum()
}

fn weight(value: &Value) -> usize {
    VALUE_BYTES
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(members) => weight_of(members),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// At least as many values as valid JSON has: each but the first follows a comma, a colon, or an opening bracket.
pub fn values(json: &str) -> usize {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skep_mcp::framing::Pool;

    use super::*;

    #[tokio::test]
    async fn an_answer_waits_for_room_until_its_call_must_end() {
        let memory = Memory { all: Pool::new(1 << 20), own: None };
        let (first, second) = (Room::new(memory.clone(), None), Room::new(memory, None));
        const TIME: std::time::Duration = std::time::Duration::from_millis(20);
        let soon = || Instant::now() + TIME;
        first.make(1 << 20, soon()).await.unwrap();
        second.make(100, soon()).await.unwrap(); // small ones are free
        let began = Instant::now();
        assert!(matches!(second.make(100_000, soon()).await, Err(ToolError::Busy(_))));
        assert!(began.elapsed() >= TIME);
        let (made, ()) = tokio::join!(second.make(100_000, soon()), async { drop(first.take()) });
        made.unwrap();
        assert!(first.fit(1 << 20).is_err() && second.take().is_some());
        first.fit(1 << 20).unwrap();
    }

    #[test]
    fn many_small_values_weigh_more_than_their_text() {
        let Value::Object(answer) = json!({ "a": vec![0; 1000], "b": "x".repeat(1000) }) else { panic!() };
        assert!(weight_of(&answer) > 1000 * VALUE_BYTES + 1000);
    }
}
