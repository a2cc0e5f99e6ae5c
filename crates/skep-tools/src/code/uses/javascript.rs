//! Names in JavaScript: `import`, `require`, `import(…)`, destructuring, members in brackets, global objects.
//!
//! A module is named as it is loaded, without `node:`; a global is named as it is. Node.js makes its modules globals
//! too where it runs a text (`node -e`), so the two need not be told apart.

use tree_sitter::Node;

use super::{
    super::syntax::{children, walk},
    Names, RENAMINGS_MAX, Text, Use, used,
};

/// How a load is named whose module is not written as a text.
const COMPUTED: &str = "computed";

pub(super) fn uses(root: Node<'_>, text: Text<'_>) -> Vec<Use> {
    let (mut names, mut uses) = (Names::default(), Vec::new());
    walk(root, |node, _| {
        match node.kind() {
            "import_statement" | "export_statement" => import(node, text, &mut names, &mut uses),
            _ => define(node, text, &mut names),
        }
        true
    });
    for _ in 0..RENAMINGS_MAX {
        walk(root, |node, _| {
            rename(node, text, &mut names);
            true
        });
    }
    walk(root, |node, field| match (node.kind(), field) {
        ("import_statement" | "export_clause", _) | ("identifier", Some("name")) => false,
        ("identifier", _) => {
            let name = resolve(node, text, &names);
            // To ask whether something is a function is not to make one from text.
            let made = |name: &String| name != "Function" || matches!(field, Some("function" | "constructor"));
            uses.extend(name.filter(made).map(|name| used(name, node)));
            false
        }
        ("member_expression" | "subscript_expression", _) => match resolve(node, text, &names) {
            Some(name) => {
                uses.push(used(name, node));
                false
            }
            None => true,
        },
        ("call_expression", _) => {
            uses.extend(load(node, text, &names).map(|name| used(name, node)));
            true
        }
        ("shorthand_property_identifier", _) => {
            uses.extend(names.resolve(text.of(node)).map(|name| used(name, node)));
            false
        }
        _ => true,
    });
    uses
}

/// What an expression names, if it names anything.
fn resolve(node: Node<'_>, text: Text<'_>, names: &Names) -> Option<String> {
    let mut node = node;
    let mut members = Vec::new();
    let mut name = loop {
        let object = match node.kind() {
            "identifier" => break names.resolve(text.of(node))?,
            "call_expression" => break load(node, text, names)?,
            "member_expression" => {
                members.push(text.of(node.child_by_field_name("property")?));
                node.child_by_field_name("object")?
            }
            "subscript_expression" => {
                members.push(text.literal(node.child_by_field_name("index")?)?);
                node.child_by_field_name("object")?
            }
            "parenthesized_expression" | "await_expression" => match children(node)[..] {
                [only] => only,
                _ => return None,
            },
            _ => return None,
        };
        node = object;
    };
    for member in members.into_iter().rev() {
        name = match name.as_str() {
            "globalThis" | "global" | "window" | "self" => member.to_owned(),
            // What `import(…)` gives of a module without `export default`.
            _ if member == "default" => name,
            _ => format!("{name}.{member}"),
        };
    }
    Some(name)
}

/// The module that a call loads: `require("x")`, `import("x")`, `process.getBuiltinModule("x")`.
fn load(call: Node<'_>, text: Text<'_>, names: &Names) -> Option<String> {
    let function = call.child_by_field_name("function")?;
    let how = match function.kind() {
        "import" => "import".to_owned(),
        "identifier" | "member_expression" => resolve(function, text, names)?,
        _ => return None,
    };
    let first = children(call.child_by_field_name("arguments")?).first().copied();
    match (how.as_str(), first) {
        ("require" | "import" | "process.getBuiltinModule", Some(module)) => match text.literal(module) {
            Some(name) => module_name(name),
            None => Some(format!("{how}.{COMPUTED}")),
        },
        _ => None,
    }
}

/// The name of a module; `None` if it is a file of the program.
fn module_name(name: &str) -> Option<String> {
    let own = name.starts_with('.') || name.starts_with('/') || name.starts_with("file:");
    (!own).then(|| name.strip_prefix("node:").unwrap_or(name).to_owned())
}

fn import(node: Node<'_>, text: Text<'_>, names: &mut Names, uses: &mut Vec<Use>) {
    let source = node.child_by_field_name("source");
    let Some(module) = source.and_then(|source| text.literal(source)).and_then(module_name) else { return };
    uses.extend(source.map(|source| used(module.as_str(), source)));
    walk(node, |part, _| match part.kind() {
        "import_specifier" | "export_specifier" => {
            let (name, alias) = (part.child_by_field_name("name"), part.child_by_field_name("alias"));
            if let Some(name) = name {
                let full = format!("{module}.{}", text.of(name));
                uses.push(used(full.as_str(), name));
                names.bind(text.of(alias.unwrap_or(name)), full);
            }
            false
        }
        // `import a from` and `import * as a from`.
        "identifier" => {
            names.bind(text.of(part), module.as_str());
            false
        }
        "string" => false,
        _ => true,
    });
}

