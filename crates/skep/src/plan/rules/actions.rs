//! What one clause asks for. Nothing here knows tools or other clauses.

use std::fmt;

use super::{
    span,
    words::{Kind, Word, begin_with},
};

/// What a clause asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Search {
        query: Query,
        place: Place,
    },
    List {
        place: Place,
    },
    Read {
        paths: Vec<String>,
        lines: Option<u32>,
    },
    /// A command for the shell, and the directory to be in.
    Run {
        command: String,
        directory: Option<String>,
    },
    Fetch {
        urls: Vec<String>,
    },
    Generate {
        language: String,
        code: String,
    },
    /// Run what was generated before.
    Execute,
    /// Images, or the screen if there are none.
    Look {
        images: Vec<String>,
    },
    Count {
        what: Counted,
        by: Option<By>,
    },
    /// Show what came before.
    Show,
    /// Write what came before to a file.
    Save {
        path: String,
    },
}

/// What to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) text: String,
    pub(super) is_pattern: bool,
    pub(super) case_sensitive: Option<bool>,
}

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In files below a path, of these kinds (as in .gitignore).
    Files {
        path: Option<String>,
        glob: Option<String>,
    },
    Web,
    X,
}

const HERE: Place = Place::Files { path: None, glob: None };

/// What to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// What came before.
    It,
    /// The lines, words or characters of what came before.
    Parts(Unit),
    /// The same of a file.
    PartsOf(Unit, String),
    /// What another action finds.
    Found(Box<Action>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Lines,
    Words,
    Characters,
}

/// What to count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    File,
    Extension,
}

type Read = Result<Action, String>;
type Reader = fn(&[Word], &str) -> Read;

/// The verbs, and who reads what follows. Longer ones come before those that they begin with.
const VERBS: [(&[&str], Reader); 37] = [
    (&["search"], search),
    (&["look", "for"], find),
    (&["look", "up"], find),
    (&["look", "at"], look),
    (&["find"], find),
    (&["locate"], find),
    (&["grep"], grep),
    (&["list"], list),
    (&["run"], run),
    (&["execute"], run),
    (&["fetch"], fetch),
    (&["get"], fetch),
    (&["download"], fetch),
    (&["read"], read_files),
    (&["open"], read_files),
    (&["show", "me"], show),
    (&["show"], show),
    (&["display"], show),
    (&["print"], show),
    (&["cat"], read_files),
    (&["generate"], generate),
    (&["create"], generate),
    (&["write"], write),
    (&["save"], save),
    (&["store"], save),
    (&["put"], save),
    (&["ocr"], look),
    (&["observe"], look),
    (&["capture"], look),
    (&["take", "a", "screenshot"], screenshot),
    (&["screenshot"], screenshot),
    (&["count", "up"], count),
    (&["count"], count),
    (&["tally", "up"], count),
    (&["tally"], count),
    (&["how", "many"], count),
    (&["what", "is", "on"], look),
];

/// Verbs that no rule knows. After *and* they begin a clause all the same, so that the clause is refused rather than
/// taken for text to search for.
const OTHER_VERBS: [&str; 38] = [
    "analyse",
    "analyze",
    "apply",
    "archive",
    "build",
    "buy",
    "call",
    "change",
    "commit",
    "compare",
    "compile",
    "compress",
    "convert",
    "copy",
    "delete",
    "deploy",
    "edit",
    "email",
    "explain",
    "fix",
    "install",
    "mail",
    "merge",
    "move",
    "notify",
    "post",
    "publish",
    "push",
    "refactor",
    "remove",
    "rename",
    "replace",
    "send",
    "sort",
    "summarise",
    "summarize",
    "translate",
    "tweet",
];

/// Words before a verb that change nothing.
const POLITE: [&[&str]; 17] = [
    &["please"],
    &["also"],
    &["now"],
    &["first"],
    &["just"],
    &["next"],
    &["finally"],
    &["kindly"],
    &["can", "you"],
    &["could", "you"],
    &["would", "you"],
    &["i", "want", "you", "to"],
    &["i", "want", "to"],
    &["i", "would", "like", "to"],
    &["i'd", "like", "to"],
    &["let's"],
    &["go", "and"],
];

