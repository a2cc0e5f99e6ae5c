//! Operations on claims.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use super::{App, EventFollower, files::last_token};
use crate::{
    Timestamp,
    claim::{self, CLAIMS_MAX, Claim, ClaimToken, InvalidTime, NewClaim, PRINCIPAL_CLAIMS_MAX, Refused, WAITING_TTL},
    db::{DbError, News, Operation, Tx},
    event::{EventActor, EventFilter, EventKind, NewEvent},
    file::Author,
    glob::Pattern,
    path::FilePath,
    policy::{Operate, Permit, Read},
};

/// How often a hub looks again at a request that waits, and says that somebody still waits for it: so often that one
/// look may fail before [`WAITING_TTL`] is over.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);
/// Claims that are over and in nobody's way, which one write deletes.
const OVER_DELETED_MAX: usize = 100;

/// Why an operation on claims failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A time is too short or too long.
    #[error(transparent)]
    Time(#[from] InvalidTime),
    /// The workspace has [`CLAIMS_MAX`] claims.
    #[error("there are {CLAIMS_MAX} claims in this workspace already; release some, or claim with a glob")]
    TooMany,
    /// The principal has [`PRINCIPAL_CLAIMS_MAX`] claims in this workspace.
    #[error("you have {PRINCIPAL_CLAIMS_MAX} claims in this workspace already; release some, or claim with a glob")]
    TooManyOfYours,
    /// Another claim is in the way, or the token is not that of a claim of the caller's.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What became of a request.
enum Looked {
    /// It was granted.
    Granted(Claim),
    /// It waits.
    Waits(Waits),
}

/// What a request waits for.
struct Waits {
    token: ClaimToken,
    /// The earlier claims that exclude it. It is granted when they are gone; later ones do not matter to it.
    before: BTreeSet<ClaimToken>,
    /// When the next of them is over, unless it is renewed.
    until: Timestamp,
    /// The number of the last event before. What happens to those claims comes after it.
    seen: i64,
}

impl App {
    /// Claim a path or a glob. A request that cannot be granted at once waits for its turn as long as it says.
    ///
    /// If the future is dropped meanwhile, the request is withdrawn, or the claim released.
    ///
    /// # Errors
    ///
    /// [`Refused::Claimed`] if another's claim is still in the way at the end.
    pub async fn claim_file(&self, permit: &Permit, new: NewClaim) -> Result<Claim, ClaimError> {
        new.check()?;
        let deadline = Instant::now() + new.wait;
        loop {
            let waits = match self.request(permit, &new, deadline <= Instant::now()).await? {
                Looked::Granted(claim) => return Ok(claim),
                Looked::Waits(waits) => waits,
            };
            let withdrawal = Withdrawal { app: self.clone(), permit: permit.clone(), token: Some(waits.token) };
            // Boxed, because few wait and everybody's future would be as large.
            let waited = Box::pin(self.wait_for_claim(permit, new.ttl, waits, deadline)).await;
            if !matches!(waited, Err(ClaimError::Db(_))) {
                withdrawal.cancel();
            }
            if let Some(claim) = waited? {
                return Ok(claim);
            }
            // This hub was too slow to say that somebody waits: the request lost its place, and is made again.
        }
    }

    /// Hold a claim for `ttl` from now. `pattern`: what it must be on.
    pub async fn renew_claim(
        &self,
        permit: &Permit,
        pattern: Option<&Pattern>,
        token: ClaimToken,
        ttl: Duration,
    ) -> Result<Claim, ClaimError> {
        claim::check_ttl(ttl)?;
        let (pattern, by) = (pattern.cloned(), Author::from(&**permit.actor()));
        let renew = async move |tx: &mut Tx<'_>| {
            let found = tx.claim(token).await?;
            let last = last_token(tx, Some(token), found.as_slice()).await?;
            let mut claim = claim::with_token(token, found.as_slice(), last)?.clone();
            check_owner(&claim, pattern.as_ref(), &by)?;
            if !claim.is_held {
                return Err(Refused::Waiting(token).into());
            }
            (claim.renewed, claim.until) = (tx.surely_past(), tx.now().after(ttl));
            tx.save_claim(&claim).await?;
            Ok(claim)
        };
        self.db.write(permit, renew).await
    }

    /// Release a claim. `false` if it was over already, or never was: that is no error, so this may be called again. `pattern`:
    /// what it must be on.
    pub async fn release_claim(
        &self,
        permit: &Permit,
        pattern: Option<&Pattern>,
        token: ClaimToken,
    ) -> Result<bool, ClaimError> {
        let release = Release { actor: (&**permit.actor()).into(), pattern: pattern.cloned(), token };
        Ok(self.db.perform(permit.namespace(), 0, release).await??)
    }

    /// Take a claim away from whoever holds it or waits for it. Returns what it was; `None` if it was over already.
    pub async fn force_release_claim(
        &self,
        permit: &Permit<Operate>,
        token: ClaimToken,
    ) -> Result<Option<Claim>, ClaimError> {
        let force = async move |tx: &mut Tx<'_>| {
            let Some(claim) = tx.claim(token).await? else { return Ok(None) };
            tx.delete_claims(vec![token]).await?;
            let Author { principal, agent } = &claim.by;
            let (principal, agent) = (principal.to_string(), agent.as_deref().map(str::to_owned));
            let pattern = claim.pattern.as_str().to_owned();
            append(tx, EventKind::ClaimForced { pattern, token, principal, agent });
            Ok(Some(claim))
        };
        self.db.write(permit, force).await
    }

    /// Check that whoever acts may do what takes an exclusive claim on a path: with the token of one, or without a token, because
    /// the permit's actor holds one. Another may hold it the moment after; whoever acts outside of the store passes the token
    /// on, which tells the later holder from the earlier one.
    pub async fn check_claimed(
        &self,
        permit: &Permit<Read>,
        path: &FilePath,
        token: Option<ClaimToken>,
    ) -> Result<(), ClaimError> {
        let (live, last) = self.db.claims_on(permit, path, token).await?;
        Ok(claim::check_claimed(path, token, &Author::from(&**permit.actor()), &live, last)?)
    }

    /// Grant a claim, or put the request in line unless it must not wait.
    async fn request(&self, permit: &Permit, new: &NewClaim, is_last: bool) -> Result<Looked, ClaimError> {
        let request = Request { actor: (&**permit.actor()).into(), new: new.clone(), is_last };
        self.db.perform(permit.namespace(), 0, request).await?
    }

    /// Wait until a request is granted. `None` if it is gone.
    async fn wait_for_claim(
        &self,
        permit: &Permit,
        ttl: Duration,
        mut waits: Waits,
        deadline: Instant,
    ) -> Result<Option<Claim>, ClaimError> {
        let kinds = ["claim.released", "claim.withdrawn", "claim.forced"].map(str::to_owned).to_vec();
        let filter = EventFilter { kinds, ..EventFilter::default() };
        let mut events = self.follow(&permit.to_read(), filter, waits.seen);
        loop {
            let now = self.db.now();
            let until_over = now.until(waits.until).saturating_add(now.error).min(LOOK_INTERVAL);
            let look_at = deadline.min(Instant::now() + until_over);
            wait_for_change(&mut events, &mut waits.before, look_at).await?;
            match self.look_again(permit, waits.token, ttl, deadline <= Instant::now()).await? {
                Some(Looked::Granted(claim)) => return Ok(Some(claim)),
                Some(Looked::Waits(still)) => waits = still,
                None => return Ok(None),
            }
        }
    }

    /// Grant a request that waits if it can be granted by now. Otherwise it is withdrawn if this is the last look, and
    /// waits on if not. `None` if it is gone.
    async fn look_again(
        &self,
        permit: &Permit,
        token: ClaimToken,
        ttl: Duration,
        is_last: bool,
    ) -> Result<Option<Looked>, ClaimError> {
        let look = async move |tx: &mut Tx<'_>| {
            let all = Claims::load(tx).await?;
            let Some(mut claim) = all.live.iter().find(|claim| claim.token == token).cloned() else {
                return Ok(Ok(None));
            };
            let before: Vec<Claim> = claim::before(&claim, &all.live).cloned().collect();
            if is_last && let Some(first) = first(&before) {
                end(tx, &claim).await?;
                return Ok(Err(Refused::Claimed(Box::new(first))));
            }
            (claim.is_held, claim.renewed) = (before.is_empty(), tx.surely_past());
            claim.until = tx.now().after(if claim.is_held { ttl } else { WAITING_TTL });
            tx.save_claim(&claim).await?;
            if claim.is_held {
                all.delete_over(tx, std::slice::from_ref(&claim)).await?;
                append(tx, taken(&claim));
            }
            let seen = 0; // the events are followed already
            let looked = Waits::new(&claim, before, seen).map_or(Looked::Granted(claim), Looked::Waits);
            Ok::<_, ClaimError>(Ok(Some(looked)))
        };
        Ok(self.db.write(permit, look).await??)
    }

    /// End a claim of the actor's, whether it is held or waits.
    async fn withdraw_claim(&self, permit: &Permit, token: ClaimToken) -> Result<(), ClaimError> {
        let withdraw = async move |tx: &mut Tx<'_>| match tx.claim(token).await? {
            Some(claim) => Ok::<_, ClaimError>(end(tx, &claim).await?),
            None => Ok(()),
        };
        self.db.write(permit, withdraw).await
    }
}

