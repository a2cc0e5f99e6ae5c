//! `skep doctor`.

use std::{
    borrow::Cow,
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde_json::json;
use skep_core::db::{self, RedisCheck};
use tokio::time::timeout;

use super::{Common, FAILED, bytes_for_people, print};
use crate::{
    config::Overrides,
    hub::{self, Callers, Hub, Store, upstreams::Upstream},
    server, terminal,
};

/// Find out what works on this machine, by trying it
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// File that lists MCP servers, as an MCP client writes it
    #[arg(long, value_name = "FILE")]
    mcp_config: Option<PathBuf>,
}

/// One thing that was tried.
struct Finding {
    what: Cow<'static, str>,
    /// Without it Skep's main job does not work.
    required: bool,
    works: bool,
    detail: String,
    /// What to do about it.
    cure: Option<String>,
}

/// Programs that tools use, and what for.
const PROGRAMS: [(&str, &str, &str); 5] = [
    ("bash", "bash and generated scripts", "apt-get install bash"),
    ("python3", "generated Python programs", "apt-get install python3"),
    ("node", "generated JavaScript programs", "apt-get install nodejs"),
    ("tesseract", "text in images (observe_screen)", "apt-get install tesseract-ocr"),
    ("git", "repositories", "apt-get install git"),
];

/// How long the check of the database may take; a local one takes milliseconds for each run.
const AUDIT_TIME_MAX: Duration = Duration::from_secs(60);
/// How long Redis has to connect and to answer.
const REDIS_TIME_MAX: Duration = Duration::from_secs(15);
const REDIS_CURE: &str = "docs/database.md has the forms of an address, and what its user must be allowed to do";
/// Inconsistencies of the database that are named.
const NAMED_MAX: usize = 5;
const INCONSISTENT_CURE: &str = "delete the runs that are named (`skep runs rm RUN`) or restore a backup, and please report this: no use of Skep \
     leads there, so it, the disk or another program is at fault";