/// Words that stand for what came before.
const IT: [&str; 8] = ["it", "them", "that", "this", "those", "these", "everything", "all"];
/// Words that do so after an article.
const RESULT: [&str; 22] = [
    "result",
    "results",
    "output",
    "outputs",
    "match",
    "matches",
    "hit",
    "hits",
    "finding",
    "findings",
    "occurrence",
    "occurrences",
    "page",
    "pages",
    "table",
    "list",
    "answer",
    "text",
    "content",
    "contents",
    "count",
    "counts",
];
const ARTICLES: [&str; 9] = ["the", "a", "an", "all", "every", "any", "my", "some", "each"];

/// The languages in which code is generated.
const LANGUAGES: [(&str, &str); 11] = [
    ("python", "python"),
    ("python3", "python"),
    ("py", "python"),
    ("javascript", "javascript"),
    ("js", "javascript"),
    ("node", "javascript"),
    ("bash", "bash"),
    ("shell", "bash"),
    ("sh", "bash"),
    ("rust", "rust"),
    ("rs", "rust"),
];
/// Kinds of files by what people call them.
const KINDS: [(&str, &str); 19] = [
    ("python", "*.py"),
    ("javascript", "*.{js,mjs,cjs}"),
    ("typescript", "*.{ts,tsx}"),
    ("rust", "*.rs"),
    ("go", "*.go"),
    ("java", "*.java"),
    ("c", "*.{c,h}"),
    ("c++", "*.{cc,cpp,hpp}"),
    ("bash", "*.{sh,bash}"),
    ("shell", "*.{sh,bash}"),
    ("html", "*.html"),
    ("css", "*.css"),
    ("json", "*.json"),
    ("yaml", "*.{yaml,yml}"),
    ("toml", "*.toml"),
    ("markdown", "*.md"),
    ("text", "*.txt"),
    ("image", IMAGES),
    ("source", "*.{rs,py,js,ts,go,java,c,h,cc,cpp,rb,sh}"),
];
const IMAGES: &str = "*.{png,jpg,jpeg,gif,webp,bmp,tif,tiff}";
const IMAGE_ENDS: [&str; 8] = [".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"];
/// Files that are known by their whole name.
const FILES: [&str; 7] = ["readme", "license", "makefile", "dockerfile", "changelog", "copying", "notice"];

/// What a clause asks for, or why that is not clear.
pub(super) fn read(words: &[Word], sentence: &str) -> Read {
    let words = without_politeness(words);
    match VERBS.iter().find(|(verb, _)| begin_with(words, verb)) {
        Some((verb, reader)) => reader(&words[verb.len()..], sentence),
        None => Err(match words.first() {
            Some(word) => format!("no rule begins with {:?}", crate::schema::shorten(&word.text, 40)),
            None => "it says nothing".to_owned(),
        }),
    }
}

/// Whether an action begins here. Where the words could as well go on (`is_sure` is false), a verb alone is none.
pub(super) fn begins(words: &[Word], is_sure: bool) -> bool {
    let words = without_politeness(words);
    let known = VERBS.iter().find(|(verb, _)| begin_with(words, verb)).map(|(verb, _)| verb.len());
    let verb = known.or_else(|| words.first().filter(|word| word.is_any(&OTHER_VERBS)).map(|_| 1));
    let counts = words.first().is_some_and(|word| word.is("count"));
    verb.is_some_and(|length| {
        is_sure || counts || words.get(length).is_some_and(|next| next.kind != Kind::Comma && next.kind != Kind::Stop)
    })
}

/// Whether this is a command without quotes, which may have *then* and semicolons in it.
pub(super) fn is_bare_command(words: &[Word]) -> bool {
    let words = without_politeness(words);
    let is_run = words.first().is_some_and(|word| word.is_any(&["run", "execute"]));
    is_run && matches!(run(&words[1..], ""), Ok(Action::Run { .. })) && !words[1..].iter().any(Word::is_quoted)
}

fn without_politeness(mut words: &[Word]) -> &[Word] {
    while let Some(phrase) = POLITE.iter().find(|phrase| begin_with(words, phrase)) {
        words = &words[phrase.len()..];
    }
    words
}

fn without_articles(mut words: &[Word]) -> &[Word] {
    while let [first, rest @ ..] = words
        && first.is_any(&ARTICLES)
        && !rest.is_empty()
    {
        words = rest;
    }
    words
}

/// Whether the words stand for what came before: `them`, `the results`, `all matches`.
fn is_it(words: &[Word]) -> bool {
    match words {
        [word] => word.is_any(&IT) || word.is_any(&RESULT),
        [first, .., last] => {
            let between = &words[1..words.len() - 1];
            (first.is_any(&ARTICLES) || first.is_any(&["these", "those", "its", "their", "this", "that"]))
                && last.is_any(&RESULT)
                && between.iter().all(|word| word.is_any(&ARTICLES) || word.is_any(&["of", "search"]))
        }
        [] => false,
    }
}

