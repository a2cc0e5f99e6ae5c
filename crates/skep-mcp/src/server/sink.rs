//! Where messages of a session go, and their text.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};

use super::{Limits, Share, code, edited::Edited};
use crate::{
    framing::{self, Held, Memory, NoMemory, SMALL_BYTES},
    message::{ErrorObject, Id, is_one_line, json, one_line, request_line},
};

/// The text of a message, in pieces that clones share: a large result is not copied into a message, but sent as it lies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    head: Bytes,
    /// A large result.
    rest: VecDeque<Bytes>,
    /// What comes after `rest`.
    end: &'static str,
    /// What it takes of the memory, until nobody needs any piece of it.
    held: Option<Arc<Held>>,
}

/// A result of so many bytes is large.
const LARGE: usize = 32 << 10;
/// Bytes that come to most results.
const ENVELOPE_SIZE: usize = 64;
/// And to most events.
const FRAME_SIZE: usize = 256;
const RESULT_END: &str = "}";
const EVENT_END: &str = "\n\n";
const RESULT_AND_EVENT_END: &str = "}\n\n";
const RESULT_AND_LINE_END: &str = "}\n";
const LINE_END: &str = "\n";

impl Text {
    /// The text of a response.
    pub(super) fn response(id: &Id, outcome: Result<impl Into<Edited>, ErrorObject>) -> Text {
        let result: Edited = match outcome {
            Ok(result) => result.into(),
            Err(object) => return error(Some(id), &object).into(),
        };
        let original = result.original();
        let is_large = original.len() >= LARGE && is_one_line(original);
        let bytes = if is_large { 0 } else { result.parts().map(str::len).sum() };
        let mut head = String::with_capacity(ENVELOPE_SIZE + bytes);
        head.push_str(r#"{"jsonrpc":"2.0","id":"#);
        id.write(&mut head);
        head.push_str(r#","result":"#);
        if is_large {
            return Text { head: head.into(), rest: result.into_pieces(), end: RESULT_END, held: None };
        }
        head.extend(result.parts());
        head.push_str(RESULT_END);
        let mut head = one_line(head);
        head.shrink_to_fit(); // memory that is full is shared without more of it
        head.into()
    }

    /// The same, and it takes this of the memory.
    pub(super) fn holding(self, held: Option<Held>) -> Text {
        Text { held: held.map(Arc::new).or(self.held), ..self }
    }

    /// The same, and nothing is counted for it any more.
    fn release(&mut self) {
        self.held = None;
    }

    /// The same as an event of a stream, with this id (WHATWG, server-sent events).
    pub(crate) fn into_event(self, id: Option<&str>) -> Text {
        let Text { head, mut rest, held, .. } = self;
        let copied = if head.len() < LARGE { head.len() } else { 0 };
        let mut event = Vec::with_capacity(FRAME_SIZE + copied);
        for part in id.map_or([""; 3], |id| ["id: ", id, "\n"]) {
            event.extend_from_slice(part.as_bytes());
        }
        event.extend_from_slice(b"event: message\ndata: ");
        event.extend_from_slice(&head[..copied]);
        let end = if rest.is_empty() { EVENT_END } else { RESULT_AND_EVENT_END };
        if copied < head.len() {
            rest.push_front(head);
        } else if rest.is_empty() {
            event.extend_from_slice(EVENT_END.as_bytes());
            return Text { head: event.into(), held, ..Text::default() };
        }
        Text { head: event.into(), rest, end, held }
    }

    /// The same as a line.
    pub(super) fn into_line(self) -> Text {
        match self.rest.is_empty() {
            true if self.head.len() < LARGE => {
                Text { head: [&self.head, &b"\n"[..]].concat().into(), held: self.held, ..Text::default() }
            }
            true => Text { end: LINE_END, ..self },
            false => Text { end: RESULT_AND_LINE_END, ..self },
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.rest.is_empty() && self.end.is_empty()
    }

    /// Bytes of all pieces.
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.rest.iter().map(Bytes::len).sum::<usize>() + self.end.len()
    }

    /// Take the next piece out.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.take_piece()?;
        Some(match &self.held {
            Some(held) => framing::counted(piece, Arc::clone(held)),
            None => piece,
        })
    }

    fn take_piece(&mut self) -> Option<Bytes> {
        if !self.head.is_empty() {
            return Some(std::mem::take(&mut self.head));
        }
        self.rest.pop_front().or_else(|| {
            let end = std::mem::take(&mut self.end);
            (!end.is_empty()).then(|| Bytes::from_static(end.as_bytes()))
        })
    }

    /// In one piece, which is a copy.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        if self.rest.is_empty() && self.end.is_empty() {
            return self.head;
        }
        let mut whole = Vec::with_capacity(self.len());
        while let Some(piece) = self.take_piece() {
            whole.extend_from_slice(&piece);
        }
        whole.into()
    }
}

