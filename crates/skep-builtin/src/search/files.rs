//! Source `files`: ripgrep's machinery over the workspace or the outputs.
//!
//! Directories are walked by several threads, each file is opened below its directory by the kernel's own rules
//! ([`Dir::open_file`]) and read once, in pieces. The answer does not depend on which thread was faster: it is ordered
//! by points, path and line, and only a search that was stopped early can differ from the next.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use grep_matcher::Matcher as _;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder};
use ignore::{
    DirEntry, WalkBuilder, WalkState,
    overrides::{Override, OverrideBuilder},
};
use skep_tools::{
    error::ToolError,
    workspace::{Context, Dir, OUTPUTS, refused},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Answer, Arguments, FileCount, Found,
    lines::{Line, Lines},
    rank,
};

/// Searches of files that run at once; more of them wait until their deadline.
const SEARCHES_MAX: usize = 8;
/// Threads of one search.
const THREADS_MAX: usize = 8;
/// Files that one search looks into.
const FILES_MAX: u64 = 500_000;
/// Bytes of a file that is looked into; a larger one is named by its size in a note.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a line that can be searched; a file with a longer one is skipped from there on.
const LINE_BYTES_MAX: usize = 4 << 20;
/// Files whose counts are given.
const BY_FILE_MAX: usize = 1000;
/// Bytes that a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 10 << 20;

/// All searches of files in this process.
pub(super) struct Files {
    permits: Semaphore,
}

impl Default for Files {
    fn default() -> Files {
        Files { permits: Semaphore::new(SEARCHES_MAX) }
    }
}

impl Files {
    pub(super) async fn search(&self, context: &Context, arguments: &Arguments) -> Result<Answer, ToolError> {
        let search = Search::new(context, arguments)?;
        let busy = || ToolError::Busy(format!("{SEARCHES_MAX} searches of files are running already; try again later"));
        let permit = tokio::time::timeout(context.time_left(), self.permits.acquire()).await;
        let _permit = permit.map_err(|_| busy())?.map_err(|_| busy())?;
        // A caller that goes away stops the threads too.
        let _stop = search.stop.cancel.clone().drop_guard();
        let cancel = context.cancel.clone();
        let answer = tokio::task::spawn_blocking(move || search.run()).await;
        let answer = answer.map_err(|error| ToolError::failed(format!("the search failed: {error}")))?;
        if cancel.is_cancelled() { Err(ToolError::Cancelled) } else { Ok(answer) }
    }
}

/// One search, ready to run.
struct Search {
    dir: Dir,
    /// Put before paths below `dir`, so that other tools understand them.
    prefix: &'static str,
    /// Where the search begins, below `dir`.
    start: PathBuf,
    matcher: RegexMatcher,
    /// The query, unless it is a pattern.
    query: Option<String>,
    globs: Override,
    hidden: bool,
    ignored: bool,
    limit: usize,
    around: usize,
    stop: Stop,
}

/// When to stop.
struct Stop {
    cancel: CancellationToken,
    deadline: Instant,
}

impl Stop {
    fn now(&self) -> bool {
        self.cancel.is_cancelled() || Instant::now() >= self.deadline
    }
}

impl Search {
    fn new(context: &Context, arguments: &Arguments) -> Result<Search, ToolError> {
        let (dir, inside) = context.locate(&arguments.path);
        let prefix = if std::ptr::eq(dir, context.outputs.root()) { OUTPUTS } else { "" };
        Ok(Search {
            start: dir.resolve(inside).map_err(|error| refused(&arguments.path, &error))?,
            dir: dir.clone(),
            prefix,
            matcher: matcher(arguments)?,
            query: (!arguments.regex).then(|| arguments.query.clone()),
            globs: globs(dir.path(), arguments.glob.as_slice())?,
            hidden: arguments.hidden,
            ignored: arguments.ignored,
            limit: arguments.limit(),
            around: arguments.context as usize,
            stop: Stop { cancel: context.cancel.child_token(), deadline: context.deadline },
        })
    }

