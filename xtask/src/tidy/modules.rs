//! The top-level modules of a crate do not depend on each other in a circle.
//!
//! What is for tests only does not count. Neither does what the root of a crate defines itself: it is the face of the crate,
//! which names what its modules share. What the root takes from a module and passes on counts as that module.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    ops::Range,
};

use super::{
    Fault, Tree,
    source::{closed, code, identifier, line, skip_space, without_tests, words},
};

/// Where one module first uses another.
#[derive(Debug)]
struct Use {
    path: String,
    line: usize,
}

/// Which top-level module uses which others.
type Edges = BTreeMap<String, BTreeMap<String, Use>>;

/// The modules of one crate.
struct Modules<'a> {
    tree: &'a Tree,
    /// Top-level modules.
    top: BTreeSet<String>,
    /// What the root passes on, and the module that it is from.
    passed_on: BTreeMap<String, String>,
    edges: Edges,
}

pub(super) fn faults(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for name in tree.crates() {
        let roots = ["lib.rs", "main.rs"].map(|root| format!("crates/{name}/src/{root}"));
        let Some(root) = roots.into_iter().find(|root| tree.get(root).is_some()) else { continue };
        faults.extend(circles(&edges(tree, &root)).into_iter().map(|circle| told(name, &circle)));
    }
    faults
}

fn told(name: &str, circle: &[(&str, &Use)]) -> Fault {
    let (first, at) = circle[0];
    let steps: Vec<String> =
        circle.iter().skip(1).map(|(module, used)| format!("→ {module} ({}:{})", used.path, used.line)).collect();
    let message = format!(
        "the modules of {name} use each other in a circle: {first} {} → {first}; move what both need into a module below them",
        steps.join(" ")
    );
    Fault::new(&at.path, at.line, message)
}

fn edges(tree: &Tree, root: &str) -> Edges {
    let text = without_tests(&code(tree.get(root).unwrap_or_default()));
    let top: BTreeSet<String> = declared(&text).map(str::to_owned).collect();
    let passed_on = passed_on(&text, &top);
    let mut modules = Modules { tree, passed_on, edges: Edges::new(), top: top.clone() };
    let directory = root.rsplit_once('/').map_or("", |(directory, _)| directory);
    for module in &top {
        modules.visit(directory, module, module, 1);
    }
    modules.edges
}

impl Modules<'_> {
    /// Look at the module `name` in `directory`, which lies so deep below the root in the module `top`, and at those in it.
    fn visit(&mut self, directory: &str, name: &str, top: &str, depth: usize) {
        let below = format!("{directory}/{name}");
        let paths = [format!("{below}.rs"), format!("{below}/mod.rs")];
        let Some(path) = paths.into_iter().find(|path| self.tree.get(path).is_some()) else { return };
        let code = without_tests(&code(self.tree.get(&path).unwrap_or_default()));
        for (used, at) in used(&code, depth) {
            let module = self.passed_on.get(&used).unwrap_or(&used);
            if module != top && self.top.contains(module) {
                let uses = self.edges.entry(top.to_owned()).or_default();
                uses.entry(module.clone()).or_insert_with(|| Use { path: path.clone(), line: line(&code, at) });
            }
        }
        for inner in declared(&code) {
            self.visit(&below, inner, top, depth + 1);
        }
    }
}

/// The modules that are declared here and have files of their own.
fn declared(code: &str) -> impl Iterator<Item = &str> {
    words(code, "mod").filter_map(|at| {
        let name_at = skip_space(code, at + "mod".len());
        let name = identifier(code, name_at);
        let after = skip_space(code, name_at + name.len());
        (!name.is_empty() && code[after..].starts_with(';')).then_some(name)
    })
}

/// What `pub use` in the root of a crate passes on, and the module that it is from.
fn passed_on(code: &str, top: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for at in words(code, "use") {
        let tree = skip_space(code, at + "use".len());
        let end = code[tree..].find(';').map_or(code.len(), |end| tree + end);
        for leaf in leaves(&code[tree..end]) {
            let mut names = leaf.iter().filter(|name| !matches!(name.as_str(), "self" | "crate"));
            if let (Some(module), Some(last)) = (names.next(), leaf.last())
                && top.contains(module)
            {
                found.insert(last.clone(), module.clone());
            }
        }
    }
    found
}

/// The paths of a tree of `use`, the last part of each being its name here.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    if let Some(inside) = tree.strip_prefix('{') {
        let inside = inside.strip_suffix('}').unwrap_or(inside);
        return parts(inside).into_iter().flat_map(|part| leaves(&inside[part])).collect();
    }
    match tree.split_once("::") {
        Some((first, rest)) => {
            let below = leaves(rest).into_iter();
            below.map(|leaf| [vec![first.trim().to_owned()], leaf].concat()).collect()
        }
        None => match tree.split_once(" as ") {
            Some((_, name)) => vec![vec![name.trim().to_owned()]],
            None => vec![vec![tree.to_owned()]],
        },
    }
}

/// Where the parts of a list are, between commas that are not within brackets.
fn parts(list: &str) -> Vec<Range<usize>> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(start..list.len());
    parts.retain(|part| !list[part.clone()].trim().is_empty());
    parts
}