pub(super) async fn doctor(common: Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let settings = common.settings(Overrides { mcp_config: arguments.mcp_config, ..Overrides::default() })?;
    let mut findings = vec![sandbox(&settings).await?];
    findings.extend(PROGRAMS.map(program));
    findings.push(display());
    findings.push(callers());
    findings.extend(settings.upstreams.iter().map(server));
    if let Some(address) = &settings.redis {
        findings.push(redis(address.reveal()).await);
    }
    findings.push(database(settings).await);
    let healthy = findings.iter().all(|finding| finding.works || !finding.required);
    let text: String = match arguments.json {
        true => {
            let all = findings.iter().map(|f| {
                json!({ "what": f.what, "works": f.works, "required": f.required, "detail": f.detail, "cure": f.cure })
            });
            format!("{:#}\n", json!({ "healthy": healthy, "findings": all.collect::<Vec<_>>() }))
        }
        false => findings.iter().map(Finding::to_text).collect(),
    };
    print(&text)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

impl Finding {
    fn to_text(&self) -> String {
        let sign = match (self.works, self.required) {
            (true, _) => "ok ",
            (false, true) => "NO ",
            (false, false) => "-  ",
        };
        let cure = self.cure.as_ref().map_or(String::new(), |cure| format!("     → {cure}\n"));
        format!("{sign}  {:<12} {}\n{cure}", self.what, terminal::line(&self.detail))
    }
}

/// Run a real sandbox and say what it can enforce.
async fn sandbox(settings: &crate::config::Settings) -> anyhow::Result<Finding> {
    let here = hub::workspace(settings, &settings.workspace)?;
    let sandbox = Hub::new(settings, None, Callers::Process, &here, &here).sandbox;
    let (works, detail, cure) = match sandbox.get().await {
        Err(skep_sandbox::Error::Unavailable { reason, cure }) => {
            let less = "     → or accept less, without namespaces: accept = \"landlock\" under [sandbox]";
            (false, reason, Some(format!("{cure}\n{less}")))
        }
        Err(error) => (false, error.to_string(), None),
        Ok(sandbox) => {
            let report = sandbox.probe().await;
            let detail = match (report.tier, report.missing.as_slice()) {
                (None, _) => "no isolation is possible".to_owned(),
                (Some(tier), []) => format!("{tier}: everything is enforced"),
                (Some(tier), missing) => {
                    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                    format!("{tier}; not enforced here: {}", missing.join(", "))
                }
            };
            (report.tier.is_some(), detail, (!report.advice.is_empty()).then(|| report.advice.join("\n     → ")))
        }
    };
    Ok(Finding { what: "sandbox".into(), required: true, works, detail, cure })
}

fn program((name, purpose, cure): (&'static str, &str, &str)) -> Finding {
    // Only what is below /usr is visible inside a sandbox.
    let found = ["/usr/bin", "/usr/local/bin", "/bin"].iter().map(|dir| Path::new(dir).join(name)).find(|p| p.exists());
    let detail = match &found {
        Some(path) => format!("{} ({purpose})", path.display()),
        None => format!("not installed below /usr ({purpose})"),
    };
    let cure = found.is_none().then(|| cure.to_owned());
    Finding { what: name.into(), required: false, works: found.is_some(), detail, cure }
}

fn display() -> Finding {
    let display = env::var("DISPLAY").ok().filter(|display| !display.is_empty());
    let detail = match &display {
        Some(display) => format!("{display} (observe_screen)"),
        None => "DISPLAY is not set; observe_screen reads image files only".to_owned(),
    };
    Finding { what: "X display".into(), required: false, works: display.is_some(), detail, cure: None }
}

/// Whether a hub without a token can tell its own user from others.
fn callers() -> Finding {
    let asked = server::tells_users();
    let detail = match &asked {
        Ok(()) => "the kernel tells whose they are (skep serve without a token)".to_owned(),
        Err(error) => format!("the kernel does not tell whose they are (SOCK_DIAG: {error})"),
    };
    let cure = asked.is_err().then(|| {
        "a hub without a token answers on its Unix socket only; for TCP give it a token (--token-file, SKEP_TOKEN), or let \
         every user of this machine in (--allow-local-users)"
            .to_owned()
    });
    Finding { what: "callers".into(), required: false, works: asked.is_ok(), detail, cure }
}

/// Whether an MCP server can be started; it is not, since that may take long. `skep servers` does.
fn server(server: &Upstream) -> Finding {
    let unusable = server.why_unusable();
    let works = unusable.is_none();
    let detail = unusable.unwrap_or_else(|| "can be started; `skep servers` tries it".to_owned());
    Finding { what: format!("MCP {}", server.name).into(), required: false, works, detail, cure: None }
}

/// Use Redis as a hub does, and see whether its settings suit.
async fn redis(address: &str) -> Finding {
    let finding = |works, detail, cure: Option<&str>| {
        let cure = cure.map(str::to_owned);
        Finding { what: "Redis".into(), required: false, works, detail, cure }
    };
    match timeout(REDIS_TIME_MAX, db::check_redis(address)).await {
        Ok(Ok(check)) => {
            let cure = cure_of_redis(&check);
            finding(cure.is_none(), in_words(&check), cure)
        }
        Ok(Err(error)) => finding(false, format!("{error:#}; hubs go on without, more slowly"), Some(REDIS_CURE)),
        Err(_) => {
            let detail = format!("no answer within {} s; hubs go on without, more slowly", REDIS_TIME_MAX.as_secs());
            finding(false, detail, Some(REDIS_CURE))
        }
    }
}

fn in_words(check: &RedisCheck) -> String {
    let versions = if check.versions.is_empty() { "of an unknown version".into() } else { check.versions.join(", ") };
    let servers = if check.servers > 1 { format!(" on {} servers", check.servers) } else { String::new() };
    let tls = match (check.is_encrypted, check.is_local) {
        (true, _) => "with TLS",
        (false, true) => "on this machine, without TLS",
        (false, false) => "without TLS, so whoever is on the way can read and change what hubs keep there (rediss://)",
    };
    let limit = match check.memory_bytes_max {
        0 => "no maxmemory".to_owned(),
        bytes => format!("maxmemory {}", bytes_for_people(bytes)),
    };
    let policies = if check.policies.is_empty() { String::new() } else { format!(", {}", check.policies.join(", ")) };
    format!("{versions}{servers}, {tls}; {limit}{policies}")
}

/// What its settings lack, if they do not suit. Everything that Skep keeps there has a time to live, so whatever a policy evicts
/// is right.
fn cure_of_redis(check: &RedisCheck) -> Option<&'static str> {
    let evicts = !check.policies.iter().any(|policy| policy == "noeviction");
    match (check.memory_bytes_max, evicts) {
        (0, _) => Some(
            "without maxmemory it may use all memory of its machine, and no alert warns before: `maxmemory 256mb` and \
             `maxmemory-policy allkeys-lru` in redis.conf",
        ),
        (_, false) => Some(
            "with noeviction it takes nothing any more when it is full: `maxmemory-policy allkeys-lru` in redis.conf",
        ),
        (_, true) => check.is_full.then_some("it is full and evicts nothing; give it more memory (`maxmemory`)"),
    }
}

/// Open the database, and check that its rows agree with each other.
async fn database(settings: crate::config::Settings) -> Finding {
    let address = match &settings.database {
        Some(_) => "the configured database".to_owned(), // its address may hold a password
        None => format!("SQLite in {}", settings.home.display()),
    };
    let audited = async { anyhow::Ok(Store::open(settings).await?.app.db.audit().await?) };
    let audited = timeout(AUDIT_TIME_MAX, audited).await;
    let (works, detail, cure) = match audited {
        Ok(Ok(audit)) if audit.findings.is_empty() => {
            let plural = if audit.runs == 1 { "" } else { "s" };
            (true, format!("{address}: {} run{plural}, no inconsistency", audit.runs), None)
        }
        Ok(Ok(audit)) => (false, format!("{address}: {}", inconsistencies(&audit.findings)), Some(INCONSISTENT_CURE)),
        Ok(Err(error)) => (false, format!("{error:#}"), None),
        Err(_) => (true, format!("{address}: too large to be checked in {} s", AUDIT_TIME_MAX.as_secs()), None),
    };
    Finding { what: "database".into(), required: true, works, detail, cure: cure.map(str::to_owned) }
}

/// The first few in words, and how many there are.
fn inconsistencies(findings: &[db::Finding]) -> String {
    let named: Vec<String> = findings.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = match findings.len() {
        db::FINDINGS_MAX => "; and many more".to_owned(),
        n if n > NAMED_MAX => format!("; and {} more", n - NAMED_MAX),
        _ => String::new(),
    };
    format!("{}{more}", named.join("; "))
}