    fn run(self) -> Answer {
        let tally = Mutex::new(Tally::default());
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let (mut walk, shows) = (WalkBuilder::new(self.dir.path().join(&self.start)), self.dir.shows());
        walk.threads(threads)
            .follow_links(false)
            .hidden(!self.hidden)
            .parents(!self.ignored)
            .ignore(!self.ignored)
            .git_ignore(!self.ignored)
            .git_exclude(!self.ignored)
            .git_global(false) // the rules of whoever runs Skep are not the workspace's
            .require_git(false)
            .filter_entry(move |entry| entry.depth() == 0 || (entry.file_name() != ".git" && shows(entry)));
        walk.build_parallel().run(|| {
            let mut worker = Worker { search: &self, searcher: self.searcher(), tally: &tally };
            Box::new(move |entry| worker.visit(entry))
        });
        tally.into_inner().unwrap_or_else(PoisonError::into_inner).answer(&self)
    }

    fn searcher(&self) -> Searcher {
        SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(0))
            .heap_limit(Some(LINE_BYTES_MAX))
            .before_context(self.around)
            .after_context(self.around)
            .build()
    }

    /// A path below `dir`, as other tools take it.
    fn shown(&self, inside: &Path) -> String {
        if !self.prefix.is_empty() {
            return format!("{}/{}", self.prefix, inside.display());
        }
        // A directory of the workspace that is called like the outputs is told apart by its dot.
        let dot = if inside.starts_with(OUTPUTS) { "./" } else { "" };
        format!("{dot}{}", inside.display())
    }
}

/// What to look for in a line.
fn matcher(arguments: &Arguments) -> Result<RegexMatcher, ToolError> {
    if arguments.regex
        && let Err(error) = regex_syntax::parse(&arguments.query)
    {
        return Err(ToolError::argument("query", faulty(&error)));
    }
    let mut builder = RegexMatcherBuilder::new();
    builder.line_terminator(Some(b'\n')).fixed_strings(!arguments.regex);
    builder.size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
    match arguments.case_sensitive {
        Some(sensitive) => builder.case_insensitive(!sensitive),
        None => builder.case_smart(true),
    };
    let error = |error: grep_regex::Error| match error.kind() {
        grep_regex::ErrorKind::NotAllowed(_) => {
            ToolError::argument("query", "it has a line break; a match is always within one line")
        }
        _ => ToolError::argument("query", error.to_string()),
    };
    builder.build(&arguments.query).map_err(error)
}

/// What is wrong with a pattern, and where.
fn faulty(error: &regex_syntax::Error) -> String {
    let (what, column) = match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span().start.column),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span().start.column),
        other => return other.to_string(),
    };
    format!("not a valid pattern: {what}, at character {column}; without `regex` the query is taken as it stands")
}

fn globs(root: &Path, globs: &[String]) -> Result<Override, ToolError> {
    let mut builder = OverrideBuilder::new(root);
    for glob in globs {
        builder
            .add(glob)
            .map_err(|error| ToolError::argument("glob", format!("{glob:?} is not a pattern: {error}")))?;
    }
    builder.build().map_err(|error| ToolError::argument("glob", error.to_string()))
}

/// One thread of a search.
struct Worker<'a> {
    search: &'a Search,
    searcher: Searcher,
    tally: &'a Mutex<Tally>,
}