/// The text of the sentence that these words cover.
fn raw<'a>(words: &[Word], sentence: &'a str) -> &'a str {
    sentence.get(span(words)).unwrap_or_default()
}

fn quote(words: &[Word], sentence: &str) -> String {
    crate::schema::shorten(raw(words, sentence), 60)
}

// ---- searching ----

fn search(words: &[Word], sentence: &str) -> Read {
    match words.iter().position(|word| word.is_any(&["for"])) {
        // "search the web for x", "search src for x", "search for x in src"
        Some(0) => find(&words[1..], sentence),
        Some(at) => {
            let place = whole_place(&words[..at])
                .ok_or_else(|| format!("where {:?} is is not clear", quote(&words[..at], sentence)))?;
            let query = query(&words[at + 1..], &place, sentence)?;
            Ok(Action::Search { query, place })
        }
        None => find(words, sentence),
    }
}

fn find(words: &[Word], sentence: &str) -> Read {
    if let Some(place) = files_by_name(words) {
        return Ok(Action::List { place });
    }
    let (case_sensitive, words) = case(words);
    let (object, place) = split_place(words);
    let query = Query { case_sensitive, ..query(object, &place, sentence)? };
    Ok(Action::Search { query, place })
}

/// `grep -i TODO src`
fn grep(words: &[Word], sentence: &str) -> Read {
    let options = words.iter().take_while(|word| word.kind == Kind::Plain && word.text.starts_with('-')).count();
    let is_insensitive = words[..options].iter().any(|word| !word.text.starts_with("--") && word.text.contains('i'));
    let words = match &words[options..] {
        [first, rest @ ..] if first.is("for") => rest,
        words => words,
    };
    let (mut object, mut place) = split_place(words);
    if let ([_, path], Place::Files { path: None, glob: None }) = (object, &place)
        && !path.is_quoted()
    {
        (object, place) = (&object[..1], files(path));
    }
    let [pattern] = object else { return find(words, sentence) };
    let is_pattern = pattern.text.contains(['\\', '[', '(', '|', '*', '+', '?', '^', '$', '.']);
    let case_sensitive = Some(!is_insensitive);
    Ok(Action::Search { query: Query { text: pattern.text.clone(), is_pattern, case_sensitive }, place })
}

/// What to look for: quoted text as it is, several words or quoted texts joined by *and*, *or* and commas as
/// alternatives, and otherwise the words as they stand.
fn query(words: &[Word], place: &Place, sentence: &str) -> Result<Query, String> {
    const LEAD: [&[&str]; 14] = [
        &["lines", "matching"],
        &["anything", "matching"],
        &["lines", "containing"],
        &["lines", "with"],
        &["text"],
        &["lines", "that", "contain"],
        &["lines", "that", "mention"],
        &["files", "containing"],
        &["files", "with"],
        &["occurrences", "of"],
        &["mentions", "of"],
        &["instances", "of"],
        &["uses", "of"],
        &["files", "that", "contain"],
    ];
    let mut words = without_articles(words);
    let is_pattern = words.iter().take(2).any(|word| word.is("matching"));
    if let Some(lead) = LEAD.iter().find(|lead| begin_with(words, lead)) {
        words = without_articles(&words[lead.len()..]);
    }
    if let [word, last] = words
        && is_mark(&word.text)
        && last.is_any(&["comment", "comments", "marker", "markers", "note", "notes"])
    {
        words = &words[..1];
    }
    let text = match words {
        [] => return Err("it does not say what to look for".to_owned()),
        [only] => singular(&only.text),
        several if matches!(place, Place::Files { .. }) => return alternatives(several, is_pattern, sentence),
        several => raw(several, sentence),
    };
    Ok(Query { text: text.to_owned(), is_pattern, case_sensitive: None })
}

