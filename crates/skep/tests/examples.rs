//! Every example in the README, the documentation and the help works as it is written.
//!
//! The examples are found, not listed: each line of a block of shell commands, each other block of code, and each line below
//! "Example" in a command's help. They are run in this order in one directory, which has the files that they name. What
//! cannot be run in a test stands in [`NOT_RUN`] with the reason, and its command line must be understood all the same.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use clap::{CommandFactory as _, Parser as _};
use skep_hub::cli::Cli;
use support::{Served, User};

/// Examples with this text in them are not run, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo xtask", "builds and tests the whole project"),
    ("cargo install", "builds the whole project"),
    ("skep resume", "needs a run that was interrupted"),
    ("skep retry", "needs a run that has failed"),
    ("skep cancel", "needs a run that is under way"),
    ("skep runs rm", "names a run of somebody else"),
    ("--follow", "may go on until somebody ends it"),
    ("curl -N", "goes on until somebody ends it"),
    ("skep trust", "asks a person about a file that was found"),
    ("skep connect", "changes the settings of other programs, which have to be there"),
    ("skep disconnect", "changes the settings of other programs, which have to be there"),
    ("skep sync", "needs a hub elsewhere"),
    ("skep doctor", "its exit code says what this machine lacks"),
    ("skep sandbox selftest", "its exit code says what this machine lacks, and it takes a while"),
    ("skep tasks finish", "needs the token of a task that was given out"),
    ("servers login", "needs a server with OAuth, and a browser"),
    ("servers logout", "needs a login"),
    ("hub.sock", "names the state directory of a user, which is elsewhere here"),
    ("man -l", "needs the program man"),
    ("openssl", "makes keys that no sandbox may read, so that no later example could copy the workspace"),
    ("--bind 0.0.0.0:8000", "listens on a fixed port of every address"),
    ("--port", "listens on a fixed port"),
    ("time__get_current_time", "needs an MCP server from the network"),
    ("example.org", "needs the network"),
    ("example.com", "needs the network"),
    ("http://one:8000", "needs other machines"),
    ("--hub URL", "stands for any hub"),
    ("~/site", "names a directory of a user"),
    ("skep history", "needs a hub that has this directory, as the tests of the command do"),
    ("skep diff", "needs a hub that has this directory, as the tests of the command do"),
    ("skep undo", "needs a hub that has this directory, as the tests of the command do"),
];

/// Most time for one example, in seconds.
const TIME_MAX_S: u32 = 120;

/// One example, and where it stands.
struct Example {
    place: String,
    text: String,
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The README and the documentation.
fn documents() -> Vec<(String, String)> {
    let mut paths = vec![project().join("README.md")];
    paths.extend(fs::read_dir(project().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let read =
        |path: &PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap());
    paths.iter().map(read).collect()
}

/// The blocks of code in a document: the language and the text.
fn blocks(name: &str, text: &str) -> Vec<(String, Example)> {
    let (mut blocks, mut lines) = (Vec::new(), text.lines().enumerate());
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.trim_start().starts_with("```"));
        let text = inside.fold(String::new(), |text, line| text + line + "\n");
        blocks.push((language.trim().to_owned(), Example { place: format!("{name}:{}", number + 2), text }));
    }
    blocks
}

fn all_blocks() -> Vec<(String, Example)> {
    documents().iter().flat_map(|(name, text)| blocks(name, text)).collect()
}

/// The command lines in a block of shell commands.
fn commands(block: Example) -> Vec<Example> {
    let joined = block.text.replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    lines.map(|line| Example { place: block.place.clone(), text: line.trim().to_owned() }).collect()
}

