//! What generated code should not use, by name.
//!
//! This is advice against accidents, not a wall. The wall is the sandbox: code that gets around these rules finds no
//! network, no privileges and nothing to break. The rules say it earlier and better than a failure inside the sandbox
//! does ("it reaches the network; use `fetch_url`"), and they stop a model that copied a habit. Whoever wants to
//! deceive them can: a name that is put together at run time is not seen.
//!
//! A rule is a name such as `subprocess`, which stands for all below it too (`subprocess.run`). The name that a
//! program uses is written out before it is judged, so `from os import system as s` is `os.system`. Of two rules that
//! fit, the longer one counts; of two equally long ones the one that allows.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Language, syntax, uses};

/// Faults that are told of one program.
const FAULTS_MAX: usize = 50;

/// Rules for generated code, by language: section `[code]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Names of modules and functions, as in `os.system`.
    pub python: Rules,
    /// Names of modules, their members and globals, as in `child_process` and `eval`.
    pub javascript: Rules,
    /// Names of commands, as in `curl`.
    pub bash: Rules,
    /// Paths, as in `std::net`, macros, as in `include!`, and the keywords `unsafe` and `extern`.
    pub rust: Rules,
}

/// Rules for one language. `*` at the end of a name stands for any characters.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Whether Skep's own rules are in force.
    pub defaults: bool,
    /// Names that are denied too.
    pub deny: Vec<String>,
    /// Names that are allowed, also against Skep's own rules.
    pub allow: Vec<String>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { defaults: true, deny: Vec::new(), allow: Vec::new() }
    }
}

/// One place where a program uses what policy denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFault {
    /// Line, from 1.
    pub line: usize,
    /// Character of the line, from 1.
    pub column: usize,
    /// What it uses, written out.
    pub name: String,
    /// Why that is denied.
    pub reason: &'static str,
}

impl std::fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {} ({})", self.line, self.name, self.reason)
    }
}

impl Policy {
    /// Every use of something denied, in order, up to a limit. Code that is not well-formed is judged as far as it can
    /// be understood; code that cannot be parsed at all is left to [`check`](super::check).
    pub fn check(&self, language: Language, source: &str) -> Vec<PolicyFault> {
        let Ok(tree) = syntax::parse(language, source) else { return Vec::new() };
        let judge = Judge::new(self.of(language), language);
        let mut faults = Vec::new();
        for found in uses::of(language, tree.root_node(), source) {
            let Some(reason) = judge.denies(&found) else { continue };
            let (line, column) = syntax::place(source, found.at);
            let name = if found.all_below { format!("{}{}*", found.name, judge.separator) } else { found.name };
            faults.push(PolicyFault { line, column, name, reason });
            if faults.len() == FAULTS_MAX {
                break;
            }
        }
        faults.sort_by_key(|fault| (fault.line, fault.column));
        faults.dedup_by(|a, b| a.line == b.line && a.name == b.name);
        faults
    }

    fn of(&self, language: Language) -> &Rules {
        match language {
            Language::Python => &self.python,
            Language::JavaScript => &self.javascript,
            Language::Bash => &self.bash,
            Language::Rust => &self.rust,
        }
    }
}

/// The rules of one language, ready to be asked.
struct Judge<'a> {
    separator: &'static str,
    deny: Vec<(&'a str, &'static str)>,
    allow: Vec<&'a str>,
}

