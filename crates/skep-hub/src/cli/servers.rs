//! `skep servers`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use futures_util::future::join_all;
use serde_json::{Value, json};
use skep_core::policy::{Operate, Permit};
use skep_tools::{duration::Span, schema::suggest};
use tokio::task::JoinSet;

use super::{Common, FAILED, INTERRUPTED, print, remote, say, stop_on_signal, tools::Wait};
use crate::{
    config::{Overrides, Settings},
    hub::{
        self,
        principals::local,
        upstreams::{
            State, Status, Upstream, UpstreamError, Upstreams,
            logins::{LOGIN_TIME_MAX, Logins, Revoked},
        },
    },
    state,
    terminal::{line, short_line},
};

/// Start each configured MCP server, and tell how it does: whether it answers, what it speaks, how many tools it has
///
/// The servers are those of skep.toml and --mcp-config. One that is slow to start is shown as starting, and holds nobody up. The
/// exit code is 0 only if all of them answer. --hub tells how the servers of a running hub do.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only this one
    #[arg(value_name = "SERVER")]
    server: Option<String>,
    /// Ask this hub, which runs, and start nothing here
    #[arg(long, value_name = "URL", conflicts_with = "mcp_config")]
    hub: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
struct How {
    /// File that lists MCP servers, as Claude Desktop, Cursor and VS Code write it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Login(LoginArguments),
    Logout(LogoutArguments),
}

/// Log in to a server that wants it (OAuth), once: prints an address to open in a browser, and waits for the answer
///
/// The browser comes back to an address of this machine, 127.0.0.1 and a free port (or oauth.callbackPort). If it runs on another
/// machine, let it reach this one: set callbackPort to PORT, and run `ssh -L PORT:127.0.0.1:PORT THIS-MACHINE` there. The token is kept in
/// logins/logins.json of the state directory, for its owner alone; a hub with the same state directory finds it there, also one that runs,
/// and renews it. Give the same --config, --mcp-config and --home as to the hub.
#[derive(Debug, Args)]
#[command(after_help = LOGIN_EXAMPLES)]
struct LoginArguments {
    /// The server's name
    #[arg(value_name = "SERVER")]
    server: String,
    /// Open the address in a browser (xdg-open)
    #[arg(long)]
    open: bool,
    /// Give up after this time, such as 90s or 5m; a plain number is seconds
    #[arg(long, value_name = "TIME", default_value_t = Span(LOGIN_TIME_MAX), value_parser = login_time)]
    timeout: Span,
    #[command(flatten)]
    how: How,
}

const LOGIN_EXAMPLES: &str = "\
Examples:
  skep servers login github
  skep servers login github --open
  skep servers login github --json      # one line with the address, one when it is done
  skep servers logout github";

/// A time that a login may be waited for.
fn login_time(text: &str) -> Result<Span, String> {
    let time: Span = text.parse()?;
    if time.0.is_zero() || time.0 > LOGIN_TIME_MAX {
        return Err(format!("must be more than 0s and at most {}", Span(LOGIN_TIME_MAX)));
    }
    Ok(time)
}

/// Forget the login to a server: its token is removed from this machine, and revoked
#[derive(Debug, Args)]
struct LogoutArguments {
    /// The server's name
    #[arg(value_name = "SERVER")]
    server: String,
    #[command(flatten)]
    how: How,
}

pub(super) async fn servers(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        None if arguments.hub.is_some() => {
            let (url, name) = (arguments.hub.unwrap_or_default(), arguments.server);
            remote::servers(common, &url, name.as_deref(), arguments.how.json).await
        }
        Some(Command::Login(arguments)) => login(common, arguments).await,
        Some(Command::Logout(arguments)) => logout(common, arguments).await,
        None => list(common, arguments.server, arguments.how, arguments.wait).await,
    }
}

