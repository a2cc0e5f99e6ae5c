//! The user of the hub: logs in where a server wants it, with a browser that agrees to everything, and no more often than users do.

use std::{
    env,
    error::Error,
    io,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    sync::Mutex,
};

use crate::hub::{CONFIG, Hub, SERVER};

/// The suite's name for the document about the client, which no other name may stand for.
const CLIENT_METADATA_URL: &str = "https://conformance-test.local/client-metadata.json";
/// After so many logins, a user knows that it is no use.
const LOGINS_MAX: usize = 3;

/// The server as a file of servers has it, with what the suite says of its authorization.
pub(crate) fn server(url: &str, context: &Value, home: &Path) -> io::Result<Value> {
    if !env::var("MCP_CONFORMANCE_SCENARIO").is_ok_and(|scenario| scenario.starts_with("auth/")) {
        return Ok(json!({ "url": url }));
    }
    let mut oauth = json!({ "clientMetadataUrl": CLIENT_METADATA_URL });
    let given = ["client_id", "client_secret", "issuer"].into_iter().zip(["clientId", "clientSecret", "issuer"]);
    for (theirs, ours) in given {
        if let Some(value) = context[theirs].as_str() {
            oauth[ours] = value.into();
        }
    }
    let file = |theirs: &str| {
        let path = home.join(theirs);
        std::fs::write(&path, context[theirs].as_str().unwrap_or_default()).map(|()| path.display().to_string())
    };
    for (theirs, ours) in [("private_key_pem", "privateKeyFile"), ("valid_jwt", "assertionFile")] {
        if context[theirs].is_string() {
            oauth[ours] = file(theirs)?.into();
        }
    }
    if context["idp_id_token"].is_string() {
        oauth["identityProvider"] = json!({
            "issuer": context["idp_issuer"], "clientId": context["idp_client_id"], "idTokenFile": file("idp_id_token")?,
        });
    }
    let scenario = context["name"].as_str().unwrap_or_default();
    if scenario.starts_with("auth/client-credentials") {
        oauth["grant"] = "client_credentials".into();
    } else if context["valid_jwt"].is_string() || context["idp_id_token"].is_string() {
        oauth["grant"] = "jwt_bearer".into();
    }
    Ok(json!({ "url": url, "oauth": oauth }))
}

pub(crate) struct User<'a> {
    skep: &'a str,
    hub: &'a Hub,
    home: &'a Path,
    /// Held while he logs in.
    logs_in: Mutex<()>,
    logins: AtomicUsize,
}

impl<'a> User<'a> {
    pub(crate) fn new(skep: &'a str, hub: &'a Hub, home: &'a Path) -> User<'a> {
        User { skep, hub, home, logs_in: Mutex::default(), logins: AtomicUsize::new(0) }
    }

    /// Whether the hub has found that the server wants a login.
    pub(crate) async fn is_wanted(&self) -> Result<bool, Box<dyn Error>> {
        let address = self.hub.url.replace("/mcp", &format!("/servers/{SERVER}"));
        let status: Value = serde_json::from_str(&reqwest::get(address).await?.text().await?)?;
        Ok(status["state"] == "needs_login")
    }

    /// How often he has logged in.
    pub(crate) fn logins(&self) -> usize {
        self.logins.load(Ordering::Acquire)
    }

    /// Log in, unless somebody has since he had logged in `seen` times.
    pub(crate) async fn log_in(&self, seen: usize) -> Result<(), Box<dyn Error>> {
        let _logs_in = self.logs_in.lock().await;
        if self.logins() > seen {
            return Ok(());
        }
        if self.logins.fetch_add(1, Ordering::AcqRel) >= LOGINS_MAX {
            return Err("logging in does not help".into());
        }
        let mut command = Command::new(self.skep);
        command.arg("--home").arg(self.home).args(["servers", "login", SERVER, "--json", "--mcp-config"]);
        command.arg(self.home.join(CONFIG)).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut login = command.spawn()?;
        let mut lines = BufReader::new(login.stdout.take().ok_or("it has no output")?).lines();
        if let Some(line) = lines.next_line().await? {
            let begun: Value = serde_json::from_str(&line)?;
            let page = reqwest::get(begun["url"].as_str().unwrap_or_default()).await?;
            eprintln!("the browser ends at a page with status {}", page.status());
        }
        let status = login.wait().await?;
        if status.success() { Ok(()) } else { Err(format!("skep servers login ended with {status}").into()) }
    }
}
