//! `skep connect` and `skep disconnect`.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;

use super::{Common, print, say};
use crate::{
    clients::{Client, Scope, TOKEN_VARIABLE, Target},
    config::Overrides,
    running::RunningHub,
};

/// Bytes of a client's file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// How often a change is made again because the client has changed its file meanwhile.
const ATTEMPTS_MAX: usize = 5;
/// What is added to the name of the user's file as it was before.
const BACKUP: &str = ".before-skep";

/// Make an MCP client use the hub: writes an entry into the client's own configuration
///
/// The entry leads to the hub that runs here. If none runs, or with --stdio, the client starts a process of its own for
/// each session (`skep mcp-stdio`). Everything else in the file stays as it is. No token is written: the client takes it from
/// SKEP_TOKEN in its environment.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep connect claude
  skep connect codex --stdio
  skep connect vscode --project     # .vscode/mcp.json, for everybody who opens this project
  skep connect gemini --print       # what would be written, and where")]
pub(super) struct Arguments {
    #[command(flatten)]
    entry: Entry,
    /// Have the client start a process of its own, also if a hub runs
    #[arg(long)]
    stdio: bool,
}

/// Take the hub's entry out of an MCP client's configuration
#[derive(Debug, Args)]
#[command(after_help = "Example:
  skep disconnect claude")]
pub(super) struct DisconnectArguments {
    #[command(flatten)]
    entry: Entry,
}

/// Which entry of which file.
#[derive(Debug, Args)]
struct Entry {
    /// The client
    #[arg(value_enum)]
    client: Client,
    /// Name that the hub has in the client
    #[arg(long = "as", value_name = "NAME", default_value = "skep", value_parser = name)]
    name: String,
    /// In the configuration of the project in this directory, which others share, instead of your own
    #[arg(long)]
    project: bool,
    /// Show what would be written, and write nothing
    #[arg(long)]
    print: bool,
}

/// Names that every client takes, and that make readable names of tools.
fn name(text: &str) -> Result<String, String> {
    const CHARS_MAX: usize = 64;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match (1..=CHARS_MAX).contains(&text.len()) && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!("a name has 1 to {CHARS_MAX} letters, digits, `-` and `_`")),
    }
}

