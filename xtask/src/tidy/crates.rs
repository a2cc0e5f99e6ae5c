//! Dependencies between our crates point one way.

use super::{Fault, Tree};

/// What each crate may depend on. Only tests and the program, where everything meets, know the built-in tools: what
/// depends on them is compiled again whenever a tool changes.
const MAY_USE: [(&str, &[&str]); 8] = [
    ("skep-core", &[]),
    ("skep-sandbox", &[]),
    ("skep-mcp", &[]),
    ("skep-tools", &["skep-core", "skep-mcp", "skep-sandbox"]),
    ("skep-builtin", &["skep-core", "skep-sandbox", "skep-tools"]),
    ("skep-plan", &["skep-tools"]),
    ("skep-hub", &["skep-core", "skep-mcp", "skep-plan", "skep-sandbox", "skep-tools"]),
    ("skep", &["skep-builtin", "skep-core", "skep-hub", "skep-mcp", "skep-plan", "skep-sandbox", "skep-tools"]),
];
/// What the tests of every crate may use that is above `skep-tools`, as well.
const TESTS_MAY_USE: &str = "skep-builtin";
/// Where that list is.
const HERE: &str = "xtask/src/tidy/crates.rs";

pub(super) fn faults(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for name in tree.crates() {
        let path = format!("crates/{name}/Cargo.toml");
        let Some((_, may_use)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            let message = format!("the crate {name} is new; say in {HERE} which crates it may depend on");
            faults.push(Fault::new(&path, 1, message));
            continue;
        };
        let mut is_of_tests = false;
        for (number, line) in tree.get(&path).unwrap_or_default().lines().enumerate() {
            if line.starts_with('[') {
                is_of_tests = line == "[dev-dependencies]";
            }
            let Some(used) = dependency(line) else { continue };
            if is_of_tests && used == TESTS_MAY_USE && may_use.contains(&"skep-tools") {
                continue;
            }
            if tree.get(&format!("crates/{used}/Cargo.toml")).is_some() && used != name && !may_use.contains(&used) {
                let message = format!(
                    "{name} must not depend on {used}; move what both need below them, or have {name} ask for it by a trait \
                     of its own ({HERE} has the whole order)"
                );
                faults.push(Fault::new(&path, number + 1, message));
            }
        }
    }
    faults
}

/// The crate that a line of a manifest depends on: `name.workspace = true`, `name = { … }`.
fn dependency(line: &str) -> Option<&str> {
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))?;
    let (name, rest) = line.split_at(end);
    (rest.starts_with(".workspace") || rest.trim_start().starts_with("= {")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_does_not_depend_on_one_above_it() {
        let tree = Tree::of(&[
            (
                "crates/skep-core/Cargo.toml",
                "[package]\nname = \"skep-core\"\n[dependencies]\nserde.workspace = true\n",
            ),
            (
                "crates/skep-tools/Cargo.toml",
                "[dependencies]\nskep-mcp.workspace = true\n\nskep-plan.workspace = true\n",
            ),
            ("crates/skep-plan/Cargo.toml", "[dependencies]\nskep-tools.workspace = true\n"),
            ("crates/skep-mcp/Cargo.toml", "[dev-dependencies]\nskep-core = { path = \"../skep-core\" }\n"),
            ("crates/skep/Cargo.toml", "[dependencies]\nskep-core.workspace = true\nskep-tools.workspace = true\n"),
            ("crates/skep-builtin/Cargo.toml", ""),
            (
                "crates/skep-hub/Cargo.toml",
                "[dependencies]\nskep-builtin.workspace = true\n[dev-dependencies]\nskep-builtin.workspace = true\n",
            ),
        ]);
        let found: Vec<(String, usize)> = faults(&tree).into_iter().map(|fault| (fault.path, fault.line)).collect();
        let expected =
            [("crates/skep-hub/Cargo.toml", 2), ("crates/skep-mcp/Cargo.toml", 2), ("crates/skep-tools/Cargo.toml", 4)];
        assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
    }

    #[test]
    fn a_new_crate_has_to_have_its_place() {
        let found = faults(&Tree::of(&[("crates/skep-new/Cargo.toml", "")]));
        assert!(found[0].message.contains("skep-new is new; say in xtask/src/tidy/crates.rs"), "{found:?}");
    }
}
