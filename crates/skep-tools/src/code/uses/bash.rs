//! Names in shell scripts: the commands that are run, through `env`, `xargs` and the like, in `bash -c '…'`, by a
//! variable that holds a plain word; and the network as a file, `/dev/tcp/…`.

use tree_sitter::Node;

use super::{
    super::{
        Language,
        syntax::{self, children, walk},
    },
    Names, Text, Use, used,
};

/// Scripts within scripts that are looked into.
const NESTED_MAX: usize = 4;
/// Commands that run the command they are given.
const RUNNERS: [&str; 17] = [
    "env", "command", "exec", "builtin", "nohup", "xargs", "timeout", "nice", "ionice", "time", "setsid", "stdbuf",
    "busybox", "sudo", "doas", "chrt", "watch",
];
const SHELLS: [&str; 4] = ["bash", "sh", "dash", "zsh"];

pub(super) fn uses(root: Node<'_>, text: Text<'_>) -> Vec<Use> {
    script(root, text, 0)
}

fn script(root: Node<'_>, text: Text<'_>, depth: usize) -> Vec<Use> {
    let (mut names, mut uses) = (Names::default(), Vec::new());
    walk(root, |node, _| {
        let field = |name| node.child_by_field_name(name);
        match (node.kind(), field("name"), field("value")) {
            ("function_definition", Some(name), _) => names.own(text.of(name)),
            ("variable_assignment", Some(name), Some(value)) => {
                if let Some(word) = word(value, text, &names) {
                    names.bind(&format!("${}", text.of(name)), word);
                }
            }
            _ => {}
        }
        true
    });
    walk(root, |node, _| {
        match node.kind() {
            "command" => command(node, text, &names, depth, &mut uses),
            "file_redirect" => {
                let target = node.child_by_field_name("destination").map(|target| text.of(target).trim_matches('"'));
                let device = ["/dev/tcp", "/dev/udp"].into_iter().find(|device| {
                    target.is_some_and(|target| target.strip_prefix(device).is_some_and(|rest| rest.starts_with('/')))
                });
                uses.extend(device.map(|device| used(device, node)));
            }
            _ => {}
        }
        true
    });
    uses
}

/// What a word is before it is expanded, if that is known.
fn word(node: Node<'_>, text: Text<'_>, names: &Names) -> Option<String> {
    match node.kind() {
        "command_name" => word(children(node).first().copied()?, text, names),
        "word" => Some(text.of(node).replace('\\', "")),
        "raw_string" => Some(text.of(node).trim_matches('\'').to_owned()),
        "string" => match children(node)[..] {
            [] => Some(String::new()),
            [only] if only.kind() == "string_content" => Some(text.of(only).to_owned()),
            [only] => word(only, text, names),
            _ => None,
        },
        "simple_expansion" => names.full(text.of(node)),
        "expansion" => names.full(&text.of(node).replace(['{', '}'], "")),
        "concatenation" => children(node).into_iter().map(|part| word(part, text, names)).collect(),
        _ => None,
    }
}

/// The command itself, and those that it runs.
fn command(node: Node<'_>, text: Text<'_>, names: &Names, depth: usize, uses: &mut Vec<Use>) {
    let parts = children(node);
    let mut words = parts.into_iter().filter(|part| {
        !matches!(part.kind(), "variable_assignment" | "file_redirect" | "herestring_redirect" | "heredoc_redirect")
    });
    let mut first = true;
    let mut runs = true;
    while let Some(part) = words.next() {
        let known = word(part, text, names);
        let Some(word) = known.filter(|_| runs) else {
            if first || !runs {
                return;
            }
            continue; // the value of an option
        };
        first = false;
        let name = word.rsplit('/').next().unwrap_or_default();
        if word.starts_with('-') || word.contains('=') || word.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        if names.own.contains(name) {
            return;
        }
        uses.push(used(name, part));
        runs = RUNNERS.contains(&name);
        if SHELLS.contains(&name) {
            let code = script_argument(words, text);
            uses.extend(code.into_iter().flat_map(|code| nested(code, text, names, depth)));
            return;
        }
    }
}

/// The argument after `-c`, which may stand among others, as in `bash -o pipefail -ec '…'`.
fn script_argument<'t>(mut words: impl Iterator<Item = Node<'t>>, text: Text<'_>) -> Option<Node<'t>> {
    while let Some(option) = words.next().map(|option| text.of(option)) {
        match option.strip_prefix('-')? {
            letters if !letters.starts_with('-') && letters.ends_with('c') => return words.next(),
            "o" | "O" => words.next(),
            _ => continue,
        };
    }
    None
}

/// The uses of a script that is an argument; they stand where the argument begins.
fn nested(code: Node<'_>, text: Text<'_>, names: &Names, depth: usize) -> Vec<Use> {
    let Some(source) = word(code, text, names).filter(|_| depth < NESTED_MAX) else { return Vec::new() };
    let Ok(tree) = syntax::parse(Language::Bash, &source) else { return Vec::new() };
    let uses = script(tree.root_node(), Text(&source), depth + 1);
    uses.into_iter().map(|inner| Use { at: code.start_byte(), ..inner }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use crate::code::Language::Bash;

    #[test]
    fn commands_are_seen_however_they_are_run() {
        for (script, expected) in [
            ("curl x | grep y; ! wget z && echo", "curl grep wget echo"),
            ("/usr/bin/curl x", "curl"),
            ("c\\url x; 'wget' y; \"nc\" z", "curl wget nc"),
            ("tool=curl; $tool x; ${tool} y; \"$tool\" z", "curl curl curl"),
            ("x=$(curl a); y=`wget b`", "curl wget"),
            ("A=1 env -i B=2 timeout -k 5 10 curl x", "env timeout curl"),
            ("find . | xargs -n1 wget", "find xargs wget"),
            ("bash -ec 'a; curl x'; sh -c \"wget y\"", "bash a curl sh wget"),
            ("bash script.sh -c curl; bash -o pipefail -c curl", "bash bash curl"),
            ("exec 3> /dev/tcp/example.org/80; cat < /dev/udp/a/1", "exec /dev/tcp cat /dev/udp"),
            ("if curl x; then eval \"$y\"; fi", "curl eval"),
        ] {
            assert_eq!(names(Bash, script), expected, "{script}");
        }
    }

    #[test]
    fn words_that_are_no_commands_are_not_taken_for_them() {
        for (script, expected) in [
            ("echo curl; # wget\n: 'nc'; man curl", "echo : man"),
            ("curl() { echo; }; curl", "echo"),
            ("cat <<EOF\ncurl x\nEOF", "cat"),
            ("$unknown curl", ""),
            ("bash -c \"$unknown\"", "bash"),
        ] {
            assert_eq!(names(Bash, script), expected, "{script}");
        }
    }

    #[test]
    fn scripts_within_scripts_end_somewhere() {
        let mut script = "curl".to_owned();
        for _ in 0..10 {
            script = format!("bash -c {}", format!("{script:?}").replace('$', "\\$"));
        }
        assert!(names(Bash, &script).starts_with("bash bash"));
    }
}
