//! Code in the languages that Skep generates and runs: whether it is well-formed, and whether policy allows it.
//!
//! Both questions are answered on a syntax tree (tree-sitter), never by patterns over text, so that comments and
//! strings are not taken for code. [`check`] finds what is not well-formed; [`Policy`] finds what is used that should
//! not be. Neither runs anything.

mod policy;
mod syntax;
mod uses;

use std::path::Path;

pub use policy::{Policy, PolicyFault, Rules};
pub use syntax::{SyntaxFault, check};

/// Bytes of a program that is checked or run.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// A language that Skep can check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Language {
    /// Python 3.
    Python,
    /// JavaScript, as Node.js runs it.
    JavaScript,
    /// Bash, and the shell language that it extends.
    Bash,
    /// Rust.
    Rust,
}

/// Languages by the names that people and models give them; the first is the one that Skep answers with.
const NAMES: [(Language, &[&str]); 4] = [
    (Language::Python, &["python", "python3", "py"]),
    (Language::JavaScript, &["javascript", "js", "node", "nodejs", "mjs", "cjs"]),
    (Language::Bash, &["bash", "sh", "shell"]),
    (Language::Rust, &["rust", "rs"]),
];

impl Language {
    /// All of them.
    pub const ALL: [Language; 4] = [Language::Python, Language::JavaScript, Language::Bash, Language::Rust];

    /// Its name in arguments and answers.
    pub fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::JavaScript => "javascript",
            Language::Bash => "bash",
            Language::Rust => "rust",
        }
    }

    /// The language of a name, in any case.
    pub fn from_name(name: &str) -> Option<Language> {
        let name = name.to_ascii_lowercase();
        NAMES.iter().find(|(_, names)| names.contains(&name.as_str())).map(|(language, _)| *language)
    }

    /// How its files end, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Language::Python => "py",
            Language::JavaScript => "js",
            Language::Bash => "sh",
            Language::Rust => "rs",
        }
    }

    /// The language of a file by how its name ends.
    pub fn from_path(path: &Path) -> Option<Language> {
        Language::from_name(path.extension()?.to_str()?)
    }

    /// The language that the first line names, as in `#!/usr/bin/env python3`.
    pub fn from_shebang(source: &str) -> Option<Language> {
        let line = source.strip_prefix("#!")?.lines().next()?;
        let program = line.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word));
        program
            .filter(|word| *word != "env" && !word.starts_with('-'))
            .find_map(|word| Language::from_name(word.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')))
    }

    fn grammar(self) -> tree_sitter::Language {
        match self {
            Language::Python => tree_sitter_python::LANGUAGE.into(),
            Language::JavaScript => tree_sitter_javascript::LANGUAGE.into(),
            Language::Bash => tree_sitter_bash::LANGUAGE.into(),
            Language::Rust => tree_sitter_rust::LANGUAGE.into(),
        }
    }
}

impl TryFrom<String> for Language {
    type Error = String;

    fn try_from(name: String) -> Result<Language, String> {
        let known = || format!("{name:?} is no language that Skep knows: python, javascript, bash or rust");
        Language::from_name(&name).ok_or_else(known)
    }
}

impl schemars::JsonSchema for Language {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Language".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// Every name is accepted: a call should not fail because a model wrote `js`.
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<&str> = NAMES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        schemars::json_schema!({"type": "string", "enum": names})
    }
}

impl std::fmt::Display for Language {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_known_by_its_name_its_files_and_their_first_line() {
        for language in Language::ALL {
            assert_eq!(Language::from_name(language.name()), Some(language));
            assert_eq!(
                Language::from_path(Path::new("a.b").with_extension(language.extension()).as_path()),
                Some(language)
            );
            assert_eq!(serde_json::to_value(language).unwrap(), language.name());
            assert_eq!(serde_json::from_value::<Language>(language.name().into()).unwrap(), language);
        }
        for (line, language) in [
            ("#!/usr/bin/env python3\n", Some(Language::Python)),
            ("#!/usr/bin/env -S node --no-warnings\n", Some(Language::JavaScript)),
            ("#!/bin/sh -e\n", Some(Language::Bash)),
            ("#!/usr/bin/python3.11", Some(Language::Python)),
            ("#!/usr/bin/perl\n", None),
            ("print(1)\n", None),
        ] {
            assert_eq!(Language::from_shebang(line), language, "{line}");
        }
    }
}
