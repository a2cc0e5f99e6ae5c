//! Files and functions have a size that one can read.
//!
//! What was larger when the rule was made is on a list, which only ever gets shorter.

use super::{
    Fault, Tree,
    source::{closed, code, identifier, line, skip_space, words},
};

/// Lines of a file, with its comments and tests.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function, from its `fn` to its last bracket.
const FUNCTION_LINES_MAX: usize = 70;
/// An exception that is larger than it has to be by this is made smaller: not for every line that is taken away.
const SLACK: usize = 50;
/// Where the exceptions are.
const HERE: &str = "xtask/src/tidy/length.rs";

/// Files that may have more lines, and how many, in steps of [`SLACK`].
pub(super) const FILES: [(&str, usize); 14] = [
    ("crates/skep-mcp/src/client/http.rs", 850),
    ("crates/skep-mcp/src/client/http/direct/tests.rs", 750),
    ("crates/skep-mcp/src/server/session.rs", 750),
    ("crates/skep-mcp/src/server/sink.rs", 650),
    ("crates/skep-mcp/src/server/tasks.rs", 700),
    ("crates/skep-mcp/tests/client.rs", 700),
    ("crates/skep-sandbox/src/selftest/inside.rs", 800),
    ("crates/skep-sandbox/src/wire.rs", 700),
    ("crates/skep-sandbox/src/zygote.rs", 650),
    ("crates/skep-builtin/src/page.rs", 650),
    ("crates/skep-builtin/src/search/files.rs", 700),
    ("crates/skep-hub/src/config/servers.rs", 800),
    ("crates/skep-hub/src/hub/upstreams/mod.rs", 650),
    ("crates/skep/tests/servers.rs", 750),
];
/// Functions that may have more lines, by their file and name, and how many.
pub(super) const FUNCTIONS: [(&str, &str, usize); 4] = [
    ("crates/skep-mcp/examples/fixture/service.rs", "call", 110),
    ("crates/skep-sandbox/src/oci/engine.rs", "words", 90),
    ("crates/skep-sandbox/src/zygote.rs", "launch", 80),
    ("crates/skep-tools/src/code/policy.rs", "defaults", 190), // a table
];

pub(super) fn faults(tree: &Tree, files: &[(&str, usize)], functions: &[(&str, &str, usize)]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (path, text) in tree.below("", ".rs") {
        let lines = text.lines().count();
        let most = files.iter().find(|(known, _)| *known == path).map(|(_, most)| *most);
        if lines > most.unwrap_or(FILE_LINES_MAX) {
            let message = format!(
                "the file has {lines} lines, and may have {}; move a part of it into a module of its own",
                most.unwrap_or(FILE_LINES_MAX)
            );
            faults.push(Fault::new(path, 1, message));
        }
        faults.extend(most.and_then(|most| too_lenient(path, most, lines, FILE_LINES_MAX)));
        let code = code(text);
        let lengths: Vec<_> = lengths(&code).collect();
        for (name, at, lines) in &lengths {
            let exception = functions.iter().find(|(known, function, _)| *known == path && function == name);
            let most = exception.map_or(FUNCTION_LINES_MAX, |(.., most)| *most);
            if *lines > most {
                let message = format!(
                    "the function {name} has {lines} lines, and may have {most}; give its parts names of their own"
                );
                faults.push(Fault::new(path, line(&code, *at), message));
            }
        }
        for (_, name, most) in functions.iter().filter(|(known, ..)| *known == path) {
            let of_name = lengths.iter().filter(|(function, ..)| function == name).map(|(.., lines)| *lines);
            let what = format!("{path}: {name}");
            faults.extend(of_name.max().and_then(|lines| too_lenient(&what, *most, lines, FUNCTION_LINES_MAX)));
        }
    }
    let is_there = |path: &str| tree.get(path).is_some();
    let has = |path: &str, name: &str| tree.get(path).is_some_and(|text| text.contains(&format!("fn {name}")));
    let gone = files.iter().filter(|(path, _)| !is_there(path)).map(|(path, _)| (*path).to_owned());
    let gone = gone
        .chain(functions.iter().filter(|(path, name, _)| !has(path, name)).map(|one| format!("{}: {}", one.0, one.1)));
    faults.extend(gone.map(|what| Fault::new(HERE, 1, format!("there is no {what} any more; remove its exception"))));
    faults
}