fn alternatives(words: &[Word], is_pattern: bool, sentence: &str) -> Result<Query, String> {
    let joins = |word: &Word| word.kind == Kind::Comma || word.is_any(&["and", "or"]);
    if !words.iter().any(joins) {
        return match words.iter().any(Word::is_quoted) {
            true => Err(format!("of {:?} only a part is in quotes", quote(words, sentence))),
            false => Ok(Query { text: raw(words, sentence).to_owned(), is_pattern, case_sensitive: None }),
        };
    }
    let mut texts = Vec::new();
    for part in words.split(joins).filter(|part| !part.is_empty()) {
        match without_articles(part) {
            [one] if is_pattern => texts.push(one.text.clone()),
            [one] => texts.push(escape(singular(&one.text))),
            _ => return Err(format!("put quotes around what to look for, if it is {:?}", quote(words, sentence))),
        }
    }
    Ok(Query { text: texts.join("|"), is_pattern: true, case_sensitive: None })
}

/// `TODO`, `FIXME`
fn is_mark(text: &str) -> bool {
    text.len() > 1 && text.trim_end_matches('s').bytes().all(|byte| byte.is_ascii_uppercase())
}

/// `TODOs` are many of `TODO`.
fn singular(text: &str) -> &str {
    text.strip_suffix('s').filter(|mark| mark.len() > 1 && is_mark(mark)).unwrap_or(text)
}