impl Worker<'_> {
    fn visit(&mut self, entry: Result<DirEntry, ignore::Error>) -> WalkState {
        if self.search.stop.now() {
            self.tally().stopped = true;
            return WalkState::Quit;
        }
        let Ok(entry) = entry else {
            self.tally().unreadable += 1;
            return WalkState::Continue;
        };
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            return WalkState::Continue;
        }
        let Ok(inside) = entry.path().strip_prefix(self.search.dir.path()) else { return WalkState::Continue };
        if self.search.globs.matched(inside, false).is_ignore() {
            return WalkState::Continue;
        }
        let full = {
            let mut tally = self.tally();
            tally.files += 1;
            tally.files > FILES_MAX
        };
        if full {
            return WalkState::Quit;
        }
        match self.look_into(inside) {
            Ok(()) => {}
            Err(_) if self.search.stop.now() => self.tally().stopped = true,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => self.tally().large += 1,
            Err(_) => self.tally().unreadable += 1,
        }
        WalkState::Continue
    }

    /// Look for matches in a file and in its name.
    fn look_into(&mut self, inside: &Path) -> io::Result<()> {
        let Search { dir, matcher, query, limit, around, .. } = self.search;
        let name = inside.file_name().unwrap_or_default().as_encoded_bytes();
        let name_matches = matcher.is_match(name).unwrap_or(false);
        let mut lines = Lines::new(matcher, query.as_deref(), *limit, *around);
        let file = dir.open_file(inside)?;
        let about = file.metadata()?;
        let searched = if about.len() > FILE_BYTES_MAX {
            Err(io::Error::from(io::ErrorKind::FileTooLarge))
        } else {
            let pieces = Pieces { file: &file, stop: &self.search.stop };
            self.searcher.search_reader(matcher, pieces, &mut lines)
        };
        let count = if lines.binary { 0 } else { lines.count };
        if count > 0 || name_matches {
            let from_start = inside.strip_prefix(&self.search.start).unwrap_or(inside);
            let time = about.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
            let file = Matching {
                path: self.search.shown(inside).into(),
                time: time.map(|time| format!("{time:.0}").into()),
                points: rank::of_path(from_start, name_matches, query.as_deref()),
                count,
                lines: if count > 0 { lines.into_best() } else { Vec::new() },
            };
            self.tally().add(file, *limit);
        }
        searched
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file of which lines match, or else its name.
struct Matching {
    path: Arc<str>,
    time: Option<Arc<str>>,
    points: i32,
    /// Matching lines.
    count: u64,
    /// The best of them, best first.
    lines: Vec<Line>,
}

/// What all threads have found so far.
#[derive(Default)]
struct Tally {
    /// Files looked into.
    files: u64,
    /// Matching lines.
    total: u64,
    by_file: Vec<FileCount>,
    /// The best results so far, the worst of them on top.
    best: BinaryHeap<Candidate>,
    /// Files that are too large.
    large: u64,
    /// Files and directories that could not be read, or not to their end.
    unreadable: u64,
    /// The search ended before it was done.
    stopped: bool,
}

/// What may become a result. The better one is the smaller one: more points, then by path and line.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: (Reverse<i32>, Arc<str>, Option<u64>),
    time: Option<Arc<str>>,
    /// Absent if it is the file's name that matches.
    line: Option<Line>,
}

impl Tally {
    fn add(&mut self, file: Matching, limit: usize) {
        if file.lines.is_empty() {
            self.offer(Candidate { rank: (Reverse(file.points), file.path, None), time: file.time, line: None }, limit);
            return;
        }
        self.total += file.count;
        self.by_file.push(FileCount { path: file.path.to_string(), count: file.count });
        for (place, line) in file.lines.into_iter().enumerate() {
            let points = file.points + line.points + rank::of_place(place, file.count);
            let rank = (Reverse(points), file.path.clone(), Some(line.number));
            self.offer(Candidate { rank, time: file.time.clone(), line: Some(line) }, limit);
        }
    }

    fn offer(&mut self, candidate: Candidate, limit: usize) {
        if self.best.len() < limit {
            self.best.push(candidate);
        } else if let Some(mut worst) = self.best.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
    }

    fn answer(mut self, search: &Search) -> Answer {
        let notes = self.notes(search);
        let full = self.files > FILES_MAX;
        let shown = self.best.iter().filter(|candidate| candidate.line.is_some()).count() as u64;
        let truncated = self.stopped || full || shown < self.total || self.by_file.len() > BY_FILE_MAX;
        self.by_file.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.path.cmp(&b.path)));
        self.by_file.truncate(BY_FILE_MAX);
        Answer {
            results: self.best.into_sorted_vec().into_iter().map(Candidate::found).collect(),
            total: self.total,
            files_searched: Some(self.files.min(FILES_MAX)),
            by_file: self.by_file,
            truncated,
            notes,
            duration_ms: 0.0,
        }
    }

    /// What the caller should know about how complete the answer is.
    fn notes(&self, search: &Search) -> Vec<String> {
        let mut notes = Vec::new();
        if self.stopped {
            notes.push(format!(
                "stopped at its deadline after {} files; narrow `path` or `glob`, or allow more time",
                self.files
            ));
        }
        if self.files > FILES_MAX {
            notes.push(format!("stopped after {FILES_MAX} files; narrow `path` or `glob`"));
        }
        if self.by_file.len() > BY_FILE_MAX {
            notes.push(format!("`by_file` shows the first {BY_FILE_MAX} of {} files", self.by_file.len()));
        }
        if self.large > 0 {
            notes.push(format!("not searched: {} files of more than {} MiB", self.large, FILE_BYTES_MAX >> 20));
        }
        if self.unreadable > 0 {
            notes.push(format!("could not be read, or not to their end: {} files and directories", self.unreadable));
        }
        if self.files == 0 && !self.stopped {
            notes
                .push("no file was searched; `hidden` and `ignored` look into more, `glob` may exclude all".to_owned());
        } else if self.total == 0 && search.query.as_ref().is_some_and(|query| query.contains(char::is_whitespace)) {
            notes
                .push("no line has this text as it stands; try one word, or alternatives as a `regex`: a|b".to_owned());
        }
        notes
    }
}

