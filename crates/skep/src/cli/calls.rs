//! The calls of a hub that runs: `skep logs --calls`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use reqwest::{Client, StatusCode};
use serde_json::Value;

use super::{FAILED, print, progress::time_of_day, stop_on_signal};
use crate::{
    config::{Settings, read_token},
    running::RunningHub,
    terminal::{line, say},
};

/// How long the hub is asked to wait for a call that it has not had yet.
const WAIT: Duration = Duration::from_secs(20);
/// Time beyond that for its answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Which hub, and what of it.
pub(super) struct Wanted {
    /// Its address; `None` for the one that runs with this state directory.
    pub(super) hub: Option<String>,
    /// Go on until it stops.
    pub(super) follow: bool,
    /// A line of JSON for each call.
    pub(super) json: bool,
}

/// Print the calls of a hub, oldest first.
pub(super) async fn show(settings: &Settings, wanted: &Wanted) -> anyhow::Result<ExitCode> {
    let hub = Hub::new(settings, wanted.hub.as_deref())?;
    let mut signals = tokio::task::JoinSet::new();
    let stop = stop_on_signal(&mut signals)?;
    let (mut after, mut wait) = (0, Duration::ZERO);
    loop {
        let Some(answer) = stop.run_until_cancelled(hub.calls(after, wait)).await else { return Ok(ExitCode::SUCCESS) };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if after == 0 && wait.is_zero() => return Err(error),
            Err(_) => {
                say!("the hub at {} has stopped", hub.name);
                return Ok(ExitCode::from(FAILED));
            }
        };
        let calls = answer["calls"].as_array().map_or(&[][..], Vec::as_slice);
        let text = |call: &Value| if wanted.json { format!("{call}\n") } else { to_text(call) };
        print(&calls.iter().map(text).collect::<String>())?;
        if !wanted.follow {
            if calls.is_empty() && !wanted.json {
                say!("the hub at {} has answered no calls yet", hub.name);
            }
            return Ok(ExitCode::SUCCESS);
        }
        (after, wait) = (answer["last"].as_u64().unwrap_or(after), WAIT);
    }
}

/// A call as a line for people: when, who, which tool, how it ended, how long it took.
fn to_text(call: &Value) -> String {
    let text = |name: &str| line(call[name].as_str().unwrap_or_default()).into_owned();
    let at: jiff::Timestamp = call["at"].as_str().and_then(|at| at.parse().ok()).unwrap_or_default();
    let (at, ms) =
        (time_of_day(skep_core::Timestamp(at.as_microsecond())), call["duration_ms"].as_f64().unwrap_or(0.0));
    format!("{at}  {:12}  {:32}  {:12}  {ms:>9.1} ms\n", text("principal"), text("tool"), text("outcome"))
}

/// A hub that is asked.
pub(super) struct Hub {
    /// For messages.
    name: String,
    url: String,
    client: Client,
    token: Option<String>,
}

impl Hub {
    /// The hub at this address, or the one that runs with this state directory.
    pub(super) fn new(settings: &Settings, url: Option<&str>) -> anyhow::Result<Hub> {
        let mut token = settings.token()?.map(|token| token.reveal().to_owned());
        let mut client = Client::builder().no_proxy();
        let (name, url) = match url {
            Some(url) => (url.trim_end_matches('/').to_owned(), url.trim_end_matches('/').to_owned()),
            None => {
                let running = RunningHub::find(&settings.home);
                let running =
                    running.context("no hub runs here; start one with `skep serve`, or name one with --hub")?;
                let url = running.url().context("the hub that runs here takes no HTTP")?.to_owned();
                match running.unix {
                    // Only its own user gets through there, so no token is needed, nor a certificate that fits.
                    Some(socket) => {
                        client = client.unix_socket(socket);
                        token = None;
                        (url, "http://localhost".to_owned())
                    }
                    None => {
                        if let Some(file) = running.token_file.filter(|_| token.is_none()) {
                            token = Some(read_token(&file).map_err(anyhow::Error::msg)?.reveal().to_owned());
                        }
                        (url.clone(), url)
                    }
                }
            }
        };
        Ok(Hub { name, url, client: client.build()?, token })
    }

    async fn calls(&self, after: u64, wait: Duration) -> anyhow::Result<Value> {
        let path = format!("/calls?after={after}&wait={}", wait.as_secs());
        let (status, answer) = self.get(&path, wait + ANSWER_TIME_MAX).await?;
        match status {
            StatusCode::OK => Ok(answer),
            _ => {
                let message = answer["message"].as_str().unwrap_or("it does not say why");
                anyhow::bail!("the hub at {} refused to show its calls ({status}): {}", self.name, line(message))
            }
        }
    }

    /// What it answers at this path, within this time.
    pub(super) async fn get(&self, path: &str, time_max: Duration) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self.client.get(format!("{}{path}", self.url)).timeout(time_max);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.with_context(|| format!("the hub at {} does not answer", self.name))?;
        let status = response.status();
        let answer = response.json().await.with_context(|| format!("{} does not answer like a hub", self.name))?;
        Ok((status, answer))
    }
}
