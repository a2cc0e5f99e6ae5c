//! Bodies of requests: read within a size, a time and a share of the memory, and taken apart with clear errors.
//!
//! The arguments of a call stay text until the call has its turn: as values they take many times the memory.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream, HttpBody as _},
    http::{HeaderMap, header},
};
use futures_util::StreamExt as _;
use serde_json::{error::Category, value::RawValue};
use skep_mcp::framing::{Held, Memory, SMALL_BYTES};
use tokio::time::timeout;

use super::problem::{Kind, Problem};
use crate::hub::{
    calls::{Malformed, Text},
    shares::MemoryShares,
};

/// The longest time that a caller may allow a call, in seconds.
const TIMEOUT_S_MAX: f64 = 3600.0;
/// Of a body that is too large so many bytes are still read and thrown away: a client that listens only when it has
/// sent everything hears why it is refused, instead of finding the connection closed.
const DISCARDED_BYTES_MAX: u64 = 64 << 20;
/// How long that may take.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// Reads bodies.
pub(super) struct Bodies {
    /// Bytes of one body.
    bytes_max: usize,
    /// Time from the head of a request to the end of its body.
    time_max: Duration,
    memory: Arc<MemoryShares>,
}

/// A whole body, and the share of the memory that it takes while it lives.
#[derive(Debug)]
pub(super) struct Whole {
    bytes: Vec<u8>,
    share: Option<Held>,
}

impl Bodies {
    /// Bodies that have their memory from here.
    pub(super) fn new(bytes_max: usize, time_max: Duration, memory: Arc<MemoryShares>) -> Bodies {
        Bodies { bytes_max, time_max, memory }
    }

    /// Where large messages of this principal have their memory from.
    pub(super) fn memory(&self, principal: &str) -> Memory {
        self.memory.of(principal)
    }

    /// Read a body to its end.
    pub(super) async fn read(&self, by: &str, headers: &HeaderMap, body: Body) -> Result<Whole, Problem> {
        self.read_within(by, headers, body, self.bytes_max).await
    }

    /// The same for a body that has a limit of its own, as a file has.
    pub(super) async fn read_within(
        &self,
        by: &str,
        headers: &HeaderMap,
        body: Body,
        bytes_max: usize,
    ) -> Result<Whole, Problem> {
        if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            let message = "send the body as it is: compressed bodies are not read";
            return Err(Problem::new(Kind::Compressed, message));
        }
        let waits_for_word = headers.contains_key(header::EXPECT);
        let read = timeout(self.time_max, self.read_all(by, body, waits_for_word, bytes_max)).await;
        read.unwrap_or_else(|_| Err(self.too_slow()))
    }

    /// The body did not arrive in time.
    pub(super) fn too_slow(&self) -> Problem {
        let message = format!("the body did not arrive within {}s", self.time_max.as_secs_f64());
        Problem::new(Kind::Slow, message)
    }

    async fn read_all(&self, by: &str, body: Body, waits_for_word: bool, bytes_max: usize) -> Result<Whole, Problem> {
        let announced = body.size_hint().lower();
        let mut chunks = body.into_data_stream();
        if announced > bytes_max as u64 {
            if !waits_for_word {
                discard(chunks).await;
            }
            return Err(too_large(bytes_max));
        }
        let mut whole = Whole { bytes: Vec::new(), share: None };
        let mut memory = None;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk
                .map_err(|_| Problem::new(Kind::CutOff, "the body is cut off, or its chunks are not well-formed"))?;
            let length = whole.bytes.len() + chunk.len();
            if length > bytes_max {
                discard(chunks).await;
                return Err(too_large(bytes_max));
            }
            if length > SMALL_BYTES {
                let memory = memory.get_or_insert_with(|| self.memory(by));
                memory.hold(&mut whole.share, length).map_err(|none| Problem::busy(Kind::Busy, none.to_string()))?;
            }
            whole.bytes.extend_from_slice(&chunk);
        }
        Ok(whole)
    }
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("the body is larger than {bytes_max} bytes"))
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
    pub(super) arguments: Text,
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
        let arguments = Text { json: envelope.args, held: self.share };
        Ok(Wanted { tool: envelope.tool, timeout: envelope.timeout.map(seconds).transpose()?, arguments })
    }

    /// The bytes, and the share of the memory to keep while they are needed.
    pub(super) fn into_parts(self) -> (Vec<u8>, Option<Held>) {
        (self.bytes, self.share)
    }

    /// The body of `POST /tools/{tool}`: nothing but the arguments. An empty one means no arguments.
    pub(super) fn into_arguments(self) -> Result<Text, Problem> {
        let json = match self.bytes.trim_ascii() {
            [] => None,
            bytes => Some(serde_json::from_slice(bytes).map_err(|error| not_json(&error))?),
        };
        Ok(Text { json, held: self.share })
    }
}

/// A caller's time for a call.
pub(super) fn seconds(timeout: f64) -> Result<Duration, Problem> {
    if timeout > 0.0 && timeout <= TIMEOUT_S_MAX {
        return Ok(Duration::from_secs_f64(timeout));
    }
    Err(bad_request("the timeout is out of range", "seconds, more than 0 and not more than 3600"))
}

fn bad_request(what: &str, expected: &str) -> Problem {
    Problem::new(Kind::BadRequest, format!("{what}; expected {expected}"))
}

fn not_json(error: &serde_json::Error) -> Problem {
    Malformed::from(error).into()
}

#[cfg(test)]
mod tests {
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
}