impl Candidate {
    fn found(self) -> Found {
        let (_, path, _) = self.rank;
        let found = Found {
            title: path.to_string(),
            url: url(&path, None),
            snippet: path.to_string(),
            time: self.time.map(|time| time.to_string()),
            source: "files",
            path: Some(path.to_string()),
            ..Found::default()
        };
        let Some(line) = self.line else { return found };
        Found {
            title: format!("{path}:{}", line.number),
            url: url(&path, Some(line.number)),
            snippet: line.snippet,
            line: Some(line.number),
            column: Some(line.column),
            highlight: Some(line.highlight),
            before: line.before,
            after: line.after,
            ..found
        }
    }
}

/// A URL relative to the workspace, with the line as fragment: no path of this machine is told to anybody.
fn url(path: &str, line: Option<u64>) -> String {
    let mut url = reqwest::Url::parse("file:///").expect("it is a URL");
    url.set_path(&path.replace('%', "%25"));
    url.set_fragment(line.map(|line| format!("L{line}")).as_deref());
    url.as_str().trim_start_matches("file:///").to_owned()
}

/// A file that stops being readable when the search has to stop.
struct Pieces<'a> {
    file: &'a File,
    stop: &'a Stop,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.now() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the search was stopped"));
        }
        self.file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use serde_json::{Value, json};
    use skep_tools::workspace::Outputs;

    use super::*;

    /// A workspace with these files, in a directory that also holds a secret.
    fn workspace(files: &[(&str, &str)]) -> (tempfile::TempDir, Context) {
        let temporary = tempfile::tempdir().unwrap();
        let put = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put(temporary.path().join("secret.txt"), "needle");
        for (path, text) in files {
            put(temporary.path().join("workspace").join(path), text);
        }
        let workspace = Dir::create(&temporary.path().join("workspace")).unwrap();
        let outputs = Outputs::new(Dir::create(&temporary.path().join("out")).unwrap(), "");
        let context = Context::new(crate::testing::permit(), workspace, outputs, CancellationToken::new());
        (temporary, context.with_deadline(Duration::from_secs(30)))
    }

    async fn search(context: &Context, arguments: Value) -> Result<Answer, ToolError> {
        Files::default().search(context, &serde_json::from_value(arguments).unwrap()).await
    }

    fn places(answer: &Answer) -> Vec<String> {
        answer.results.iter().map(|found| found.title.clone()).collect()
    }

    #[tokio::test]
    async fn what_is_ignored_hidden_or_binary_is_left_out_unless_asked_for() {
        let (_temporary, context) = workspace(&[
            (".gitignore", "/build\n*.log\n"),
            ("a.txt", "needle\n"),
            ("build/b.txt", "needle\n"),
            ("c.log", "needle\n"),
            (".hidden/d.txt", "needle\n"),
            (".git/e.txt", "needle\n"),
            ("f.bin", "needle\n\0\n"),
            ("sub/.gitignore", "g.txt\n"),
            ("sub/g.txt", "needle\n"),
        ]);
        let found = async |more: Value| {
            let mut arguments = json!({"query": "needle"});
            arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let answer = search(&context, arguments).await.unwrap();
            let mut paths: Vec<_> = answer.by_file.into_iter().map(|file| file.path).collect();
            paths.sort();
            paths.join(" ")
        };
        assert_eq!(found(json!({})).await, "a.txt");
        assert_eq!(found(json!({"hidden": true})).await, ".hidden/d.txt a.txt");
        assert_eq!(found(json!({"ignored": true})).await, "a.txt build/b.txt c.log sub/g.txt");
        assert_eq!(found(json!({"path": "build"})).await, "build/b.txt", "a directory that is named is searched");
        assert_eq!(found(json!({"path": "sub"})).await, "");
        assert_eq!(found(json!({"ignored": true, "glob": ["*.txt", "!sub/**"]})).await, "a.txt build/b.txt");
        assert_eq!(found(json!({"glob": "*.log"})).await, "", "a pattern narrows, it does not undo .gitignore");
    }

    #[tokio::test]
    async fn nothing_outside_the_workspace_is_found() {
        let (temporary, context) = workspace(&[("in.txt", "needle\n")]);
        let root = temporary.path().join("workspace");
        symlink("../secret.txt", root.join("link.txt")).unwrap();
        symlink("..", root.join("up")).unwrap();
        assert_eq!(places(&search(&context, json!({"query": "needle"})).await.unwrap()), ["in.txt:1"]);
        for path in ["..", "up", "up/secret.txt", "link.txt", "/etc", "a/../../secret.txt"] {
            let error = search(&context, json!({"query": "needle", "path": path})).await.unwrap_err();
            assert!(matches!(error, ToolError::Denied(_) | ToolError::Failed { .. }), "{path}: {error}");
        }
    }

    #[tokio::test]
    async fn outputs_of_earlier_calls_are_searched_by_their_name() {
        let (_temporary, context) = workspace(&[("outputs/own.txt", "needle\n"), ("a.txt", "needle\n")]);
        context.outputs.write(Path::new("task/made.txt"), b"needle\n").unwrap();
        for path in ["outputs", "outputs/task", "outputs/task/made.txt"] {
            let answer = search(&context, json!({"query": "needle", "path": path})).await.unwrap();
            assert_eq!(places(&answer), ["outputs/task/made.txt:1"], "{path}");
        }
        let answer = search(&context, json!({"query": "needle"})).await.unwrap();
        assert_eq!(places(&answer), ["a.txt:1", "./outputs/own.txt:1"]);
        for found in &answer.results {
            assert_eq!(context.read(found.path.as_deref().unwrap(), 100).unwrap(), b"needle\n");
        }
    }

    #[tokio::test]
    async fn the_best_come_first_and_all_are_counted() {
        let many = "the needle\n".repeat(300);
        let (_temporary, context) = workspace(&[
            ("deep/down/use.rs", "let x = needle();\nneedles\n"),
            ("deep/define.rs", "\n  pub fn needle() {}\n"),
            ("needle.md", "about\n"),
            ("many.txt", &many),
        ]);
        let answer = search(&context, json!({"query": "needle", "limit": 5})).await.unwrap();
        assert_eq!(places(&answer)[..2], ["deep/define.rs:2", "many.txt:1"], "{answer:?}");
        assert_eq!((answer.total, answer.results.len(), answer.truncated), (303, 5, true));
        let counts: Vec<_> = answer.by_file.iter().map(|file| (file.path.as_str(), file.count)).collect();
        assert_eq!(counts, [("many.txt", 300), ("deep/down/use.rs", 2), ("deep/define.rs", 1)]);

        let answer = search(&context, json!({"query": "needle", "glob": "*.{rs,md}", "max_results": 9})).await.unwrap();
        assert!(!answer.truncated);
        let name = answer.results.iter().find(|found| found.line.is_none()).unwrap();
        assert_eq!((name.title.as_str(), answer.total), ("needle.md", 3), "a file's name is a result, but not counted");
        let line = &answer.results[0];
        assert_eq!((line.url.as_str(), line.snippet.as_str()), ("deep/define.rs#L2", "pub fn needle() {}"));
        assert_eq!((line.line, line.column, line.highlight), (Some(2), Some(10), Some([7, 13])));
        assert!(line.time.as_deref().unwrap().ends_with('Z'), "{:?}", line.time);
    }

    #[tokio::test]
    async fn the_order_does_not_depend_on_the_threads() {
        let files: Vec<_> = (0..200).map(|i| (format!("{}/{i}.txt", i % 7), "needle\nneedle\n".to_owned())).collect();
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let (_temporary, context) = workspace(&files);
        let once = async || {
            let answer = search(&context, json!({"query": "needle", "limit": 150, "context": 1})).await.unwrap();
            (serde_json::to_value(answer.results).unwrap(), serde_json::to_value(answer.by_file).unwrap())
        };
        let first = once().await;
        for _ in 0..20 {
            assert_eq!(once().await, first);
        }
    }

    #[tokio::test]
    async fn case_counts_only_when_the_query_has_it_or_the_caller_says_so() {
        let (_temporary, context) = workspace(&[("a.txt", "todo\nTODO\nTo.Do\n")]);
        for (arguments, total) in [
            (json!({"query": "todo"}), 2),
            (json!({"query": "TODO"}), 1),
            (json!({"query": "TODO", "case_sensitive": false}), 2),
            (json!({"query": "todo", "case_sensitive": true}), 1),
            (json!({"query": "o.D"}), 1),
            (json!({"query": "^to.?do$", "regex": true}), 3),
            (json!({"query": "(?-i)^to.?do$|x", "regex": true}), 1),
        ] {
            assert_eq!(search(&context, arguments.clone()).await.unwrap().total, total, "{arguments}");
        }
    }

    #[tokio::test]
    async fn a_bad_pattern_is_an_error_that_says_where() {
        let (_temporary, context) = workspace(&[]);
        for (query, what) in
            [("a(b", "at character 2"), ("a\\", "at character 2"), ("(?=a)", "look-around"), ("a\\nb", "line break")]
        {
            let error = search(&context, json!({"query": query, "regex": true})).await.unwrap_err();
            assert!(matches!(&error, ToolError::InvalidArguments(faults) if faults[0].pointer == "/query"));
            assert!(error.to_string().contains(what), "{query}: {error}");
        }
        let error = search(&context, json!({"query": "a", "glob": "a[b"})).await.unwrap_err();
        assert!(error.to_string().starts_with("glob: "), "{error}");
        let error = search(&context, json!({"query": "a", "path": "nowhere"})).await.unwrap_err();
        assert_eq!(error.to_string(), "nowhere does not exist");
    }

    #[tokio::test]
    async fn a_search_that_is_out_of_time_gives_what_it_has_and_says_so() {
        let (_temporary, context) = workspace(&[("a.txt", "needle\n")]);
        let context = context.with_deadline(Duration::ZERO);
        let files = Files::default();
        let answer = files.search(&context, &serde_json::from_value(json!({"query": "needle"})).unwrap()).await;
        let answer = answer.unwrap();
        assert!(answer.truncated && answer.notes[0].contains("deadline"), "{answer:?}");
    }

    #[tokio::test]
    async fn a_search_in_the_middle_of_a_file_stops_when_the_caller_goes() {
        let (_temporary, context) = workspace(&[("a.txt", "needle\n")]);
        let stop = Stop { cancel: context.cancel.child_token(), deadline: context.deadline };
        let file = context.workspace.open_file(Path::new("a.txt")).unwrap();
        let mut pieces = Pieces { file: &file, stop: &stop };
        assert_eq!(pieces.read(&mut [0; 2]).unwrap(), 2);
        context.cancel.cancel();
        assert!(pieces.read(&mut [0; 2]).is_err());
        assert_eq!(search(&context, json!({"query": "needle"})).await.unwrap_err(), ToolError::Cancelled);
    }

    #[tokio::test]
    async fn large_files_and_endless_lines_are_left_out_and_named() {
        let (temporary, context) = workspace(&[("needle.bin", ""), ("line.txt", &"x".repeat(LINE_BYTES_MAX + 1))]);
        let large = File::options().write(true).open(temporary.path().join("workspace/needle.bin")).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        let answer = search(&context, json!({"query": "needle"})).await.unwrap();
        assert_eq!(places(&answer), ["needle.bin"], "its name is found nevertheless");
        assert_eq!(answer.notes.len(), 2, "{:?}", answer.notes);
    }

    #[tokio::test]
    async fn no_more_searches_run_at_once_than_allowed() {
        let (_temporary, context) = workspace(&[("a.txt", "needle\n")]);
        let files = Files::default();
        let _all = files.permits.acquire_many(SEARCHES_MAX as u32).await.unwrap();
        let context = context.with_deadline(Duration::from_millis(1));
        let answer = files.search(&context, &serde_json::from_value(json!({"query": "needle"})).unwrap()).await;
        assert!(matches!(answer, Err(ToolError::Busy(_))), "{answer:?}");
    }

    #[test]
    fn a_url_holds_any_path() {
        assert_eq!(url("a b/ü%20#?.txt", Some(3)), "a%20b/%C3%BC%2520%23%3F.txt#L3");
    }
}