impl From<String> for Text {
    fn from(head: String) -> Text {
        Text { head: head.into(), ..Text::default() }
    }
}

/// The text of an error; without an id if none could be read, which JSON-RPC writes as null.
pub(super) fn error(id: Option<&Id>, object: &ErrorObject) -> String {
    one_line(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{}}}"#, id.map_or("null".to_owned(), json), json(object)))
}

/// The text of a notification.
pub(super) fn notification(method: &str, params: &RawValue) -> String {
    match params.get() {
        "{}" | "null" => format!(r#"{{"jsonrpc":"2.0","method":{}}}"#, json(method)),
        params => one_line(format!(r#"{{"jsonrpc":"2.0","method":{},"params":{params}}}"#, json(method))),
    }
}

/// The text of a request.
pub(super) fn request(id: &Id, method: &str, params: &RawValue) -> String {
    request_line(id, method, Some(params.get()))
}

/// What is to be sent on a connection that all requests share, and was not written yet.
pub(super) struct Outbox {
    queue: mpsc::Sender<Text>,
    /// Where answers have their memory from that wait for a caller which does not read.
    memory: Option<Memory>,
    unwritten: Arc<Unwritten>,
}

/// Bytes that wait to be written.
#[derive(Default)]
pub(super) struct Unwritten {
    bytes: AtomicUsize,
    fewer: Notify,
}

impl Unwritten {
    /// So many bytes of it were written.
    pub(super) fn written(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.fewer.notify_waiters();
    }

    /// Wait until a connection has no more than it keeps room for.
    async fn few(&self) {
        loop {
            let fewer = self.fewer.notified(); // from here on nothing is missed
            if self.bytes.load(Ordering::Acquire) <= SMALL_BYTES {
                return;
            }
            fewer.await;
        }
    }
}

impl Outbox {
    /// An outbox of so many messages, what is taken out of it, and what is to hear of each that was written.
    pub(super) fn open(messages_max: usize, memory: Option<Memory>) -> (Sink, mpsc::Receiver<Text>, Arc<Unwritten>) {
        let ((queue, waiting), unwritten) = (mpsc::channel(messages_max), Arc::new(Unwritten::default()));
        let outbox = Outbox { queue, memory, unwritten: Arc::clone(&unwritten) };
        (Sink::Queue(Arc::new(outbox)), waiting, unwritten)
    }

    /// Whether nothing is taken out any more.
    pub(super) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Have a message counted if too much waits already. A caller that reads never comes so far.
    fn count(&self, text: &mut Text) -> Result<(), NoMemory> {
        let waiting = self.unwritten.bytes.load(Ordering::Acquire);
        let Some(memory) = self.memory.as_ref().filter(|_| text.held.is_none()) else { return Ok(()) };
        if waiting + text.len() <= SMALL_BYTES {
            return Ok(());
        }
        let mut held = None;
        memory.hold_all(&mut held, text.len())?;
        text.held = held.map(Arc::new);
        Ok(())
    }

    async fn put(&self, text: Text) {
        let bytes = text.len();
        self.unwritten.bytes.fetch_add(bytes, Ordering::AcqRel);
        if self.queue.send(text).await.is_err() {
            self.unwritten.written(bytes); // closed: there is nobody to tell
        }
    }

    /// Send an answer to the request of this id; an error, if there is no memory to keep it in.
    async fn answer(&self, id: Option<&Id>, mut text: Text) {
        if let Err(none) = self.count(&mut text) {
            text = error(id, &ErrorObject::new(code::BUSY, none.to_string())).into();
        }
        self.put(text).await;
    }
}

/// Where the messages of a request go.
#[derive(Clone)]
pub(super) enum Sink {
    /// A connection that all requests share. Bounded; whoever sends waits.
    Queue(Arc<Outbox>),
    /// The event stream of one HTTP request.
    Stream(Arc<EventStream>),
    /// The answers of a batch, which are sent together.
    Batch(Arc<Batch>),
    /// The same as the one inside, for a message that is counted until it is answered.
    Counted(Arc<(Sink, Share)>),
}

impl Sink {
    /// The same, and keep the share of a message until nobody will send anything for it any more.
    pub(super) fn keeping(self, share: Option<Share>) -> Sink {
        match share {
            Some(share) => Sink::Counted(Arc::new((self, share))),
            None => self,
        }
    }

    /// Wait until a message can be sent without waiting, and what was sent before is written but for little.
    pub(super) async fn ready(&self) {
        if let Sink::Queue(outbox) = self {
            drop(outbox.queue.reserve().await); // closed: there is nobody to wait for
            outbox.unwritten.few().await;
        }
    }

    /// Send a message that is not the last of its request. What a caller that does not read has no room for is dropped.
    pub(super) async fn send(&self, text: impl Into<Text>) {
        let mut text = text.into();
        match self {
            Sink::Queue(outbox) => {
                if outbox.count(&mut text).is_ok() {
                    outbox.put(text).await;
                }
            }
            Sink::Stream(stream) => stream.push(text, false).await,
            Sink::Batch(batch) => Box::pin(batch.others.send(text)).await,
            Sink::Counted(counted) => Box::pin(counted.0.send(text)).await,
        }
    }

    /// Send the answer to the request of this id.
    pub(super) async fn answer(&self, id: &Id, text: Text) {
        match self {
            Sink::Queue(outbox) => outbox.answer(Some(id), text).await,
            Sink::Counted(counted) => Box::pin(counted.0.answer(id, text)).await,
            Sink::Stream(_) | Sink::Batch(_) => self.end(Some(text)).await,
        }
    }

    /// Send the answer, or nothing to a caller that has withdrawn its request.
    pub(super) async fn end(&self, answer: Option<Text>) {
        match self {
            Sink::Queue(outbox) => {
                if let Some(text) = answer {
                    outbox.answer(None, text).await;
                }
            }
            Sink::Stream(stream) => match answer {
                Some(text) => stream.push(text, true).await,
                None => stream.close(),
            },
            Sink::Batch(batch) => {
                if let Some(answers) = batch.take(answer) {
                    Box::pin(batch.to.end(answers)).await;
                }
            }
            Sink::Counted(counted) => Box::pin(counted.0.end(answer)).await,
        }
    }
}

/// The answers of a batch (2025-03-26), until all are there.
pub(super) struct Batch {
    to: Sink,
    others: Sink,
    answers: Mutex<Answers>,
}

struct Answers {
    /// Requests that are not answered.
    missing: usize,
    texts: Vec<Bytes>,
    /// What these take of the memory.
    held: Vec<Arc<Held>>,
}

impl Batch {
    /// A batch of `requests` whose answers go `to` one place, and other messages of them to another.
    pub(super) fn new(to: Sink, others: Sink, requests: usize) -> Batch {
        Batch { to, others, answers: Mutex::new(Answers { missing: requests, texts: Vec::new(), held: Vec::new() }) }
    }

    /// Take one answer; gives all when it was the last. `None` inside: no request wants an answer.
    fn take(&self, answer: Option<Text>) -> Option<Option<Text>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut text) = answer {
            answers.held.extend(text.held.take());
            answers.texts.push(text.into_bytes());
        }
        answers.missing = answers.missing.saturating_sub(1);
        if answers.missing > 0 {
            return None;
        }
        let (texts, held) = (std::mem::take(&mut answers.texts), std::mem::take(&mut answers.held));
        if texts.is_empty() {
            return Some(None);
        }
        let head = Bytes::from([b"[", &*texts.join(&b","[..]), b"]"].concat());
        let held = held.into_iter().filter_map(Arc::into_inner).reduce(Held::with);
        Some(Some(Text { head, ..Text::default() }.holding(held)))
    }
}

/// One event of a stream.
#[derive(Clone, Debug)]
pub(super) struct StreamEvent {
    pub(super) number: u64,
    pub(super) text: Text,
    /// The answer: nothing comes after it.
    pub(super) is_last: bool,
}

/// The messages of one event stream, kept until they are read, and after that while there is room: a reader that lost its
/// connection goes on where it was (`Last-Event-ID`).
pub(super) struct EventStream {
    /// Its number in the session.
    pub(super) number: u64,
    events_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
    changed: Notify,
    backlog: Arc<Backlog>,
}

#[derive(Default)]
struct State {
    events: VecDeque<StreamEvent>,
    bytes: usize,
    /// Number of the next event; the first is 1.
    next: u64,
    /// Number of the last event that was read.
    read: u64,
    /// Counts readers; only the newest one reads.
    reader: u64,
    is_attached: bool,
    is_closed: bool,
    /// It is over, and what it kept made room for others.
    is_given_up: bool,
}

impl State {
    /// Bytes of events that nobody has read.
    fn unread_bytes(&self) -> usize {
        self.events.iter().filter(|event| event.number > self.read).map(|event| event.text.len()).sum()
    }
}

impl EventStream {
    pub(super) fn new(number: u64, limits: &Limits, backlog: &Arc<Backlog>) -> EventStream {
        let state = Mutex::new(State { next: 1, ..State::default() });
        let (events_max, bytes_max) = (limits.events_max, limits.events_bytes_max);
        EventStream { number, events_max, bytes_max, state, changed: Notify::new(), backlog: Arc::clone(backlog) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Add a message. While somebody reads too slowly this waits; when nobody reads, the oldest messages give way, and what is
    /// kept of the others takes nothing of the memory of messages that are under way: it has a limit of its own.
    async fn push(&self, mut text: Text, is_last: bool) {
        loop {
            let changed = self.changed.notified(); // from here on nothing is missed
            match self.try_push(text, is_last) {
                Ok(()) => return,
                Err(back) => text = back,
            }
            changed.await;
        }
    }

    /// The same, or give the message back.
    fn try_push(&self, mut text: Text, is_last: bool) -> Result<(), Text> {
        let mut state = self.state();
        if state.is_closed {
            return Ok(());
        }
        let unread = (state.next - 1).saturating_sub(state.read) as usize;
        let fits = || unread < self.events_max && state.unread_bytes() + text.len() <= SMALL_BYTES;
        if state.is_attached && unread > 0 && !fits() {
            return Err(text);
        }
        if !state.is_attached {
            text.release();
        }
        let number = state.next;
        state.next += 1;
        state.bytes += text.len();
        self.backlog.bytes.fetch_add(text.len(), Ordering::Relaxed);
        state.events.push_back(StreamEvent { number, text, is_last });
        state.is_closed = is_last;
        while state.events.len() > self.events_max || (state.bytes > self.bytes_max && state.events.len() > 1) {
            let Some(gone) = state.events.pop_front() else { break };
            state.bytes -= gone.text.len();
            self.backlog.bytes.fetch_sub(gone.text.len(), Ordering::Relaxed);
        }
        drop(state);
        self.changed.notify_waiters();
        self.backlog.trim();
        Ok(())
    }

    /// Lose what is kept, unless somebody reads it. Gives whether there will be no more.
    fn give_up(&self) -> bool {
        let mut state = self.state();
        if state.is_attached {
            return false;
        }
        state.events.clear();
        self.backlog.bytes.fetch_sub(std::mem::take(&mut state.bytes), Ordering::Relaxed);
        state.is_given_up = state.is_closed;
        state.is_closed
    }

    /// Whether it was given up.
    pub(super) fn is_given_up(&self) -> bool {
        self.state().is_given_up
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_waiters();
    }

    /// Whether it has ended and everything was read.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state();
        state.is_closed && !state.is_attached
    }

    /// Bytes of the events that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.state().bytes
    }

    pub(super) fn is_attached(&self) -> bool {
        self.state().is_attached
    }

    /// Read what comes after event `after`; an older reader ends.
    pub(super) fn read_after(self: &Arc<Self>, after: u64) -> Reader {
        self.attach(|_| after)
    }

    /// Read what nobody has read yet.
    pub(super) fn read(self: &Arc<Self>) -> Reader {
        self.attach(|state| state.read)
    }

    fn attach(self: &Arc<Self>, after: impl FnOnce(&State) -> u64) -> Reader {
        let mut state = self.state();
        state.reader += 1;
        state.is_attached = true;
        state.read = after(&state);
        let reader = Reader { stream: Arc::clone(self), number: state.reader, after: state.read };
        drop(state);
        self.changed.notify_waiters();
        reader
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.backlog.bytes.fetch_sub(state.bytes, Ordering::Relaxed);
    }
}

/// What all streams of a server keep. When it is too much, those that nobody reads lose it, the oldest first: many
/// sessions are begun, used once and left.
pub(super) struct Backlog {
    bytes: AtomicUsize,
    bytes_max: usize,
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    /// The oldest first; some have gone.
    all: VecDeque<Weak<EventStream>>,
    /// At so many, those that have gone are taken out.
    sweep_at: usize,
}

impl Backlog {
    pub(super) fn new(bytes_max: usize) -> Arc<Backlog> {
        Arc::new(Backlog { bytes: AtomicUsize::new(0), bytes_max, streams: Mutex::default() })
    }

    /// Know of a stream that somebody may come back to.
    pub(super) fn add(&self, stream: &Arc<EventStream>) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.all.push_back(Arc::downgrade(stream));
        if streams.all.len() > streams.sweep_at {
            streams.all.retain(|stream| stream.strong_count() > 0);
            streams.sweep_at = 2 * streams.all.len();
        }
    }

    fn is_too_large(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max
    }

    fn trim(&self) {
        if !self.is_too_large() {
            return;
        }
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..streams.all.len() {
            if !self.is_too_large() {
                return;
            }
            let Some(oldest) = streams.all.pop_front() else { return };
            if let Some(stream) = oldest.upgrade()
                && !stream.give_up()
            {
                streams.all.push_back(oldest);
            }
        }
    }
}

