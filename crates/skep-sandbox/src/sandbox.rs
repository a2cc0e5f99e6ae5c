//! Who may run, on which helper.

use std::{
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use std::os::fd::AsFd as _;

use tokio::{
    select,
    sync::{Mutex, Semaphore, SemaphorePermit, mpsc::Sender},
};
use tokio_util::sync::CancellationToken;

use crate::{
    advice::{self, Weaker},
    bind::Bind,
    config::Config,
    defence::Defence,
    error::Error,
    helper::Helper,
    oci::{self, Containers},
    outcome::{End, Outcome, Usage},
    output::Piece,
    proxy::Proxy,
    request::{Limits, Net, Request},
    root,
    supervise::Supervised,
    tier::Tier,
    users::USERS_MAX,
    wire::{self, Message as _},
};

/// How often a request is tried of which nothing ran: with an interpreter that waits, and without.
const TRIES: u32 = 2;

/// A source of fresh sandboxes; cheap to clone. When the last clone is dropped, everything that still runs is killed.
#[derive(Clone, Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    /// The helper that takes orders now. Replaced when it has died. Containers need none.
    helper: Mutex<Option<Arc<Helper>>>,
    /// Requests run in these instead.
    containers: Option<Containers>,
    running: Semaphore,
    waiting: AtomicUsize,
}

impl Sandbox {
    /// Start the helper process.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if this machine cannot isolate, [`Error::Invalid`] if a bind is at fault,
    /// [`Error::NoHelper`] if the program does not call [`init`](crate::init).
    pub async fn start(config: Config) -> Result<Sandbox, Error> {
        check(&config.binds)?;
        let program = config.helper.as_deref().unwrap_or(Path::new("/proc/self/exe"));
        let (helper, containers) = match &config.oci {
            Some(oci) => (None, Some(Containers::start(oci, &config.binds, program).await?)),
            None => (Some(Arc::new(Helper::start(&config).await?)), None),
        };
        let helper = Mutex::new(helper);
        let running = Semaphore::new(config.concurrency_max.clamp(1, USERS_MAX as usize));
        Ok(Sandbox { shared: Arc::new(Shared { config, helper, containers, running, waiting: AtomicUsize::new(0) }) })
    }

