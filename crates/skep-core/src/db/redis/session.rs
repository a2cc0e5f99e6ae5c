//! The session with Redis: the one task that connects, listens, checks and gives up.
//!
//! ```text
//!   connect ─ probe ─▶ listen, send, check every CHECK_EVERY ─▶ ended: wait longer each time ─▶ connect …
//! ```

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all};
use redis::{RedisResult, aio::PubSubSink, cmd};
use tokio::{
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Live, State, Work,
    address::{Address, Host, Place},
    connect::{Connected, Link, RESPONSE_TIME_MAX, connect, master},
    explain,
};
use crate::db::postgres::LOOK;

/// How often the connections are tested, how much memory Redis uses is asked, and the sentinels who the master is.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// How long to wait before connecting again; twice as long each time, up to the second.
const CONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Contents and events that are sent without waiting for the answers to those before.
const BATCH_MAX: usize = 64;
/// The key that is written to see whether writes are taken. It is gone a minute later.
const PROBE: &str = "skep:probe";

/// The thread: ends when it is told to, or when the store is gone.
pub(super) fn run(address: &Address, state: &Arc<State>, work: mpsc::Receiver<Work>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "the runtime for Redis does not start"),
    };
    runtime.block_on(async {
        tokio::select! {
            () = keep_connected(address, state) => {}
            () = send(state, work) => {}
        }
    });
    state.set_live(None);
}

/// Have one session after the other. Never returns.
async fn keep_connected(address: &Address, state: &State) {
    let mut pause = CONNECT_PAUSE.0;
    let mut is_known = false;
    loop {
        let begun = Instant::now();
        let Err(why) = session(address, state).await;
        let was_up = state.is_up();
        // Once for each time that it is lost, and not for each attempt to find it again.
        if was_up || !is_known {
            tracing::warn!(%why, "going on without Redis, which makes the store slower and no less safe");
        }
        is_known = true;
        *state.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.into());
        state.set_live(None);
        state.tried.send_replace(true);
        if was_up && begun.elapsed() > CONNECT_PAUSE.1 {
            pause = CONNECT_PAUSE.0;
        }
        sleep(jittered(pause)).await;
        pause = (2 * pause).min(CONNECT_PAUSE.1);
    }
}

/// Between half of it and all of it, so that hubs do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0); // the standard library seeds each anew
    pause.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}

/// One session. Returns why it has ended.
async fn session(address: &Address, state: &State) -> Result<std::convert::Infallible, String> {
    let Connected { link, listening, master } = connect(address, &state.channel).await?;
    let (mut sink, mut messages) = listening.split();
    probe(&link, state).await?;
    let doubted = Arc::new(Notify::new());
    state.set_live(Some(Live { link: link.clone(), doubted: Arc::clone(&doubted) }));
    *state.why.lock().unwrap_or_else(PoisonError::into_inner) = None;
    if state.counts.connections.fetch_add(1, Relaxed) > 0 {
        tracing::info!("Redis is there again");
    }
    state.paused_until.store(0, Relaxed);
    state.tried.send_replace(true);
    let _ = state.heard.send(LOOK.into()); // nobody listens without followers
    let mut check = interval(CHECK_EVERY);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = message.ok_or("has closed the connection")?;
                let _ = state.heard.send(String::from_utf8_lossy(message.get_payload_bytes()).into());
            }
            () = doubted.notified() => still_works(&link, &mut sink, state).await?,
            _ = check.tick() => {
                still_works(&link, &mut sink, state).await?;
                is_still_master(address, master.as_ref()).await?;
            }
        }
    }
}

/// Whether Redis takes what Skep has for it. One that is full is of use all the same.
async fn probe(link: &Link, state: &State) -> Result<(), String> {
    if write_probe(link).await? == Probed::Full {
        state.leave_alone(&state.full_until, super::FULL_PAUSE);
    }
    Ok(())
}

/// What came of writing a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Probed {
    Written,
    Full,
}

pub(super) async fn write_probe(link: &Link) -> Result<Probed, String> {
    let written = timeout(RESPONSE_TIME_MAX, link.ask::<()>(cmd("SET").arg(PROBE).arg(1).arg("EX").arg(60))).await;
    match written {
        Ok(Ok(())) => Ok(Probed::Written),
        Ok(Err(error)) if error.code() == Some("OOM") => Ok(Probed::Full),
        Ok(Err(error)) => Err(format!("Redis {}", explain(&error))),
        Err(_) => Err("Redis does not answer in time".to_owned()),
    }
}

async fn still_works(link: &Link, sink: &mut PubSubSink, state: &State) -> Result<(), String> {
    probe(link, state).await?;
    let pinged: RedisResult<redis::Value> =
        timeout(RESPONSE_TIME_MAX, sink.ping()).await.map_err(|_| "Redis does not answer in time")?;
    pinged.map_err(|error| format!("Redis {}", explain(&error)))?;
    // Who may not ask for it does without.
    if let Ok(Ok(servers)) = timeout(RESPONSE_TIME_MAX, link.info("memory")).await {
        let sum = |name: &str| servers.iter().filter_map(|text| field(text, name)?.parse::<u64>().ok()).sum();
        state.counts.memory_bytes.store(sum("used_memory"), Relaxed);
        state.counts.memory_bytes_max.store(sum("maxmemory"), Relaxed);
    }
    Ok(())
}

/// A field of `INFO`.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// End the session when the sentinels have another master. If none answers, what there is stays.
async fn is_still_master(address: &Address, known: Option<&Host>) -> Result<(), String> {
    let (Place::Sentinels { .. }, Some(known)) = (&address.place, known) else { return Ok(()) };
    match master(address).await {
        Ok(now) if now != *known => Err(format!("{known} is not the master any more; it is {now} now")),
        _ => Ok(()),
    }
}

/// Send what was queued, until there is no more or the store is gone.
async fn send(state: &State, mut queue: mpsc::Receiver<Work>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let is_last = batch.iter().any(|work| matches!(work, Work::Stop));
        let bytes = batch.iter().map(Work::bytes).sum();
        let live = state.live.read().unwrap_or_else(PoisonError::into_inner).clone();
        match live {
            Some(live) => send_all(state, &live, &batch).await,
            None => drop(state.counts.dropped.fetch_add(batch.len() as u64, Relaxed)),
        }
        batch.clear();
        state.queued_bytes.fetch_sub(bytes, Relaxed);
        if is_last {
            return;
        }
    }
}

async fn send_all(state: &State, live: &Live, batch: &[Work]) {
    let one = async |work: &Work| {
        let Some(command) = work.command() else { return };
        match timeout(RESPONSE_TIME_MAX, live.link.ask::<redis::Value>(&command)).await {
            Ok(Ok(_)) if matches!(work, Work::Publish { .. }) => drop(state.counts.published.fetch_add(1, Relaxed)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => state.note(live, &error),
            Err(_) => {
                state.counts.errors.fetch_add(1, Relaxed);
                live.doubted.notify_one();
            }
        }
    };
    join_all(batch.iter().map(one)).await;
}