impl<'a> Judge<'a> {
    fn new(rules: &'a Rules, language: Language) -> Judge<'a> {
        let own = rules.defaults.then(|| defaults(language));
        let reasons =
            own.iter().flat_map(|own| own.deny).flat_map(|(reason, names)| names.iter().map(|name| (*name, *reason)));
        let deny =
            reasons.chain(rules.deny.iter().map(|name| (name.as_str(), "the configuration denies it"))).collect();
        let allow =
            own.iter().flat_map(|own| own.allow).copied().chain(rules.allow.iter().map(String::as_str)).collect();
        let separator = if language == Language::Rust { "::" } else { "." };
        Judge { separator, deny, allow }
    }

    /// Why this is denied, if it is.
    fn denies(&self, found: &uses::Use) -> Option<&'static str> {
        if found.all_below {
            let below = format!("{}{}", found.name, self.separator);
            let (_, reason) = self.deny.iter().find(|(rule, _)| rule.starts_with(&below))?;
            return (self.length(&self.allow, &found.name) == 0).then_some(*reason);
        }
        let denied = |(rule, reason): &(&str, &'static str)| Some((self.covers(rule, &found.name)?, *reason));
        let (length, reason) = self.deny.iter().filter_map(denied).max_by_key(|(length, _)| *length)?;
        (length > self.length(&self.allow, &found.name)).then_some(reason)
    }

    /// Length of the longest of these rules that fits a name; 0 if none does.
    fn length(&self, rules: &[&str], name: &str) -> usize {
        rules.iter().filter_map(|rule| self.covers(rule, name)).max().unwrap_or(0)
    }

    /// The length of a rule that fits a name.
    fn covers(&self, rule: &str, name: &str) -> Option<usize> {
        let fits = match rule.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name.strip_prefix(rule).is_some_and(|rest| rest.is_empty() || rest.starts_with(self.separator)),
        };
        fits.then_some(rule.len())
    }
}

/// Skep's own rules for a language.
struct Own {
    /// Why, and what.
    deny: &'static [(&'static str, &'static [&'static str])],
    /// Harmless parts of what is denied.
    allow: &'static [&'static str],
}

const PROGRAMS: &str = "it starts or ends other programs";
const TEXT: &str = "it runs text as code";
const NATIVE: &str = "it calls native code past the language's safety";
const NETWORK: &str = "it reaches the network, which the sandbox has not; use the tools fetch_url and http_request";
const COMPUTED: &str = "what it loads is decided at run time and cannot be checked";
const RIGHTS: &str = "it wants rights that the sandbox does not give";