pub(super) fn connect(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { entry, stdio } = arguments;
    let own = own_process(&common, entry.project)?;
    let hub = RunningHub::find(&common.settings(Overrides::default())?.home);
    let found = hub.as_ref().filter(|_| !stdio).and_then(|hub| Some((hub, hub.url()?)));
    let target = match found {
        Some((hub, url)) => Target::Http { url: format!("{url}/mcp"), wants_token: hub.wants_token },
        None => own,
    };
    let (client, name) = (entry.client, entry.name.as_str());
    let file = entry.file()?;
    let shown = client.shown(name, &target);
    if entry.print {
        print(&format!("# {}\n{shown}", file.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (path, title) = (file.display(), client.title());
    match change(&file, !entry.project, |text| Ok(client.connected(text, name, &target)?))? {
        false => print(&format!("nothing to do: {title} is connected already, by {path}\n"))?,
        true => print(&format!("{title} is connected from its next start on, by {path}:\n{shown}"))?,
    }
    match (&hub, &target) {
        (Some(hub), Target::Http { wants_token: true, .. }) => {
            let from = hub.token_file.as_ref().map(|file| format!("; it is in {}", file.display())).unwrap_or_default();
            say!("the hub wants its token: set {TOKEN_VARIABLE} in the environment that {title} is started in{from}");
        }
        (None, Target::Stdio { .. }) if !stdio => {
            say!(
                "no hub runs here, so {title} starts `skep mcp-stdio` for each session; to share one hub, start `skep serve` and connect again"
            );
        }
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn disconnect(common: Common, arguments: DisconnectArguments) -> anyhow::Result<ExitCode> {
    let DisconnectArguments { entry } = arguments;
    let hub = RunningHub::find(&common.settings(Overrides::default())?.home);
    let url = hub.as_ref().and_then(RunningHub::url).map(|url| format!("{url}/mcp"));
    let (client, file) = (entry.client, entry.file()?);
    let (path, title) = (file.display(), client.title());
    let without = |text: &str| Ok(client.disconnected(text, &entry.name, url.as_deref())?);
    if entry.print {
        let is_there = read(&file)?.is_some_and(|found| without(&found.text).is_ok_and(|text| text != found.text));
        let what = if is_there { "would be taken out of" } else { "is not in" };
        print(&format!("the server {:?} {what} {path}\n", entry.name))?;
        return Ok(ExitCode::SUCCESS);
    }
    match file.exists() && change(&file, !entry.project, without)? {
        true => print(&format!("{title} is disconnected from its next start on: {:?} is out of {path}\n", entry.name))?,
        false => print(&format!("nothing to do: there is no server {:?} in {path}\n", entry.name))?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Entry {
    fn file(&self) -> anyhow::Result<PathBuf> {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = variable("HOME").context("HOME is not set, so it is not known where the client keeps its files")?;
        let scope = if self.project { Scope::Project } else { Scope::User };
        Ok(self.client.file(scope, &home, &env::current_dir()?, variable))
    }
}

/// This program as a server, started with the files that were named here. In a file for others it goes by its name alone.
fn own_process(common: &Common, is_shared: bool) -> anyhow::Result<Target> {
    let mut args = vec!["mcp-stdio".to_owned()];
    for (flag, path) in [("--config", &common.config), ("--home", &common.home)] {
        if let Some(path) = path.as_ref().filter(|_| !is_shared) {
            let path = std::path::absolute(path)?;
            args.extend([flag.to_owned(), path.to_str().context("a path is not UTF-8")?.to_owned()]);
        }
    }
    let command = match is_shared {
        true => "skep".to_owned(),
        false => env::current_exe()?.to_str().context("the path of this program is not UTF-8")?.to_owned(),
    };
    Ok(Target::Stdio { command, args })
}

/// A file as it was read, and how to see whether it still is so.
struct Found {
    text: String,
    state: State,
    mode: u32,
}

/// Size, time of change and inode.
type State = (u64, i64, i64, u64);

fn state(metadata: &fs::Metadata) -> State {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino())
}

fn read(path: &Path) -> anyhow::Result<Option<Found>> {
    let fault = || format!("cannot read {}", path.display());
    // Without waiting for a writer, should it be a named pipe.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(fault)?,
    };
    let metadata = file.metadata().with_context(fault)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        bail!("{} is no ordinary file of at most {} MiB", path.display(), FILE_BYTES_MAX >> 20);
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).with_context(fault)?;
    Ok(Some(Found { text, state: state(&metadata), mode: metadata.permissions().mode() & 0o777 }))
}

/// Change the text of a file, or make the file. Whoever reads it sees the old text or the new one. Gives whether there was
/// anything to change.
fn change(path: &Path, is_private: bool, new: impl Fn(&str) -> anyhow::Result<String>) -> anyhow::Result<bool> {
    // A link to a file that is kept elsewhere stays one.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let shown = path.display();
    for _ in 0..ATTEMPTS_MAX {
        let found = read(path)?;
        let old = found.as_ref().map_or("", |found| found.text.as_str());
        let text = new(old).with_context(|| format!("{shown} is left as it is"))?;
        if found.is_some() && text == old {
            return Ok(false);
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let mode = found.as_ref().map_or(if is_private { 0o600 } else { 0o644 }, |found| found.mode);
        if let Some(found) = found.as_ref().filter(|_| is_private) {
            write(&with_suffix(path, BACKUP), &found.text, mode)?;
        }
        let aside = with_suffix(path, &format!(".skep-{}", std::process::id()));
        write(&aside, &text, mode)?;
        let now = fs::metadata(path).ok().map(|metadata| state(&metadata));
        if now == found.map(|found| found.state) {
            fs::rename(&aside, path).with_context(|| format!("cannot write {shown}"))?;
            return Ok(true);
        }
        fs::remove_file(&aside)?; // the client wrote it meanwhile
    }
    bail!("{shown} is changed all the time; end the client, and try again")
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let write = || {
        let _ = fs::remove_file(path); // what an earlier time has left
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}
