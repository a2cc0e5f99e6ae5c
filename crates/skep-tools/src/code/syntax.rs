//! What is not well-formed in a program, and where.
//!
//! A tree-sitter parser never gives up: it repairs what it does not understand and goes on, and marks the repair in
//! the tree. A repair may begin far before the place that made it necessary, so the place is taken from the parser's
//! own record of where it got stuck; the tree says which of these places count. What a grammar lets through although
//! the language does not (Python 2, a block without contents) is looked for in the tree.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tree_sitter::{LogType, Node, ParseOptions, Parser, Point, Tree};

use super::{Language, SOURCE_BYTES_MAX};

/// Faults that are told of one program: more are most often the echo of the first.
const FAULTS_MAX: usize = 20;
/// Time that parsing may take.
const PARSE_TIME_MAX: Duration = Duration::from_secs(2);
/// Characters of the program that a message quotes.
const QUOTE_CHARS_MAX: usize = 24;

/// Takes what the parser writes about its steps.
type Log = Box<dyn FnMut(LogType, &str) + Send>;

/// One place where a program is not well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxFault {
    /// Line, from 1.
    pub line: usize,
    /// Character of the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The language itself would refuse this. False for Bash, whose grammar misunderstands constructs that are
    /// allowed: about one in fifteen of the shell scripts of a Debian system has one. `bash -n` knows better.
    pub certain: bool,
}

impl std::fmt::Display for SyntaxFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// Every place where this program is not well-formed, in order, up to a limit. Nothing if it is.
pub fn check(language: Language, source: &str) -> Vec<SyntaxFault> {
    let tree = match parse(language, source) {
        Ok(tree) => tree,
        Err(message) => return vec![SyntaxFault { line: 1, column: 1, message, certain: true }],
    };
    let text = Text { language, source };
    let mut found = text.repairs(&tree);
    // What follows a repair is half guessed; what stands before it is not.
    let sure = found.first().map_or(usize::MAX, |repair| repair.at);
    let most = found.len() + FAULTS_MAX;
    walk(tree.root_node(), |node, _| {
        let before = node.start_byte() < sure && found.len() < most;
        if before && !node.has_error() {
            found.extend(text.let_through(node));
        }
        before
    });
    found.sort_by_key(|found| found.at);
    let certain = language != Language::Bash;
    let fault = |Found { at, message }| {
        let (line, column) = place(source, at);
        SyntaxFault { line, column, message, certain }
    };
    let mut faults: Vec<_> = found.into_iter().map(fault).collect();
    faults.dedup_by_key(|fault| fault.line);
    faults.truncate(FAULTS_MAX);
    faults
}

/// The tree of a program, or why there is none.
pub(super) fn parse(language: Language, source: &str) -> Result<Tree, String> {
    parse_logged(language, source, None)
}

fn parse_logged(language: Language, source: &str, log: Option<Log>) -> Result<Tree, String> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(format!("it is longer than {SOURCE_BYTES_MAX} bytes"));
    }
    // No language here has a place for it, and the grammar of Bash takes minutes over many of them.
    if let Some(at) = source.find('\0') {
        return Err(format!("it has a NUL byte in line {}", place(source, at).0));
    }
    let mut parser = Parser::new();
    parser.set_language(&language.grammar()).map_err(|error| format!("no parser for {language}: {error}"))?;
    parser.set_logger(log);
    let began = Instant::now();
    let mut in_time = |_: &tree_sitter::ParseState| match began.elapsed() < PARSE_TIME_MAX {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let options = ParseOptions::new().progress_callback(&mut in_time);
    let mut bytes = |at: usize, _: Point| source.as_bytes().get(at..).unwrap_or_default();
    let tree = parser.parse_with_options(&mut bytes, None, Some(options));
    tree.ok_or_else(|| "it is too tangled to be parsed in time".to_owned())
}

/// Visit a node and what is below it, outermost first, each with the field of its parent that it is, if any. What is
/// below a node for which `visit` says false is left out. No recursion: code may be nested as deep as it is long.
pub(super) fn walk<'t>(root: Node<'t>, mut visit: impl FnMut(Node<'t>, Option<&str>) -> bool) {
    let mut cursor = root.walk();
    loop {
        if visit(cursor.node(), cursor.field_name()) && cursor.goto_first_child() {
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return;
            }
        }
    }
}

/// The children of a node that have a name in the grammar and are no comments.
pub(super) fn children<'t>(node: Node<'t>) -> Vec<Node<'t>> {
    node.named_children(&mut node.walk()).filter(|child| !child.is_extra()).collect()
}

/// A program, to be quoted.
struct Text<'a> {
    language: Language,
    source: &'a str,
}

/// Something wrong at a byte of the source.
struct Found {
    at: usize,
    message: String,
}

