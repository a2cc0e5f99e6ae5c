//! What a `skep.toml` may set that was only found in the current directory.
//!
//! It may have come with somebody else's repository, and counts for whoever starts `skep` there: a user, or an MCP client that
//! does not know that it is in a hostile directory. So until the user has trusted it ([`super::trust`]) it sets what is listed
//! here and nothing else, and whatever it says lies under the user's own file, whose settings win.
//!
//! A key is on the list only if the worst value of it does no harm: nothing leaves the machine, nobody is let in, no file or
//! tool is reached that would not be reached without it, nothing is deleted or hidden.

use std::{path::Path, time::Duration};

use serde_json::{Map, Value};
use skep_tools::{
    document::{self, Diagnostic, Document, FILE_BYTES_MAX, Format},
    duration::Span,
    schema::shorten,
    value::member,
};

use super::{
    BadSettings, FILE, Source, file,
    trust::{self, Standing, Trust},
};

/// The longest `tools.timeout` that such a file may set: a command of a model that hangs should not hang for an hour.
const TOOLS_TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Keys that a notice names; of more it says how many.
const KEYS_NAMED_MAX: usize = 6;

/// Characters of what a key is for.
const MEANING_CHARS_MAX: usize = 120;

/// A key that such a file may set, and which values.
struct Harmless {
    pointer: &'static str,
    is_harmless: fn(&Value) -> bool,
}

/// All of them.
const HARMLESS: [Harmless; 6] = [
    // How many agents work side by side; the schema limits them.
    Harmless { pointer: "/run/actors", is_harmless: any },
    Harmless { pointer: "/run/observers", is_harmless: any },
    // Fewer tools; added to what the user denies.
    Harmless { pointer: "/tools/deny", is_harmless: any },
    Harmless { pointer: "/tools/timeout", is_harmless: is_short },
    // More of the log, never less: a hub's log tells what was done to it.
    Harmless { pointer: "/log/level", is_harmless: is_more },
    Harmless { pointer: "/log/format", is_harmless: any },
];

fn any(_: &Value) -> bool {
    true
}

fn is_short(value: &Value) -> bool {
    serde_json::from_value::<Span>(value.clone()).is_ok_and(|span| !span.0.is_zero() && span.0 <= TOOLS_TIMEOUT_MAX)
}

fn is_more(value: &Value) -> bool {
    matches!(value.as_str(), Some("info" | "debug"))
}

/// Whether a file that nobody trusted may set this key to this value.
fn is_harmless(pointer: &str, value: &Value) -> bool {
    HARMLESS.iter().any(|one| one.pointer == pointer && (one.is_harmless)(value))
}

/// What is harmless of the settings of a file, and the keys of the rest, as far as a table of them is one subject:
/// `serve.bind`, but `mcpServers`.
pub(super) fn split(settings: &Value) -> (Value, Vec<String>) {
    let mut harmless = Map::new();
    let mut rest = Vec::new();
    for (table, value) in settings.as_object().into_iter().flatten() {
        let pointer = member("", table);
        let Some(members) = value.as_object().filter(|_| table != "mcpServers") else {
            rest.push(table.clone());
            continue;
        };
        for (key, value) in members {
            match is_harmless(&member(&pointer, key), value) {
                true => {
                    let table = harmless.entry(table.clone()).or_insert_with(|| Value::Object(Map::new()));
                    table[key] = value.clone();
                }
                false => rest.push(format!("{table}.{key}")),
            }
        }
    }
    (Value::Object(harmless), rest)
}

/// What has effect of the file at `path` in the current directory, and what its user should know about the rest. Nothing in
/// it is an error, unless the user trusts it: commands that do not need its keys go on without them.
pub(super) fn source(path: &Path, home: &Path, variable: impl Fn(&str) -> Option<String>) -> (Source, Vec<Diagnostic>) {
    let name = path.display().to_string();
    let notice = |message: String| Diagnostic::of_file(&name, message).warning();
    let without = |message: String| (Source::default(), vec![notice(message)]);
    let bytes = match document::read_bytes(path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(why) => return without(format!("{why}, so it has no effect")),
    };
    let standing = match (trust::place(path), Trust::read(home)) {
        (Ok(place), Ok(list)) => list.standing(&place, &bytes),
        (Err(why), _) | (_, Err(why)) => {
            tracing::debug!(%why, "the list of trusted files cannot be read");
            Standing::Unknown
        }
    };
    let document = Document::parse(&name, Format::Toml, &bytes);
    if standing == Standing::Trusted {
        let source = match document {
            Ok(document) => Source::of(path, document, variable),
            Err(problems) => Source::faulty(path, problems),
        };
        return (source, Vec::new());
    }
    let why = if standing == Standing::Changed { "has changed since it was trusted" } else { "is not trusted" };
    let document = match document {
        Ok(document) if document.validate(file::schema()).is_empty() => document,
        _ => return without(format!("{why} and has faults (`skep check {FILE}`), so it has no effect")),
    };
    let (value, rest) = split(&document.value);
    let source = Source { files: vec![path.to_owned()], value, ..Source::default() };
    if rest.is_empty() {
        return (source, Vec::new());
    }
    let message = format!("{why}, so this has no effect: {}; see `skep trust`", named(&rest));
    (source, vec![notice(message)])
}

fn named(keys: &[String]) -> String {
    let (first, more) = keys.split_at(keys.len().min(KEYS_NAMED_MAX));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    format!("{}{more}", first.join(", "))
}

/// Such a file, for somebody who is to say whether it is trusted.
#[derive(Debug)]
pub struct Found {
    document: Document,
}