/// Reads an event stream.
pub(super) struct Reader {
    stream: Arc<EventStream>,
    number: u64,
    after: u64,
}

impl Reader {
    /// The next event; `None` when the stream has ended, or another reader has taken over.
    pub(super) async fn next(&mut self) -> Option<StreamEvent> {
        loop {
            let stream = Arc::clone(&self.stream);
            let changed = stream.changed.notified(); // from here on nothing is missed
            if let Poll::Ready(next) = self.look() {
                return next;
            }
            changed.await;
        }
    }

    /// The same, if it is there already. Nobody is woken when it comes.
    pub(super) fn look(&mut self) -> Poll<Option<StreamEvent>> {
        let mut state = self.stream.state();
        if state.reader != self.number {
            return Poll::Ready(None);
        }
        let next = state.events.iter_mut().find(|event| event.number > self.after);
        let next = next.map(|kept| {
            let event = kept.clone();
            kept.text.release(); // it counts as long as it is sent
            event
        });
        if let Some(event) = next {
            self.after = event.number;
            state.read = event.number;
            drop(state);
            self.stream.changed.notify_waiters();
            return Poll::Ready(Some(event));
        }
        if state.is_closed { Poll::Ready(None) } else { Poll::Pending }
    }

    /// The stream's number, and that of the event after which this reader is.
    pub(super) fn position(&self) -> (u64, u64) {
        (self.stream.number, self.after)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.stream.state();
        if state.reader == self.number {
            state.is_attached = false;
            state.events.iter_mut().for_each(|event| event.text.release());
        }
        drop(state);
        self.stream.changed.notify_waiters();
        self.stream.backlog.trim();
    }
}
