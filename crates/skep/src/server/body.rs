//! Bodies of requests: read within a size, a time and a share of the memory, and taken apart with clear errors.
//!
//! The arguments of a call stay text until the call has its turn: as values they take many times the memory.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream, HttpBody as _},
    http::{HeaderMap, header},
};
use futures_util::StreamExt as _;
use serde_json::{Value, error::Category, value::RawValue};
pub use skep_mcp::framing::SMALL_BYTES;
use skep_mcp::framing::{Held, Memory, Pool};
use skep_tools::room::values;
use tokio::time::timeout;

use super::problem::{Kind, Problem};
use crate::hub::shares::{Shares, part};

/// Values (numbers, strings, lists, …) in the arguments of one call. Each takes some 70 bytes of memory and as few as
/// two of the body, so the size of the body alone does not bound the memory.
pub const VALUES_MAX: usize = 100_000;
/// The longest time that a caller may allow a call, in seconds.
const TIMEOUT_S_MAX: f64 = 3600.0;
/// Of a body that is too large so many bytes are still read and thrown away: a client that listens only when it has
/// sent everything hears why it is refused, instead of finding the connection closed.
const DISCARDED_BYTES_MAX: u64 = 64 << 20;
/// How long that may take.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// The limits of bodies.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one body.
    pub body_bytes_max: usize,
    /// Bytes of all large messages ([`SMALL_BYTES`]) at every listener. One half is for what comes in, until it was worked on, the
    /// other for what goes out, from when it is made until it was sent: so that calls which wait until others have sent their
    /// answers never wait for one another.
    pub bodies_bytes_max: usize,
    /// Time from the head of a request to the end of its body, and from the first byte of a line to its end.
    pub body_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { body_bytes_max: 10 << 20, bodies_bytes_max: 256 << 20, body_time_max: Duration::from_secs(30) }
    }
}

impl Limits {
    /// The memory of large messages: what comes in, and what goes out. `share`: the part of each that one principal may take;
    /// there is always room for one body.
    pub(super) fn halves(&self, share: f64) -> (Half, Half) {
        let half = || Half::new(self.bodies_bytes_max / 2, share, self.body_bytes_max);
        (half(), half())
    }
}

/// Memory that all share, and what of it each principal may take.
pub(super) struct Half {
    all: Pool,
    own: Shares,
}

impl Half {
    fn new(bytes: usize, share: f64, bytes_min: usize) -> Half {
        Half { all: Pool::new(bytes), own: Shares::new(part(bytes, share).max(bytes_min)) }
    }

    /// Where this principal has its memory from. Messages that are nobody's are bound by the whole alone.
    pub(super) fn of(&self, principal: &str) -> Memory {
        let own = if principal.is_empty() { None } else { self.own.of(principal) };
        Memory { all: self.all.clone(), own: own.map(|own| Pool::of(own, self.own.permits())) }
    }
}

/// Reads bodies.
pub(super) struct Bodies {
    limits: Limits,
    memory: Half,
}

/// A whole body, and the share of the memory that it takes while it lives.
#[derive(Debug)]
pub(super) struct Whole {
    bytes: Vec<u8>,
    share: Option<Held>,
}

impl Bodies {
    /// Bodies that have their memory from here.
    pub(super) fn new(limits: Limits, memory: Half) -> Bodies {
        Bodies { limits, memory }
    }

    /// Where large messages of this principal have their memory from.
    pub(super) fn memory(&self, principal: &str) -> Memory {
        self.memory.of(principal)
    }

