//! Whether the hub is well: it tries what its tools need, and says what failed.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use skep_sandbox::Tier;
use skep_tools::{sandboxed::SandboxOnDemand, workspace::Dir};
use tokio::{sync::Mutex, time::timeout};

pub(super) use crate::api::HealthStatus as Status;

/// A check that takes longer has failed.
pub(super) const CHECK_TIME_MAX: Duration = Duration::from_secs(2);
/// Findings are given again for so long, so that asking often costs nothing.
const FRESH: Duration = Duration::from_secs(1);

/// One thing that the hub needs and that can fail.
pub struct Probe {
    name: &'static str,
    vital: bool,
    /// What is said if it fails, where the reason is not for all who may ask.
    failed: Option<&'static str>,
    /// A server that this finding tells of, too, and whether there is one.
    server: Option<(&'static str, bool)>,
    check: Check,
}

type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;

impl Probe {
    /// A check that says what it found, or what is wrong. Without a `vital` thing the hub is unhealthy, without another
    /// it is degraded.
    pub fn new<F>(name: &'static str, vital: bool, check: impl Fn() -> F + Send + Sync + 'static) -> Probe
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        Probe { name, vital, failed: None, server: None, check: Box::new(move || Box::pin(check())) }
    }

    /// A server of which is said that it is `connected`, `down`, or `disabled` if there is none (`None`).
    pub fn server<F>(name: &'static str, vital: bool, check: impl Fn() -> F + Send + Sync + 'static) -> Probe
    where
        F: Future<Output = Option<bool>> + Send + 'static,
    {
        let probe = Probe::new(name, vital, move || {
            let check = check();
            async move {
                match check.await {
                    None => Ok("disabled".to_owned()),
                    Some(true) => Ok("connected".to_owned()),
                    Some(false) => Err(String::new()),
                }
            }
        });
        Probe { failed: Some("down"), ..probe }
    }

    /// The same check tells of this server that it is `connected` or `down`, or `disabled` if there is none.
    pub fn of_server(self, name: &'static str, is_there: bool) -> Probe {
        Probe { server: Some((name, is_there)), ..self }
    }

    /// Runs a real sandbox and tells its tier.
    pub fn sandbox(sandbox: SandboxOnDemand) -> Probe {
        Probe::new("sandbox", false, move || {
            let sandbox = sandbox.clone();
            async move {
                let report = sandbox.get().await.map_err(|error| error.to_string())?.probe().await;
                match report.tier {
                    Some(Tier::Strict) => Ok("strict".to_owned()),
                    Some(Tier::Oci) => Ok("container".to_owned()),
                    Some(Tier::Landlock) => Ok("landlock, without namespaces".to_owned()),
                    Some(Tier::StrictWithoutProc) => Ok("strict without /proc".to_owned()),
                    None => Err(report.advice.join("; ")),
                }
            }
        })
    }

    /// Writes a file into the outputs and removes it.
    pub fn outputs(outputs: &Dir) -> Probe {
        let path = outputs.path().join(format!(".skep-health-{}", std::process::id()));
        Probe::new("outputs", true, move || {
            let path = path.clone();
            async move {
                tokio::fs::write(&path, [0; 4096]).await.map_err(|error| error.to_string())?;
                tokio::fs::remove_file(&path).await.map_err(|error| error.to_string())?;
                Ok("writable".to_owned())
            }
        })
    }
}

/// What the checks found.
#[derive(Clone, Debug)]
pub(super) struct Findings {
    pub(super) status: Status,
    pub(super) by_name: Vec<(&'static str, String)>,
}

/// All checks of a hub.
pub(super) struct Health {
    vital: Probes,
    others: Probes,
}

/// Some of them, and what they found last.
struct Probes {
    probes: Vec<Probe>,
    check_time_max: Duration,
    last: Mutex<Option<(Instant, Findings)>>,
}

impl Health {
    pub(super) fn new(probes: Vec<Probe>, check_time_max: Duration) -> Health {
        let (vital, others) = probes.into_iter().partition(|probe| probe.vital);
        let of = |probes| Probes { probes, check_time_max, last: Mutex::new(None) };
        Health { vital: of(vital), others: of(others) }
    }

    /// Check everything side by side, unless that was just done.
    pub(super) async fn check(&self) -> Findings {
        let (vital, others) = tokio::join!(self.vital.check(), self.others.check());
        let by_name = [vital.by_name, others.by_name].concat();
        Findings { status: vital.status.max(others.status), by_name }
    }

