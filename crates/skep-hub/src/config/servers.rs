//! Which MCP servers there are: `[mcpServers.NAME]` of `skep.toml`, and the files that MCP clients write.
//!
//! ```json
//! {"mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"TZ": "${TZ:-UTC}"}}}}
//! ```
//!
//! Claude Desktop and Cursor call the table `mcpServers`, VS Code calls it `servers`, and Codex, whose file is TOML, calls it
//! `mcp_servers`; all are taken. So are the names that
//! clients have for what we have too (`SPELLINGS`): a tool that was switched off there is not to be had here. Keys that
//! mean something to their client alone are passed over with a warning; in `skep.toml` an unknown key is an error.
//!
//! A server that is listed is a command that will be run: such a table counts only in files that the user named, and in
//! the user's own.

mod program;
mod tools;

use std::{collections::BTreeMap, path::Path, path::PathBuf, time::Duration};

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_mcp::gateway::is_server_name;
use skep_tools::{
    document::{Diagnostic, Document},
    duration::Span,
    schema::Schema,
    value::member,
};

pub use self::tools::{ClaimRequired, ToolSettings, Tools};
use crate::secret::Secret;

/// Characters of a server's name: it goes before the names of its tools, which have at most 128.
const NAME_MAX: usize = 64;
/// Servers of one hub.
const SERVERS_MAX: usize = 500;

/// What clients call a key of ours: their key, and ours as a JSON Pointer.
const SPELLINGS: [(&str, &str); 14] = [
    ("serverUrl", "/url"),                     // Windsurf
    ("httpUrl", "/url"),                       // Gemini CLI
    ("includeTools", "/tools/allow"),          // Gemini CLI
    ("allowedTools", "/tools/allow"),          // LangChain
    ("excludeTools", "/tools/deny"),           // Gemini CLI
    ("disabledTools", "/tools/deny"),          // Roo Code, Windsurf
    ("http_headers", "/headers"),              // Codex
    ("enabled_tools", "/tools/allow"),         // Codex
    ("disabled_tools", "/tools/deny"),         // Codex
    ("startup_timeout_sec", "/start_timeout"), // Codex
    ("tool_timeout_sec", "/timeout"),          // Codex
    ("startTimeout", "/start_timeout"),        // ours, as a file of such keys has them
    ("idleTimeout", "/idle_timeout"),
    ("callsAtOnce", "/calls_at_once"),
];

/// A server in a file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields, default)]
pub struct Entry {
    /// How it is reached. Default: `stdio` with a command; `http` with a URL, which finds out whether it is `sse`.
    pub r#type: Option<Kind>,
    /// The program that is the server.
    pub command: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, beside a few variables of this process such as PATH and HOME.
    pub env: BTreeMap<String, Secret>,
    /// The directory that it runs in. Default: the current one.
    pub cwd: Option<PathBuf>,
    /// The server's address: `https://…`, or `tcp://host:port` for one message a line.
    pub url: Option<Secret>,
    /// Sent with each HTTP request.
    pub headers: BTreeMap<String, Secret>,
    /// How tokens are got if the HTTP server wants some. Needed only for what the server does not say itself.
    pub oauth: Option<OAuth>,
    /// Not this one.
    pub disabled: bool,
    /// The same the other way round, as some clients write it.
    pub enabled: Option<bool>,
    /// Which of its tools there are, and what calls of them need.
    pub tools: Tools,
    /// How long it may be silent within a call. Default: 60s.
    pub timeout: Option<Span>,
    /// How long a call may take in all. Default: 1h.
    pub deadline: Option<Span>,
    /// How long it may take to start; a package runner may have to fetch it first. Default: 2m.
    pub start_timeout: Option<Span>,
    /// After so long without a call it is stopped, until the next one. Default: 10m.
    pub idle_timeout: Option<Span>,
    /// Whether each caller gets a server of its own, as browsers need it.
    pub exclusive: bool,
    /// Calls that it takes at once; others wait, each caller in turn. Default: 64.
    #[garde(range(min = 1, max = 256))]
    pub calls_at_once: Option<usize>,
}