impl Found {
    /// The file of these bytes, which must be settings without a fault.
    pub fn of(path: &Path, bytes: &[u8]) -> Result<Found, BadSettings> {
        let document = Document::parse(&path.display().to_string(), Format::Toml, bytes).map_err(BadSettings)?;
        match document.validate(file::schema()) {
            faults if faults.is_empty() => Ok(Found { document }),
            faults => Err(BadSettings(faults)),
        }
    }

    /// The keys that have an effect only if it is trusted, and what they are for.
    pub fn rest(&self) -> Vec<(String, String)> {
        let (_, rest) = split(&self.document.value);
        let meaning = |key: &String| {
            let schema = key.split('.').fold(super::json_schema(), |schema, name| &schema["properties"][name]);
            let text = schema["description"].as_str().unwrap_or_default();
            let sentence = text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.');
            shorten(&sentence.replace('\n', " "), MEANING_CHARS_MAX)
        };
        rest.iter().map(|key| (key.clone(), meaning(key))).collect()
    }

    /// Its lines, and whether each says something that has an effect only if the file is trusted.
    pub fn lines(&self) -> Vec<(bool, &str)> {
        let leaves = self.document.leaves();
        let mut is_marked = vec![false; self.document.lines().count()];
        for (index, leaf) in leaves.iter().enumerate() {
            if self.is_below_harmless(&leaf.pointer) {
                continue;
            }
            let first = leaf.at.line as usize;
            // A text may have lines of its own.
            let last = match leaf.value.as_str() {
                Some(text) if text.contains('\n') => {
                    leaves.get(index + 1).map_or(is_marked.len(), |next| (next.at.line as usize).saturating_sub(1))
                }
                _ => first,
            };
            is_marked.iter_mut().take(last.max(first)).skip(first - 1).for_each(|mark| *mark = true);
        }
        is_marked.into_iter().zip(self.document.lines()).collect()
    }

    /// Whether this is a harmless key, or an element of its value.
    fn is_below_harmless(&self, pointer: &str) -> bool {
        let end = pointer.match_indices('/').nth(2).map_or(pointer.len(), |(index, _)| index);
        let key = &pointer[..end];
        self.document.value.pointer(key).is_some_and(|value| is_harmless(key, value))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_does_no_harm_is_taken() {
        let settings = json!({
            "home": "/x", "database": "sqlite:x", "redis": "redis://them", "workspace": "/", "hubs": ["http://them"], "token": "t", "token_file": "f",
            "serve": { "bind": ["0.0.0.0:1"], "tokens": { "them": "t" }, "tls_key": "k" },
            "run": { "actors": 3, "keep": 0 },
            "tools": { "allow": ["bash"], "deny": ["ai"], "timeout": "1m", "search": true },
            "search": { "web": {} }, "code": { "python": {} }, "sandbox": { "accept": "landlock" },
            "web": { "allow_hosts": ["x:1"] }, "model": { "base_url": "http://them" },
            "mcpServers": { "x": { "command": "rm" } },
            "log": { "level": "off", "format": "json" },
        });
        let (harmless, rest) = split(&settings);
        let taken = json!({ "run": { "actors": 3 }, "tools": { "deny": ["ai"], "timeout": "1m" }, "log": { "format": "json" } });
        assert_eq!(harmless, taken);
        let expected = [
            "home",
            "database",
            "redis",
            "workspace",
            "hubs",
            "token",
            "token_file",
            "serve.bind",
            "serve.tokens",
            "serve.tls_key",
            "run.keep",
            "tools.allow",
            "tools.search",
            "search.web",
            "code.python",
            "sandbox.accept",
            "web.allow_hosts",
            "model.base_url",
            "mcpServers",
            "log.level",
        ];
        assert_eq!(rest, expected);
    }

    #[test]
    fn values_count_as_well_as_keys() {
        for (pointer, value, expected) in [
            ("/tools/timeout", json!("10m"), true),
            ("/tools/timeout", json!(60), true),
            ("/tools/timeout", json!("11m"), false),
            ("/tools/timeout", json!("0s"), false),
            ("/log/level", json!("debug"), true),
            ("/log/level", json!("error"), false),
            ("/log/level", json!("warn,hyper=trace"), false),
        ] {
            assert_eq!(is_harmless(pointer, &value), expected, "{pointer} {value}");
        }
    }

    #[test]
    fn what_has_an_effect_only_if_it_is_trusted_is_marked() {
        let text = "workspace = '/'\n\n# agents\n[run]\nactors = 3\n[tools]\ndeny = [\n  'ai',\n]\nallow = [\n  'bash',\n]\n\
            [mcpServers.x]\ncommand = 'sh'\nargs = ['-c', \"\"\"\n# rm\n\n\"\"\"]\ncwd = '/'\n";
        let found = Found::of(Path::new("skep.toml"), text.as_bytes()).unwrap();
        let marked: Vec<&str> = found.lines().into_iter().filter(|(mark, _)| *mark).map(|(_, line)| line).collect();
        let args = ["args = ['-c', \"\"\"", "# rm", "", "\"\"\"]"];
        let expected = [&["workspace = '/'", "  'bash',", "command = 'sh'"], &args[..], &["cwd = '/'"]].concat();
        assert_eq!(marked, expected);
        let keys: Vec<String> = found.rest().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["workspace", "tools.allow", "mcpServers"]);
        assert_eq!(found.rest()[0].1, "Directory whose files tools may read");
        assert!(Found::of(Path::new("skep.toml"), b"actros = 3").is_err());
    }

    #[test]
    fn every_key_on_the_list_is_one_of_the_file() {
        for Harmless { pointer, .. } in HARMLESS {
            let schema = super::super::json_schema();
            let schema = pointer.split('/').skip(1).fold(schema, |schema, key| &schema["properties"][key]);
            assert!(schema.is_object(), "{pointer} is not in the schema");
        }
    }
}