/// An exception that is not needed, or not as it is.
fn too_lenient(what: &str, most: usize, lines: usize, limit: usize) -> Option<Fault> {
    let message = match lines {
        lines if lines <= limit => format!("{what} has only {lines} lines now; remove its exception"),
        lines if lines + SLACK <= most => format!("{what} has only {lines} lines now; say so in its exception"),
        _ => return None,
    };
    Some(Fault::new(HERE, 1, message))
}

/// The functions of a file: their names, where they are, and how many lines they have.
fn lengths(code: &str) -> impl Iterator<Item = (&str, usize, usize)> {
    words(code, "fn").filter_map(|at| {
        let name = identifier(code, skip_space(code, at + "fn".len()));
        let body = body(code, at)?;
        let lines = line(code, closed(code, body)) - line(code, at) + 1;
        (!name.is_empty()).then_some((name, at, lines))
    })
}

/// Where the body of a function begins, if it has one.
fn body(code: &str, at: usize) -> Option<usize> {
    let mut at = at;
    loop {
        at += code[at..].find(['(', '[', '{', ';'])?;
        match code.as_bytes()[at] {
            b';' => return None,
            b'{' => return Some(at),
            _ => at = closed(code, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("/// F.\nfn f<const N: usize>(x: [u8; 2]) {{\n{}}}\n", "    g(\"}\"); // }\n".repeat(lines - 2))
    }

    fn found(text: &str, files: &[(&str, usize)], functions: &[(&str, &str, usize)]) -> Vec<String> {
        faults(&Tree::of(&[("a.rs", text)]), files, functions).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_function_that_does_not_fit_a_screen_is_told() {
        assert_eq!(found(&function(FUNCTION_LINES_MAX), &[], &[]), Vec::<String>::new());
        let told = found(&function(FUNCTION_LINES_MAX + 1), &[], &[]);
        assert_eq!(told, ["a.rs:2: the function f has 71 lines, and may have 70; give its parts names of their own"]);
        let is_declared = format!("trait T {{ fn f(); fn g(); }}\n{}", function(20).repeat(4));
        assert_eq!(found(&is_declared, &[], &[]), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_is_too_long_is_told() {
        assert_eq!(found(&"\n".repeat(FILE_LINES_MAX), &[], &[]), Vec::<String>::new());
        let told = found(&"\n".repeat(FILE_LINES_MAX + 1), &[], &[]);
        assert!(told[0].starts_with("a.rs:1: the file has 601 lines, and may have 600; move"), "{told:?}");
    }

    #[test]
    fn an_exception_can_only_get_smaller() {
        let file = "\n".repeat(700);
        assert_eq!(found(&file, &[("a.rs", 700)], &[]), Vec::<String>::new());
        assert!(found(&file, &[("a.rs", 699)], &[])[0].contains("may have 699"));
        assert!(found(&file, &[("a.rs", 750)], &[])[0].contains("a.rs has only 700 lines now; say so"));
        assert!(found("\n", &[("a.rs", 601)], &[])[0].contains("a.rs has only 1 lines now; remove"));
        assert!(found("\n", &[("b.rs", 601)], &[])[0].contains("there is no b.rs any more"));
        let long = function(90);
        assert_eq!(found(&long, &[], &[("a.rs", "f", 90)]), Vec::<String>::new());
        assert!(found(&long, &[], &[("a.rs", "f", 80)])[0].contains("may have 80"));
        assert!(found("fn g() {}\n", &[], &[("a.rs", "f", 90)])[0].contains("there is no a.rs: f any more"));
    }
}