fn defaults(language: Language) -> Own {
    match language {
        Language::Python => Own {
            deny: &[
                (
                    PROGRAMS,
                    &[
                        "os.system",
                        "os.popen",
                        "os.exec*",
                        "os.spawn*",
                        "os.posix_spawn*",
                        "os.fork*",
                        "os.kill*",
                        "os.startfile",
                        "subprocess",
                        "pty",
                        "popen2",
                        "commands",
                        "asyncio.create_subprocess_exec",
                        "asyncio.create_subprocess_shell",
                    ],
                ),
                (
                    TEXT,
                    &["eval", "exec", "pickle.load*", "pickle.Unpickler", "marshal.load*", "shelve", "runpy", "codeop"],
                ),
                (NATIVE, &["ctypes", "cffi", "_ctypes"]),
                (
                    NETWORK,
                    &[
                        "socket",
                        "socketserver",
                        "ssl",
                        "http.client",
                        "http.server",
                        "urllib.request",
                        "urllib3",
                        "ftplib",
                        "smtplib",
                        "poplib",
                        "imaplib",
                        "telnetlib",
                        "nntplib",
                        "xmlrpc",
                        "webbrowser",
                        "requests",
                        "httpx",
                        "aiohttp",
                        "paramiko",
                        "websockets",
                        "asyncio.open_connection",
                        "asyncio.start_server",
                    ],
                ),
                (COMPUTED, &["__import__", "importlib", "imp", "pkgutil", "zipimport", "sys.modules", "__builtins__"]),
                (RIGHTS, &["os.setuid", "os.setgid", "os.setgroups", "os.setreuid", "os.setregid", "os.chroot"]),
            ],
            allow: &["importlib.metadata", "importlib.resources"],
        },
        Language::JavaScript => Own {
            deny: &[
                (PROGRAMS, &["child_process", "cluster", "process.kill", "execa", "shelljs"]),
                (TEXT, &["eval", "Function", "vm", "vm2", "repl"]),
                (NATIVE, &["process.binding", "process.dlopen", "process._linkedBinding", "ffi-napi", "koffi"]),
                (
                    NETWORK,
                    &[
                        "net",
                        "tls",
                        "dgram",
                        "dns",
                        "http",
                        "https",
                        "http2",
                        "quic",
                        "inspector",
                        "fetch",
                        "WebSocket",
                        "EventSource",
                        "XMLHttpRequest",
                        "axios",
                        "node-fetch",
                        "undici",
                        "got",
                        "ws",
                    ],
                ),
                (COMPUTED, &["require.computed", "import.computed", "module.createRequire"]),
                (RIGHTS, &["process.setuid", "process.setgid", "process.setgroups"]),
            ],
            allow: &[],
        },
        Language::Bash => Own {
            deny: &[
                (TEXT, &["eval"]),
                (
                    NETWORK,
                    &[
                        "curl", "wget", "nc", "ncat", "netcat", "socat", "telnet", "ftp", "tftp", "ssh", "scp", "sftp",
                        "rsync", "aria2c", "/dev/tcp", "/dev/udp",
                    ],
                ),
                (
                    RIGHTS,
                    &[
                        "sudo",
                        "su",
                        "doas",
                        "pkexec",
                        "mount",
                        "umount",
                        "chroot",
                        "unshare",
                        "nsenter",
                        "setpriv",
                        "insmod",
                        "modprobe",
                        "rmmod",
                        "mkfs*",
                        "fdisk",
                        "reboot",
                        "shutdown",
                        "poweroff",
                        "halt",
                        "systemctl",
                        "docker",
                        "podman",
                        "iptables",
                        "nft",
                    ],
                ),
            ],
            allow: &[],
        },
        Language::Rust => Own {
            deny: &[
                (
                    PROGRAMS,
                    &["std::process::Command", "std::os::unix::process", "tokio::process", "async_process", "duct"],
                ),
                (
                    NATIVE,
                    &[
                        "unsafe",
                        "extern",
                        "asm!",
                        "global_asm!",
                        "std::arch",
                        "core::arch",
                        "libc",
                        "nix",
                        "libloading",
                    ],
                ),
                (
                    NETWORK,
                    &[
                        "std::net",
                        "std::os::unix::net",
                        "tokio::net",
                        "async_std::net",
                        "reqwest",
                        "hyper",
                        "ureq",
                        "socket2",
                        "mio",
                    ],
                ),
                ("it reads files of the machine that compiles it", &["include!", "include_str!", "include_bytes!"]),
            ],
            // Addresses as values reach nothing.
            allow: &[
                "std::net::IpAddr",
                "std::net::Ipv4Addr",
                "std::net::Ipv6Addr",
                "std::net::SocketAddr",
                "std::net::AddrParseError",
            ],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What policy says of a program: `line name`, joined by ` / `.
    fn said(policy: &Policy, language: Language, source: &str) -> String {
        let faults = policy.check(language, source);
        faults.iter().map(|fault| format!("{} {}", fault.line, fault.name)).collect::<Vec<_>>().join(" / ")
    }

    #[test]
    fn what_starts_programs_runs_text_or_reaches_the_network_is_denied_with_its_line() {
        for (language, source, expected) in [
            (Language::Python, "import os\n\nos.system('rm -r x')\n", "3 os.system"),
            (Language::Python, "from os import (path,\n  system as s)\n", "2 os.system"),
            (Language::Python, "from os import *\n", "1 os.*"),
            (Language::Python, "import subprocess as sp\nsp.run('ls')\n", "1 subprocess / 2 subprocess.run"),
            (Language::Python, "import os\ngetattr(os, 'execv')\n", "2 os.execv"),
            (Language::Python, "x = eval(input())\n__import__('os')\n", "1 eval / 2 __import__"),
            (Language::Python, "import urllib.request, socket\n", "1 urllib.request / 1 socket"),
            (Language::JavaScript, "const {exec} = require('node:child_process')\n", "1 child_process"),
            (Language::JavaScript, "new Function('a')()\n(0, eval)('b')\nfetch('c')", "1 Function / 2 eval / 3 fetch"),
            (Language::Bash, "set -e\nwget -q x | sh\neval \"$y\"\n", "2 wget / 3 eval"),
            (Language::Bash, "echo > /dev/tcp/a/1", "1 /dev/tcp"),
            (Language::Rust, "use std::process::Command;\nfn f() { unsafe {} }", "1 std::process::Command / 2 unsafe"),
            (Language::Rust, "use std::net::*;", "1 std::net"),
        ] {
            assert_eq!(said(&Policy::default(), language, source), expected, "{source}");
        }
    }

    #[test]
    fn programs_that_look_through_files_are_allowed() {
        const AUDIT: &str = r#"
import collections, json, os, re, sys
from pathlib import Path
from importlib.metadata import version

def walk(top):
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if name != ".git"]
        for name in files:
            yield os.path.join(directory, name)

sizes = collections.Counter()
for path in walk(sys.argv[1] if len(sys.argv) > 1 else "."):
    sizes[Path(path).suffix] += os.stat(path).st_size
    if re.compile("TODO").search(Path(path).read_text(errors="replace")):
        os.makedirs("/outputs", exist_ok=True)
print(json.dumps(sizes))
"#;
        const COUNT: &str = "import fs, {readFileSync} from 'node:fs'\nconst path = require('path')\n\
            process.stdout.write(JSON.stringify(fs.readdirSync(process.argv[2] ?? '.').map(f => path.extname(f))))\n\
            if (x instanceof Function && /a/.exec('b')) process.exit(1)\n";
        const SUSPICIOUS: &str = "find /workspace -type f -perm -111 -print0 | xargs -0 ls -l | awk '{print $5}' | sort -n\n\
            for f in *.sh; do grep -Hn 'curl\\|eval' \"$f\" || true; done > /outputs/found.txt\n";
        const RUST: &str = "use std::{collections::HashMap, fs, io::{self, Read}, net::IpAddr, process};\n\
            fn main() -> io::Result<()> { println!(\"{}\", fs::read_to_string(\"a\")?); process::exit(0) }";
        for (language, source) in [
            (Language::Python, AUDIT),
            (Language::JavaScript, COUNT),
            (Language::Bash, SUSPICIOUS),
            (Language::Rust, RUST),
        ] {
            assert_eq!(said(&Policy::default(), language, source), "");
        }
    }

    #[test]
    fn the_configuration_adds_rules_and_lifts_them_and_the_longer_rule_counts() {
        let policy = |rules: serde_json::Value| -> Policy {
            serde_json::from_value(serde_json::json!({ "python": rules })).unwrap()
        };
        let source = "import subprocess, socket, numpy\nsubprocess.run\nnumpy.load\n";
        for (rules, expected) in [
            (serde_json::json!({}), "1 subprocess / 1 socket / 2 subprocess.run"),
            (serde_json::json!({"allow": ["subprocess"]}), "1 socket"),
            (
                serde_json::json!({"allow": ["subprocess", "s*"], "deny": ["subprocess.run"]}),
                "1 socket / 2 subprocess.run",
            ),
            (serde_json::json!({"allow": ["*"]}), "1 subprocess / 1 socket / 2 subprocess.run"),
            (serde_json::json!({"defaults": false, "deny": ["numpy.lo*"]}), "3 numpy.load"),
        ] {
            assert_eq!(said(&policy(rules.clone()), Language::Python, source), expected, "{rules}");
        }
        let error = serde_json::from_value::<Policy>(serde_json::json!({"perl": {}})).unwrap_err();
        assert!(error.to_string().contains("unknown field `perl`"));
    }

    #[test]
    fn a_fault_says_why_and_the_number_of_faults_is_limited() {
        let faults = Policy::default().check(Language::Python, &"eval(x)\n".repeat(FAULTS_MAX * 2));
        assert_eq!(faults.len(), FAULTS_MAX);
        assert_eq!(faults[1].to_string(), "line 2: eval (it runs text as code)");
    }
}