    /// Read a body to its end.
    pub(super) async fn read(&self, by: &str, headers: &HeaderMap, body: Body) -> Result<Whole, Problem> {
        if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            let message = "send the body as it is: compressed bodies are not read";
            return Err(Problem::new(Kind::Compressed, message));
        }
        let waits_for_word = headers.contains_key(header::EXPECT);
        let read = timeout(self.limits.body_time_max, self.read_all(by, body, waits_for_word)).await;
        read.unwrap_or_else(|_| Err(self.too_slow()))
    }

    /// The body did not arrive in time.
    pub(super) fn too_slow(&self) -> Problem {
        let message = format!("the body did not arrive within {}s", self.limits.body_time_max.as_secs_f64());
        Problem::new(Kind::Slow, message)
    }

    async fn read_all(&self, by: &str, body: Body, waits_for_word: bool) -> Result<Whole, Problem> {
        let announced = body.size_hint().lower();
        let mut chunks = body.into_data_stream();
        if announced > self.limits.body_bytes_max as u64 {
            if !waits_for_word {
                discard(chunks).await;
            }
            return Err(self.too_large());
        }
        let mut whole = Whole { bytes: Vec::new(), share: None };
        let mut memory = None;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk
                .map_err(|_| Problem::new(Kind::CutOff, "the body is cut off, or its chunks are not well-formed"))?;
            let length = whole.bytes.len() + chunk.len();
            if length > self.limits.body_bytes_max {
                discard(chunks).await;
                return Err(self.too_large());
            }
            if length > SMALL_BYTES {
                let memory = memory.get_or_insert_with(|| self.memory(by));
                memory.hold(&mut whole.share, length).map_err(|none| Problem::busy(Kind::Busy, none.to_string()))?;
            }
            whole.bytes.extend_from_slice(&chunk);
        }
        Ok(whole)
    }

    fn too_large(&self) -> Problem {
        let message = format!("the body is larger than {} bytes", self.limits.body_bytes_max);
        Problem::new(Kind::TooLarge, message)
    }
}

async fn discard(mut chunks: BodyDataStream) {
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(chunk)) = chunks.next().await
            && bytes < DISCARDED_BYTES_MAX
        {
            bytes += chunk.len() as u64;
        }
    };
    let _ = timeout(DISCARD_TIME_MAX, read).await; // the client was answered as well as could be
}

/// Arguments of a call, still text.
#[derive(Debug)]
pub(super) struct Arguments {
    json: Option<Box<RawValue>>,
    _share: Option<Held>,
}

/// The body of `POST /process` (contract S0).
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    tool: String,
    args: Option<Box<RawValue>>,
    timeout: Option<f64>,
}

/// What a caller of `POST /process` wants.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) tool: String,
    pub(super) arguments: Arguments,
    pub(super) timeout: Option<Duration>,
}

impl Whole {
    /// The body of `POST /process`.
    pub(super) fn into_wanted(self) -> Result<Wanted, Problem> {
        const EXPECTED: &str =
            r#"{"tool": "bash", "args": {"command": "echo hi"}}, and "timeout" in seconds if need be"#;
        // Serde would take a list for a struct, too.
        let is_object = self.bytes.trim_ascii_start().first() == Some(&b'{');
        let envelope = match serde_json::from_slice::<Envelope>(&self.bytes) {
            Err(error) if error.classify() != Category::Data => return Err(not_json(&error)),
            _ if !is_object => return Err(bad_request("the body is not an object", EXPECTED)),
            Err(error) => return Err(bad_request(&error.to_string(), EXPECTED)),
            Ok(envelope) => envelope,
        };
        let arguments = Arguments { json: envelope.args, _share: self.share };
        Ok(Wanted { tool: envelope.tool, timeout: envelope.timeout.map(seconds).transpose()?, arguments })
    }

    /// The bytes, and the share of the memory to keep while they are needed.
    pub(super) fn into_parts(self) -> (Vec<u8>, Option<Held>) {
        (self.bytes, self.share)
    }

    /// The body of `POST /tools/{tool}`: nothing but the arguments. An empty one means no arguments.
    pub(super) fn into_arguments(self) -> Result<Arguments, Problem> {
        let json = match self.bytes.trim_ascii() {
            [] => None,
            bytes => Some(serde_json::from_slice(bytes).map_err(|error| not_json(&error))?),
        };
        Ok(Arguments { json, _share: self.share })
    }
}

/// A caller's time for a call.
pub(super) fn seconds(timeout: f64) -> Result<Duration, Problem> {
    if timeout > 0.0 && timeout <= TIMEOUT_S_MAX {
        return Ok(Duration::from_secs_f64(timeout));
    }
    Err(bad_request("the timeout is out of range", "seconds, more than 0 and not more than 3600"))
}

impl Arguments {
    /// The arguments as values.
    pub(super) fn parse(&self) -> Result<Value, Problem> {
        parse(self.json.as_deref())
    }
}

