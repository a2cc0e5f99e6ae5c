//! `search`: one question to the user's files, to the web or to X, and the same shape of answer from all of them.
//!
//! This module owns the arguments, the answer and the choice of the source. `files` is always there and reaches
//! nothing but the workspace and the outputs; [`web`] and [`x`] need what the operator has configured.

mod files;
mod http;
mod lines;
mod rank;
mod web;
mod x;

use std::time::{Duration, Instant};

use serde_json::Value;
use skep_tools::{
    error::ToolError,
    search::Settings,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

/// Characters that a query may have.
const QUERY_CHARS_MAX: usize = 4096;
/// Results, if the caller does not say how many.
const LIMIT_DEFAULT: u32 = 50;
/// Results that a caller may ask for.
const LIMIT_MAX: u32 = 1000;
/// Lines before and after a match that a caller may ask for.
const CONTEXT_MAX: u32 = 10;
/// Patterns of paths in one call.
const GLOBS_MAX: usize = 64;
/// How long an answer of the web or of X is given again to the same question.
const WEB_TTL: Duration = Duration::from_secs(60);

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct Search {
    files: files::Files,
    web: web::Web,
    x: x::X,
    http: http::Http,
}

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    /// What to look for: in files a text within one line (or a pattern, see `regex`), elsewhere words.
    #[garde(length(chars, min = 1, max = QUERY_CHARS_MAX))]
    query: String,
    /// Where to look.
    #[serde(default)]
    source: Source,
    /// Files: a directory or file of the workspace to stay in; `outputs` or `outputs/…` for what earlier calls wrote.
    #[serde(default = "here")]
    path: String,
    /// Files: look only into those whose path matches one of these patterns, written as in .gitignore: `*.rs`,
    /// `src/**`; one that begins with `!` excludes.
    #[serde(default)]
    #[garde(dive)]
    glob: Globs,
    /// Files: the query is a regular expression, as Rust's `regex` crate has them.
    #[serde(default)]
    regex: bool,
    /// Files: whether `a` and `A` differ. By default only if the query has an upper-case letter.
    case_sensitive: Option<bool>,
    /// Files: look also into files and directories whose name begins with a dot.
    #[serde(default)]
    hidden: bool,
    /// Files: look also into what .gitignore excludes.
    #[serde(default)]
    ignored: bool,
    /// Results to give, the best ones. 50 if absent; engines of the web give fewer.
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
    /// Another name of `limit`.
    #[garde(range(min = 1, max = LIMIT_MAX))]
    max_results: Option<u32>,
    /// Files: lines to show before and after each match.
    #[serde(default)]
    #[garde(range(max = CONTEXT_MAX))]
    context: u32,
}

fn here() -> String {
    ".".to_owned()
}

impl Arguments {
    fn limit(&self) -> usize {
        self.limit.or(self.max_results).unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX) as usize
    }
}

/// Where to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Source {
    /// The user's files.
    #[default]
    Files,
    /// The web, by the engine that is configured.
    Web,
    /// Posts on X of the last seven days.
    X,
}

/// One pattern or several.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(untagged)]
enum Globs {
    One(String),
    Many(#[garde(length(max = GLOBS_MAX))] Vec<String>),
}

impl Default for Globs {
    fn default() -> Globs {
        Globs::Many(Vec::new())
    }
}

impl Globs {
    fn as_slice(&self) -> &[String] {
        match self {
            Globs::One(one) => std::slice::from_ref(one),
            Globs::Many(many) => many,
        }
    }
}

/// What was found.
#[derive(Debug, Default, serde::Serialize, schemars::JsonSchema)]
pub(super) struct Answer {
    /// The best ones, best first.
    results: Vec<Found>,
    /// All there are: matching lines of all files, or what the engine gave.
    total: u64,
    /// Files: how many were looked into.
    files_searched: Option<u64>,
    /// Files: matching lines of each file, most first.
    by_file: Vec<FileCount>,
    /// There is more than `results` and `by_file` show, or not everything was looked into.
    truncated: bool,
    /// What the caller should know about how complete this is.
    notes: Vec<String>,
    /// Time it took, in milliseconds.
    duration_ms: f64,
}

/// One result.
#[derive(Debug, Default, PartialEq, serde::Serialize, schemars::JsonSchema)]
struct Found {
    /// A line to show: of a page its title, of a file its path and line.
    title: String,
    /// Where it is. For a file relative to the workspace, with the line as fragment.
    url: String,
    /// What it says: an excerpt, at most a few hundred characters.
    snippet: String,
    /// When it was written, as far as known (RFC 3339 for files and X; as the engine says it for the web).
    time: Option<String>,
    /// Who found it: `files`, `searxng`, `brave`, `tavily`, `duckduckgo` or `x`.
    source: &'static str,
    /// Files: its path, as other tools take it.
    path: Option<String>,
    /// Files: number of the line, from 1. Absent if it is the file's name that matches.
    line: Option<u64>,
    /// Files: character of the line at which the match begins, from 1.
    column: Option<u64>,
    /// Files: characters of `snippet` that match: the first, and the one after the last, from 0.
    highlight: Option<[usize; 2]>,
    /// Files: lines before it.
    before: Vec<String>,
    /// Files: lines after it.
    after: Vec<String>,
}

/// How often one file matches.
#[derive(Debug, PartialEq, serde::Serialize, schemars::JsonSchema)]
struct FileCount {
    /// Its path, as other tools take it.
    path: String,
    /// Matching lines.
    count: u64,
}

impl Search {
    /// A search with these settings, and the keys from the environment.
    pub(super) fn new(settings: &Settings, env: impl Fn(&str) -> Option<String>) -> Search {
        Search {
            files: files::Files::default(),
            web: web::Web::new(&settings.web, &env),
            x: x::X::new(&settings.x, &env),
            http: http::Http::default(),
        }
    }
}

impl BuiltIn for Search {
    const NAME: &'static str = "search";
    const DESCRIPTION: &'static str = "Search the user's files (source files, the default: a text or a regular \
        expression; respects .gitignore; counts by file), the web (source web) or posts on X of the last week \
        (source x). Best results first, each with title, url, snippet and time; those in files with path and line.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: true };
    const RUNS_OTHERS: bool = true;
    type Arguments = Arguments;
    type Answer = Answer;

    fn cache_ttl(arguments: &Value) -> Option<Duration> {
        matches!(arguments.get("source").and_then(Value::as_str), Some("web" | "x")).then_some(WEB_TTL)
    }

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let began = Instant::now();
        let (query, limit) = (arguments.query.as_str(), arguments.limit());
        let answer = match arguments.source {
            Source::Files => self.files.search(context, &arguments).await?,
            Source::Web => self.web.search(&self.http, context, query, limit).await?,
            Source::X => self.x.search(&self.http, context, query, limit).await?,
        };
        Ok(Answer { duration_ms: began.elapsed().as_secs_f64() * 1e3, ..answer })
    }
}