/// The examples in the help of this command and those below it.
fn in_help(command: &clap::Command, path: &str) -> Vec<Example> {
    let path = format!("{path} {}", command.get_name()).trim().to_owned();
    let mut found = Vec::new();
    for help in [command.get_after_help(), command.get_after_long_help()].into_iter().flatten() {
        let text = help.to_string();
        let lines = text.lines().skip_while(|line| !line.starts_with("Example")).skip(1);
        let lines = lines.take_while(|line| !line.trim().is_empty());
        found.extend(lines.map(|line| Example { place: format!("{path} --help"), text: line.trim().to_owned() }));
    }
    found.extend(command.get_subcommands().flat_map(|below| in_help(below, &path)));
    found
}

/// A user in a directory with all that the examples name.
fn prepared() -> User {
    let user = User::new();
    for entry in fs::read_dir(project().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        user.file(&format!("examples/{name}"), &fs::read_to_string(&path).unwrap());
    }
    let (_, readme) = &documents().into_iter().find(|(name, _)| name == "README.md").unwrap();
    let plan = blocks("README.md", readme).into_iter().find(|(language, _)| language == "yaml").unwrap().1.text;
    user.file("plan.yaml", &plan);
    user.file("README.md", readme);
    user.file("src/main.rs", "// TODO: SPDX-License-Identifier: Apache-2.0\nfn main() {}\n");
    user.file("Makefile", "test:\n\ttouch built\n");
    user.file("untrusted.py", "print(6 * 7)\n");
    user.file("data.csv", "b\na\n");
    user.file("token", "0123456789abcdef0123456789abcdef\n");
    user.file("mcp.json", r#"{"mcpServers": {"time": {"command": "skep", "args": ["mcp-stdio"]}}}"#);
    for directory in [
        "project",
        ".local/share/bash-completion/completions",
        ".local/share/zsh/site-functions",
        ".config/fish/completions",
    ] {
        fs::create_dir_all(user.home().join(directory)).unwrap();
    }
    fs::write(user.home().join("project/a.txt"), "TODO\n").unwrap();
    // The state directory is this one; with other things in it, it must be closed to others.
    fs::set_permissions(user.home(), fs::Permissions::from_mode(0o700)).unwrap();
    user
}

/// `bash -c`, with the program on its path as a user has it.
fn bash(user: &User, script: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_skep")).parent().unwrap();
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(user.workspace()).stdin(std::process::Stdio::null());
    command.env_clear().env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", program.display()));
    command.env("SKEP_HOME", user.home()).env("HOME", user.home()).env("SKEP_BIND", "127.0.0.1:0");
    command
}

/// Run a script to its end, or until it has taken too long.
fn run(user: &User, script: &str) -> Output {
    let mut command = bash(user, &format!("exec timeout {TIME_MAX_S} bash -c \"$SCRIPT\""));
    command.env("SCRIPT", script).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What is wrong with the command line of an example, if the program does not understand it.
fn misunderstood(user: &User, line: &str) -> Option<String> {
    // The shell takes it apart, with functions in the place of programs.
    let script = format!(
        "PATH=; skep() {{ printf '%s\\0' skep \"$@\" >&3; printf '\\n' >&3; }}; cargo() {{ :; }}\n{line}\ntrue"
    );
    let words = user.workspace().join("words");
    let output = run(user, &format!("{{ {script}\n}} 3> words 2> /dev/null"));
    if !output.status.success() {
        return Some(said(&output));
    }
    let calls = fs::read_to_string(words).unwrap();
    let calls: Vec<&str> = calls.split("\0\n").filter(|call| !call.is_empty()).collect();
    if calls.is_empty() && line.contains("skep ") {
        return Some("no call of skep was found in it".to_owned());
    }
    calls.iter().find_map(|call| Some(Cli::try_parse_from(call.split('\0')).err()?.to_string()))
}

/// Run an example. Gives what went wrong.
fn wrong(user: &User, example: &Example, hub: &str) -> Option<String> {
    let line = example.text.replace("localhost:8000", hub);
    if let Some(fault) = misunderstood(user, &line) {
        return Some(fault);
    }
    if line.split_whitespace().nth(1) == Some("serve") {
        // It goes on until it is stopped.
        let code = Served::start(&mut bash(user, &format!("exec {line}"))).stop();
        return (code != 0).then(|| format!("it ended with {code}"));
    }
    let cargo = "cargo() { [ \"$1 $2\" = 'run --' ] && shift 2 && skep \"$@\"; }";
    let output = run(user, &format!("set -o pipefail\n{cargo}\n{line}"));
    (!output.status.success()).then(|| format!("{}: {}", output.status, said(&output)))
}

#[test]
fn every_command_in_the_documentation_and_the_help_works() {
    let user = prepared();
    let served = Served::start(&mut bash(&user, "exec skep serve"));
    let hub = served.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut examples: Vec<Example> = all_blocks()
        .into_iter()
        .filter(|(language, _)| language == "sh")
        .flat_map(|(_, block)| commands(block))
        .collect();
    let mut command = Cli::command();
    command.build();
    let help = in_help(&command, "");
    assert!(examples.len() > 20 && help.len() > 10, "{} and {} were found", examples.len(), help.len());
    examples.extend(help.into_iter().filter(|example| !example.text.starts_with('{')));
    let mut faults = String::new();
    for example in &examples {
        let not_run = NOT_RUN.iter().find(|(text, _)| example.text.contains(text));
        let fault = match not_run {
            Some(_) => misunderstood(&user, &example.text),
            None => wrong(&user, example, &hub),
        };
        if let Some(fault) = fault {
            writeln!(faults, "{}: {}\n{fault}", example.place, example.text).unwrap();
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn every_block_of_code_in_the_documentation_and_the_help_is_what_it_says() {
    let user = prepared();
    let mut command = Cli::command();
    command.build();
    let help = in_help(&command, "").into_iter().filter(|example| example.text.starts_with('{'));
    let mut faults = String::new();
    for (number, (language, block)) in
        all_blocks().into_iter().chain(help.map(|example| ("json".to_owned(), example))).enumerate()
    {
        let check = |file: &str| {
            user.file(file, &block.text);
            let mut command = bash(&user, &format!("skep check {file}"));
            // The variables that it names are set.
            for name in block.text.split("${").skip(1).filter_map(|rest| rest.split([':', '}']).next()) {
                command.env(name, "x");
            }
            let output = command.output().unwrap();
            // A warning is printed, too.
            (!output.status.success() || !output.stdout.is_empty()).then(|| said(&output))
        };
        let fault = match language.as_str() {
            // The store's tests have the statements; an address alone is nothing that could be checked.
            "sh" | "sql" | "text" => None,
            "yaml" => check(&format!("block-{number}.yaml")),
            "toml" => check(&format!("block-{number}.toml")),
            "json" => match serde_json::from_str::<serde_json::Value>(&block.text) {
                Err(error) => Some(error.to_string()),
                Ok(value) if value.get("tasks").is_some() => check(&format!("block-{number}.json")),
                Ok(_) => None,
            },
            other => Some(format!("{other:?} is no language that this test knows how to check")),
        };
        if let Some(fault) = fault {
            writeln!(faults, "{}:\n{fault}", block.place).unwrap();
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn every_example_file_is_a_plan_without_faults_or_warnings() {
    let user = prepared();
    for entry in fs::read_dir(user.workspace().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let checked = user.skep(&["check", path.to_str().unwrap()]).ok();
            assert_eq!(checked.stdout(), "", "{}", path.display());
        }
    }
}

#[test]
fn a_command_that_wants_to_write_to_the_workspace_is_told_what_to_do() {
    let user = prepared();
    let ran = user.skep(&["run", "--quiet", "run `make test`"]);
    assert_eq!(ran.code(), 1);
    let error = user.skep(&["show", "--json"]).ok().json()["tasks"][0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("commands cannot write to /workspace") && error.contains("cp -r"), "{error}");
    user.skep(&["run", "--quiet", "run `cp -r /workspace /tmp/copy && make -C /tmp/copy test`"]).ok();
}