/// The arguments of a call as values, unless they are too many or too deep.
pub(super) fn parse(json: Option<&RawValue>) -> Result<Value, Problem> {
    let Some(json) = json else { return Ok(Value::Object(serde_json::Map::new())) };
    if values(json.get()) > VALUES_MAX {
        let message = format!("the arguments hold more than {VALUES_MAX} values; put large data into one text");
        return Err(Problem::new(Kind::TooManyValues, message));
    }
    serde_json::from_str(json.get()).map_err(|error| not_json(&error))
}

fn bad_request(what: &str, expected: &str) -> Problem {
    Problem::new(Kind::BadRequest, format!("{what}; expected {expected}"))
}

fn not_json(error: &serde_json::Error) -> Problem {
    let message = error.to_string();
    match message.strip_prefix("recursion limit exceeded") {
        Some(place) => Problem::new(Kind::TooDeep, format!("the JSON is nested too deep{place}")),
        None => Problem::new(Kind::BadJson, format!("the body is not JSON: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Whole {
        Whole { bytes: text.as_bytes().to_vec(), share: None }
    }

    fn code<T>(result: Result<T, Problem>) -> &'static str {
        result.err().map_or("ok", |problem| problem.kind.code())
    }

    #[test]
    fn what_is_not_a_call_is_told_apart() {
        let wanted = |text: &str| code(whole(text).into_wanted());
        assert_eq!(wanted(r#" {"tool":"bash"}"#), "ok");
        assert_eq!(wanted(r#"{"tool":"bash","args":null,"timeout":0.5}"#), "ok");
        for text in ["", "hello", "{", r#"{"tool":"bash"} x"#, "\u{feff}{}", r#"{"tool":'x'}"#] {
            assert_eq!(wanted(text), "bad_json", "{text}");
        }
        for text in [
            "[]",
            "1",
            "null",
            "{}",
            r#"["bash",{},1]"#,
            r#"{"tool":1}"#,
            r#"{"tool":"a","tool":"b"}"#,
            r#"{"tool":"a","arg":{}}"#,
        ] {
            assert_eq!(wanted(text), "bad_request", "{text}");
        }
        for timeout in ["0", "-1", "3601", "1e300", "-0.0"] {
            assert_eq!(wanted(&format!(r#"{{"tool":"bash","timeout":{timeout}}}"#)), "bad_request", "{timeout}");
        }
    }

    #[test]
    fn arguments_too_deep_or_too_many_are_refused_before_they_take_memory() {
        let arguments = |text: &str| code(whole(text).into_arguments().and_then(|arguments| arguments.parse()));
        assert_eq!(arguments(""), "ok");
        assert_eq!(arguments(&format!("{}{}", "[".repeat(127), "]".repeat(127))), "ok");
        assert_eq!(arguments(&format!("{}{}", "[".repeat(128), "]".repeat(128))), "too_deep");
        assert_eq!(arguments(&format!("{}{}", "[".repeat(99_000), "]".repeat(99_000))), "too_deep");
        assert_eq!(arguments(&format!("[{}0]", "0,".repeat(VALUES_MAX))), "too_many_values");
        assert_eq!(arguments(&format!("[{:?}]", ",[{".repeat(VALUES_MAX))), "ok", "a long text is one value");
        assert_eq!(arguments(r#""\ud800""#), "bad_json", "half a character");
        assert_eq!(arguments("1e999"), "bad_json", "no such number");
    }

    proptest! {
        #[test]
        fn never_fewer_values_are_counted_than_there_are(text in r#"[\[\]{},:"\\ a1]{0,40}"#) {
            fn count(value: &Value) -> usize {
                1 + match value {
                    Value::Array(items) => items.iter().map(count).sum(),
                    Value::Object(members) => members.values().map(count).sum(),
                    _ => 0,
                }
            }
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert!(values(&text) >= count(&value), "{text}");
            }
            let list = serde_json::json!([text, {"a": text, "b": [1, [text]]}]);
            prop_assert!(values(&list.to_string()) >= count(&list));
            prop_assert!(values(&list.to_string()) <= 12, "texts count once");
        }
    }
}