    /// Whether all is there without which nothing can be relied on.
    pub(super) async fn is_usable(&self) -> bool {
        self.vital.check().await.status == Status::Healthy
    }
}

impl Probes {
    /// Callers that come meanwhile wait for the same findings.
    async fn check(&self) -> Findings {
        let mut last = self.last.lock().await;
        if let Some((at, findings)) = &*last
            && at.elapsed() < FRESH
        {
            return findings.clone();
        }
        let mut findings = Findings { status: Status::Healthy, by_name: Vec::new() };
        let checks = self.probes.iter().map(|probe| timeout(self.check_time_max, (probe.check)()));
        let checked = join_all(checks).await;
        for (probe, found) in self.probes.iter().zip(checked) {
            let found =
                found.unwrap_or_else(|_| Err(format!("no answer within {}s", self.check_time_max.as_secs_f64())));
            let server = probe.server.map(|(name, is_there)| match (is_there, found.is_ok()) {
                (false, _) => (name, "disabled"),
                (true, true) => (name, "connected"),
                (true, false) => (name, "down"),
            });
            let found = found.unwrap_or_else(|error| {
                let worse = if probe.vital { Status::Unhealthy } else { Status::Degraded };
                findings.status = findings.status.max(worse);
                probe.failed.map_or_else(|| format!("failed: {error}"), str::to_owned)
            });
            findings.by_name.push((probe.name, found));
            findings.by_name.extend(server.map(|(name, state)| (name, state.to_owned())));
        }
        *last = Some((Instant::now(), findings.clone()));
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(name: &'static str, vital: bool) -> Probe {
        Probe::new(name, vital, || async { Err("broken".to_owned()) })
    }

    fn well(name: &'static str) -> Probe {
        Probe::new(name, true, || async { Ok("well".to_owned()) })
    }

    fn health(probes: Vec<Probe>) -> Health {
        Health::new(probes, CHECK_TIME_MAX)
    }

    #[tokio::test]
    async fn the_worst_finding_counts_and_all_are_told() {
        assert_eq!(health(vec![well("a")]).check().await.status, Status::Healthy);
        assert_eq!(health(vec![well("a"), failing("b", false)]).check().await.status, Status::Degraded);
        let findings = health(vec![failing("a", true), failing("b", false), well("c")]).check().await;
        assert_eq!(findings.status, Status::Unhealthy);
        let expected = [("a", "failed: broken"), ("c", "well"), ("b", "failed: broken")];
        assert_eq!(findings.by_name, expected.map(|(name, found)| (name, found.to_owned())));
    }

    #[tokio::test]
    async fn a_server_is_connected_down_or_not_wanted() {
        let server = |found| Probe::server("a", false, move || async move { found });
        for (found, text, status) in [
            (Some(true), "connected", Status::Healthy),
            (Some(false), "down", Status::Degraded),
            (None, "disabled", Status::Healthy),
        ] {
            let health = health(vec![server(found)]);
            let findings = health.check().await;
            assert_eq!((findings.status, findings.by_name), (status, vec![("a", text.to_owned())]));
            assert!(health.is_usable().await);
        }
        assert!(!health(vec![failing("a", true), well("b")]).is_usable().await);
    }

    #[tokio::test]
    async fn one_check_tells_of_a_server_too() {
        for (works, is_there, state) in
            [(true, true, "connected"), (false, true, "down"), (true, false, "disabled"), (false, false, "disabled")]
        {
            let probe = if works { well("store") } else { failing("store", true) };
            let findings = health(vec![probe.of_server("postgres", is_there)]).check().await;
            assert_eq!(findings.status, if works { Status::Healthy } else { Status::Unhealthy });
            assert_eq!(findings.by_name[1], ("postgres", state.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_check_that_hangs_has_failed() {
        let health = Health::new(vec![Probe::new("a", true, std::future::pending)], Duration::from_millis(1));
        assert_eq!(health.check().await.status, Status::Unhealthy);
    }

    #[tokio::test]
    async fn outputs_that_are_gone_are_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let outputs = Dir::create(&parent.path().join("outputs")).unwrap();
        let check = || async { health(vec![Probe::outputs(&outputs)]).check().await.status };
        assert_eq!(check().await, Status::Healthy);
        assert_eq!(std::fs::read_dir(outputs.path()).unwrap().count(), 0, "nothing is left behind");
        std::fs::remove_dir(outputs.path()).unwrap();
        assert_eq!(check().await, Status::Unhealthy);
    }
}
