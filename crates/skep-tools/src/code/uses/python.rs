//! Names in Python: `import a.b as c`, `from a import b`, `x = a.b`, `getattr(a, "b")`.

use tree_sitter::Node;

use super::{
    super::syntax::{children, walk},
    Names, RENAMINGS_MAX, Text, Use, all_below, used,
};

pub(super) fn uses(root: Node<'_>, text: Text<'_>) -> Vec<Use> {
    let (mut names, mut uses) = (Names::default(), Vec::new());
    walk(root, |node, _| {
        match node.kind() {
            "import_statement" => import(node, text, &mut names, &mut uses),
            "import_from_statement" => import_from(node, text, &mut names, &mut uses),
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
        ("import_statement" | "import_from_statement" | "future_import_statement", _) => false,
        ("identifier", Some("attribute" | "name" | "alias")) => false,
        ("attribute" | "identifier", _) => match resolve(node, text, &names) {
            Some(name) => {
                uses.push(used(name, node));
                false
            }
            None => true,
        },
        ("call", _) => {
            uses.extend(resolve(node, text, &names).map(|name| used(name, node)));
            true
        }
        _ => true,
    });
    uses
}

/// What an expression names, if it names anything.
fn resolve(node: Node<'_>, text: Text<'_>, names: &Names) -> Option<String> {
    let mut node = node;
    let mut members = Vec::new();
    // From the last member of `a.b.c` to its first name.
    while node.kind() != "identifier" {
        let (object, member) = match node.kind() {
            "attribute" => (node.child_by_field_name("object")?, text.of(node.child_by_field_name("attribute")?)),
            "call" => getattr(node, text)?,
            _ => return None,
        };
        members.push(member);
        node = object;
    }
    let mut name = names.resolve(text.of(node))?;
    for member in members.into_iter().rev() {
        name = match name.as_str() {
            "builtins" | "__builtins__" => member.to_owned(),
            _ => format!("{name}.{member}"),
        };
    }
    Some(name)
}

/// The object and the member of `getattr(object, "member")`.
fn getattr<'t, 'a>(call: Node<'t>, text: Text<'a>) -> Option<(Node<'t>, &'a str)> {
    let function = call.child_by_field_name("function")?;
    let arguments = children(call.child_by_field_name("arguments")?);
    match arguments[..] {
        [object, member, ..] if text.of(function) == "getattr" && member.kind() == "string" => {
            Some((object, text.literal(member)?))
        }
        _ => None,
    }
}

fn import(node: Node<'_>, text: Text<'_>, names: &mut Names, uses: &mut Vec<Use>) {
    for part in children(node) {
        let (path, alias) = name_and_alias(part, text);
        uses.push(used(path, part));
        // `import a.b` binds `a`; `import a.b as c` binds `c` to `a.b`.
        match (alias, path.split('.').next()) {
            (Some(alias), _) => names.bind(alias, path),
            (None, Some(first)) => names.bind(first, first),
            (None, None) => {}
        }
    }
}

fn import_from(node: Node<'_>, text: Text<'_>, names: &mut Names, uses: &mut Vec<Use>) {
    let Some(module) = node.child_by_field_name("module_name") else { return };
    let path = text.of(module);
    // `from . import a` brings in a part of the program itself.
    let own = module.kind() != "dotted_name";
    for part in children(node).into_iter().filter(|part| *part != module) {
        let (last, alias) = name_and_alias(part, text);
        let bound = alias.unwrap_or(last);
        if own {
            names.own(bound);
        } else if part.kind() == "wildcard_import" {
            uses.push(all_below(path, part));
        } else {
            uses.push(used(format!("{path}.{last}"), part));
            names.bind(bound, format!("{path}.{last}"));
        }
    }
}

fn name_and_alias<'a>(node: Node<'_>, text: Text<'a>) -> (&'a str, Option<&'a str>) {
    match (node.child_by_field_name("name"), node.child_by_field_name("alias")) {
        (Some(name), Some(alias)) => (text.of(name), Some(text.of(alias))),
        _ => (text.of(node), None),
    }
}

/// Names that a statement or a parameter defines.
fn define(node: Node<'_>, text: Text<'_>, names: &mut Names) {
    let target = match node.kind() {
        "function_definition"
        | "class_definition"
        | "default_parameter"
        | "typed_default_parameter"
        | "named_expression" => node.child_by_field_name("name"),
        "assignment" | "for_statement" | "for_in_clause" => node.child_by_field_name("left"),
        "parameters" | "lambda_parameters" | "as_pattern_target" | "typed_parameter" => Some(node),
        _ => None,
    };
    let Some(target) = target else { return };
    walk(target, |part, _| {
        if part.kind() == "identifier" {
            names.own(text.of(part));
        }
        // The names in these are found when they are visited themselves; their values and types define nothing.
        !matches!(part.kind(), "default_parameter" | "typed_default_parameter" | "attribute" | "subscript" | "type")
    });
}

/// `o = os` and `run = os.system`.
fn rename(node: Node<'_>, text: Text<'_>, names: &mut Names) {
    let (Some(left), Some(right)) = (node.child_by_field_name("left"), node.child_by_field_name("right")) else {
        return;
    };
    if node.kind() == "assignment"
        && left.kind() == "identifier"
        && let Some(full) = resolve(right, text, names)
    {
        names.bind(text.of(left), full);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use crate::code::Language::Python;

    #[test]
    fn imports_and_renamings_are_written_out() {
        for (source, expected) in [
            ("import os as o\no.system('x')", "os os.system"),
            ("from os import system as s\ns('x')", "os.system os.system"),
            ("import os.path\nos.path.join", "os.path os.path.join"),
            ("import a.b as c\nc.d", "a.b a.b.d"),
            ("from os import *", "os.*"),
            ("from .os import system\nsystem()", ""),
            ("import os\nrun = os.system\ndo = run\ndo('x')", "os os.system os.system os.system os.system os.system"),
            ("def f():\n    o.system('x')\nimport os as o", "os.system os"),
            ("import os\ngetattr(os, 'system')('x')", "os os.system getattr os"),
            ("import builtins as b\nb.eval('1')", "builtins eval"),
            ("x = eval\nx('1')", "eval eval eval"),
            ("print(f'{eval(y)}')", "print eval y"),
        ] {
            assert_eq!(names(Python, source), expected, "{source}");
        }
    }

    #[test]
    fn what_the_program_defines_itself_is_its_own() {
        for (source, expected) in [
            ("def eval(x): pass\neval(1)", ""),
            ("def f(exec, a=1, *b: int, **c): exec(a, b, c)", "int"),
            ("for eval in y: eval", "y"),
            ("with a as exec: exec", "a"),
            ("model.eval()\nf(eval=1)\n# eval\n'eval'", "model.eval f"),
            ("[eval for eval in y]", "y"),
        ] {
            assert_eq!(names(Python, source), expected, "{source}");
        }
    }
}