/// A request for a claim. Those of several callers are decided together, with one look at the claims that there are.
struct Request {
    actor: EventActor,
    new: NewClaim,
    /// It must not wait.
    is_last: bool,
}

/// The tokens of requests until they are given real ones: larger than all that are, and in the same order.
const PROVISIONAL: i64 = i64::MAX / 2;

impl Operation for Request {
    type Output = Result<Looked, ClaimError>;
    type Error = DbError;
    const TOGETHER: bool = true;

    async fn run(tx: &mut Tx<'_>, all: &[&Request]) -> Result<Vec<Self::Output>, DbError> {
        let mut claims = Claims::load(tx).await?;
        let there = claims.live.len();
        let decided: Vec<Result<Vec<Claim>, ClaimError>> =
            all.iter().map(|request| request.decide(tx, there, &mut claims.live)).collect();
        let mut new = claims.live.split_off(there);
        if new.is_empty() {
            return Ok(decided.into_iter().filter_map(Result::err).map(Err).collect()); // each was refused
        }
        let (before, seen) = tx.take_tokens(new.len()).await?;
        let numbered = |token: &mut ClaimToken| {
            if token.0 >= PROVISIONAL {
                token.0 += before + 1 - PROVISIONAL;
            }
        };
        new.iter_mut().for_each(|claim| numbered(&mut claim.token));
        claims.delete_over(tx, &new).await?;
        tx.add_claims(&new).await?;
        let mut new = new.into_iter();
        let mut looked = Vec::with_capacity(all.len());
        for (request, decided) in all.iter().zip(decided) {
            looked.push(match (decided, &mut new) {
                (Err(refused), _) => Err(refused),
                (Ok(mut before), new) => {
                    let Some(claim) = new.next() else { continue }; // there is one for each that was not refused
                    before.iter_mut().for_each(|other| numbered(&mut other.token));
                    if claim.is_held {
                        tx.act_for(Some(&request.actor));
                        append(tx, taken(&claim));
                    }
                    Ok(Waits::new(&claim, before, seen).map_or(Looked::Granted(claim), Looked::Waits))
                }
            });
        }
        Ok(looked)
    }
}