/// How tokens for a server are got, with the keys that MCP clients have for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct OAuth {
    /// What a token is got for. Default: `authorization_code`, a user's login (`skep servers login NAME`).
    pub grant: Grant,
    /// Our name at the authorization server, if we were registered there.
    pub client_id: Option<String>,
    /// Our secret there.
    pub client_secret: Option<Secret>,
    /// Or the file of our private key (PEM, PKCS #8), for `private_key_jwt`.
    pub private_key_file: Option<PathBuf>,
    /// With the grant `jwt_bearer`: the file of the statement that is exchanged for a token, read anew each time.
    pub assertion_file: Option<PathBuf>,
    /// Or, with the grant `jwt_bearer`: the company's identity provider, which makes such a statement of the user's ID token.
    pub identity_provider: Option<IdentityProvider>,
    /// The https address of a document about this client, which is its name where authorization servers take such (CIMD).
    pub client_metadata_url: Option<String>,
    /// The authorization server that we were registered with; then no other one is asked.
    pub issuer: Option<String>,
    /// What is asked for, instead of what the server suggests.
    pub scopes: Vec<String>,
    /// The port of this machine to which logins come back, if the authorization server must know it. Default: any.
    pub callback_port: Option<u16>,
}

/// Who vouches for a user at the authorization servers of others (enterprise-managed authorization).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IdentityProvider {
    /// Its name, an address.
    pub issuer: String,
    /// Our name there.
    pub client_id: String,
    /// Our secret there.
    pub client_secret: Option<Secret>,
    /// The file of the user's ID token, read anew each time.
    pub id_token_file: PathBuf,
}

/// What a token is got for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// A user's login.
    #[default]
    AuthorizationCode,
    /// The client's own name and secret, or key.
    ClientCredentials,
    /// A statement of the platform that this runs on (RFC 7523).
    JwtBearer,
}

