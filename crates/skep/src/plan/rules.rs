//! From a sentence to a plan without a model, for what can be named: search, list, read, run, fetch, generate, execute,
//! look, count, show and save; joined by *then* and *and*.
//!
//! A sentence is cut into words (`words.rs`), the words into clauses (here), each clause is read as an action
//! (`actions.rs`), and the actions become steps that use each other's results (`steps.rs`).
//!
//! Rules guess wrong where people speak freely. So the rule is: what is not understood as a whole is refused, with what was
//! understood and what was not. Half of a sentence is never run. Quotes and backticks protect text from being read as anything but
//! itself.

mod actions;
mod steps;
mod words;

use std::{fmt, ops::Range};

use self::words::{Kind, Word};
use super::Plan;
use crate::schema::shorten;

/// Bytes in a sentence.
pub const SENTENCE_BYTES_MAX: usize = 64 << 10;
/// Clauses in a sentence.
pub const CLAUSES_MAX: usize = 64;

/// Why a sentence became no plan, for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotUnderstood {
    /// The sentence, clause by clause.
    pub clauses: Vec<Clause>,
}

/// A clause of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// What it says.
    pub text: String,
    /// What that was taken for, or why it was not understood.
    pub meaning: Result<String, String>,
}

/// The plan that a sentence asks for.
pub fn plan(sentence: &str) -> Result<Plan, NotUnderstood> {
    let whole = |reason: String| {
        let text = shorten(sentence.trim(), TEXT_CHARS_MAX);
        NotUnderstood { clauses: vec![Clause { text, meaning: Err(reason) }] }
    };
    if sentence.len() > SENTENCE_BYTES_MAX {
        return Err(whole(format!("a sentence has at most {SENTENCE_BYTES_MAX} bytes")));
    }
    let words = words::split(sentence);
    let parts = clauses(&words);
    if parts.is_empty() || parts.len() > CLAUSES_MAX {
        return Err(whole(match parts.len() {
            0 => "it says nothing".to_owned(),
            many => format!(
                "{many} steps are too many for a sentence; {CLAUSES_MAX} are the limit, a plan file has more room"
            ),
        }));
    }
    let mut steps = steps::Steps::default();
    let mut clauses = Vec::new();
    for part in &parts {
        let text = part.text(sentence);
        let action = actions::read(part.words, sentence);
        let meaning = action.and_then(|action| {
            let meaning = action.to_string();
            steps.add(action, part.joined, &text)?;
            Ok(meaning)
        });
        clauses.push(Clause { text, meaning });
    }
    match clauses.iter().any(|clause| clause.meaning.is_err()) {
        true => Err(NotUnderstood { clauses }),
        false => Ok(steps.into_plan(sentence)),
    }
}

/// How a clause goes on from what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joined {
    /// At the same time.
    And,
    /// After it.
    Then,
}

/// The words of a clause.
struct Part<'a> {
    joined: Joined,
    words: &'a [Word],
}

impl Part<'_> {
    fn text(&self, sentence: &str) -> String {
        let range = span(self.words);
        shorten(sentence.get(range).unwrap_or_default(), TEXT_CHARS_MAX)
    }
}

/// The part of the sentence that these words cover.
fn span(words: &[Word]) -> Range<usize> {
    match (words.first(), words.last()) {
        (Some(first), Some(last)) => first.place.start..last.place.end,
        _ => 0..0,
    }
}

/// Longer clauses are cut in messages and descriptions.
const TEXT_CHARS_MAX: usize = 200;

/// Cut the words where a new clause begins: after *then* and the end of a sentence, and after *and* or a comma if an action
/// follows. A command that is not in quotes may hold any of them, so it ends only where another action is named.
fn clauses(words: &[Word]) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut at, mut joined) = (0, 0, Joined::And);
    while at < words.len() {
        let found = connector(&words[at..]);
        let next = &words[at + found.len..];
        let is_cut = found.len > 0
            && match (next.is_empty(), at == start) {
                (true, _) | (_, true) => true,
                _ if actions::begins(next, found.is_hard) => true,
                _ => found.is_hard && !actions::is_bare_command(&words[start..at]),
            };
        if !is_cut {
            at += found.len.max(1);
            continue;
        }
        if at > start {
            parts.push(Part { joined, words: &words[start..at] });
            joined = Joined::And;
        }
        if found.is_then {
            joined = Joined::Then;
        }
        at += found.len;
        start = at;
    }
    if at > start {
        parts.push(Part { joined, words: &words[start..] });
    }
    parts
}

/// Words that join clauses, if any stand here.
#[derive(Default)]
struct Connector {
    len: usize,
    /// It joins clauses and nothing else.
    is_hard: bool,
    is_then: bool,
}

fn connector(words: &[Word]) -> Connector {
    const AFTER: [&[&str]; 6] = [&["then"], &["after", "that"], &["afterwards"], &["next"], &["finally"], &["lastly"]];
    let mut found = Connector::default();
    loop {
        let rest = &words[found.len..];
        let Some(word) = rest.first() else { break };
        if let Some(after) = AFTER.iter().find(|phrase| words::begin_with(rest, phrase)) {
            // "next" and the like are words as any other, unless something else has ended the clause.
            if found.len == 0 && !matches!(after[0], "then" | "afterwards" | "after") {
                break;
            }
            found = Connector { len: found.len + after.len(), is_hard: true, is_then: true };
            continue;
        }
        match word.kind {
            Kind::Stop => found.is_hard = true,
            Kind::Comma => {}
            Kind::Plain if word.is("and") || (found.len > 0 && word.is("also")) => {}
            _ => break,
        }
        found.len += 1;
    }
    found
}

impl std::error::Error for NotUnderstood {}

/// What was understood and what was not, examples, and how to have more understood.
impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the sentence is not understood, so nothing was run:")?;
        for Clause { text, meaning } in &self.clauses {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            match meaning {
                Ok(meaning) => writeln!(f, "  understood: {text}\n              ({meaning})")?,
                Err(reason) => writeln!(f, "  not:        {text}\n              ({reason})")?,
            }
        }
        writeln!(f, "Without a model these are understood, in any combination:")?;
        for example in EXAMPLES {
            writeln!(f, "  {example}")?;
        }
        f.write_str(MODEL_HELP)
    }
}

/// Sentences that show what the rules know. A test plans each.
pub const EXAMPLES: [&str; 8] = [
    "search for TODO here, then count them by file",
    "search for \"broken link\" in docs and search the web for link checkers",
    "list *.rs files in src, then count them by extension",
    "run `make test`, then save the output to test.log",
    "fetch https://example.com and save it to page.txt",
    "read README.md",
    "generate python code `print(6 * 7)`, then execute it",
    "look at the screen",
];

/// How to have any sentence understood.
const MODEL_HELP: &str = "A model understands any sentence. Name one in skep.toml:
  [model]
  provider = \"openai\"               # or anthropic, xai, ollama, compatible (with base_url)
  model = \"…\"
  api_key_env = \"OPENAI_API_KEY\"    # the variable that holds the key
or in the environment: SKEP_MODEL, SKEP_MODEL_PROVIDER, SKEP_MODEL_BASE_URL.
Or write a plan file; `skep check --schema` prints its form.";

#[cfg(test)]
mod tests;