impl Request {
    /// Add the claim to those that are live, with a provisional token, unless it is refused. Gives those that it waits for. So many of
    /// the live ones have been there before.
    fn decide(&self, tx: &Tx<'_>, there: usize, live: &mut Vec<Claim>) -> Result<Vec<Claim>, ClaimError> {
        let by = author(&self.actor);
        if live.len() >= CLAIMS_MAX {
            return Err(ClaimError::TooMany);
        }
        if live.iter().filter(|claim| claim.by.principal == by.principal).count() >= PRINCIPAL_CLAIMS_MAX {
            return Err(ClaimError::TooManyOfYours);
        }
        let NewClaim { pattern, is_shared, ttl, .. } = &self.new;
        let now = tx.now();
        let mut claim = Claim {
            token: ClaimToken(PROVISIONAL + i64::try_from(live.len() - there).unwrap_or(i64::MAX)),
            pattern: pattern.clone(),
            is_shared: *is_shared,
            is_held: true,
            by,
            asked: now,
            renewed: tx.surely_past(),
            until: now.after(*ttl),
        };
        let before: Vec<Claim> = claim::before(&claim, live).cloned().collect();
        if self.is_last
            && let Some(first) = first(&before)
        {
            return Err(Refused::Claimed(Box::new(first)).into());
        }
        if !before.is_empty() {
            (claim.is_held, claim.until) = (false, now.after(WAITING_TTL));
        }
        live.push(claim);
        Ok(before)
    }
}

/// A claim is released. Those of several callers are, together.
struct Release {
    actor: EventActor,
    pattern: Option<Pattern>,
    token: ClaimToken,
}

impl Operation for Release {
    type Output = Result<bool, Refused>;
    type Error = DbError;
    const TOGETHER: bool = true;

    async fn run(tx: &mut Tx<'_>, all: &[&Release]) -> Result<Vec<Self::Output>, DbError> {
        let mut found = tx.claims_of(all.iter().map(|release| release.token).collect()).await?;
        let (mut released, mut ended) = (Vec::with_capacity(all.len()), Vec::new());
        for Release { actor, pattern, token } in all {
            let Some(place) = found.iter().position(|claim| claim.token == *token) else {
                released.push(Ok(false));
                continue;
            };
            released.push(check_owner(&found[place], pattern.as_ref(), &author(actor)).map(|()| {
                let claim = found.swap_remove(place); // whoever releases it a second time finds nothing
                tx.act_for(Some(actor));
                append(tx, ending(&claim));
                ended.push(claim.token);
                true
            }));
        }
        tx.delete_claims(ended).await?;
        Ok(released)
    }
}