impl OAuth {
    /// What a schema cannot tell.
    fn check(&self) -> Result<(), String> {
        let OAuth { grant, client_id, client_secret, private_key_file, assertion_file, .. } = self;
        let OAuth { identity_provider, client_metadata_url, .. } = self;
        let has_proof = client_secret.is_some() || private_key_file.is_some();
        let is_document =
            |url: &String| url.starts_with("https://") && Url::parse(url).is_ok_and(|url| url.path() != "/");
        match grant {
            _ if has_proof && client_id.is_none() => {
                Err("a secret or a key belongs to a clientId, which is missing".to_owned())
            }
            _ if client_secret.is_some() && private_key_file.is_some() => {
                Err("clientSecret and privateKeyFile are two ways to prove one thing; leave one out".to_owned())
            }
            _ if client_metadata_url.as_ref().is_some_and(|url| !is_document(url)) => {
                Err("clientMetadataUrl must be the https address of a document".to_owned())
            }
            Grant::ClientCredentials if !has_proof => {
                Err("the grant client_credentials needs a clientId, and a clientSecret or a privateKeyFile".to_owned())
            }
            Grant::JwtBearer if client_id.is_none() || assertion_file.is_some() == identity_provider.is_some() => {
                Err("the grant jwt_bearer needs a clientId, and either an assertionFile or an identityProvider"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A command.
    #[serde(alias = "local")]
    Stdio,
    /// Streamable HTTP.
    #[serde(alias = "streamable-http", alias = "streamableHttp", alias = "streamable_http")]
    Http,
    /// The HTTP+SSE of 2024-11-05.
    Sse,
    /// One message a line.
    Tcp,
}

/// A server, as it is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name here.
    pub name: String,
    /// Why it cannot be used as it is configured, if so: then it is listed with the reason, never started, and the others
    /// are there all the same.
    pub unusable: Option<String>,
    /// How it is reached.
    pub transport: Transport,
    /// Which of its tools there are, and what calls of them need.
    pub tools: Tools,
    /// How long it may be silent within a call.
    pub timeout: Duration,
    /// How long a call may take in all.
    pub deadline: Duration,
    /// How long it may take to start.
    pub start_time_max: Duration,
    /// After so long without a call it is stopped.
    pub idle_time_max: Duration,
    /// Whether each caller gets one of its own.
    pub exclusive: bool,
    /// Calls that it takes at once.
    pub calls_at_once: usize,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A process of ours, over its standard input and output.
    Stdio(Command),
    /// HTTP.
    Http {
        /// The address, which may hold a key.
        url: Secret,
        /// Sent with each request.
        headers: BTreeMap<String, Secret>,
        /// Whether it is known to speak the HTTP+SSE of 2024-11-05.
        is_sse: bool,
        /// How tokens are got, as far as it is configured.
        oauth: Option<Box<OAuth>>,
    },
    /// One message a line; `host:port`.
    Tcp(String),
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables beside those that every server gets.
    pub env: BTreeMap<String, Secret>,
    /// Where it runs.
    pub cwd: Option<PathBuf>,
}

impl Upstream {
    /// A server with the defaults.
    pub fn new(name: impl Into<String>, transport: Transport) -> Upstream {
        Upstream {
            name: name.into(),
            unusable: None,
            transport,
            tools: Tools::default(),
            timeout: Duration::from_secs(60),
            deadline: Duration::from_secs(3600),
            start_time_max: Duration::from_secs(120),
            idle_time_max: Duration::from_secs(600),
            exclusive: false,
            calls_at_once: 64,
        }
    }

    /// Why it cannot be used on this machine as it is configured, in one short line, with what to do. Looked up each time: what
    /// is missing may be installed while a hub runs.
    pub fn why_unusable(&self) -> Option<String> {
        match &self.transport {
            _ if self.unusable.is_some() => self.unusable.clone(),
            Transport::Stdio(command) => program::missing(command),
            Transport::Http { .. } | Transport::Tcp(_) => None,
        }
    }
}

/// A fault of a value: JSON Pointer from the table of servers, and what is wrong.
type Fault = (String, String);

/// What came of [`prepare`].
#[derive(Debug, Default)]
pub struct Prepared {
    /// What is wrong with the table.
    pub faults: Vec<Fault>,
    /// The servers that cannot be used because the environment lacks a variable of theirs: where, and why.
    pub unusable: BTreeMap<String, Fault>,
}

impl Prepared {
    /// The same as problems of the document whose table at `table` was prepared.
    pub fn problems(&self, document: &Document, table: &str) -> Vec<Diagnostic> {
        let place = |(pointer, message): &Fault| document.problem(&format!("{table}{pointer}"), message);
        let faults = self.faults.iter().map(place);
        faults.chain(self.unusable.values().map(|fault| place(fault).warning())).collect()
    }

    /// Why servers cannot be used, by their names.
    pub fn reasons(&self) -> BTreeMap<String, String> {
        self.unusable.iter().map(|(name, (_, why))| (name.clone(), why.clone())).collect()
    }
}

/// Put variables into the texts of a table of servers, and check what a schema cannot tell. A server that lacks a variable
/// is no fault: the file is right, and works where the variable is set.
pub fn prepare(servers: &mut Value, variable: impl Fn(&str) -> Option<String>) -> Prepared {
    let mut prepared = Prepared::default();
    let Some(servers) = servers.as_object_mut() else { return prepared };
    if servers.len() > SERVERS_MAX {
        prepared.faults.push((String::new(), format!("at most {SERVERS_MAX} servers may be listed")));
    }
    let is_on = |entry: &Value| entry["disabled"] != true && entry["enabled"] != false;
    for (name, entry) in servers.iter_mut().filter(|(_, entry)| is_on(entry)) {
        let pointer = member("", name);
        let mut unexpanded = Unexpanded::default();
        for key in ["command", "args", "env", "cwd", "url", "headers", "oauth"] {
            if let Some(value) = entry.get_mut(key) {
                expand(value, &member(&pointer, key), &variable, &mut unexpanded);
            }
        }
        let is_whole = unexpanded.faults.is_empty() && unexpanded.missing.is_empty();
        prepared.faults.append(&mut unexpanded.faults);
        if let Some(first) = unexpanded.missing.into_iter().next() {
            prepared.unusable.insert(name.clone(), first);
        }
        let checked = match Entry::deserialize(&*entry) {
            Ok(entry) if is_whole => {
                let faults = entry.tools.faults().into_iter();
                prepared.faults.extend(faults.map(|(at, message)| (format!("{pointer}/tools{at}"), message)));
                upstream(name, entry).map(drop)
            }
            // What its texts will say is not known, but its name is.
            _ => check_name(name),
        };
        if let Err((key, message)) = checked {
            let pointer = if key.is_empty() { pointer } else { member(&pointer, key) };
            prepared.faults.push((pointer, message));
        }
    }
    prepared
}

/// The servers of a table that was prepared, and why some of them cannot be used. Those that are switched off are left out.
pub fn upstreams(servers: BTreeMap<String, Entry>, unusable: &BTreeMap<String, String>) -> Vec<Upstream> {
    let on = servers.into_iter().filter(|(_, entry)| !entry.disabled && entry.enabled != Some(false));
    on.filter_map(|(name, entry)| match unusable.get(&name) {
        Some(why) => {
            let command = Command { program: String::new(), args: Vec::new(), env: BTreeMap::new(), cwd: None };
            let transport = transport(&entry).unwrap_or(Transport::Stdio(command)); // it is not used
            Some(Upstream { unusable: Some(why.clone()), tools: entry.tools, ..Upstream::new(name, transport) })
        }
        None => upstream(&name, entry).ok(),
    })
    .collect()
}

fn check_name(name: &str) -> Result<(), (&'static str, String)> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(is_plain) || !is_server_name(name) {
        let message = format!(
            "a server's name has at most {NAME_MAX} letters, digits, _, - and ., does not begin or end with _, and has no \
             two _ in a row"
        );
        return Err(("", message));
    }
    Ok(())
}

/// The server that an entry means, or the key at fault and why.
fn upstream(name: &str, entry: Entry) -> Result<Upstream, (&'static str, String)> {
    check_name(name)?;
    let transport = transport(&entry)?;
    let default = Upstream::new(name, transport);
    let time = |span: Option<Span>, default: Duration| span.map_or(default, |span| span.0);
    Ok(Upstream {
        tools: entry.tools,
        timeout: time(entry.timeout, default.timeout),
        deadline: time(entry.deadline, default.deadline),
        start_time_max: time(entry.start_timeout, default.start_time_max),
        idle_time_max: time(entry.idle_timeout, default.idle_time_max),
        exclusive: entry.exclusive,
        calls_at_once: entry.calls_at_once.unwrap_or(default.calls_at_once),
        ..default
    })
}

fn transport(entry: &Entry) -> Result<Transport, (&'static str, String)> {
    let Entry { r#type, command, args, env, cwd, url, headers, oauth, .. } = entry;
    if let Some(oauth) = oauth {
        oauth.check().map_err(|message| ("oauth", message))?;
    }
    match (command, url) {
        (Some(_), None) if oauth.is_some() => Err(("oauth", "is for servers with an http address".to_owned())),
        (Some(_), Some(_)) => Err(("url", "a server has a command or a URL, not both".to_owned())),
        (None, None) => Err(("", "`command` or `url` is missing".to_owned())),
        (Some(program), None) => {
            if r#type.is_some_and(|kind| kind != Kind::Stdio) {
                return Err(("type", "a server with a command is of the type stdio".to_owned()));
            }
            if program.trim().is_empty() {
                return Err(("command", "must not be empty".to_owned()));
            }
            let (args, env, cwd) = (args.clone(), env.clone(), cwd.clone());
            Ok(Transport::Stdio(Command { program: program.clone(), args, env, cwd }))
        }
        (None, Some(url)) => {
            let parsed = Url::parse(url.reveal()).map_err(|error| ("url", format!("is not a URL: {error}")))?;
            match (parsed.scheme(), r#type) {
                ("tcp", None | Some(Kind::Tcp)) => match (parsed.host_str(), parsed.port()) {
                    (Some(host), Some(port)) => Ok(Transport::Tcp(format!("{host}:{port}"))),
                    _ => Err(("url", "must be tcp://host:port".to_owned())),
                },
                ("http" | "https", None | Some(Kind::Http | Kind::Sse)) => {
                    header_map(headers).map_err(|message| ("headers", message))?;
                    if oauth.is_some() && headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")) {
                        let message = "the header Authorization and oauth are two ways to one thing; leave one out";
                        return Err(("oauth", message.to_owned()));
                    }
                    let is_sse = *r#type == Some(Kind::Sse);
                    let (url, headers, oauth) = (url.clone(), headers.clone(), oauth.clone().map(Box::new));
                    Ok(Transport::Http { url, headers, is_sse, oauth })
                }
                (_, Some(Kind::Stdio)) => Err(("type", "a server of the type stdio has a command, no URL".to_owned())),
                (_, Some(Kind::Tcp)) => Err(("url", "must be tcp://host:port".to_owned())),
                _ => Err(("url", "must begin with https://, http:// or tcp://".to_owned())),
            }
        }
    }
}

/// Headers as they are sent.
pub(crate) fn header_map(headers: &BTreeMap<String, Secret>) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let known = HeaderName::try_from(name).map_err(|_| format!("{name:?} is not the name of a header"))?;
        let mut value =
            HeaderValue::try_from(value.reveal()).map_err(|_| format!("the value of {name} does not fit a header"))?;
        value.set_sensitive(true);
        map.insert(known, value);
    }
    Ok(map)
}

