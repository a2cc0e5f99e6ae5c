//! What agents that claim files can rely on: no two hold what excludes the other, they are served in order, and a late
//! holder does no harm.

use std::{sync::Mutex, time::Instant};

use skep_core::{
    app::{ClaimError, FileError},
    claim::{CLAIMS_MAX, Claim, ClaimToken, NewClaim, PRINCIPAL_CLAIMS_MAX, Refused, TTL, TTL_MIN},
    event::EventKind,
    file::NewRevision,
    glob::Pattern,
    policy::Operate,
};
use tokio::time::{sleep, timeout};

use super::{
    files::{in_workspace, new as new_file, path},
    *,
};

/// How long a test waits for what should come at once, on a machine that is busy.
const LONG: Duration = Duration::from_secs(60);

/// An exclusive claim that does not wait.
pub(crate) fn new(pattern: &str) -> NewClaim {
    NewClaim { pattern: glob(pattern), is_shared: false, ttl: TTL, wait: Duration::ZERO }
}

fn waiting(pattern: &str) -> NewClaim {
    NewClaim { wait: LONG, ..new(pattern) }
}

fn shared(pattern: &str) -> NewClaim {
    NewClaim { is_shared: true, ..new(pattern) }
}

fn glob(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

async fn claim(app: &App, agent: &str, new: NewClaim) -> Result<Claim, ClaimError> {
    Box::pin(app.claim_file(&in_workspace(agent), new)).await // many of them are joined below
}

async fn write(app: &App, file: &str, text: &str, token: Option<ClaimToken>) -> Result<u64, FileError> {
    let new = NewRevision { token, ..new_file(file, text) };
    Ok(Box::pin(app.write_file(&in_workspace("ann"), new)).await?.revision.number)
}

async fn release(app: &App, claim: &Claim) -> Result<bool, ClaimError> {
    Box::pin(app.release_claim(&in_workspace("ann"), Some(&claim.pattern), claim.token)).await
}

async fn claims(app: &App) -> Vec<Claim> {
    Box::pin(app.db.claims(&in_workspace("ann").to_read(), None, usize::MAX)).await.unwrap()
}

/// Wait until so many claims are there, held or waiting.
async fn until_there_are(app: &App, count: usize) {
    let look = async {
        while claims(app).await.len() != count {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, look).await.unwrap();
}

fn refused_by(said: Result<Claim, ClaimError>) -> Claim {
    match said {
        Err(ClaimError::Refused(Refused::Claimed(claim))) => *claim,
        other => panic!("{other:?}"),
    }
}

fn why(said: Result<u64, FileError>) -> Refused {
    match said {
        Err(FileError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_file_is_written_with_the_token_and_by_nobody_else() {
    on_every_database(async |app| {
        let held = claim(&app, "ann", new("src/**")).await.unwrap();
        assert_eq!((held.token, held.until, held.is_held), (ClaimToken(1), NOW.after(TTL), true));
        assert_eq!(refused_by(claim(&app, "bob", new("src/a/b.rs")).await), held);
        claim(&app, "bob", new("docs/*")).await.unwrap();
        assert_eq!(why(write(&app, "src/a", "x", None).await), Refused::Claimed(Box::new(held.clone())));
        assert_eq!(why(write(&app, "SRC/a", "x", None).await), Refused::Claimed(Box::new(held.clone())));
        let deleted = app.delete_file(&in_workspace("ann"), &path("src/a"), None, None).await;
        assert!(matches!(deleted, Err(FileError::Refused(Refused::Claimed(_)))), "{deleted:?}");
        assert_eq!(write(&app, "src/a", "x", Some(held.token)).await.unwrap(), 1);
        assert_eq!(write(&app, "free", "x", None).await.unwrap(), 1);
        let elsewhere = Refused::Elsewhere { token: held.token, pattern: "src/**".into() };
        assert_eq!(why(write(&app, "free", "y", Some(held.token)).await), elsewhere);
        assert_eq!(why(write(&app, "free", "y", Some(ClaimToken(7))).await), Refused::NeverIssued(ClaimToken(7)));
        assert!(release(&app, &held).await.unwrap());
        assert!(!release(&app, &held).await.unwrap(), "it is released already");
        assert_eq!(why(write(&app, "src/a", "y", Some(held.token)).await), Refused::Stale(held.token));
        assert_eq!(write(&app, "src/a", "y", None).await.unwrap(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_claims_keep_everybody_from_writing_and_nobody_from_sharing() {
    on_every_database(async |app| {
        let one = claim(&app, "ann", shared("a")).await.unwrap();
        let two = claim(&app, "bob", shared("*")).await.unwrap();
        assert_eq!(refused_by(claim(&app, "cat", new("a")).await), one);
        assert_eq!(why(write(&app, "a", "x", Some(one.token)).await), Refused::Shared(one.token));
        assert_eq!(why(write(&app, "a", "x", None).await), Refused::Claimed(Box::new(one.clone())));
        release(&app, &one).await.unwrap();
        assert_eq!(refused_by(claim(&app, "cat", new("a")).await), two);
        release(&app, &two).await.unwrap();
        claim(&app, "cat", new("a")).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_holder_is_refused_however_late_it_is() {
    on_every_database(async |app| {
        let first = claim(&app, "ann", new("a")).await.unwrap();
        let app = app.at(NOW.after(TTL));
        assert_eq!(claims(app).await, [], "it is over, and no job had to say so");
        assert_eq!(why(write(app, "a", "late", Some(first.token)).await), Refused::Stale(first.token));
        let second = claim(app, "bob", new("[a]")).await.unwrap();
        assert!(second.token > first.token);
        assert_eq!(why(write(app, "a", "late", Some(first.token)).await), Refused::Stale(first.token));
        let renewed = app.renew_claim(&in_workspace("ann"), Some(&first.pattern), first.token, TTL).await;
        assert!(matches!(renewed, Err(ClaimError::Refused(Refused::Stale(_)))), "{renewed:?}");
        assert!(!release(app, &first).await.unwrap(), "releasing again is no error");
        assert_eq!(write(app, "a", "bob's", Some(second.token)).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_renewed_and_released_by_its_principal_alone() {
    on_every_database(async |app| {
        let held = claim(&app, "ann", new("a")).await.unwrap();
        let half = NOW.after(TTL / 2);
        let renewed =
            app.at(half).renew_claim(&in_workspace("other"), Some(&held.pattern), held.token, TTL).await.unwrap();
        assert_eq!((renewed.until, renewed.token), (half.after(TTL), held.token), "by another agent of the same");
        let stranger = Actor::member("eve", Namespace::team("main")).permit::<skep_core::policy::Write>().unwrap();
        let stranger = stranger.within(Some("w"), None).unwrap();
        let renewed = app.renew_claim(&stranger, Some(&held.pattern), held.token, TTL).await;
        assert!(matches!(renewed, Err(ClaimError::Refused(Refused::NotYours(_)))), "{renewed:?}");
        let released = app.release_claim(&stranger, Some(&held.pattern), held.token).await;
        assert!(matches!(released, Err(ClaimError::Refused(Refused::NotYours(_)))), "{released:?}");
        let elsewhere = app.release_claim(&in_workspace("ann"), Some(&glob("b")), held.token).await;
        assert!(matches!(elsewhere, Err(ClaimError::Refused(Refused::Elsewhere { .. }))), "{elsewhere:?}");
        let short = app.renew_claim(&in_workspace("ann"), Some(&held.pattern), held.token, Duration::ZERO).await;
        assert!(matches!(short, Err(ClaimError::Time(_))), "{short:?}");
        assert_eq!(claims(app.at(NOW.after(TTL))).await, [renewed_at(&held, half)]);
    })
    .await;
}

fn renewed_at(claim: &Claim, at: Timestamp) -> Claim {
    Claim { renewed: at, until: at.after(TTL), ..claim.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_a_claim_away_and_that_is_recorded() {
    on_every_database(async |app| {
        let held = claim(&app, "ann", new("a")).await.unwrap();
        let operator = Actor::operator("root", Namespace::team("main")).permit::<Operate>().unwrap();
        let operator = operator.within(Some("w"), None).unwrap();
        assert_eq!(app.force_release_claim(&operator, held.token).await.unwrap(), Some(held.clone()));
        assert_eq!(app.force_release_claim(&operator, held.token).await.unwrap(), None);
        assert_eq!(why(write(&app, "a", "x", Some(held.token)).await), Refused::Stale(held.token));
        let events = all_events(&app, &in_workspace("ann").to_read()).await;
        let forced = EventKind::ClaimForced {
            pattern: "a".into(),
            token: held.token,
            principal: "test".into(),
            agent: Some("ann".into()),
        };
        assert_eq!((&events[1].kind, events[1].actor.as_ref().unwrap().principal.as_ref()), (&forced, "root"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_served_in_order_and_others_do_not_wait_for_them() {
    on_every_database(async |app| {
        let held = claim(&app, "first", new("a")).await.unwrap();
        let order = Mutex::new(Vec::new());
        let wait = async |agent: &str, new: NewClaim, is_last: bool| {
            let got = claim(&app, agent, new).await.unwrap();
            order.lock().unwrap().push(agent.to_owned());
            if !is_last {
                release(&app, &got).await.unwrap();
            }
            got
        };
        let script = Box::pin(async {
            until_there_are(&app, 4).await;
            // Whoever comes later does not overtake those who wait, but has what nobody else wants.
            assert_eq!(refused_by(claim(&app, "eve", shared("[ab]")).await), held);
            claim(&app, "eve", new("c")).await.unwrap();
            assert!(order.lock().unwrap().is_empty());
            release(&app, &held).await.unwrap();
        });
        let in_line = async {
            // Each is in line before the next comes.
            let second = Box::pin(async { wait("second", waiting("a"), false).await });
            let third = Box::pin(async {
                until_there_are(&app, 2).await;
                wait("third", waiting("*a*"), false).await
            });
            let fourth = Box::pin(async {
                until_there_are(&app, 3).await;
                wait("fourth", waiting("a"), true).await
            });
            tokio::join!(second, third, fourth)
        };
        let (got, ()) = timeout(LONG, async { tokio::join!(in_line, script) }).await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["second", "third", "fourth"]);
        assert!(held.token < got.0.token && got.0.token < got.1.token && got.1.token < got.2.token);
        assert_eq!(write(&app, "a", "x", Some(got.2.token)).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_in_vain_is_told_for_whom_and_leaves_no_trace() {
    on_every_database(async |app| {
        let held = claim(&app, "ann", new("a")).await.unwrap();
        let short = NewClaim { wait: Duration::from_millis(50), ..new("a") };
        assert_eq!(refused_by(claim(&app, "bob", short).await), held);
        assert_eq!(claims(&app).await, std::slice::from_ref(&held));
        // One that goes away while it waits is withdrawn, so that those behind it do not wait for it.
        let gone = timeout(Duration::from_millis(100), claim(&app, "bob", waiting("a"))).await;
        assert!(gone.is_err(), "{gone:?}");
        until_there_are(&app, 1).await;
        release(&app, &held).await.unwrap();
        claim(&app, "cat", new("a")).await.unwrap();
        let kinds: Vec<String> = all_events(&app, &in_workspace("ann").to_read())
            .await
            .iter()
            .map(|event| event.kind.name().to_owned())
            .collect();
        let expected = ["claim.taken", "claim.withdrawn", "claim.withdrawn", "claim.released", "claim.taken"];
        assert_eq!(kinds, expected);
    })
    .await;
}

/// Hubs of one database, each with the real time.
async fn hubs(address: &str, count: usize) -> Vec<App> {
    let mut hubs = Vec::new();
    for _ in 0..count {
        hubs.push(App::new(Db::open(address, Limits::default()).await.unwrap()));
    }
    hubs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_expires_goes_to_whoever_waits_at_another_hub() {
    on_every_address(async |address| {
        let hubs = hubs(address, 2).await;
        let held = claim(&hubs[0], "ann", NewClaim { ttl: TTL_MIN, ..new("a") }).await.unwrap();
        let got = timeout(LONG, claim(&hubs[1], "bob", waiting("a"))).await.unwrap().unwrap();
        assert!(got.token > held.token && got.until >= held.until.after(TTL), "{held:?} {got:?}");
        assert_eq!(why(write(&hubs[0], "a", "late", Some(held.token)).await), Refused::Stale(held.token));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_contention_of_two_hubs_no_two_claims_overlap() {
    const AGENTS: usize = 8;
    const CLAIMS: usize = 6;
    on_every_address(async |address| {
        let hubs = hubs(address, 2).await;
        let held = Mutex::new(Vec::new());
        let agent = async |n: usize| {
            let app = &hubs[n % hubs.len()];
            for round in 0..CLAIMS {
                let pattern = ["a", "*", "[ab]", "b"][(n + round) % 4];
                let got = timeout(LONG, claim(app, &n.to_string(), waiting(pattern))).await.unwrap().unwrap();
                let began = Instant::now();
                let file = if pattern == "b" { "b" } else { "a" };
                write(app, file, &format!("{n}.{round}"), Some(got.token)).await.unwrap();
                held.lock().unwrap().push((got.clone(), began, Instant::now()));
                release(app, &got).await.unwrap();
            }
        };
        futures_util::future::join_all((0..AGENTS).map(agent)).await;
        let held = held.into_inner().unwrap();
        assert_eq!(held.len(), AGENTS * CLAIMS);
        for (n, (one, began, ended)) in held.iter().enumerate() {
            for (other, other_began, other_ended) in &held[n + 1..] {
                assert!(one.token != other.token);
                let overlap = began < other_ended && other_began < ended;
                assert!(!overlap || !one.excludes(other), "{one:?} {other:?}");
            }
        }
        assert_eq!(claims(&hubs[0]).await, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_hub_died_delays_others_only_for_a_while() {
    on_every_database(async |app| {
        let held = claim(&app, "ann", new("a")).await.unwrap();
        // What a hub that died while somebody waited there leaves behind.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (waits, lost) = (app.app.clone(), in_workspace("lost"));
        runtime.spawn(async move { waits.claim_file(&lost, waiting("a")).await });
        until_there_are(&app, 2).await;
        runtime.shutdown_background();
        release(&app, &held).await.unwrap();
        if claims(&app).await.iter().any(|claim| !claim.is_held) {
            assert!(matches!(claim(&app, "bob", new("a")).await, Err(ClaimError::Refused(_))));
        }
        claim(app.at(NOW.after(TTL)), "bob", new("a")).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_put_back_holds_up_nobody() {
    on_every_database(async |app| {
        let held = claim(app.at(LATER), "ann", new("a")).await.unwrap();
        // An hour back: the claim would last an hour and a minute from now on.
        assert_eq!(claims(app.at(NOW)).await, []);
        assert_eq!(why(write(&app, "a", "x", Some(held.token)).await), Refused::Stale(held.token));
        let next = claim(&app, "bob", new("a")).await.unwrap();
        assert!(next.token > held.token && next.until == NOW.after(TTL));
        // And an hour ahead again: what was taken away does not come back.
        assert_eq!(claims(app.at(LATER)).await, []);
        assert_eq!(why(write(&app, "a", "x", Some(held.token)).await), Refused::Stale(held.token));
        claim(&app, "cat", new("a")).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_away_before_its_time_has_passed_for_certain() {
    on_every_address(async |address| {
        let error = Duration::from_secs(5);
        let clock = Clock::manual(NOW).unsure(error);
        let app = App::new(Db::open(address, Limits { clock: clock.clone(), ..Limits::default() }).await.unwrap());
        claim(&app, "ann", new("a")).await.unwrap();
        clock.set(NOW.after(TTL));
        refused_by(claim(&app, "bob", new("a")).await);
        clock.set(NOW.after(TTL + error));
        claim(&app, "bob", new("a")).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_have_limits_and_those_that_are_over_do_not_count() {
    on_every_database(async |app| {
        let named = |n: usize| {
            let permit = Actor::member(format!("p{n}"), Namespace::team("main")).permit().unwrap();
            Permit::<skep_core::policy::Write>::within(&permit, Some("w"), None).unwrap()
        };
        let claim_many = async |principal: usize, count: usize| {
            let each =
                (0..count).map(async |n| app.claim_file(&named(principal), new(&format!("{principal}/{n}"))).await);
            futures_util::future::join_all(each).await.into_iter().filter(Result::is_ok).count()
        };
        assert_eq!(claim_many(0, PRINCIPAL_CLAIMS_MAX).await, PRINCIPAL_CLAIMS_MAX);
        let more = app.claim_file(&named(0), new("more")).await;
        assert!(matches!(more, Err(ClaimError::TooManyOfYours)), "{more:?}");
        for principal in 1..CLAIMS_MAX / PRINCIPAL_CLAIMS_MAX {
            claim_many(principal, PRINCIPAL_CLAIMS_MAX).await;
        }
        let more = app.claim_file(&named(99), new("more")).await;
        assert!(matches!(more, Err(ClaimError::TooMany)), "{more:?}");
        let later = NOW.after(TTL);
        app.at(later).claim_file(&named(0), new("more")).await.unwrap();
        for n in 0..20 {
            app.claim_file(&named(0), new(&format!("more/{n}"))).await.unwrap();
        }
        assert_eq!(claims(&app).await.len(), 21);
    })
    .await;
}