/// Withdraws a request whose caller goes away. If that fails, the request is over after [`WAITING_TTL`].
struct Withdrawal {
    app: App,
    permit: Permit,
    token: Option<ClaimToken>,
}

impl Withdrawal {
    fn cancel(mut self) {
        self.token = None;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let Some((token, runtime)) = self.token.zip(Handle::try_current().ok()) else { return };
        let (app, permit) = (self.app.clone(), self.permit.clone());
        // Nobody is left to wait for it. The store answers each write within a time, so it ends.
        runtime.spawn(async move {
            if let Err(error) = app.withdraw_claim(&permit, token).await {
                tracing::debug!(%error, "cannot withdraw a request for a claim; it ends by itself");
            }
        });
    }
}

/// The claims of a workspace.
struct Claims {
    live: Vec<Claim>,
    over: Vec<Claim>,
}

impl Claims {
    async fn load(tx: &mut Tx<'_>) -> Result<Claims, DbError> {
        let bounds = tx.time_bounds();
        let (over, live) = tx.claims().await?.into_iter().partition(|claim| claim.is_over(bounds));
        Ok(Claims { live, over })
    }

    /// Delete what is over: all that would exclude one of these claims, so that it stays over whatever a clock says later, and
    /// some of the rest.
    async fn delete_over(&self, tx: &mut Tx<'_>, granted: &[Claim]) -> Result<(), DbError> {
        let is_in_the_way = |over: &&Claim| granted.iter().any(|granted| over.excludes(granted));
        let (in_the_way, others): (Vec<&Claim>, Vec<&Claim>) = self.over.iter().partition(is_in_the_way);
        let all = in_the_way.into_iter().chain(others.into_iter().take(OVER_DELETED_MAX));
        tx.delete_claims(all.map(|claim| claim.token).collect()).await
    }
}

impl Waits {
    fn new(claim: &Claim, before: Vec<Claim>, seen: i64) -> Option<Waits> {
        let until = before.iter().map(|claim| claim.until).min()?;
        let tokens = before.iter().map(|claim| claim.token).collect();
        Some(Waits { token: claim.token, before: tokens, until, seen })
    }
}

/// The claim that is named to those whom it excludes: one that is held, if there is one.
fn first(before: &[Claim]) -> Option<Claim> {
    before.iter().find(|claim| claim.is_held).or(before.first()).cloned()
}

/// Wait until none of these claims is left, or until it is time to look.
async fn wait_for_change(
    events: &mut EventFollower,
    before: &mut BTreeSet<ClaimToken>,
    look_at: Instant,
) -> Result<(), DbError> {
    while !before.is_empty() {
        let news = tokio::select! {
            news = events.next() => news?,
            () = sleep_until(look_at) => return Ok(()),
        };
        match news {
            News::Events(events) => events.iter().for_each(|event| {
                if let EventKind::ClaimReleased { token, .. }
                | EventKind::ClaimWithdrawn { token, .. }
                | EventKind::ClaimForced { token, .. } = &event.kind
                {
                    before.remove(token);
                }
            }),
            News::Reset { .. } => return Ok(()),
        }
    }
    Ok(())
}

fn check_owner(claim: &Claim, pattern: Option<&Pattern>, by: &Author) -> Result<(), Refused> {
    if pattern.is_some_and(|pattern| claim.pattern.folded() != pattern.folded()) {
        return Err(Refused::Elsewhere { token: claim.token, pattern: claim.pattern.as_str().to_owned() });
    }
    if claim.by.principal != by.principal {
        return Err(Refused::NotYours(claim.token));
    }
    Ok(())
}

/// Delete a claim, and say so.
async fn end(tx: &mut Tx<'_>, claim: &Claim) -> Result<(), DbError> {
    tx.delete_claims(vec![claim.token]).await?;
    append(tx, ending(claim));
    Ok(())
}

fn ending(claim: &Claim) -> EventKind {
    let (pattern, token) = (claim.pattern.as_str().to_owned(), claim.token);
    if claim.is_held {
        EventKind::ClaimReleased { pattern, token }
    } else {
        EventKind::ClaimWithdrawn { pattern, token }
    }
}

fn author(actor: &EventActor) -> Author {
    Author { principal: Arc::clone(&actor.principal), agent: actor.agent.clone() }
}

fn taken(claim: &Claim) -> EventKind {
    let Claim { token, pattern, is_shared, until, .. } = claim;
    EventKind::ClaimTaken { pattern: pattern.as_str().to_owned(), token: *token, shared: *is_shared, until: *until }
}

fn append(tx: &mut Tx<'_>, kind: EventKind) {
    let at = tx.now();
    tx.append(NewEvent { at, run: None, task: None, kind });
}
