//! A file of any kind that can be checked: what it is, and everything that is wrong with it.

use std::{fmt, path::Path};

use serde_json::Value;
use skep_tools::{
    code::{self, Language, SyntaxFault},
    document::{self, Diagnostic, Document, Format, Position},
};

use crate::{
    config::{self, servers},
    hub::catalogue::Catalogue,
};

/// What a file is that can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Tasks for `skep run`.
    Plan,
    /// `skep.toml`.
    Settings,
    /// `mcp-config.yaml`.
    OldSettings,
    /// The MCP servers of a client, for `--mcp-config`.
    Servers,
    /// A program.
    Code(Language),
}

/// As people read it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Plan => f.write_str("a plan"),
            Kind::Settings => f.write_str("settings of Skep"),
            Kind::OldSettings => f.write_str("settings in the form of mcp-config.yaml"),
            Kind::Servers => f.write_str("MCP servers of a client"),
            Kind::Code(language) => write!(f, "code in {}", language.name()),
        }
    }
}

/// What came of checking a file.
#[derive(Debug)]
pub(super) struct Checked {
    /// What it is, if that can be told.
    pub(super) kind: Option<Kind>,
    /// What is wrong with it. One that is no error ([`Diagnostic::is_error`]) is for the author to know.
    pub(super) problems: Vec<Diagnostic>,
}

/// Everything that is wrong with a file, whatever it is. Its name says how it is written, its contents say what it is.
pub(super) fn check_file(path: &Path, catalogue: &Catalogue) -> Checked {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("toml" | "yaml" | "yml" | "json" | "jsonc") => document(path, catalogue),
        _ => match Language::from_path(path).or_else(|| shebang(path)) {
            Some(language) => Checked { kind: Some(Kind::Code(language)), problems: program(path, language) },
            None if extension.is_none() => document(path, catalogue),
            None => {
                let problem = Diagnostic::of_file(path.display().to_string(), "is of no kind that can be checked");
                let help = "plans, settings and lists of MCP servers end in .yaml, .yml, .json or .toml, code in .py, .js, .sh or .rs";
                Checked { kind: None, problems: vec![problem.help(help)] }
            }
        },
    }
}

/// What is wrong with a file that is no code.
fn document(path: &Path, catalogue: &Catalogue) -> Checked {
    let document = match Document::read(path) {
        Ok(document) => document,
        Err(problems) => return Checked { kind: None, problems },
    };
    let kind = kind_of(&document.value, Format::of(path));
    let problems = match kind {
        Kind::Servers => servers::check(path),
        Kind::Settings | Kind::OldSettings => config::check(path),
        Kind::Plan | Kind::Code(_) => skep_plan::check::problems(&document, Some(catalogue)),
    };
    Checked { kind: Some(kind), problems }
}

/// What a document is, by its keys. One that has none that tell is what most files of its format are.
fn kind_of(value: &Value, format: Format) -> Kind {
    let has = |key: &str| value.get(key).is_some();
    let is_setting = |key: &String| config::json_schema()["properties"].get(key).is_some();
    let keys = value.as_object().into_iter().flat_map(|members| members.keys());
    let (settings, others): (Vec<&String>, Vec<&String>) =
        keys.filter(|key| *key != "mcpServers").partition(|key| is_setting(key));
    match servers::table_of(value) {
        _ if has("tasks") => Kind::Plan,
        _ if has("mcp") => Kind::OldSettings,
        Some("mcpServers") if format == Format::Toml || !settings.is_empty() => Kind::Settings,
        Some(_) => Kind::Servers,
        None if format == Format::Toml => Kind::Settings,
        None if !settings.is_empty() && others.is_empty() => Kind::Settings,
        None => Kind::Plan,
    }
}

/// The language that a script without an extension names in its first line.
fn shebang(path: &Path) -> Option<Language> {
    if path.extension().is_some() {
        return None;
    }
    Language::from_shebang(&document::read_text(path).ok()?)
}