/// The text as a pattern that matches it alone.
fn escape(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if "\\.+*?()|[]{}^$#&-~".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// `… ignoring case`
fn case(words: &[Word]) -> (Option<bool>, &[Word]) {
    const ENDS: [(&[&str], bool); 6] = [
        (&["ignoring", "case"], false),
        (&["ignore", "case"], false),
        (&["case", "insensitively"], false),
        (&["case-insensitively"], false),
        (&["case-sensitively"], true),
        (&["matching", "case"], true),
    ];
    for (end, is_sensitive) in ENDS {
        if let Some(at) = words.len().checked_sub(end.len())
            && begin_with(&words[at..], end)
        {
            return (Some(is_sensitive), &words[..at]);
        }
    }
    (None, words)
}

// ---- places ----

const DIRECTORY: [&str; 8] = ["directory", "folder", "project", "repo", "repository", "workspace", "dir", "tree"];

/// What comes before a place at the end of the words, and the place.
fn split_place(words: &[Word]) -> (&[Word], Place) {
    for at in (0..words.len()).rev() {
        let is_alone = words[at].is_any(&["here", "online"]);
        let leads = words[at].is_any(&["in", "under", "below", "inside", "within", "on", "from"]);
        let Some(place) = (is_alone || leads).then(|| whole_place(&words[at..])).flatten() else { continue };
        let object = match &words[..at] {
            [object @ .., last] if last.is("in") => object, // "in here"
            object => object,
        };
        let Place::Files { path, glob: None } = &place else { return (object, place) };
        // "in python files in src", "in the files here"
        return match split_place(object) {
            (object, Place::Files { path: None, glob }) => (object, Place::Files { path: path.clone(), glob }),
            _ => (object, place),
        };
    }
    (words, HERE)
}

/// The place that these words name, with or without the preposition: `the web`, `in src`, `all python files`, `here`.
fn whole_place(words: &[Word]) -> Option<Place> {
    let (preposition, words) = match words {
        [first, rest @ ..] if first.is_any(&["in", "under", "below", "inside", "within", "on", "from", "through"]) => {
            (Some(first), without_articles(rest))
        }
        words => (None, without_articles(words)),
    };
    match words {
        [word] if word.is_any(&["web", "internet", "net", "online", "www"]) => Some(Place::Web),
        [word] if word.is_any(&["twitter", "x/twitter", "twitter/x"]) => Some(Place::X),
        [word] if word.is("x") && preposition.is_none_or(|word| word.is("on")) => Some(Place::X),
        _ if preposition.is_some_and(|word| word.is("on")) => None,
        [word] if word.is_any(&["here", "files", "everywhere", "everything", "code"]) => Some(HERE),
        [word] if word.is_any(&DIRECTORY) => Some(HERE),
        [this, word]
            if this.is_any(&["this", "current", "our", "these"]) && (word.is_any(&DIRECTORY) || word.is("files")) =>
        {
            Some(HERE)
        }
        [path, word] if word.is_any(&DIRECTORY) => Some(files(path)),
        [kind, files] if files.is_any(&["files", "file"]) => {
            kind_of_file(kind).map(|glob| Place::Files { path: None, glob: Some(glob) })
        }
        [files, word, path @ ..] if files.is("files") && word.is_any(&["in", "under", "below"]) => {
            match whole_place(path)? {
                Place::Files { path, glob } => Some(Place::Files { path, glob }),
                _ => None,
            }
        }
        [kind, files, word, path @ ..] if files.is("files") && word.is_any(&["in", "under", "below"]) => {
            match (kind_of_file(kind)?, whole_place(path)?) {
                (glob, Place::Files { path, glob: None }) => Some(Place::Files { path, glob: Some(glob) }),
                _ => None,
            }
        }
        [path] if path.is_quoted() || path.kind == Kind::Plain => Some(files(path)),
        _ => None,
    }
}

/// `src`, or `*.rs`.
fn files(word: &Word) -> Place {
    match word.text.contains(['*', '?', '{']) && !word.is_quoted() {
        true => Place::Files { path: None, glob: Some(word.text.clone()) },
        false => Place::Files { path: Some(word.text.clone()), glob: None },
    }
}

/// `python`, `.py`, `*.py`, `png`: the kind of files that the word names.
fn kind_of_file(word: &Word) -> Option<String> {
    let text = word.text.to_lowercase();
    if text.contains('*') {
        return Some(word.text.clone());
    }
    if let Some((_, glob)) = KINDS.iter().find(|(name, _)| *name == text) {
        return Some((*glob).to_owned());
    }
    let extension = text.strip_prefix('.').unwrap_or(&text);
    let is_extension = (1..=5).contains(&extension.len()) && extension.chars().all(|c| c.is_ascii_alphanumeric());
    is_extension.then(|| format!("*.{extension}"))
}

/// `files named x`, `all *.rs files in src`, `python files`: names to find, not contents.
fn files_by_name(words: &[Word]) -> Option<Place> {
    let (object, place) = split_place(without_articles(words));
    let Place::Files { path, glob: None } = place else {
        // "list *.rs in src" has lost its kind to the place
        return None;
    };
    let object = without_articles(object);
    let glob = match object {
        [word] if word.is_any(&["files", "file", "everything"]) => None,
        [word] if word.kind == Kind::Plain && word.text.contains('*') => Some(word.text.clone()),
        [file, named, name] if file.is_any(&["file", "files"]) && named.is_any(&["named", "called"]) => {
            Some(name.text.clone())
        }
        [kind, files] if files.is_any(&["file", "files"]) => Some(kind_of_file(kind)?),
        [word] if word.is_any(&["images", "pictures"]) => Some(IMAGES.to_owned()),
        _ => return None,
    };
    Some(Place::Files { path, glob })
}

fn list(words: &[Word], sentence: &str) -> Read {
    let place = match without_articles(words) {
        [] => Some(HERE),
        words => files_by_name(words).or_else(|| {
            whole_place(match words {
                // "list the files of src", "list what is in src"
                [files, of, rest @ ..] if files.is("files") && of.is_any(&["of", "at"]) => rest,
                [what, is, rest @ ..] if what.is("what") && is.is("is") => rest,
                [contents, of, rest @ ..] if contents.is("contents") && of.is("of") => rest,
                words => words,
            })
        }),
    };
    match place {
        Some(place @ Place::Files { .. }) => Ok(Action::List { place }),
        _ => Err(format!("it can list files, not {:?}", quote(words, sentence))),
    }
}

// ---- reading, fetching, running, looking ----

/// The things of an enumeration, without articles.
fn items(words: &[Word]) -> impl Iterator<Item = &[Word]> {
    let joins = |word: &Word| word.kind == Kind::Comma || word.is("and");
    words.split(joins).map(without_articles).filter(|item| !item.is_empty())
}

fn show(words: &[Word], sentence: &str) -> Read {
    let words = match words {
        [object @ .., as_, a, table] if as_.is("as") && a.is("a") && table.is_any(&["table", "list"]) => object,
        words => words,
    };
    match words {
        words if is_it(words) => Ok(Action::Show),
        [first, ..] if files_by_name(words).is_some() && !first.is_quoted() => list(words, sentence),
        words => read_files(words, sentence),
    }
}

fn read_files(words: &[Word], sentence: &str) -> Read {
    let unclear = || format!("{:?} names no file; if it does, put it in quotes", quote(words, sentence));
    let mut words = without_articles(words);
    if let [text, of, rest @ ..] = words
        && text.is("text")
        && of.is_any(&["in", "on", "of", "from"])
    {
        return look(rest, sentence);
    }
    if is_screen(words) {
        return screenshot(&[], sentence);
    }
    let mut lines = None;
    if let [first, number, unit, of, rest @ ..] = words
        && first.is("first")
        && unit.is_any(&["lines", "line"])
        && of.is_any(&["of", "in", "from"])
    {
        lines = Some(number.text.parse().ok().filter(|lines| *lines > 0).ok_or_else(unclear)?);
        words = without_articles(rest);
    }
    let mut paths = Vec::new();
    for item in items(words) {
        let (path, is_named) = match item {
            [file, path] if file.is_any(&["file", "files"]) => (path, true),
            [path, file] if file.is("file") => (path, true),
            [path] => (path, false),
            _ => return Err(unclear()),
        };
        let name = path.text.to_lowercase();
        let is_path = name.contains(['.', '/']) || FILES.contains(&name.as_str());
        if !(is_named || path.is_quoted() || is_path) {
            return Err(unclear());
        }
        paths.push(path.text.clone());
    }
    let is_image = |path: &String| IMAGE_ENDS.iter().any(|end| path.to_lowercase().ends_with(end));
    match paths.is_empty() {
        true => Err("it does not say which file".to_owned()),
        false if paths.iter().all(is_image) => Ok(Action::Look { images: paths }),
        false => Ok(Action::Read { paths, lines }),
    }
}

fn fetch(words: &[Word], sentence: &str) -> Read {
    const LEAD: [&str; 10] = ["the", "page", "pages", "file", "contents", "of", "at", "from", "url", "website"];
    let mut urls = Vec::new();
    for item in items(words) {
        let lead = item.iter().take_while(|word| word.is_any(&LEAD)).count();
        let [word] = &item[lead..] else {
            return Err(format!("it can fetch addresses (https://…), not {:?}", quote(words, sentence)));
        };
        urls.push(url(&word.text).ok_or_else(|| {
            format!("{:?} is no address of a page (https://…)", crate::schema::shorten(&word.text, 60))
        })?);
    }
    if urls.is_empty() { Err("it does not say which address".to_owned()) } else { Ok(Action::Fetch { urls }) }
}

/// `https://…`, or a host with a dot in it and what follows.
fn url(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        return Some(text.to_owned());
    }
    let host = text.split(['/', '?', '#', ':']).next()?;
    let (name, end) = host.rsplit_once('.')?;
    let is_host = !name.is_empty() && end.len() >= 2 && end.chars().all(|c| c.is_ascii_alphabetic());
    let is_plain = host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    (is_host && is_plain).then(|| format!("https://{text}"))
}

