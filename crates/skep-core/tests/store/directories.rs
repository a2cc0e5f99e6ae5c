//! What a hub can rely on that keeps a directory and a workspace in step.

use std::sync::Arc;

use skep_core::{
    app::{DirectoryError, FileError},
    db::{RevisionFilter, RevisionPage},
    directory::{Agreed, Directory, DirectoryChange},
    event::EventKind,
    file::Revision,
};

use super::{
    claims,
    files::{in_workspace, new, path},
    *,
};

const TTL: Duration = Duration::from_secs(30);

fn of(hub: &str) -> Directory {
    Directory { place: "machine:7:/srv/w".into(), hub: hub.into() }
}

fn change(file: &str, content: Option<&str>, newest: u64) -> DirectoryChange {
    let bytes = content.map(|content| Arc::from(content.as_bytes()));
    DirectoryChange { path: path(file), bytes, newest, replaces_unseen: false, is_there: true }
}

async fn agreed(app: &App) -> Vec<(String, u64)> {
    let all = app.db.agreed(&in_workspace("r").to_read(), None).await.unwrap();
    all.into_iter().map(|(path, Agreed { revision, .. })| (path.as_str().to_owned(), revision)).collect()
}

async fn hold(app: &App, directory: &Directory) -> Result<(), DirectoryError> {
    app.hold_directory(&in_workspace("r"), directory, TTL).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hub_keeps_a_directory_until_it_releases_it_or_its_time_is_over() {
    on_every_database(async |app| {
        let permit = in_workspace("r");
        assert!(matches!(
            app.change_in_directory(&permit, &of("a"), change("f", Some("1"), 0)).await,
            Err(DirectoryError::NotHeld)
        ));
        hold(&app, &of("a")).await.unwrap();
        hold(&app, &of("a")).await.unwrap();
        let refused = hold(&app, &of("b")).await.unwrap_err();
        assert!(matches!(&refused, DirectoryError::Elsewhere { hub, .. } if &**hub == "a"), "{refused}");
        app.change_in_directory(&permit, &of("a"), change("f", Some("1"), 0)).await.unwrap();
        hold(app.at(NOW.after(TTL)), &of("b")).await.unwrap();
        for refused in [
            app.change_in_directory(&permit, &of("a"), change("f", Some("2"), 1)).await.map(drop),
            app.agree(&permit, &of("a"), Vec::new()).await,
            app.release_directory(&permit, &of("a")).await,
        ] {
            assert!(matches!(refused, Err(DirectoryError::NotHeld)), "{refused:?}");
        }
        assert_eq!(agreed(&app).await, [("f".to_owned(), 1)], "it is the same directory");
        app.release_directory(&permit, &of("b")).await.unwrap();
        let elsewhere = Directory { place: "machine:8:/srv/w".into(), ..of("c") };
        hold(&app, &elsewhere).await.unwrap();
        assert_eq!(agreed(&app).await, [], "what was agreed on with another directory does not count");
        let (held, until) = app.db.directory(&permit.to_read()).await.unwrap().unwrap();
        assert_eq!((held, until), (elsewhere, NOW.after(TTL + TTL)));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_a_directory_is_a_revision_of_nobody_and_claims_do_not_hold_it_up() {
    on_every_database(async |app| {
        let permit = in_workspace("ann");
        hold(&app, &of("a")).await.unwrap();
        app.write_file(&permit, new("f", "1")).await.unwrap();
        let claim = app.claim_file(&permit, claims::new("f")).await.unwrap();
        let recorded = app.change_in_directory(&permit, &of("a"), change("f", Some("2"), 1)).await.unwrap();
        let Revision { number, base, author, bypassed, .. } = recorded.revision.clone();
        assert_eq!((number, base, author, bypassed), (2, Some(1), None, Some(claim.token)));
        let same = app.change_in_directory(&permit, &of("a"), change("f", Some("2"), 2)).await.unwrap();
        assert!(!same.is_new);
        let stale = app.change_in_directory(&permit, &of("a"), change("f", Some("3"), 1)).await.unwrap_err();
        assert!(matches!(stale, DirectoryError::File(FileError::Conflict { base: 1, .. })), "{stale:?}");
        let unseen = DirectoryChange { replaces_unseen: true, is_there: false, ..change("f", Some("3"), 2) };
        let recorded = app.change_in_directory(&permit, &of("a"), unseen).await.unwrap();
        assert_eq!((recorded.revision.number, recorded.revision.base), (3, None));
        assert_eq!(agreed(&app).await, [("f".to_owned(), 2)], "the directory has not got the third");
        app.change_in_directory(&permit, &of("a"), change("f", None, 3)).await.unwrap();
        assert_eq!(agreed(&app).await, []);

        let events = all_events(&app, &permit.to_read()).await;
        let of_directory: Vec<&Event> = events.iter().filter(|event| event.actor.is_none()).collect();
        let names: Vec<&str> = of_directory.iter().map(|event| event.kind.name()).collect();
        let bypassed = "claim.bypassed";
        let expected = ["file.written", bypassed, "file.written", "file.conflict", bypassed, "file.deleted", bypassed];
        assert_eq!(names, expected);
        let EventKind::ClaimBypassed { principal, agent, path, revision, .. } = &of_directory[1].kind else {
            panic!("{:?}", of_directory[1])
        };
        assert_eq!((&**principal, agent.as_deref(), &**path, *revision), ("test", Some("ann"), "f", 2));
        let revisions = app.db.revisions(&permit.to_read(), &super::files::path("f"), None, 9).await.unwrap();
        let past: Vec<bool> = revisions.iter().map(|revision| revision.bypassed.is_some()).collect();
        assert_eq!(past, [true, true, true, false]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_have_is_kept_for_each_file() {
    on_every_database(async |app| {
        let permit = in_workspace("ann");
        hold(&app, &of("a")).await.unwrap();
        let count = 1_200;
        for n in 0..count {
            app.write_file(&permit, new(&format!("f{n:04}"), "x")).await.unwrap();
        }
        let both = |n: u32| (path(&format!("f{n:04}")), Some(Agreed { revision: 1, sha256: "x".into() }));
        app.agree(&permit, &of("a"), (0..count).map(both).collect()).await.unwrap();
        app.agree(&permit, &of("a"), vec![(path("f0003"), None)]).await.unwrap();
        let first = app.db.agreed(&permit.to_read(), None).await.unwrap();
        let rest = app.db.agreed(&permit.to_read(), first.last().map(|(path, _)| path)).await.unwrap();
        assert_eq!((first.len(), rest.len()), (1_000, 199));
        assert!(first.iter().all(|(file, _)| *file != path("f0003")));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_revisions_of_all_files_are_listed_newest_first() {
    on_every_database(async |app| {
        for (n, (agent, file)) in
            [("ann", "src/a"), ("bob", "src"), ("ann", "src2"), ("bob", "src/b"), ("ann", "src/a")].iter().enumerate()
        {
            let at = NOW.after(Duration::from_secs(n as u64 / 2));
            // `src` and `src/a` cannot be there at the same time.
            let file = if *file == "src" { "doc" } else { file };
            app.at(at).write_file(&in_workspace(agent), new(file, &n.to_string())).await.unwrap();
        }
        let reader = in_workspace("r").to_read();
        let list = async |filter: RevisionFilter, limit: usize| {
            let (mut all, mut before) = (Vec::new(), None);
            loop {
                let page = app.db.revisions_of_all(&reader, &filter, before, limit).await.unwrap();
                let RevisionPage { revisions, next } = page;
                assert!(revisions.len() <= limit);
                all.extend(revisions.into_iter().map(|revision| format!("{} {}", revision.path, revision.number)));
                before = next;
                if before.is_none() {
                    return all;
                }
            }
        };
        let all = ["src/a 2", "src2 1", "src/b 1", "src/a 1", "doc 1"];
        for limit in [1, 2, 3, 1_000] {
            let mut found = list(RevisionFilter::default(), limit).await;
            // Of one time, they are by path.
            assert_eq!(found.remove(0), all[0]);
            found.sort();
            assert_eq!(found, ["doc 1", "src/a 1", "src/b 1", "src2 1"]);
        }
        let below = |path: &str| RevisionFilter { path: path.into(), ..RevisionFilter::default() };
        assert_eq!(list(below("src"), 1).await, ["src/a 2", "src/b 1", "src/a 1"]);
        assert_eq!(list(below("src/a"), 9).await, ["src/a 2", "src/a 1"]);
        let by = RevisionFilter { by: Some("bob".into()), ..RevisionFilter::default() };
        assert_eq!(list(by, 9).await, ["src/b 1", "doc 1"]);
        let since = RevisionFilter { since: Some(NOW.after(Duration::from_secs(2))), ..RevisionFilter::default() };
        assert_eq!(list(since, 1).await, ["src/a 2"]);
    })
    .await;
}
