//! A hub, put together from the settings: [`Hub::new`] is the one place where its parts are made.

pub mod admission;
pub(crate) mod alerts;
pub mod calls;
pub mod catalogue;
pub mod directories;
pub mod principals;
pub(crate) mod shares;
pub mod upstreams;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use rustix::{fs::statfs, process::geteuid, system::uname};
use skep_core::{
    app::App,
    db::{Db, Limits, Redis, private_key_of_redis},
    event::Event,
    policy::Permit,
};
use skep_tools::{
    model::Model,
    net,
    parts::Parts,
    sandboxed::{self, SandboxOnDemand},
    tool::Tool,
    workspace::{Dir, OUTPUTS, Readers, Secrets},
};

use crate::{
    config::Settings,
    events::to_json,
    hub::{
        calls::Calls,
        catalogue::{Catalogue, tools::for_servers},
        upstreams::{Upstreams, logins::Logins},
    },
    state::{self, Home},
};

/// File name of the embedded database in the state directory.
const DATABASE: &str = "skep.db";
/// File systems (by linux/magic.h) that can be shown to a sandbox as another user's: ext4, XFS, Btrfs, F2FS, tmpfs.
const ID_MAPPED: [i64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];

/// The open store of this process, and who uses it.
#[derive(Clone)]
pub struct Store {
    /// What was configured.
    pub settings: Arc<Settings>,
    /// The state directory.
    pub home: Home,
    /// The store's operations.
    pub app: App,
    /// The right of this machine's user to all of it.
    pub permit: Permit,
}

impl Store {
    /// Open the embedded database in the state directory, or the one that is configured.
    pub async fn open(settings: Settings) -> anyhow::Result<Store> {
        let home = Home::new(settings.home.clone()).with_outputs(readers(&settings));
        state::prepare(home.path(), readers(&settings))?;
        let address = match &settings.database {
            Some(address) => address.reveal().to_owned(),
            None => format!("sqlite:{}", home.path().join(DATABASE).display()),
        };
        let redis = settings.redis.as_ref().map(|redis| Redis { address: redis.reveal(), show: shown });
        let db = Db::open_with(&address, redis, Limits::default()).await?;
        let permit = principals::local().permit()?;
        Ok(Store { settings: Arc::new(settings), home, app: App::new(db), permit })
    }
}

/// An event for programs that listen to Redis: the same that `GET /api/v1/events` gives.
fn shown(event: &Event) -> String {
    to_json(event, event.task.as_ref().map(|task| task.0.as_str()))
}

/// Who calls the tools of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Others, through listeners: within the limits that are configured for them.
    Others,
    /// This process alone, which bounds its calls itself.
    Process,
}

/// The parts of a hub. Each is made of those before it, so a tool can be an operation on the store, or a call of a server.
/// Nothing is started before it is needed.
pub struct Hub {
    /// What is kept; commands that keep nothing have none.
    pub store: Option<Store>,
    /// What the tools run commands and code in.
    pub sandbox: SandboxOnDemand,
    /// The tools, and the steps that every call of them takes.
    pub calls: Arc<Calls>,
}

impl Hub {
    /// Put a hub together: it reads files below `workspace`, and writes below `outputs`.
    pub fn new(settings: &Settings, store: Option<Store>, callers: Callers, workspace: &Dir, outputs: &Dir) -> Hub {
        let mut config = sandboxed::config(workspace, outputs);
        settings.sandbox.apply(&mut config);
        let sandbox = SandboxOnDemand::showing(workspace, outputs, config).accepting(settings.sandbox.least_tier());
        let logins = Logins::new(&settings.home, settings.web.clone());
        let upstreams = Upstreams::new(settings.upstreams.clone(), Some(logins));
        if let Some(store) = &store {
            upstreams.look_for_claims(&store.app);
        }
        let tools = tools(settings, &sandbox, &upstreams, store.as_ref());
        let catalogue = Catalogue::new(tools).with_upstreams(upstreams);
        let (workspace, outputs) = (workspace.clone(), outputs.clone());
        let calls = match callers {
            Callers::Others => Calls::new(catalogue, workspace, outputs, limits(settings)),
            Callers::Process => Calls::within(catalogue, workspace, outputs),
        };
        Hub { store, sandbox, calls: Arc::new(calls) }
    }

    /// The tools.
    pub fn catalogue(&self) -> &Catalogue {
        &self.calls.catalogue
    }

    /// End the MCP servers behind it.
    pub async fn close(&self) {
        self.catalogue().upstreams().close().await;
    }
}