    /// Run one request in a fresh sandbox of its own.
    ///
    /// Returns when the command and everything that it started are dead. Dropping the future kills them, too.
    ///
    /// # Errors
    /// Only if nothing of the command ran, or if the helper process died: how a command ended is in
    /// [`Outcome::end`].
    pub async fn run(&self, mut request: Request, cancel: CancellationToken) -> Result<Outcome, Error> {
        let asked = Instant::now();
        let min_tier = request.min_tier;
        let sink = request.sink.take();
        let (job, mut call, stdin) = request.into_job()?;
        let proxy = match &job.net {
            Net::Allow(hosts) => Some(Proxy::new(hosts, self.shared.config.gate.as_ref())?),
            Net::None | Net::Loopback => None,
        };
        let _place = select! {
            biased;
            place = self.place() => place?,
            () = cancel.cancelled() => return Ok(self.cancelled(asked).await),
        };
        let memory = |source| Error::Setup { step: "put the request into memory".into(), source };
        let bytes = job.bytes();
        let stdin = if stdin.is_empty() { None } else { Some(wire::sealed("stdin", &stdin).map_err(memory)?) };

        if let Some(containers) = &self.shared.containers {
            advice::demand(Tier::Oci, min_tier, None)?;
            return containers.run(&self.shared.config.binds, job, stdin, sink, &cancel).await;
        }
        let started = Instant::now();
        let helper = self.helper(None).await?;
        let demand = |helper: &Helper| {
            advice::demand(helper.tier, min_tier, helper.weaker.as_ref())?;
            if helper.tier == Tier::Landlock && job.net.loopback() {
                return Err(Error::Invalid("a network of its own cannot be had without namespaces".into()));
            }
            Ok(())
        };
        demand(&helper)?;
        if let Some(supervised) = helper.use_offered(&bytes, &call, stdin.as_ref()).await
            && let Some(outcome) = self.finish(supervised, &job.limits, sink.clone(), &cancel, &helper, started).await?
        {
            return Ok(outcome);
        }
        let bytes = wire::sealed("job", &bytes).map_err(memory)?;
        let (mut helper, mut proxy) = (helper, proxy);
        for _ in 0..TRIES {
            let (supervised, ends) =
                Supervised::new(proxy.take()).map_err(|source| Error::Setup { step: "make pipes".into(), source })?;
            let mut fds = vec![ends.report.as_fd(), bytes.as_fd(), ends.stdout.as_fd(), ends.stderr.as_fd()];
            fds.extend(stdin.as_ref().map(|stdin| stdin.as_fd()));
            if helper.order(&call, &fds).await.is_err() {
                helper = self.helper(Some(&helper)).await?;
                demand(&helper)?;
                helper.order(&call, &fds).await.map_err(|_| Error::HelperDied)?;
            }
            drop(ends);
            if let Some(outcome) = self.finish(supervised, &job.limits, sink.clone(), &cancel, &helper, started).await?
            {
                return Ok(outcome);
            }
            // Only what waits can have ended before; what is made for it tells why it does.
            call.interpreter = None;
            for file in [&bytes].into_iter().chain(&stdin) {
                rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0)).map_err(|error| memory(error.into()))?;
            }
        }
        Err(Error::HelperDied)
    }

    async fn finish(
        &self,
        supervised: Supervised,
        limits: &Limits,
        sink: Option<Sender<Piece>>,
        cancel: &CancellationToken,
        helper: &Arc<Helper>,
        started: Instant,
    ) -> Result<Option<Outcome>, Error> {
        let outcome = supervised.finish(limits, sink, cancel, helper.tier, &helper.missing, started).await;
        if matches!(outcome, Err(Error::HelperDied)) {
            // Whatever is wrong with it, the next request gets another.
            let _ = self.helper(Some(helper)).await;
        }
        outcome
    }

    /// The program that becomes the helper.
    pub(crate) fn program(&self) -> &Path {
        self.shared.config.helper.as_deref().unwrap_or(Path::new("/proc/self/exe"))
    }

    /// The isolation that there is.
    pub(crate) async fn tier(&self) -> Tier {
        self.shared.helper.lock().await.as_ref().map_or(Tier::Oci, |helper| helper.tier)
    }

    /// Why the isolation is not stronger.
    pub(crate) async fn weaker(&self) -> Option<Weaker> {
        self.shared.helper.lock().await.as_ref()?.weaker.clone()
    }

    /// Walls that are left out.
    pub(crate) fn without(&self) -> &[Defence] {
        &self.shared.config.without
    }

    /// Waits for a place among those that run.
    async fn place(&self) -> Result<SemaphorePermit<'_>, Error> {
        let running = &self.shared.running;
        if let Ok(place) = running.try_acquire() {
            return Ok(place);
        }
        let _waiting = Waiting::enter(&self.shared.waiting, self.shared.config.waiting_max)?;
        running.acquire().await.map_err(|_| Error::Busy)
    }

    /// The helper, or a new one if the present one is `dead`.
    async fn helper(&self, dead: Option<&Arc<Helper>>) -> Result<Arc<Helper>, Error> {
        let mut current = self.shared.helper.lock().await;
        match &*current {
            Some(helper) if dead.is_none_or(|dead| !Arc::ptr_eq(dead, helper)) => return Ok(Arc::clone(helper)),
            Some(_) => tracing::warn!("the sandbox's helper process died; starting another"),
            None => (),
        }
        let next = Arc::new(Helper::start(&self.shared.config).await?);
        *current = Some(Arc::clone(&next));
        Ok(next)
    }

    /// The outcome of a request that was cancelled before it got a place.
    async fn cancelled(&self, asked: Instant) -> Outcome {
        let helper = self.shared.helper.lock().await.clone();
        let (tier, missing) = helper.map_or_else(|| (Tier::Oci, oci::missing()), |one| (one.tier, one.missing.clone()));
        Outcome {
            end: End::Cancelled,
            stdout: Vec::new(),
            stderr: Vec::new(),
            truncated: false,
            outputs: Vec::new(),
            skipped: Vec::new(),
            usage: Usage { wall: asked.elapsed(), ..Usage::default() },
            start: None,
            connections: Vec::new(),
            tier,
            missing,
        }
    }
}

/// Binds go where nothing else is, and not into one another: a mount point is never made in a directory of the host.
fn check(binds: &[Bind]) -> Result<(), Error> {
    let reserved = root::reserved().map(PathBuf::from);
    let mut taken: Vec<PathBuf> = reserved.collect();
    for Bind { source, target, hidden } in binds {
        let invalid = |why: &str| Err(Error::Invalid(format!("the bind at {} {why}", target.display())));
        let plain = target.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
        if !target.is_absolute() || !plain || target.components().count() < 2 || target.to_str().is_none() {
            return invalid("needs a plain absolute path inside, such as /workspace");
        }
        if let Some(other) = taken.iter().find(|other| other.starts_with(target) || target.starts_with(other)) {
            return invalid(&format!("overlaps with {}", other.display()));
        }
        if !source.is_dir() {
            return invalid(&format!("has no directory to show: {} is none", source.display()));
        }
        let is_plain = |place: &PathBuf| {
            place.components().next().is_some() && place.components().all(|part| matches!(part, Component::Normal(_)))
        };
        if !hidden.iter().all(is_plain) {
            return invalid("hides a place that is not given by a plain path within it");
        }
        taken.push(target.clone());
    }
    Ok(())
}

/// One of those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize, max: usize) -> Result<Waiting<'a>, Error> {
        let more = |waiting: usize| (waiting < max).then_some(waiting + 1);
        match waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Waiting(waiting)),
            Err(_) => Err(Error::Busy),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