impl Text<'_> {
    /// What the parser repaired: outermost repairs, each with the first place inside it where the parser got stuck.
    fn repairs(&self, tree: &Tree) -> Vec<Found> {
        if !tree.root_node().has_error() {
            return Vec::new();
        }
        let stuck = self.stuck();
        let mut found = Vec::new();
        walk(tree.root_node(), |node, _| {
            if node.is_missing() {
                found.push(Found { at: node.start_byte(), message: format!("{} is missing", named(node.kind())) });
            } else if node.is_error() {
                let inside = |at: &&usize| self.next_token(**at) >= node.start_byte() && **at <= node.end_byte();
                found.push(self.unexpected(stuck.iter().find(inside).copied().unwrap_or(node.start_byte())));
            }
            node.has_error() && !node.is_error() && found.len() < FAULTS_MAX
        });
        if let Some(first) = found.first_mut() {
            self.explain(first, tree);
        }
        found
    }

    /// Where the parser got stuck: bytes right after the last token that it understood.
    ///
    /// It says so in its log: a version of the parse that cannot go on is paused (`detect_error`), and resumed
    /// (`resume`) only if no other version can go on either, which is when there really is an error.
    fn stuck(&self) -> Vec<usize> {
        let starts: Vec<usize> =
            std::iter::once(0).chain(self.source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let found = Arc::new(Mutex::new(Vec::new()));
        let (sink, mut here, mut paused) = (Arc::clone(&found), 0, 0);
        let log = move |kind: LogType, line: &str| {
            let number = |key: &str| line.split(key).nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
            if kind != LogType::Parse {
            } else if line.starts_with("process ") {
                let (row, column): (Option<usize>, Option<usize>) = (number("row:"), number("col:"));
                here = row.and_then(|row| starts.get(row)).map_or(0, |start| start + column.unwrap_or_default());
            } else if line.starts_with("detect_error") {
                paused = here.max(paused);
            } else if line.starts_with("resume") {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(paused);
                paused = 0;
            }
        };
        let _ = parse_logged(self.language, self.source, Some(Box::new(log))); // the tree is known
        let mut found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        found.iter_mut().for_each(|at: &mut usize| *at = self.source.floor_char_boundary(*at));
        found
    }

    /// The first byte at or after `at` that is not white space.
    fn next_token(&self, at: usize) -> usize {
        let rest = self.source.get(at..).unwrap_or_default();
        at + (rest.len() - rest.trim_start().len())
    }

    /// What to say of the place right after the last token that was understood.
    fn unexpected(&self, at: usize) -> Found {
        let token = self.next_token(at);
        let rest = &self.source[token..];
        let Some(first) = rest.chars().next() else {
            return Found { at: self.source.trim_end().len(), message: "the code ends too early".to_owned() };
        };
        let lines_count = matches!(self.language, Language::Python | Language::Bash);
        if lines_count && self.source[at..token].contains('\n') {
            let line = &self.source[self.source[..at].rfind('\n').map_or(0, |at| at + 1)..at];
            let opens = self.language == Language::Python && line.split_whitespace().next().is_some_and(opens_block);
            let colon = if opens { "; is `:` missing?" } else { "" };
            return Found { at, message: format!("the line ends too early{colon}") };
        }
        let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
        let quote = match is_word(&first) {
            true => rest.chars().take_while(is_word).take(QUOTE_CHARS_MAX).collect(),
            false => first.to_string(),
        };
        Found { at: token, message: format!("unexpected `{quote}`") }
    }

    /// Name the bracket or string that is not closed, if it is that which led to this.
    fn explain(&self, found: &mut Found, tree: &Tree) {
        let Some(opener) = self.unclosed(tree, found.at) else { return };
        let quote = &self.source[opener.byte_range()];
        if !is_opener(quote) {
            let message = "the string that begins here is never closed".to_owned();
            *found = Found { at: opener.start_byte(), message };
        } else if !found.message.ends_with("is missing") {
            let (line, column) = place(self.source, opener.start_byte());
            found.message.push_str(&format!("; `{quote}` in line {line}, column {column} is never closed"));
        }
    }

    /// The first string that is not closed, or else the last such bracket before a place.
    fn unclosed<'t>(&self, tree: &'t Tree, before: usize) -> Option<Node<'t>> {
        let mut open: Vec<Node<'_>> = Vec::new();
        let (mut found, mut stray) = (None, false);
        walk(tree.root_node(), |node, _| {
            if node.is_error() {
                let quote = |child: &Node<'_>| matches!(child.kind(), "string_start" | "\"" | "'" | "`");
                found = found.or_else(|| node.children(&mut node.walk()).find(quote));
            }
            match node.kind() {
                // In a shell `a)` stands alone in a `case`.
                "(" | ")" if self.language == Language::Bash => {}
                _ if node.child_count() > 0 || node.is_missing() => {}
                opener if is_opener(opener) => open.push(node),
                closer @ (")" | "]" | "}") => match open.iter().rposition(|opener| closes(opener.kind(), closer)) {
                    Some(place) if place + 1 == open.len() => open.truncate(place),
                    Some(_) => found = found.or(open.last().copied()),
                    None => stray = true,
                },
                _ => {}
            }
            !stray && found.is_none()
        });
        found.or_else(|| open.into_iter().rfind(|opener| opener.start_byte() <= before && !stray))
    }

    /// What the grammar lets through although the language does not.
    fn let_through(&self, node: Node<'_>) -> Option<Found> {
        let at = node.start_byte();
        let found = |message: &str| Some(Found { at, message: message.to_owned() });
        match (self.language, node.kind()) {
            (Language::Python, "print_statement") => found("a print statement of Python 2; write print(…)"),
            (Language::Python, "exec_statement") => found("an exec statement of Python 2"),
            (Language::Python, "block") if children(node).is_empty() => found("an indented block is missing"),
            (Language::Python, "block" | "module") => {
                let message = "it is indented unlike the lines before it".to_owned();
                Some(Found { at: self.misaligned(node)?, message })
            }
            (Language::Bash, "command_name") => match &self.source[node.byte_range()] {
                word @ ("fi" | "done" | "esac") => found(&format!("unexpected `{word}`")),
                _ => None,
            },
            _ => None,
        }
    }

    /// The first statement of a Python block that begins a line and is not indented like the block's first.
    fn misaligned(&self, block: Node<'_>) -> Option<usize> {
        let indentation = |statement: &Node<'_>| {
            let at = statement.start_byte();
            let before = self.source.get(at - statement.start_position().column..at)?.trim_start_matches('\u{feff}');
            before.chars().all(char::is_whitespace).then_some((at, before))
        };
        let mut lines = children(block);
        lines.retain(|line| !line.is_error());
        let mut lines = lines.iter().filter_map(indentation);
        let expected = if block.kind() == "module" { "" } else { lines.next()?.1 };
        lines.find(|(_, found)| *found != expected).map(|(at, _)| at)
    }
}

/// Line and character of a byte, both from 1.
pub(super) fn place(source: &str, at: usize) -> (usize, usize) {
    let before = &source.as_bytes()[..at.min(source.len())];
    let line = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let count = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    (count(before) + 1, String::from_utf8_lossy(&before[line..]).chars().count() + 1)
}

/// How a person calls what the grammar calls `kind`.
fn named(kind: &str) -> String {
    match kind.contains(|c: char| c.is_alphanumeric()) && !matches!(kind, "fi" | "done" | "esac" | "then" | "do") {
        true => kind.replace('_', " "),
        false => format!("`{kind}`"),
    }
}

/// Whether a line of Python that begins with this word has to end with a colon.
fn opens_block(word: &str) -> bool {
    let words =
        ["def", "async", "class", "if", "elif", "else", "for", "while", "try", "except", "finally", "with", "match"];
    words.contains(&word)
}

fn is_opener(token: &str) -> bool {
    matches!(token, "(" | "[" | "{" | "${" | "$(")
}

fn closes(opener: &str, closer: &str) -> bool {
    matches!((opener, closer), ("(" | "$(", ")") | ("[", "]") | ("{" | "${", "}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a program: `line:column message`, joined by ` / `.
    fn said(language: Language, source: &str) -> String {
        let faults = check(language, source);
        let said = faults.iter().map(|fault| format!("{}:{} {}", fault.line, fault.column, fault.message));
        said.collect::<Vec<_>>().join(" / ")
    }

    #[test]
    fn the_place_is_where_the_parser_got_stuck_and_not_where_its_repair_begins() {
        for (language, source, expected) in [
            (Language::Python, "def f(:\n  pass\n", "1:7 `)` is missing"),
            (Language::Python, "for i in range(3)\n    print(i)\n", "1:18 the line ends too early; is `:` missing?"),
            (Language::Python, "x = = 3", "1:5 unexpected `=`"),
            (Language::Python, "x = 1)\n", "1:6 unexpected `)`"),
            (Language::Python, "d = {\"a\": 1 \"b\": 2}", "1:13 unexpected `\"`"),
            (Language::Python, "else:\n  pass", "1:1 unexpected `else`"),
            (Language::Python, "x = 1\nfrom x import", "2:14 the code ends too early"),
            (Language::JavaScript, "let x = ;\n", "1:9 unexpected `;`"),
            (Language::JavaScript, "const a = [1,2;\nfoo()\n", "1:15 `]` is missing"),
            (Language::JavaScript, "return 1 +\n\n", "1:11 the code ends too early"),
            (Language::Bash, "if true; then\n echo a\n", "3:1 `fi` is missing"),
            (Language::Bash, "echo a | | b", "1:10 unexpected `|`"),
            (Language::Rust, "fn main() { foo(1 2) }", "1:19 unexpected `2`"),
            (Language::Rust, "let x = 1", "1:10 `;` is missing"),
        ] {
            assert_eq!(said(language, source), expected, "{source:?}");
        }
    }

    #[test]
    fn a_bracket_or_string_that_is_never_closed_is_named() {
        for (language, source, expected) in [
            (
                Language::Python,
                "def main():\n    print(a\n\nmain()\n",
                "2:12 the line ends too early; `(` in line 2, column 10 is never closed",
            ),
            (Language::Python, "print(\"abc)\n", "1:7 the string that begins here is never closed"),
            (Language::Python, "x = \"\"\"abc\nfoo\n", "1:5 the string that begins here is never closed"),
            (
                Language::JavaScript,
                "function f( {\n return 1\n}\n",
                "2:9 unexpected `1`; `(` in line 1, column 11 is never closed",
            ),
            (Language::JavaScript, "let s = \"abc\nfoo()", "1:9 the string that begins here is never closed"),
            (Language::Bash, "echo \"abc\n", "1:6 the string that begins here is never closed"),
            (
                Language::Rust,
                "fn main() {\n println!(\"x\")\n",
                "2:15 the code ends too early; `{` in line 1, column 11 is never closed",
            ),
        ] {
            assert_eq!(said(language, source), expected, "{source:?}");
        }
    }

    #[test]
    fn what_only_the_grammar_allows_is_a_fault() {
        for (language, source, expected) in [
            (Language::Python, "print \"hi\"\n", "1:1 a print statement of Python 2; write print(…)"),
            (Language::Python, "def f():\n\nf()\n", "1:9 an indented block is missing"),
            (Language::Python, "if x:\npass\n", "1:6 an indented block is missing"),
            (Language::Python, "x = 1\n  y = 2\n", "2:3 it is indented unlike the lines before it"),
            (
                Language::Python,
                "class A:\n  def f(self):\n    return 1\n   x = 2\n",
                "4:4 it is indented unlike the lines before it",
            ),
            (Language::Bash, "echo a\nfi\n", "2:1 unexpected `fi`"),
        ] {
            assert_eq!(said(language, source), expected, "{source:?}");
        }
    }

    #[test]
    fn well_formed_code_has_no_faults() {
        const PYTHON: &str = r#"#!/usr/bin/env python3
# a comment
"""doc"""
import os

class A(B):
    # only
    x: int = 1; y = 2

    async def f(self, *, a=1, **k):
        match a:
            case [1, *_] if k:
                return f"{a!r:>{self.x}}"  # end
            case _:
                pass
  # odd

        return [i for i in (
1,
  2) if (n := i)]

if True: pass
else:
	x = 1
	y = 2
"#;
        const JAVASCRIPT: &str =
            "#!/usr/bin/env node\nimport a from 'b'\nconst {x, ...y} = await a?.b ?? `c${1}`\nreturn\n";
        const BASH: &str =
            "set -eu\nfor f in *.txt; do\n  case $f in a) ;; *) cat <<EOF\n$f )\nEOF\n  esac\ndone | sort\n";
        const RUST: &str =
            "fn f<T: Ord>(x: &'static T) -> Option<u8> { let Some(x) = y else { return None }; vec![1] }";
        for (language, source) in [
            (Language::Python, PYTHON),
            (Language::JavaScript, JAVASCRIPT),
            (Language::Bash, BASH),
            (Language::Rust, RUST),
            (Language::Python, ""),
            (Language::Bash, "\n"),
        ] {
            assert_eq!(said(language, source), "", "{source}");
        }
    }

    #[test]
    fn every_fault_is_told_up_to_a_limit() {
        let source = "x = = 1\n".repeat(FAULTS_MAX * 2);
        let faults = check(Language::Python, &source);
        let lines: Vec<_> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, (1..=FAULTS_MAX).collect::<Vec<_>>());
    }

    #[test]
    fn no_input_overflows_the_stack_or_takes_long() {
        // Deep nesting, endless strings, and what makes a parser try many ways at once.
        for unit in ["(", "[{", "if x:\n", "\"", "`${", "<", "fn f() {", "a = = 1\n", "\0", "\u{feff}é"] {
            let source = unit.repeat(5_000 / unit.len());
            for language in Language::ALL {
                let began = Instant::now();
                check(language, &source);
                assert!(began.elapsed() < 3 * PARSE_TIME_MAX, "{language}: {unit:?} took {:?}", began.elapsed());
            }
        }
        let long = "x".repeat(SOURCE_BYTES_MAX + 1);
        assert_eq!(check(Language::Python, &long)[0].message, format!("it is longer than {SOURCE_BYTES_MAX} bytes"));
    }
}
