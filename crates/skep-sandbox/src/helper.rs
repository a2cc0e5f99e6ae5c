//! The server's end of the helper process.
//!
//! Owns its start, the handshake, and the control socket. The server never forks: it executes a program, which the
//! standard library does by `posix_spawn`, at a cost that does not depend on the size of the server.

use std::{
    env::args_os,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};

use crate::{
    advice::{Weaker, explain},
    channel::{listen, pair, receive, send},
    config::{Config, Namespaces},
    defence::Defences,
    error::Error,
    offered::Offers,
    supervise::Supervised,
    tier::{Protection, Tier},
    wire::{Asked, Call, Hello, JOB_SENT_MAX, MESSAGE_MAX, Message as _, Setup},
    zygote::NAME,
};

/// How long the helper may take to get ready; it takes a few milliseconds.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// A helper that takes orders. It dies with this value.
#[derive(Debug)]
pub(crate) struct Helper {
    control: Arc<AsyncFd<OwnedFd>>,
    /// Sandboxes that need not be ordered.
    offers: Offers,
    /// Takes them in.
    _hearing: JoinSet<()>,
    pub(crate) tier: Tier,
    /// What this machine cannot enforce.
    pub(crate) missing: Vec<Protection>,
    /// Why it is not of a stronger tier, and the cure, if there is one.
    pub(crate) weaker: Option<Weaker>,
    /// Killed and reaped when dropped.
    _process: Child,
}

impl Helper {
    /// Starts a helper that isolates as strongly as this machine allows, as far as `config` accepts that.
    pub(crate) async fn start(config: &Config) -> Result<Helper, Error> {
        let bare = Some(std::env::temp_dir());
        let refused = match config.namespaces {
            Namespaces::Unused => return Helper::start_bare(config, bare).await,
            Namespaces::Required => return Helper::start_with(config, None).await,
            Namespaces::Preferred => match Helper::start_with(config, None).await {
                Err(refused @ (Error::Unavailable { .. } | Error::Setup { .. })) => refused,
                other => return other,
            },
        };
        match Helper::start_bare(config, bare).await {
            Ok(helper) => {
                tracing::info!(reason = %refused, "there are no namespaces here; sandboxes have Landlock alone");
                Ok(Helper { weaker: Some(Weaker::because(&refused)), ..helper })
            }
            Err(error) if hides(config) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "sandboxes cannot be made without namespaces either");
                Err(refused)
            }
        }
    }

    /// Starts one that does without namespaces. Landlock grants directories as a whole, so nothing in them can be hidden.
    async fn start_bare(config: &Config, bare: Option<PathBuf>) -> Result<Helper, Error> {
        let hidden = config.binds.iter().find_map(|bind| Some(bind.source.join(bind.hidden.first()?)));
        match hidden {
            None => Helper::start_with(config, bare).await,
            Some(place) => Err(Error::Unavailable {
                reason: format!(
                    "{} must not be seen by commands, and it cannot be hidden without namespaces",
                    place.display()
                ),
                cure: "choose a workspace that does not contain it".into(),
            }),
        }
    }

    /// Executes the helper and waits until it is ready.
    async fn start_with(config: &Config, bare: Option<PathBuf>) -> Result<Helper, Error> {
        if args_os().next().is_some_and(|name| name == NAME) {
            // We are the helper, and got here because `init` was not called: starting another would never end.
            return Err(Error::NoHelper);
        }
        let setup = |step: &str| {
            let step = step.to_owned();
            move |source| Error::Setup { step, source }
        };
        let (ours, theirs) = pair().map_err(setup("make the control socket"))?;
        let program = config.helper.as_deref().unwrap_or(Path::new("/proc/self/exe"));
        let process = Command::new(program)
            .arg0(NAME)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(setup("execute the helper"))?;
        let control = listen(ours).map_err(setup("listen to the helper"))?;
        let bytes = Setup {
            binds: config.binds.clone(),
            defences: Defences::without(&config.without),
            warm_max: config.warm_max,
            bare,
        }
        .bytes();
        if bytes.len() > MESSAGE_MAX {
            return Err(Error::Invalid("there are too many binds".into()));
        }
        let hello = async {
            send(&control, &bytes, &[]).await?;
            receive(&control).await
        };
        match timeout(READY_WITHIN, hello).await {
            Ok(Ok(Some((bytes, _)))) => match Hello::parse(&bytes).map_err(|_| Error::NoHelper)? {
                Hello::Ready { tier, missing } => {
                    let (control, offers, mut hearing) = (Arc::new(control), Offers::default(), JoinSet::new());
                    hearing.spawn(offers.clone().hear(Arc::clone(&control)));
                    Ok(Helper { control, offers, _hearing: hearing, tier, missing, weaker: None, _process: process })
                }
                Hello::Fault(fault) => Err(explain(fault)),
            },
            _ => Err(Error::NoHelper),
        }
    }

    /// Orders a sandbox. An error means that the helper has died and nothing was started.
    pub(crate) async fn order(&self, call: &Call, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send(&self.control, &Asked::Order(call.clone()).bytes(), fds).await
    }

    /// Gives a request to a sandbox that was offered. `None`: none was, or it will not do.
    pub(crate) async fn use_offered(&self, job: &[u8], call: &Call, stdin: Option<&OwnedFd>) -> Option<Supervised> {
        if !call.is_ordinary() || job.len() > JOB_SENT_MAX {
            return None;
        }
        while let Some(offered) = self.offers.take() {
            if let Some((supervised, taken)) = offered.hand_over(job, call, stdin) {
                // If the helper has died, so has the sandbox, which is seen by whoever waits for it.
                let _ = taken.tell(&self.control).await;
                return Some(supervised);
            }
        }
        None
    }
}

fn hides(config: &Config) -> bool {
    config.binds.iter().any(|bind| !bind.hidden.is_empty())
}