/// What is not well-formed in a program. What the parser is not sure of is a warning.
fn program(path: &Path, language: Language) -> Vec<Diagnostic> {
    let source = match document::read_text(path) {
        Ok(source) => source,
        Err(problem) => return vec![problem],
    };
    let problem = |SyntaxFault { line, column, message, certain }| {
        let problem = Diagnostic::at(path.display().to_string(), Position::new(line, column), message);
        if certain { problem } else { problem.warning() }
    };
    code::check(language, &source).into_iter().map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_tools::{parts::Parts, sandboxed::SandboxOnDemand};

    fn catalogue() -> Catalogue {
        Catalogue::new(skep_builtin::all(Parts::new(SandboxOnDemand::new(Default::default()))))
    }

    /// A file of this name and its problems, without the directory.
    fn file(name: &str, text: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let prefix = format!("{}/", directory.path().display());
        check_file(&path, &catalogue())
            .problems
            .iter()
            .map(|problem| problem.to_string().replace(&prefix, ""))
            .collect()
    }

    #[test]
    fn a_file_is_checked_as_what_it_is() {
        assert_eq!(
            file("p.yaml", "tasks: {a: {tool: serch}}"),
            ["p.yaml:1:13: tasks.a.tool: unknown tool \"serch\"; did you mean \"search\"?"]
        );
        assert_eq!(
            file("p.json", r#"{"tasks": {"a": {"tool": "search", "args": {"query": "q"}}}}"#),
            Vec::<String>::new()
        );
        assert!(
            file("skep.toml", "[run]\nactros = 3\n")[0].starts_with("skep.toml:2:1: run.actros: is not known here")
        );
        assert!(file("other.toml", "hubs = 1\n")[0].starts_with("other.toml:1:1: hubs: must be a list, not a number"));
        for name in ["mcp-config.yaml", "config.yml"] {
            let problems = file(name, "mcp:\n  timeout: [1]\n");
            assert!(
                problems.len() == 1 && problems[0].starts_with(&format!("{name}:2:3: mcp.timeout: ")),
                "{problems:?}"
            );
        }
        assert_eq!(file("plan", "tasks: {a: {tool: search, args: {query: q}}}"), Vec::<String>::new());
        assert!(file("notes.txt", "hello")[0].contains("is of no kind that can be checked; plans, settings and lists"));
        let missing = check_file(Path::new("/no/such/plan.yaml"), &catalogue()).problems;
        assert!(missing[0].to_string().starts_with("/no/such/plan.yaml: cannot be read: "), "{missing:?}");
    }

    #[test]
    fn code_is_checked_in_its_language() {
        for (name, good, bad, at) in [
            ("a.py", "def f():\n    return 1\n", "x = 1\ndef f(:\n    return 1\n", "a.py:2:"),
            ("a.js", "const x = () => 1;\n", "const x = 1;\nfunction f( {\n", "a.js:2:"),
            ("a.rs", "fn main() {}\n", "fn main() {\n    let = 1;\n}\n", "a.rs:2:"),
            ("a.sh", "if true; then echo 1; fi\n", "echo 1\nif true; then\n", "a.sh:2:"),
            ("script", "#!/usr/bin/env python3\nprint(1)\n", "#!/usr/bin/env python3\nprint(1\n", "script:2:"),
        ] {
            assert_eq!(file(name, good), Vec::<String>::new(), "{name}");
            let problems = file(name, bad);
            assert!(
                !problems.is_empty() && problems.iter().all(|problem| problem.starts_with(at)),
                "{name}: {problems:?}"
            );
        }
        let problems = file("a.sh", "echo 1\nif true; then\n");
        assert!(problems[0].contains(" warning: "), "what the parser is not sure of stops nobody: {problems:?}");
        let missing = check_file(Path::new("/no/such/a.py"), &catalogue()).problems;
        assert!(missing[0].to_string().starts_with("/no/such/a.py: cannot be read: "), "{missing:?}");
    }

    #[test]
    fn what_a_file_is_is_told_by_its_contents() {
        let here = tempfile::tempdir().unwrap();
        for (name, text, kind, faults) in [
            (
                "a.json",
                r#"{ /* mine */ "mcpServers": { "a": { "command": "x" } }, "theme": "dark", }"#,
                Kind::Servers,
                0,
            ),
            ("b.json", r#"{ "servers": { "a": { "command": "x", "args": "y" } } }"#, Kind::Servers, 1),
            ("c.toml", "model = 'x'\n[mcp_servers.a]\ncommand = 'x'\n", Kind::Servers, 0),
            ("d.toml", "[mcpServers.a]\ncommand = 'x'\n", Kind::Settings, 0),
            ("e.toml", "nonsense = 1\n", Kind::Settings, 1),
            ("f.json", r#"{ "run": { "actors": 0 } }"#, Kind::Settings, 1),
            ("g.yaml", "mcp: { endpoint: 'http://x' }\n", Kind::OldSettings, 0),
            ("h.yaml", "tasks: { a: { tool: nonsense } }\n", Kind::Plan, 1),
            ("i.yaml", "name: n\n", Kind::Plan, 1),
            ("j", "#!/bin/sh\ntrue\n", Kind::Code(Language::Bash), 0),
        ] {
            let path = here.path().join(name);
            std::fs::write(&path, text).unwrap();
            let checked = check_file(&path, &catalogue());
            assert_eq!(checked.kind, Some(kind), "{name}");
            let errors = checked.problems.iter().filter(|problem| problem.is_error()).count();
            assert_eq!(errors, faults, "{name}: {:?}", checked.problems);
        }
    }
}