fn run(words: &[Word], sentence: &str) -> Read {
    const CODE: [&str; 5] = ["code", "program", "script", "generated", "file"];
    let is_generated = |words: &[Word]| {
        let words = without_articles(words);
        matches!(words, [one] if one.is_any(&["it", "that", "this", "code", "program", "script"]))
            || matches!(words, [one, two] if one.is_any(&["generated", "this", "that", "written", "new"]) && two.is_any(&CODE))
    };
    if is_generated(words) {
        return Ok(Action::Execute);
    }
    let words = match words {
        [lead @ .., word]
            if word.is_quoted()
                && !lead.is_empty()
                && lead.iter().all(|word| {
                    word.is_any(&["the", "command", "commands", "shell", "bash", "script", "a", "this", "following"])
                }) =>
        {
            std::slice::from_ref(word)
        }
        words => words,
    };
    match words {
        [] => Err("it does not say which command".to_owned()),
        [command] if command.is_quoted() => Ok(Action::Run { command: command.text.clone(), directory: None }),
        [command, in_, directory] if command.is_quoted() && in_.is("in") => {
            Ok(Action::Run { command: command.text.clone(), directory: Some(directory.text.clone()) })
        }
        [first, ..]
            if first.is_quoted() || first.is_any(&ARTICLES) || first.is_any(&IT) || first.is_any(&["tests", "our"]) =>
        {
            Err(format!("{:?} is no command as it stands; put the command between backticks", quote(words, sentence)))
        }
        words => Ok(Action::Run { command: raw(words, sentence).to_owned(), directory: None }),
    }
}

fn is_screen(words: &[Word]) -> bool {
    matches!(without_articles(words), [word] if word.is_any(&["screen", "display", "desktop"]))
}