/// Where variables could not be put into texts.
#[derive(Debug, Default)]
pub(crate) struct Unexpanded {
    /// Texts of a form that is not known.
    pub(crate) faults: Vec<Fault>,
    /// Texts with variables that the environment lacks.
    pub(crate) missing: Vec<Fault>,
}

/// Why variables were not put into a text.
#[derive(Debug, PartialEq, Eq)]
enum Why {
    /// It has a form that is not known.
    Malformed(String),
    /// The environment lacks the variable.
    Missing(String),
}

/// Put variables into every text of a value.
pub(crate) fn expand(
    value: &mut Value,
    pointer: &str,
    variable: &impl Fn(&str) -> Option<String>,
    unexpanded: &mut Unexpanded,
) {
    match value {
        Value::String(text) => match expand_text(text, variable) {
            Ok(expanded) => *text = expanded,
            Err(Why::Malformed(message)) => unexpanded.faults.push((pointer.to_owned(), message)),
            Err(Why::Missing(name)) => {
                let message = format!("the environment has no {name}; set it, or write ${{{name}:-default}}");
                unexpanded.missing.push((pointer.to_owned(), message));
            }
        },
        Value::Array(elements) => {
            for (index, element) in elements.iter_mut().enumerate() {
                expand(element, &format!("{pointer}/{index}"), variable, unexpanded);
            }
        }
        Value::Object(members) => {
            for (name, value) in members {
                expand(value, &member(pointer, name), variable, unexpanded);
            }
        }
        _ => {}
    }
}