/// The names below the root that a file of a module uses, and where. The module lies `depth` modules below the root.
fn used(code: &str, depth: usize) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        if let Some(rest) = after_colons(code, at + "crate".len()) {
            targets(code, rest, 0, &mut found);
        }
    }
    let inner = inner_modules(code);
    for at in words(code, "super") {
        if let Some(rest) = after_colons(code, at + "super".len()) {
            let around = inner.iter().filter(|inside| inside.contains(&at)).count();
            targets(code, rest, (depth + around).saturating_sub(1), &mut found);
        }
    }
    found
}

/// Where modules are that are written out in a file.
fn inner_modules(code: &str) -> Vec<Range<usize>> {
    let body = |at: usize| {
        let name_at = skip_space(code, at + "mod".len());
        let open = skip_space(code, name_at + identifier(code, name_at).len());
        code[open..].starts_with('{').then(|| open..closed(code, open))
    };
    words(code, "mod").filter_map(body).collect()
}

/// What a path or a tree of `use` that goes on here leads to below the root; it has come so far below it.
fn targets(code: &str, at: usize, depth: usize, found: &mut Vec<(String, usize)>) {
    let at = skip_space(code, at);
    if code[at..].starts_with('{') {
        for part in parts(&code[at + 1..closed(code, at) - 1]) {
            targets(code, at + 1 + part.start, depth, found);
        }
        return;
    }
    let name = identifier(code, at);
    match (name, after_colons(code, at + name.len())) {
        ("super", Some(rest)) => targets(code, rest, depth.saturating_sub(1), found),
        ("self", Some(rest)) => targets(code, rest, depth, found),
        _ if depth == 0 && !name.is_empty() => found.push((name.to_owned(), at)),
        _ => {}
    }
}

fn after_colons(code: &str, at: usize) -> Option<usize> {
    let at = skip_space(code, at);
    code[at..].starts_with("::").then_some(at + 2)
}

/// A circle of modules for each knot of them: each module, with the use of it that closes or continues the circle.
fn circles(edges: &Edges) -> Vec<Vec<(&str, &Use)>> {
    let mut circles = Vec::new();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for start in edges.keys() {
        if seen.contains(start.as_str()) {
            continue;
        }
        if let Some(circle) = circle(edges, start) {
            seen.extend(circle.iter().map(|(module, _)| *module));
            circles.push(circle);
        }
    }
    circles
}

/// The shortest circle through a module, if it is on one.
fn circle<'a>(edges: &'a Edges, start: &'a str) -> Option<Vec<(&'a str, &'a Use)>> {
    let mut from: BTreeMap<&str, (&str, &Use)> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(module) = queue.pop_front() {
        for (used, at) in edges.get(module).into_iter().flatten() {
            if used == start {
                let mut way = vec![(start, at)];
                let mut last = module;
                let mut back = Vec::new();
                while last != start {
                    let (before, at) = from[last];
                    back.push((last, at));
                    last = before;
                }
                way.extend(back.into_iter().rev());
                return Some(way);
            }
            if let Entry::Vacant(free) = from.entry(used) {
                free.insert((module, at));
                queue.push_back(used);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of a crate of these files, as messages.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let mut tree = Tree::of(&[("crates/x/Cargo.toml", "")]);
        tree.0.extend(files.iter().map(|(path, text)| (format!("crates/x/src/{path}"), (*text).to_owned())));
        faults(&tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_circle_is_told_with_the_places_that_make_it() {
        let told = found(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "//! See crate::c.\n\nuse crate::{\n    b::{self, B},\n    c,\n};\n"),
            ("b.rs", "use crate::c::C;\n"),
            ("c/mod.rs", "mod deep;\n"),
            ("c/deep.rs", "fn f() {\n    super::super::b::f();\n}\n"),
        ]);
        assert_eq!(
            told,
            [
                "crates/x/src/c/deep.rs:2: the modules of x use each other in a circle: b → c (crates/x/src/b.rs:1) → b; \
              move what both need into a module below them"
            ]
        );
    }

    #[test]
    fn what_the_root_passes_on_is_of_the_module_that_has_it() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\npub use self::{b::{B as Other, C}, a::f};\npub struct Root;\n"),
            ("a.rs", "use crate::Other;\n"),
            ("b.rs", "use crate::Root;\n"),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
        let files = [files[0], files[1], ("b.rs", "fn g() { $crate::f() }\n")];
        assert_eq!(found(&files).len(), 1);
    }

    #[test]
    fn tests_comments_and_texts_are_no_uses() {
        let told = found(&[
            ("lib.rs", "mod a;\nmod b;\n#[cfg(test)]\nmod tests;\n"),
            ("a.rs", "use super::b;\n#[cfg(test)]\nmod tests;\n"),
            ("a/tests.rs", "use crate::b;\n"),
            (
                "b.rs",
                "// crate::a\nconst TEXT: &str = \"crate::a\";\n#[cfg(test)]\nmod tests { use crate::a; }\nmod inner { use super::x; }\n",
            ),
            ("tests.rs", "use crate::{a, b};\n"),
        ]);
        assert_eq!(told, Vec::<String>::new());
    }

    #[test]
    fn each_knot_is_told_once() {
        let told = found(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;\n"),
            ("a.rs", "use super::{b, c};"),
            ("b.rs", "use super::a;"),
            ("c.rs", "use crate::d;"),
            ("d.rs", "use crate::c;"),
        ]);
        assert_eq!(told.len(), 2, "{told:?}");
    }
}