/// Skep's own tools, as the settings have them.
fn tools(settings: &Settings, sandbox: &SandboxOnDemand, upstreams: &Upstreams, store: Option<&Store>) -> Vec<Tool> {
    let parts = Parts {
        sandbox: sandbox.clone(),
        web: net::Client::new(&settings.web),
        model: model(settings),
        search: settings.search.clone(),
        code: settings.code.clone(),
        app: store.map(|store| store.app.clone()),
    };
    let (allow, deny) = (&settings.tools.allow, &settings.tools.deny);
    let is_on = |tool: &Tool| {
        let named = |names: &[String]| names.iter().any(|name| name == tool.name);
        (allow.is_empty() || named(allow)) && !named(deny)
    };
    let with_deadline = |mut tool: Tool| {
        tool.deadline = settings.tool_deadline().unwrap_or(tool.deadline);
        tool
    };
    let for_servers = for_servers(upstreams, settings.tools.search);
    (settings.built_in)(parts).into_iter().chain(for_servers).filter(is_on).map(with_deadline).collect()
}

/// What all callers share, as it is configured.
fn limits(settings: &Settings) -> calls::Limits {
    let (serve, mut limits) = (&settings.serve, calls::Limits::default());
    limits.calls.calls_at_once = serve.calls_at_once.unwrap_or(limits.calls.calls_at_once);
    limits.calls.waiting_max = serve.calls_waiting_max.unwrap_or(limits.calls.waiting_max);
    limits.principal_share = serve.principal_share.unwrap_or(limits.principal_share);
    if let Some(size) = &serve.body_bytes_max {
        limits.message_bytes_max = usize::try_from(size.bytes).unwrap_or(usize::MAX);
    }
    limits
}

/// The configured model, if there is one, with its key from the environment.
pub fn model(settings: &Settings) -> Model {
    Model::new(&settings.model, |name| std::env::var(name).ok())
}

/// Open a workspace, without keys, tokens and Skep's own files in it.
pub fn workspace(settings: &Settings, path: &Path) -> anyhow::Result<Dir> {
    let own = [Some(&settings.home), settings.token_file.as_ref(), settings.serve.tls_key.as_ref()];
    let own = own.into_iter().flatten().chain(&settings.files_with_secrets).cloned().chain(database_files(settings));
    let own = own.chain(settings.redis.as_ref().and_then(|redis| private_key_of_redis(redis.reveal())));
    let secrets = Secrets::new(|name| std::env::var(name).ok(), own, &settings.workspace_show)?;
    let opened = Dir::open(path).with_context(|| format!("cannot open the workspace {}", path.display()))?;
    Ok(opened.without(&secrets)?)
}

/// The files of a database that is elsewhere than in the state directory, or the key with which the hub logs in to it.
fn database_files(settings: &Settings) -> Vec<PathBuf> {
    let Some(address) = settings.database.as_ref().map(|address| address.reveal()) else { return Vec::new() };
    match address.strip_prefix("sqlite:") {
        Some(path) => ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{path}{end}"))).to_vec(),
        None => skep_core::db::private_key(address).into_iter().collect(),
    }
}

/// What a hub is called among those that share a database. That of a state directory has the same name when it is started again.
/// `is_alone` says that no other process is the hub of this state directory.
pub fn name(home: &Path, is_alone: bool) -> Arc<str> {
    let home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    let name = format!("{}:{}", uname().nodename().to_string_lossy(), home.display());
    if is_alone { name.into() } else { format!("{name}:{}", std::process::id()).into() }
}

/// The directory in which a hub and calls from the command line keep what tools write.
pub fn outputs(settings: &Settings) -> anyhow::Result<Dir> {
    let readers = readers(settings);
    state::prepare(&settings.home, readers)?;
    Dir::of_outputs(&settings.home.join(OUTPUTS), readers).context("cannot make the directory for outputs")
}

/// Who has to read what tools have written: root's sandboxes have another user. They are shown root's files as their own, but
/// containers are not, and some file systems (an overlay, for one) have no way to do so.
pub fn readers(settings: &Settings) -> Readers {
    // It may have to be made first, in the nearest directory that there is.
    let place = settings.home.ancestors().find_map(|above| statfs(above).ok());
    let is_mapped = place.is_some_and(|about| ID_MAPPED.contains(&about.f_type));
    match geteuid().is_root() && (settings.sandbox.container.is_some() || !is_mapped) {
        true => Readers::Sandboxes,
        false => Readers::User,
    }
}