/// `${NAME}`, `${env:NAME}` and `${NAME:-default}`; all else stays as it is.
fn expand_text(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, Why> {
    let (mut expanded, mut rest) = (String::new(), text);
    let mut missing = None;
    while let Some(start) = rest.find("${") {
        expanded.push_str(&rest[..start]);
        let Some((inside, after)) = rest[start + 2..].split_once('}') else {
            return Err(Why::Malformed("`${` has no `}`".to_owned()));
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (inside, None),
        };
        let name = name.strip_prefix("env:").unwrap_or(name);
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(Why::Malformed(format!(
                "${{{inside}}} is not known here; write ${{NAME}} or ${{NAME:-default}} for a variable of the environment"
            )));
        }
        match variable(name).filter(|value| default.is_none() || !value.is_empty()).or(default) {
            Some(value) => expanded.push_str(&value),
            None => missing = missing.or(Some(name.to_owned())),
        }
        rest = after;
    }
    expanded.push_str(rest);
    match missing {
        None => Ok(expanded),
        Some(name) => Err(Why::Missing(name)),
    }
}

/// Give an entry of a client's file our keys. Returns where what is ours now stood: our pointer, and theirs.
fn translate(entry: &mut Value) -> Vec<(&'static str, &'static str)> {
    let mut renamed = Vec::new();
    let Some(members) = entry.as_object_mut() else { return renamed };
    // GitHub Copilot: a list of the tools there are, `["*"]` for all and `[]` for none.
    if let Some(Value::Array(names)) = members.get_mut("tools") {
        let filter = match names.as_slice() {
            [] => json!({ "deny": [tools::ALL] }),
            names if names.iter().any(|name| name == tools::ALL) => json!({}),
            _ => json!({ "allow": std::mem::take(names) }),
        };
        members.insert("tools".to_owned(), filter);
        renamed.push(("/tools/allow", "/tools"));
    }
    renamed.extend(translate_oauth(members));
    for (theirs, ours) in SPELLINGS {
        let Some((table, key)) = ours.rsplit_once('/').filter(|_| members.contains_key(theirs)) else { continue };
        let table = table.trim_start_matches('/');
        let value = members.get(theirs).cloned().unwrap_or_default();
        let target = match table {
            "" => Some(&mut *members),
            table => members.entry(table).or_insert_with(|| json!({})).as_object_mut(),
        };
        // Said twice, ours counts, and theirs stays to be warned of.
        if let Some(target) = target.filter(|target| !target.contains_key(key)) {
            target.insert(key.to_owned(), value);
            members.shift_remove(theirs);
            renamed.push((ours, theirs));
        }
    }
    renamed.extend(translate_variables(members));
    renamed
}