async fn list(
    common: Common,
    server: Option<String>,
    How { mcp_config, json }: How,
    Wait { wait }: Wait,
) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides { mcp_config, ..Overrides::default() })?;
    let logins = logins(&settings)?;
    let upstreams = Upstreams::new(settings.upstreams, Some(logins));
    let names = match server {
        Some(name) => {
            upstreams.server(&name)?; // it exists
            vec![name]
        }
        None => upstreams.names(),
    };
    if names.is_empty() && !json {
        print(
            "no MCP server is configured; name some under [mcpServers] in skep.toml, or in a file for --mcp-config\n",
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    if !json {
        say!("starting {}", names.join(", "));
    }
    let tools = join_all(names.iter().map(|name| upstreams.tools_within(name, wait.0))).await;
    let tools: Vec<Result<usize, UpstreamError>> = tools.into_iter().map(|list| Ok(list?.items().len())).collect();
    let statuses = upstreams.servers();
    upstreams.close().await;
    let status = |name: &String| statuses.iter().find(|status| status.name == *name);
    let found: Vec<_> = names.iter().zip(&tools).filter_map(|(name, tools)| Some((status(name)?, tools))).collect();
    let operator = local().permit()?;
    let text = match json {
        true => {
            format!("{:#}\n", found.iter().map(|(status, tools)| as_json(status, tools, &operator)).collect::<Value>())
        }
        false => found.iter().map(|(status, tools)| as_text(status, tools)).collect(),
    };
    print(&text)?;
    let all_answer = tools.iter().all(Result::is_ok);
    Ok(if all_answer { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

async fn login(common: Common, arguments: LoginArguments) -> anyhow::Result<ExitCode> {
    let LoginArguments { server, open, timeout, how: How { mcp_config, json } } = arguments;
    let settings = common.settings(Overrides { mcp_config, ..Overrides::default() })?;
    let logins = logins(&settings)?;
    let upstream = find(&settings, &server)?;
    let mut tasks = JoinSet::new();
    let stop = stop_on_signal(&mut tasks)?;
    let logging_in = async {
        let begun = logins.begin(upstream).await?;
        let url = begun.url();
        match json {
            true => {
                print(&format!("{}\n", json!({ "server": server, "url": url.as_str(), "issuer": begun.issuer() })))?
            }
            false => {
                say!("open this address to log in at {}; it is waited for {timeout}, Ctrl-C ends it", begun.issuer());
                print(&format!("{url}\n"))?;
            }
        }
        if open {
            open_browser(url.as_str());
        }
        anyhow::Ok(begun.finish(timeout.0).await?)
    };
    let Some(made) = stop.run_until_cancelled(logging_in).await else {
        say!("nobody was logged in");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let made = made.with_context(|| format!("no login to {server:?}"))?;
    let path = logins.path().display();
    if json {
        let scopes = &made.scopes;
        let expires_at = made.expires_at.map(|at| at.to_string());
        let line = json!({ "server": server, "status": "ok", "issuer": made.issuer, "scopes": scopes, "expires_at": expires_at });
        print(&format!("{line}\n"))?;
    } else {
        let scopes = if made.scopes.is_empty() { String::new() } else { format!(" for {}", made.scopes.join(" ")) };
        let until = match (made.is_renewed, made.expires_at) {
            (true, _) => "it is renewed when needed".to_owned(),
            (false, Some(at)) => format!("it is good until {}", at.strftime("%Y-%m-%d %H:%M UTC")),
            (false, None) => "how long it is good was not said".to_owned(),
        };
        say!("logged in to {server}{scopes}; the token is in {path}, {until}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn logout(common: Common, LogoutArguments { server, how }: LogoutArguments) -> anyhow::Result<ExitCode> {
    let How { mcp_config, json } = how;
    let settings = common.settings(Overrides { mcp_config, ..Overrides::default() })?;
    let logins = logins(&settings)?;
    let found = find(&settings, &server);
    let logged_out = logins.log_out(&server, found.as_ref().ok().copied()).await?;
    if logged_out.is_none() {
        found?; // a name that was mistyped is an error
    }
    if json {
        let (was_logged_in, is_revoked) = (logged_out.is_some(), logged_out == Some(Revoked::Yes));
        let mut line =
            json!({ "server": server, "status": "ok", "was_logged_in": was_logged_in, "revoked": is_revoked });
        if let Some(Revoked::No(why)) = logged_out {
            line["not_revoked"] = why.into();
        }
        print(&format!("{line}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    match logged_out {
        None => say!("nobody was logged in to {server}"),
        Some(Revoked::Yes) => say!("logged out of {server}; its tokens are revoked"),
        Some(Revoked::No(why)) => {
            say!(
                "logged out of {server} on this machine; a hub that runs may use its token until it ends, which was not revoked: \
                 {why}"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Say which servers cannot be used on this machine, and why: once, when they are read. What their file lacks was said then.
pub(super) fn tell_unusable(servers: &[Upstream]) {
    let missing = servers.iter().filter(|server| server.unusable.is_none());
    for (server, reason) in missing.filter_map(|server| Some((server, server.why_unusable()?))) {
        say!("✗ {}  {reason}", server.name);
    }
}

/// The logins in the state directory, which is closed to others before a token is put there.
fn logins(settings: &Settings) -> anyhow::Result<Logins> {
    state::prepare(&settings.home, hub::readers(settings))?;
    Ok(Logins::new(&settings.home, settings.web.clone()))
}

fn find<'a>(settings: &'a Settings, server: &str) -> anyhow::Result<&'a Upstream> {
    let names = || settings.upstreams.iter().map(|upstream| upstream.name.as_str());
    settings.upstreams.iter().find(|upstream| upstream.name == server).with_context(|| {
        let help = suggest(server, names()).map_or(String::new(), |help| format!("; {help}"));
        format!("there is no MCP server {server:?} in skep.toml or --mcp-config{help}")
    })
}

/// Ask the desktop to. Without one, the user has the address on the terminal.
fn open_browser(url: &str) {
    let mut command = std::process::Command::new("xdg-open");
    command.arg(url).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    if let Err(error) = command.stderr(std::process::Stdio::null()).spawn() {
        say!("xdg-open cannot be started ({error}); open the address yourself");
    }
}

/// Characters of a name or a version that are shown.
const NAME_CHARS_MAX: usize = 100;

fn as_json(status: &Status, tools: &Result<usize, UpstreamError>, operator: &Permit<Operate>) -> Value {
    let mut json = json!(status.shown_to_operator(operator));
    match tools {
        Ok(count) => json["tools"] = json!(count),
        Err(UpstreamError::Unlisted { .. }) => {} // its state says so
        Err(error) => json["error"] = error.to_string().into(),
    }
    json
}

fn as_text(status: &Status, tools: &Result<usize, UpstreamError>) -> String {
    let name = short_line(&status.name, NAME_CHARS_MAX);
    match (tools, &status.info) {
        (Ok(count), Some(info)) => {
            let server = info.server.as_ref();
            let says = |member: &str| {
                let text = server.and_then(|server| server[member].as_str()).unwrap_or_default();
                short_line(text, NAME_CHARS_MAX)
            };
            let tools = if *count == 1 { "1 tool".to_owned() } else { format!("{count} tools") };
            format!("✓ {name:24} {tools:10} {}  {} {}\n", info.revision.as_str(), says("name"), says("version"))
        }
        (Ok(count), None) => format!("✓ {name:24} {count} tools\n"),
        (Err(_), _) if status.state == State::NeedsLogin => {
            let why = status.last_error.as_deref().unwrap_or_default();
            format!("✗ {name:24} needs login: {}\n", line(why))
        }
        (Err(_), _) if status.state == State::Disabled => {
            let why = status.last_error.as_deref().unwrap_or_default();
            format!("✗ {name:24} {}\n", line(why))
        }
        (Err(UpstreamError::Unlisted { state, .. }), _) => {
            format!("… {name:24} {state}, and has not listed its tools yet; --wait 1m waits for it\n")
        }
        (Err(error), _) => {
            let last: String = status.stderr.iter().map(|text| format!("    {}\n", line(text))).collect();
            format!("✗ {name:24} {}\n{last}", line(&error.to_string()))
        }
    }
}