/// Names that a declaration or a parameter defines.
fn define(node: Node<'_>, text: Text<'_>, names: &mut Names) {
    let target = match node.kind() {
        "function_declaration" | "generator_function_declaration" | "class_declaration" | "variable_declarator" => {
            node.child_by_field_name("name")
        }
        "for_in_statement" => node.child_by_field_name("left"),
        "arrow_function" | "catch_clause" => node.child_by_field_name("parameter"),
        "formal_parameters" => Some(node),
        _ => None,
    };
    if let Some(target) = target {
        pattern(target, text, &mut |name, _| names.own(name));
    }
}

/// The names in a pattern, each with the member that it takes from what is matched, if that is plain.
fn pattern<'a>(node: Node<'_>, text: Text<'a>, found: &mut impl FnMut(&'a str, Option<&'a str>)) {
    walk(node, |part, field| match part.kind() {
        "identifier" => {
            found(text.of(part), None);
            false
        }
        "shorthand_property_identifier_pattern" => {
            found(text.of(part), Some(text.of(part)));
            false
        }
        "pair_pattern" => {
            let (key, value) = (part.child_by_field_name("key"), part.child_by_field_name("value"));
            match (key, value) {
                (Some(key), Some(value)) if value.kind() == "identifier" => {
                    found(text.of(value), Some(text.of(key)));
                    false
                }
                _ => true,
            }
        }
        // What stands after `=` in a pattern defines nothing.
        _ => field != Some("right"),
    });
}

/// `const cp = require("child_process")`, `const { exec: run } = cp`, `run = cp.exec`.
fn rename(node: Node<'_>, text: Text<'_>, names: &mut Names) {
    let (target, value) = match node.kind() {
        "variable_declarator" => ("name", "value"),
        "assignment_expression" => ("left", "right"),
        _ => return,
    };
    let (Some(target), Some(value)) = (node.child_by_field_name(target), node.child_by_field_name(value)) else {
        return;
    };
    if let Some(full) = resolve(value, text, names)
        && matches!(target.kind(), "identifier" | "object_pattern")
    {
        pattern(target, text, &mut |name, member| match member {
            Some(member) => names.bind(name, format!("{full}.{member}")),
            None => names.bind(name, full.as_str()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use crate::code::Language::JavaScript;

    #[test]
    fn modules_are_known_however_they_are_loaded() {
        for (source, expected) in [
            ("import cp from 'node:child_process'\ncp.exec('x')", "child_process child_process.exec"),
            ("import * as cp from 'child_process'\ncp?.exec('x')", "child_process child_process.exec"),
            ("import {exec as e} from 'child_process'\ne('x')", "child_process.exec child_process child_process.exec"),
            ("export {exec} from 'child_process'", "child_process.exec child_process"),
            ("require('child_process').exec('x')", "child_process.exec"),
            (
                "const {exec: e, fork} = require('child_process')\ne(); fork()",
                "child_process.exec child_process require child_process.exec child_process.fork",
            ),
            ("const cp = await import('child_process')\ncp['exec']()", "child_process child_process.exec"),
            ("let cp\ncp = require(`net`)\ncp.connect()", "net net require net.connect"),
            ("process.getBuiltinModule('vm')", "vm process.getBuiltinModule"),
            ("require(x); import('a' + b)", "require.computed require x import.computed b"),
            ("import a from './net.js'\nrequire('../net')", "require"),
        ] {
            assert_eq!(names(JavaScript, source), expected, "{source}");
        }
    }

    #[test]
    fn globals_are_known_however_they_are_reached() {
        for (source, expected) in [
            ("eval('1')", "eval"),
            ("(0, eval)('1')", "eval"),
            ("globalThis['eval']('1')", "eval"),
            ("const g = globalThis; g.eval('1')", "globalThis eval"),
            ("const e = eval; e('1')", "eval eval"),
            ("new Function('a')", "Function"),
            ("x instanceof Function", "x"),
            ("f({eval})", "f eval"),
        ] {
            assert_eq!(names(JavaScript, source), expected, "{source}");
        }
    }

    #[test]
    fn what_the_program_defines_itself_is_its_own() {
        for (source, expected) in [
            ("function fetch(a, {b, c: [d]}, ...e) { return a + b + d + e }\nfetch(1)", ""),
            ("const fetch = x => x; fetch(1)", ""),
            ("for (const net of nets) net.a", "nets"),
            ("o.eval('1'); ({eval: 1}); // eval\n'eval'", "o.eval"),
            ("try {} catch (vm) { vm.x }", ""),
        ] {
            assert_eq!(names(JavaScript, source), expected, "{source}");
        }
    }
}