/// Codex names the variables of the environment that go into headers, and those that are handed on.
fn translate_variables(members: &mut serde_json::Map<String, Value>) -> Vec<(&'static str, &'static str)> {
    let mut renamed = Vec::new();
    let put = |members: &mut serde_json::Map<String, Value>, table: &str, values: Vec<(String, String)>| {
        let table = members.entry(table).or_insert_with(|| json!({}));
        for (name, value) in values {
            if let Some(table) = table.as_object_mut() {
                table.entry(name).or_insert_with(|| value.into());
            }
        }
    };
    if let Some(variable) = members.get("bearer_token_env_var").and_then(Value::as_str).map(str::to_owned) {
        members.shift_remove("bearer_token_env_var");
        put(members, "headers", vec![("Authorization".to_owned(), format!("Bearer ${{{variable}}}"))]);
        renamed.push(("/headers/Authorization", "/bearer_token_env_var"));
    }
    if let Some(Value::Object(headers)) = members.get("env_http_headers") {
        let text = |(name, variable): (&String, &Value)| Some((name.clone(), format!("${{{}}}", variable.as_str()?)));
        let values = headers.iter().filter_map(text).collect();
        members.shift_remove("env_http_headers");
        put(members, "headers", values);
    }
    if let Some(Value::Array(names)) = members.get("env_vars") {
        // Those that are not set are not handed on; here they are empty.
        let text = |name: &Value| Some((name.as_str()?.to_owned(), format!("${{{}:-}}", name.as_str()?)));
        let values = names.iter().filter_map(text).collect();
        members.shift_remove("env_vars");
        put(members, "env", values);
    }
    renamed
}

/// Cursor has the table as `auth`, with other keys in it; Claude Code has the scopes in one text.
fn translate_oauth(members: &mut serde_json::Map<String, Value>) -> Vec<(&'static str, &'static str)> {
    let mut renamed = Vec::new();
    let is_cursors = |auth: &Value| auth.get("CLIENT_ID").is_some();
    if !members.contains_key("oauth")
        && let Some(mut auth) = members.get("auth").filter(|auth| is_cursors(auth)).cloned()
    {
        members.shift_remove("auth");
        for (theirs, ours) in [("CLIENT_ID", "clientId"), ("CLIENT_SECRET", "clientSecret")] {
            if let Some(value) = auth.as_object_mut().and_then(|auth| auth.shift_remove(theirs)) {
                auth[ours] = value;
            }
        }
        members.insert("oauth".to_owned(), auth);
        renamed.extend([("/oauth/clientId", "/auth/CLIENT_ID"), ("/oauth/clientSecret", "/auth/CLIENT_SECRET")]);
        renamed.push(("/oauth", "/auth"));
    }
    if let Some(scopes) = members.get_mut("oauth").and_then(|oauth| oauth.get_mut("scopes"))
        && let Some(text) = scopes.as_str()
    {
        *scopes = text.split_ascii_whitespace().collect();
    }
    renamed
}

/// The servers that a file lists.
#[derive(Debug, Default)]
pub struct Listed {
    /// Those that are not switched off; none after an error.
    pub servers: Vec<Upstream>,
    /// What is wrong with the file. Without an error among them it can be used.
    pub problems: Vec<Diagnostic>,
    /// Why some of the servers cannot be used, and where that stands; each of those says it, too.
    pub notices: Vec<Diagnostic>,
}

/// What MCP clients call the table of servers: Claude and Cursor, VS Code, Codex.
const TABLES: [&str; 3] = ["mcpServers", "servers", "mcp_servers"];

/// The table of servers in a file of an MCP client, if it has one.
pub fn table_of(value: &Value) -> Option<&'static str> {
    TABLES.into_iter().find(|key| value.get(key).is_some_and(Value::is_object))
}