fn look(words: &[Word], sentence: &str) -> Read {
    let words = without_articles(words);
    let words = match words {
        [text, of, rest @ ..] if text.is("text") && of.is_any(&["in", "on", "of", "from"]) => rest,
        words => words,
    };
    if is_screen(words) {
        return screenshot(&[], sentence);
    }
    if let Some(Place::Files { path, glob: Some(glob) }) = files_by_name(words) {
        let below = path.map_or(String::new(), |path| format!("{}/", path.trim_end_matches('/')));
        return Ok(Action::Look { images: vec![format!("{below}**/{glob}")] });
    }
    let mut images = Vec::new();
    for item in items(words) {
        match item {
            [image] | [_, image]
                if item.len() == 1 || item[0].is_any(&["image", "picture", "file", "screenshot", "images"]) =>
            {
                images.push(image.text.clone());
            }
            _ => {
                return Err(format!(
                    "it can look at the screen and at image files, not at {:?}",
                    quote(words, sentence)
                ));
            }
        }
    }
    let is_image = |path: &String| IMAGE_ENDS.iter().any(|end| path.to_lowercase().ends_with(end));
    if images.is_empty() || !images.iter().all(is_image) {
        return Err(format!("it can look at the screen and at image files, not at {:?}", quote(words, sentence)));
    }
    Ok(Action::Look { images })
}

fn screenshot(words: &[Word], sentence: &str) -> Read {
    match words {
        [] => Ok(Action::Look { images: Vec::new() }),
        [of, rest @ ..] if of.is("of") && is_screen(rest) => Ok(Action::Look { images: Vec::new() }),
        _ => Err(format!("of {:?} no picture can be taken", quote(words, sentence))),
    }
}

// ---- code ----

fn generate(words: &[Word], sentence: &str) -> Read {
    const CODE: [&str; 8] = ["code", "program", "script", "function", "snippet", "app", "application", "tool"];
    let named =
        |word: &Word| LANGUAGES.iter().find(|(name, _)| word.is(name)).map(|(_, language)| (*language).to_owned());
    let end = words.iter().position(Word::is_quoted).unwrap_or(words.len());
    let language = words[..end].iter().find_map(named);
    let is_code = language.is_some() || words[..end].iter().any(|word| word.is_any(&CODE));
    let Some(code) = words.get(end) else {
        return Err(match is_code {
            true => "what code is to be written, only a model knows; give the code between backticks".to_owned(),
            false => format!("{:?} can only be made by a model", quote(words, sentence)),
        });
    };
    let tag = match &code.kind {
        Kind::Block(tag) => LANGUAGES.iter().find(|(name, _)| name == tag).map(|(_, language)| (*language).to_owned()),
        _ => None,
    };
    if !(is_code || tag.is_some()) || words.len() > end + 1 {
        return Err(format!("{:?} can only be made by a model", quote(words, sentence)));
    }
    let language = language.or(tag).ok_or("it does not say in which language (python, javascript, bash, rust)")?;
    Ok(Action::Generate { language, code: code.text.clone() })
}

// ---- counting, saving ----

fn count(words: &[Word], sentence: &str) -> Read {
    let (by, words) = count_by(words)?;
    let words = match words {
        // "how many TODOs are there in src"
        [object @ .., are, there] if are.is_any(&["are", "is"]) && there.is("there") => object,
        words => words,
    };
    let kept: Vec<Word>;
    let words = match words.windows(2).position(|pair| pair[0].is_any(&["are", "is"]) && pair[1].is("there")) {
        Some(at) => {
            kept = [&words[..at], &words[at + 2..]].concat();
            &kept[..]
        }
        None => words,
    };
    let plain = without_articles(words);
    if plain.is_empty() || is_it(words) {
        return Ok(Action::Count { what: Counted::It, by });
    }
    let unit = match &plain[0] {
        word if word.is_any(&["lines", "line"]) => Some(Unit::Lines),
        word if word.is_any(&["words", "word"]) => Some(Unit::Words),
        word if word.is_any(&["characters", "character", "letters"]) => Some(Unit::Characters),
        _ => None,
    };
    if let (Some(unit), None) = (unit, by) {
        match &plain[1..] {
            [] => return Ok(Action::Count { what: Counted::Parts(unit), by }),
            [of, rest @ ..] if of.is_any(&["of", "in", "from"]) => {
                if is_it(rest) {
                    return Ok(Action::Count { what: Counted::Parts(unit), by });
                }
                if let Ok(Action::Read { paths, lines: None }) = read_files(rest, sentence)
                    && let [path] = &paths[..]
                {
                    return Ok(Action::Count { what: Counted::PartsOf(unit, path.clone()), by });
                }
                return Err(format!("{:?} names no file to count in", quote(rest, sentence)));
            }
            _ => {}
        }
    }
    let found = find(words, sentence)?;
    Ok(Action::Count { what: Counted::Found(Box::new(found)), by })
}

