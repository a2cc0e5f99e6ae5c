//! The names that a program uses, written out in full.
//!
//! Each language has its own way to import and to rename; here both are undone as far as the text of the program tells:
//! first every import and plain renaming of the file is collected, then every name is written out with them. Scopes are
//! not told apart: a name that is imported anywhere in the file counts as imported everywhere, and one that the program
//! defines itself (and does not import) is its own.

mod bash;
mod javascript;
mod python;
mod rust;

use std::collections::{BTreeMap, BTreeSet};

use tree_sitter::Node;

use super::Language;

/// One name that a program uses.
#[derive(Debug, PartialEq)]
pub(super) struct Use {
    /// Written out, with the separator of its language: `os.system`, `std::net::TcpStream`, `curl`.
    pub(super) name: String,
    /// Byte of the source where it stands.
    pub(super) at: usize,
    /// Not it but everything below it, as in `from os import *`.
    pub(super) all_below: bool,
}

/// How often a name may be renamed; each time is a walk over the tree.
const RENAMINGS_MAX: usize = 3;

/// Every use in a program.
pub(super) fn of(language: Language, root: Node<'_>, source: &str) -> Vec<Use> {
    let text = Text(source);
    match language {
        Language::Python => python::uses(root, text),
        Language::JavaScript => javascript::uses(root, text),
        Language::Bash => bash::uses(root, text),
        Language::Rust => rust::uses(root, text),
    }
}

/// What the names of a program stand for.
#[derive(Default)]
struct Names {
    /// Imported or renamed.
    full: BTreeMap<String, String>,
    /// Defined by the program itself.
    own: BTreeSet<String>,
}

impl Names {
    /// What a name stands for; `None` if it is the program's own.
    fn resolve(&self, name: &str) -> Option<String> {
        self.full(name).or_else(|| (!self.own.contains(name)).then(|| name.to_owned()))
    }

    /// What an imported or renamed name stands for.
    fn full(&self, name: &str) -> Option<String> {
        self.full.get(name).cloned()
    }

    /// The first meaning of a name counts.
    fn bind(&mut self, name: &str, full: impl Into<String>) {
        let full = full.into();
        if full != name || !self.own.contains(name) {
            self.full.entry(name.to_owned()).or_insert(full);
        }
    }

    fn own(&mut self, name: &str) {
        self.own.insert(name.to_owned());
    }
}

/// A program that is read.
#[derive(Clone, Copy)]
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn of(self, node: Node<'_>) -> &'a str {
        self.0.get(node.byte_range()).unwrap_or_default()
    }

    /// The contents of a string literal without escapes and insertions.
    fn literal(self, node: Node<'_>) -> Option<&'a str> {
        let parts = super::syntax::children(node);
        let mut parts = parts.into_iter().filter(|part| !matches!(part.kind(), "string_start" | "string_end"));
        let part = parts.next().filter(|part| matches!(part.kind(), "string_content" | "string_fragment"))?;
        parts.next().is_none().then(|| self.of(part))
    }
}

fn used(name: impl Into<String>, node: Node<'_>) -> Use {
    Use { name: name.into(), at: node.start_byte(), all_below: false }
}

fn all_below(name: impl Into<String>, node: Node<'_>) -> Use {
    Use { name: name.into(), at: node.start_byte(), all_below: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that a program uses, in order, joined by a space; `a.*` for all below `a`.
    pub(super) fn names(language: Language, source: &str) -> String {
        let tree = super::super::syntax::parse(language, source).unwrap();
        let mut uses = of(language, tree.root_node(), source);
        uses.sort_by_key(|found| found.at);
        let name = |found: Use| if found.all_below { format!("{}.*", found.name) } else { found.name };
        uses.into_iter().map(name).collect::<Vec<_>>().join(" ")
    }
}
