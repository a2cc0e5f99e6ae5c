//! No snapshot is kept that no test compares with. (Most of ours stand in the tests themselves.)

use super::{Fault, Tree};

/// How the line of a snapshot begins that says which file has its test.
const SOURCE: &str = "source: ";

pub(super) fn faults(tree: &Tree) -> Vec<Fault> {
    let fault = |(path, text): (&str, &str)| {
        let source = text.lines().find_map(|line| line.strip_prefix(SOURCE));
        let Some(source) = source.map(|source| source.trim_matches('"')) else {
            return Some(Fault::new(
                path,
                1,
                "the snapshot does not say whose it is; remove it, or have insta write it",
            ));
        };
        let Some(test) = tree.get(source) else {
            return Some(Fault::new(path, 1, format!("the snapshot belongs to {source}, which is gone; remove it")));
        };
        let name = name(path);
        let is_used = test.contains(&format!("fn {name}")) || test.contains(&format!("\"{name}\""));
        (!is_used).then(|| Fault::new(path, 1, format!("{source} has no test or snapshot `{name}`; remove this file")))
    };
    tree.below("", ".snap").filter_map(fault).collect()
}

/// What a snapshot is called within its module: `crate__module__NAME.snap`, or `…NAME-2.snap` for a second one.
fn name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".snap");
    let name = file.rsplit("__").next().unwrap_or(file);
    let number = name.rsplit_once('-').filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
    number.map_or(name, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_A: &str = "---\nsource: crates/x/tests/a.rs\nexpression: f()\n---\ntext\n";

    #[test]
    fn a_snapshot_without_a_test_is_told() {
        let tree = Tree::of(&[
            ("crates/x/tests/a.rs", "#[test]\nfn first() {\n    assert_snapshot!(\"named\", f());\n}\n"),
            ("crates/x/tests/snapshots/a__first.snap", OF_A),
            ("crates/x/tests/snapshots/a__first-2.snap", OF_A),
            ("crates/x/tests/snapshots/a__named.snap", OF_A),
            ("crates/x/tests/snapshots/a__second.snap", OF_A),
            ("crates/x/tests/snapshots/b__first.snap", "---\nsource: crates/x/tests/b.rs\n---\n"),
            ("crates/x/tests/snapshots/c.snap", "text\n"),
        ]);
        let told: Vec<String> = faults(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("a__second.snap:1: crates/x/tests/a.rs has no test or snapshot `second`"), "{told:?}");
        assert!(told[1].contains("belongs to crates/x/tests/b.rs, which is gone"), "{told:?}");
        assert!(told[2].contains("does not say whose it is"), "{told:?}");
    }
}