/// `… by file`, `… per extension`, `… in each file`
fn count_by(words: &[Word]) -> Result<(Option<By>, &[Word]), String> {
    let Some(at) = words.iter().rposition(|word| word.is_any(&["by", "per", "each"])) else { return Ok((None, words)) };
    let mut end = at;
    while end > 0 && words[end - 1].is_any(&["in", "for", "grouped", "of"]) {
        end -= 1;
    }
    let by = match &words[at + 1..] {
        [word] | [_, word] if word.is_any(&["file", "files", "path", "filename"]) && words[at + 1..].len() == 1 => {
            By::File
        }
        [word] if word.is_any(&["extension", "extensions", "type", "kind", "suffix"]) => By::Extension,
        [file, word] if file.is("file") && word.is_any(&["extension", "type", "kind"]) => By::Extension,
        [] => return Ok((None, words)),
        [word, ..] => {
            return Err(format!(
                "it can count by file and by extension, not by {:?}",
                crate::schema::shorten(&word.text, 40)
            ));
        }
    };
    Ok((Some(by), &words[..end]))
}

/// `write`: to a file what came before, or code.
fn write(words: &[Word], sentence: &str) -> Read {
    match save(words, sentence) {
        Ok(action) => Ok(action),
        Err(reason)
            if words.iter().any(|word| word.is_any(&["to", "into"]))
                && words.first().is_some_and(|word| word.is_any(&IT)) =>
        {
            Err(reason)
        }
        Err(_) => generate(words, sentence),
    }
}

fn save(words: &[Word], sentence: &str) -> Read {
    let unclear =
        || format!("of {:?} it is not clear what is to be saved where; say: save it to FILE", quote(words, sentence));
    let at = words.iter().rposition(|word| word.is_any(&["to", "into", "in", "as"])).ok_or_else(unclear)?;
    if !(at == 0 || is_it(&words[..at])) {
        return Err(unclear());
    }
    match without_articles(&words[at + 1..]) {
        [path] => Ok(Action::Save { path: path.text.clone() }),
        [file, path] if file.is("file") => Ok(Action::Save { path: path.text.clone() }),
        [file, called, path] if file.is("file") && called.is_any(&["called", "named"]) => {
            Ok(Action::Save { path: path.text.clone() })
        }
        _ => Err(unclear()),
    }
}

/// What it was taken for.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |text: &str| crate::schema::shorten(text, 60);
        match self {
            Action::Search { query: Query { text, is_pattern, .. }, place } => {
                let what = if *is_pattern { "the pattern" } else { "the text" };
                write!(f, "search {place} for {what} {:?}", some(text))
            }
            Action::List { place } => write!(f, "list {place}"),
            Action::Read { paths, .. } => write!(f, "read {}", some(&paths.join(", "))),
            Action::Run { command, directory: None } => write!(f, "run the command {:?}", some(command)),
            Action::Run { command, directory: Some(path) } => {
                write!(f, "run the command {:?} in {}", some(command), some(path))
            }
            Action::Fetch { urls } => write!(f, "fetch {}", some(&urls.join(", "))),
            Action::Generate { language, .. } => write!(f, "check this {language} code and keep it"),
            Action::Execute => write!(f, "execute the code"),
            Action::Look { images } if images.is_empty() => write!(f, "look at the screen"),
            Action::Look { images } => write!(f, "read the text in {}", some(&images.join(", "))),
            Action::Count { what, by } => {
                match what {
                    Counted::It => write!(f, "count them")?,
                    Counted::Parts(unit) => write!(f, "count the {unit} of it")?,
                    Counted::PartsOf(unit, path) => write!(f, "count the {unit} of {}", some(path))?,
                    Counted::Found(action) => write!(f, "{action} and count")?,
                }
                match by {
                    None => Ok(()),
                    Some(By::File) => write!(f, " by file"),
                    Some(By::Extension) => write!(f, " by extension"),
                }
            }
            Action::Show => write!(f, "show it"),
            Action::Save { path } => write!(f, "save it to {}", some(path)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Web => write!(f, "the web"),
            Place::X => write!(f, "X"),
            Place::Files { path, glob } => {
                match glob {
                    Some(glob) => write!(f, "{} files", crate::schema::shorten(glob, 60))?,
                    None => write!(f, "the files")?,
                }
                match path {
                    Some(path) => write!(f, " in {}", crate::schema::shorten(path, 60)),
                    None => write!(f, " here"),
                }
            }
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Lines => "lines",
            Unit::Words => "words",
            Unit::Characters => "characters",
        })
    }
}