/// The servers of a file that an MCP client wrote (`--mcp-config`).
pub fn read(path: &Path, variable: impl Fn(&str) -> Option<String>) -> Listed {
    let faulty = |problems| Listed { problems, ..Listed::default() };
    let document = match Document::read(path) {
        Ok(document) => document,
        Err(problems) => return faulty(problems),
    };
    let Some(key) = table_of(&document.value) else {
        let message =
            "there is no table `mcpServers` (or `servers`, as VS Code has it, or `mcp_servers`, as Codex has it)";
        return faulty(vec![document.problem("", message)]);
    };
    let table = member("", key);
    let (mut problems, mut notices) = (Vec::new(), Vec::new());
    let mut servers = document.value[key].clone();
    problems.extend(validate(&document, &table, &mut servers));
    let mut unusable = BTreeMap::new();
    if !problems.iter().any(Diagnostic::is_error) {
        let prepared = prepare(&mut servers, variable);
        unusable = prepared.reasons();
        let (faults, others): (Vec<_>, Vec<_>) =
            prepared.problems(&document, &table).into_iter().partition(Diagnostic::is_error);
        problems.extend(faults);
        notices = others;
    }
    if problems.iter().any(Diagnostic::is_error) {
        return faulty(problems);
    }
    match serde_json::from_value(servers) {
        Ok(servers) => Listed { servers: upstreams(servers, &unusable), problems, notices },
        Err(error) => faulty(vec![Diagnostic::of_file(path.display().to_string(), error.to_string())]),
    }
}

/// Every fault of such a file, for `skep check`.
pub fn check(path: &Path) -> Vec<Diagnostic> {
    let Listed { problems, notices, .. } = read(path, |name| std::env::var(name).ok());
    problems.into_iter().chain(notices).collect()
}

/// One server, as its entry in such a file would have it, or every fault.
pub fn read_one(
    name: &str,
    mut entry: Value,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Upstream, Vec<String>> {
    static SCHEMA: Schema = Schema::of::<Entry>();
    translate(&mut entry);
    let say = |pointer: &str, message: &str| match pointer.trim_start_matches('/') {
        "" => message.to_owned(),
        key => format!("{}: {message}", key.replace('/', ".")),
    };
    let violations = SCHEMA.violations(&entry);
    if !violations.is_empty() {
        let sentence = |one: &skep_tools::schema::Violation| {
            let help = one.help.as_ref().map_or(String::new(), |help| format!("; {help}"));
            format!("{}{help}", say(&one.pointer, &one.message))
        };
        return Err(violations.iter().map(sentence).collect());
    }
    let mut servers = Value::Object(serde_json::Map::from_iter([(name.to_owned(), entry)]));
    let Prepared { mut faults, unusable } = prepare(&mut servers, variable);
    faults.extend(unusable.into_values()); // whoever asks for it is there to be told
    if !faults.is_empty() {
        let prefix = member("", name);
        let sentence = |(pointer, message): (String, String)| say(pointer.trim_start_matches(&prefix), &message);
        return Err(faults.into_iter().map(sentence).collect());
    }
    let mut servers: BTreeMap<String, Entry> =
        serde_json::from_value(servers).map_err(|error| vec![error.to_string()])?;
    let entry = servers.remove(name).unwrap_or_default();
    upstream(name, entry).map_err(|(key, message)| vec![say(key, &message)])
}

/// What the schema has against the servers. Unknown keys are taken out: they are their client's.
fn validate(document: &Document, table: &str, servers: &mut Value) -> Vec<Diagnostic> {
    static SCHEMA: Schema = Schema::of::<Entry>();
    static OAUTH: Schema = Schema::of::<OAuth>();
    let mut problems = Vec::new();
    for (name, entry) in servers.as_object_mut().into_iter().flatten() {
        let here = member(table, name);
        let renamed = translate(entry);
        let mut without = |entry: &mut Value, schema: &Schema, here: &str| {
            let known = schema.json().get("properties").and_then(Value::as_object);
            let (Some(members), Some(known)) = (entry.as_object_mut(), known) else { return };
            let unknown: Vec<String> = members.keys().filter(|key| !known.contains_key(*key)).cloned().collect();
            for key in unknown {
                members.shift_remove(&key);
                problems.push(document.problem(&member(here, &key), "is not known here and has no effect").warning());
            }
        };
        without(entry, &SCHEMA, &here);
        if let Some(oauth) = entry.get_mut("oauth") {
            without(oauth, &OAUTH, &member(&here, "oauth"));
        }
        for violation in SCHEMA.violations(entry) {
            // Where the author wrote it.
            let theirs = renamed.iter().find_map(|(ours, theirs)| {
                let rest = violation.pointer.strip_prefix(ours)?;
                Some(format!("/{}{rest}", theirs.trim_start_matches('/')))
            });
            let pointer = theirs.as_ref().unwrap_or(&violation.pointer);
            let problem = document.problem(&format!("{here}{pointer}"), violation.message);
            problems.push(Diagnostic { help: violation.help, ..problem });
        }
    }
    problems
}

#[cfg(test)]
mod tests;
