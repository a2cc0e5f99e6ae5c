//! Names in Rust: `use` trees, paths, macros and what stands in them, and the keywords `unsafe` and `extern`.

use tree_sitter::Node;

use super::{
    super::syntax::{children, walk},
    Names, Text, Use, all_below, used,
};

pub(super) fn uses(root: Node<'_>, text: Text<'_>) -> Vec<Use> {
    let (mut names, mut uses) = (Names::default(), Vec::new());
    walk(root, |node, _| {
        match node.kind() {
            "use_declaration" => {
                if let Some(tree) = node.child_by_field_name("argument") {
                    import(tree, text, &mut names, &mut uses);
                }
            }
            "mod_item" | "struct_item" | "enum_item" | "function_item" => {
                if let Some(name) = node.child_by_field_name("name") {
                    names.own(text.of(name));
                }
            }
            _ => {}
        }
        true
    });
    walk(root, |node, _| match node.kind() {
        "use_declaration" => false,
        "unsafe_block" => {
            uses.push(used("unsafe", node));
            true
        }
        "function_modifiers" | "impl_item" | "trait_item" => {
            let keyword = node.children(&mut node.walk()).find(|child| child.kind() == "unsafe");
            uses.extend(keyword.map(|keyword| used("unsafe", keyword)));
            true
        }
        "foreign_mod_item" => {
            uses.push(used("extern", node));
            true
        }
        "extern_crate_declaration" => {
            uses.extend(node.child_by_field_name("name").map(|name| used(text.of(name), name)));
            false
        }
        "scoped_identifier" | "scoped_type_identifier" => {
            // One with `<` in it holds other paths, as in `<std::net::TcpStream as Read>::read`.
            let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
            let path = text.of(node);
            uses.extend(resolve(path, &names).filter(|_| path.chars().all(plain)).map(|path| used(path, node)));
            !path.chars().all(plain)
        }
        "identifier" | "type_identifier" => {
            uses.extend(names.full(text.of(node)).map(|path| used(path, node)));
            false
        }
        "macro_invocation" => {
            uses.extend(node.child_by_field_name("macro").map(|name| used(macro_name(text.of(name)), name)));
            true
        }
        "token_tree" => {
            tokens(node, text, &names, &mut uses);
            true
        }
        _ => true,
    });
    uses
}

/// A path written out; `None` if it is a part of the program.
fn resolve(path: &str, names: &Names) -> Option<String> {
    let path = path.strip_prefix("::").unwrap_or(path);
    let (first, rest) = path.split_once("::").unwrap_or((path, ""));
    if matches!(first, "crate" | "self" | "super" | "Self") {
        return None;
    }
    let first = names.resolve(first)?;
    Some(if rest.is_empty() { first } else { format!("{first}::{rest}") })
}

/// `std::arch::asm!` and `asm!` are one.
fn macro_name(path: &str) -> String {
    format!("{}!", path.rsplit("::").next().unwrap_or(path))
}

/// All paths of a `use` tree.
fn import(tree: Node<'_>, text: Text<'_>, names: &mut Names, uses: &mut Vec<Use>) {
    let mut rest = vec![(String::new(), tree)];
    while let Some((above, node)) = rest.pop() {
        let below = |path: &str| if above.is_empty() { path.to_owned() } else { format!("{above}::{path}") };
        let field = |name| node.child_by_field_name(name).map(|node| text.of(node));
        match node.kind() {
            "use_list" => rest.extend(children(node).into_iter().rev().map(|child| (above.clone(), child))),
            "scoped_use_list" => {
                let above = field("path").map_or(above.clone(), below);
                rest.extend(node.child_by_field_name("list").map(|list| (above, list)));
            }
            "use_wildcard" => {
                let path = children(node).first().map_or(above.clone(), |path| below(text.of(*path)));
                uses.push(used(path.as_str(), node));
                uses.push(all_below(path, node));
            }
            kind => {
                let path = if kind == "use_as_clause" { field("path") } else { Some(text.of(node)) };
                let path = path.unwrap_or_default().trim_start_matches("::");
                let full = if path == "self" { above.clone() } else { below(path) };
                let last = full.rsplit("::").next().unwrap_or_default().to_owned();
                uses.push(used(full.as_str(), node));
                names.bind(field("alias").unwrap_or(&last), full);
            }
        }
    }
}

/// The paths among the tokens of a macro call, which no grammar orders.
fn tokens(tree: Node<'_>, text: Text<'_>, names: &Names, uses: &mut Vec<Use>) {
    let tokens: Vec<Node<'_>> = tree.children(&mut tree.walk()).collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match text.of(*token) {
            "unsafe" => uses.push(used("unsafe", *token)),
            word if matches!(token.kind(), "identifier" | "self" | "crate" | "super") => {
                let mut path = word.to_owned();
                while let [colons, next, ..] = tokens[at..]
                    && colons.kind() == "::"
                    && next.kind() == "identifier"
                {
                    path = format!("{path}::{}", text.of(next));
                    at += 2;
                }
                let is_macro = tokens.get(at).is_some_and(|next| next.kind() == "!");
                let name = if is_macro { Some(macro_name(&path)) } else { resolve(&path, names) };
                uses.extend(name.map(|name| used(name, *token)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use crate::code::Language::Rust;

    #[test]
    fn use_trees_and_paths_are_written_out() {
        for (source, expected) in [
            (
                "use std::process::Command as C;\nfn f() { C::new(\"x\"); }",
                "std::process::Command std::process::Command::new",
            ),
            (
                "use std::{net, io::{self, *}};\nfn f() { net::TcpStream::connect(a); }",
                "std::net std::io std::io std::io.* std::net::TcpStream::connect",
            ),
            ("fn f() { ::std::process::exit(1) }", "std::process::exit"),
            ("use std::net::TcpStream;\nfn f(s: TcpStream) {}", "std::net::TcpStream std::net::TcpStream"),
            ("fn f() { <std::net::TcpStream as Read>::read(x) }", "std::net::TcpStream"),
            ("extern crate libc;", "libc"),
            ("mod net { }\nfn f() { net::g(); crate::net::h() }", ""),
        ] {
            assert_eq!(names(Rust, source), expected, "{source}");
        }
    }

    #[test]
    fn unsafe_code_and_macros_are_seen_also_inside_macros() {
        for (source, expected) in [
            ("fn f() { unsafe { g() } }", "unsafe"),
            ("unsafe fn f() {}\nunsafe impl Send for A {}", "unsafe unsafe"),
            ("extern \"C\" { fn f(); }", "extern"),
            ("fn f() { std::arch::asm!(\"nop\") }", "asm! std::arch::asm"),
            ("fn f() { println!(\"{}\", { unsafe { std::net::x() } }) }", "println! unsafe std::net::x"),
            ("fn f() { vec![include_str!(\"a\")]; }", "vec! include_str!"),
            ("// unsafe\nfn f() { \"unsafe\"; }", ""),
        ] {
            assert_eq!(names(Rust, source), expected, "{source}");
        }
    }
}
