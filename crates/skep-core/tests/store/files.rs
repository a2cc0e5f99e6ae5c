//! What agents that write the same files can rely on.

use std::sync::Arc;

use skep_core::{
    app::FileError,
    db::FileFilter,
    event::EventKind,
    file::{KeepRevisions, NewRevision, Revision, Written},
    glob::Pattern,
    limits::FILE_BYTES_MAX,
    path::FilePath,
};

use super::*;

pub(crate) fn in_workspace(agent: &str) -> Permit {
    permit().within(Some("w"), Some(agent)).unwrap()
}

fn reads() -> Permit<Read> {
    in_workspace("reader").to_read()
}

pub(crate) fn path(text: &str) -> FilePath {
    FilePath::new(text).unwrap()
}

pub(crate) fn new(file: &str, content: &str) -> NewRevision {
    NewRevision { path: path(file), bytes: content.as_bytes().into(), base: None, token: None }
}

fn based(file: &str, content: &str, base: u64) -> NewRevision {
    NewRevision { base: Some(base), ..new(file, content) }
}

async fn write(app: &App, agent: &str, new: NewRevision) -> Result<Written, FileError> {
    app.write_file(&in_workspace(agent), new).await
}

async fn delete(app: &App, file: &str, base: Option<u64>) -> Result<Written, FileError> {
    app.delete_file(&in_workspace("ann"), &path(file), base, None).await
}

/// What is in a file, and at which revision; nothing if it was deleted.
async fn read(app: &App, file: &str, revision: Option<u64>) -> Option<(u64, Option<String>)> {
    let contents = app.db.file(&reads(), &path(file), revision).await.unwrap()?;
    let text = contents.bytes.map(|bytes| String::from_utf8(bytes).unwrap());
    Some((contents.revision.number, text))
}

fn is(revision: u64, text: &str) -> Option<(u64, Option<String>)> {
    Some((revision, Some(text.to_owned())))
}

async fn names(app: &App, filter: FileFilter) -> Vec<String> {
    let page = app.db.files(&reads(), &filter, None, 1000).await.unwrap();
    assert_eq!(page.next, None);
    page.files.into_iter().map(|file| file.path.as_str().to_owned()).collect()
}

async fn numbers(app: &App, file: &str) -> Vec<u64> {
    let revisions = app.db.revisions(&reads(), &path(file), None, 1000).await.unwrap();
    revisions.into_iter().map(|revision| revision.number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_revision_is_kept_with_its_author_and_its_base() {
    on_every_database(async |app| {
        let one = write(&app, "ann", new("src/a", "one")).await.unwrap();
        assert!(one.is_new && one.revision.number == 1);
        write(app.at(LATER), "bob", based("src/a", "two", 1)).await.unwrap();
        write(&app, "ann", NewRevision { bytes: [0, 255].into(), ..based("src/a", "", 2) }).await.unwrap();
        let of = |revision: &Revision| {
            let author = revision.author.as_ref().map(ToString::to_string).unwrap();
            (revision.number, revision.base, author, revision.size, revision.at)
        };
        let revisions = app.db.revisions(&reads(), &path("src/a"), None, 9).await.unwrap();
        let expected = [
            (3, Some(2), "test/ann".to_owned(), 2, LATER),
            (2, Some(1), "test/bob".to_owned(), 3, LATER),
            (1, None, "test/ann".to_owned(), 3, NOW),
        ];
        assert_eq!(revisions.iter().map(of).collect::<Vec<_>>(), expected);
        assert_eq!(app.db.revisions(&reads(), &path("src/a"), Some(3), 1).await.unwrap(), revisions[1..2]);
        assert_eq!(read(&app, "src/a", Some(1)).await, is(1, "one"));
        let newest = app.db.file(&reads(), &path("src/a"), None).await.unwrap().unwrap();
        assert_eq!((newest.bytes.as_deref(), newest.revision.number), (Some(&[0, 255][..]), 3));
        assert_eq!(read(&app, "src/a", Some(4)).await, None);
        assert_eq!(read(&app, "src/b", None).await, None);

        let written = EventKind::FileWritten {
            path: "src/a".into(),
            revision: 2,
            base: Some(1),
            sha256: revisions[1].sha256.clone().unwrap(),
            size: 3,
            source: None,
        };
        let events = all_events(&app, &reads()).await;
        assert_eq!((events.len(), &events[1].kind), (3, &written));
        assert_eq!(events[1].actor.as_ref().unwrap().agent.as_deref(), Some("bob"));
        assert_eq!(all_events(&app, &permit().within(Some("v"), None).unwrap().to_read()).await, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_an_old_revision_is_refused_and_says_what_is_there() {
    on_every_database(async |app| {
        write(&app, "ann", based("a", "one", 0)).await.unwrap();
        write(&app, "bob", based("a", "two", 1)).await.unwrap();
        for base in [0, 1, 3] {
            let refused = write(&app, "ann", based("a", "three", base)).await;
            let Err(FileError::Conflict { newest: Some(newest), base: said, .. }) = refused else {
                panic!("{refused:?}")
            };
            assert_eq!((newest.number, said), (2, base));
            assert_eq!(newest.author.unwrap().to_string(), "test/bob");
        }
        let refused = write(&app, "ann", based("b", "x", 1)).await;
        assert!(matches!(refused, Err(FileError::Conflict { newest: None, .. })), "{refused:?}");
        let refused = delete(&app, "a", Some(1)).await;
        assert!(matches!(refused, Err(FileError::Conflict { .. })), "{refused:?}");
        assert_eq!(read(&app, "a", None).await, is(2, "two"));
        write(&app, "ann", new("a", "three")).await.unwrap();
        assert_eq!(read(&app, "a", None).await, is(3, "three"), "whoever does not say a base replaces what is there");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_that_say_their_base_none_loses_anything() {
    const WRITERS: usize = 8;
    const WRITES: usize = 5;
    on_every_database(async |app| {
        let writer = |n: usize| {
            let app = app.app.clone();
            async move {
                for write_number in 0..WRITES {
                    loop {
                        let (base, text) = match read(&app, "list", None).await {
                            Some((base, text)) => (base, text.unwrap()),
                            None => (0, String::new()),
                        };
                        let text = format!("{text}{n}.{write_number}\n");
                        match write(&app, &n.to_string(), based("list", &text, base)).await {
                            Ok(written) => break assert_eq!(written.revision.number, base + 1),
                            Err(FileError::Conflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            }
        };
        futures_util::future::join_all((0..WRITERS).map(writer)).await;
        let (revision, text) = read(&app, "list", None).await.unwrap();
        let mut lines: Vec<String> = text.unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        let mut all: Vec<String> = (0..WRITERS).flat_map(|n| (0..WRITES).map(move |w| format!("{n}.{w}"))).collect();
        all.sort();
        assert_eq!((lines, revision), (all, 40));
        assert_eq!(numbers(&app, "list").await, (1..=40).rev().collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_write_again_changes_nothing_but_two_do_not_both_create_a_file() {
    on_every_database(async |app| {
        write(&app, "ann", based("a", "one", 0)).await.unwrap();
        let again = write(&app, "ann", based("a", "one", 0)).await.unwrap();
        assert_eq!((again.is_new, again.revision.number), (false, 1));
        let other = write(&app, "bob", based("a", "one", 0)).await;
        assert!(matches!(other, Err(FileError::Conflict { .. })), "{other:?}");
        assert!(!write(&app, "bob", based("a", "one", 1)).await.unwrap().is_new);
        assert!(!write(&app, "bob", new("a", "one")).await.unwrap().is_new);
        assert_eq!(numbers(&app, "a").await, [1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_goes_on_with_its_numbers_when_it_is_written_again() {
    on_every_database(async |app| {
        write(&app, "ann", new("a", "one")).await.unwrap();
        assert!(delete(&app, "a", Some(1)).await.unwrap().is_new);
        assert!(!delete(&app, "a", None).await.unwrap().is_new, "it is deleted already");
        assert_eq!(read(&app, "a", None).await, Some((2, None)));
        assert_eq!(names(&app, FileFilter::default()).await, [] as [&str; 0]);
        assert_eq!(read(&app, "a", Some(1)).await, is(1, "one"));
        write(&app, "ann", based("a", "two", 0)).await.unwrap();
        assert_eq!(read(&app, "a", None).await, is(3, "two"));
        assert!(matches!(delete(&app, "b", None).await, Err(FileError::Unknown(_))));
        let kinds: Vec<String> = all_events(&app, &reads()).await.iter().map(|e| e.kind.name().to_owned()).collect();
        assert_eq!(kinds, ["file.written", "file.deleted", "file.written"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_mebibytes_are_kept_to_the_byte_and_one_more_is_refused() {
    on_every_database(async |app| {
        let bytes: Arc<[u8]> = (0..FILE_BYTES_MAX).map(|n| (n % 251) as u8).collect();
        let large = NewRevision { bytes: Arc::clone(&bytes), ..new("large", "") };
        assert_eq!(write(&app, "ann", large.clone()).await.unwrap().revision.size, 10 * 1024 * 1024);
        let found = app.db.file(&reads(), &path("large"), None).await.unwrap().unwrap();
        assert!(found.bytes.as_deref() == Some(&*bytes));
        let more = NewRevision { bytes: vec![0; FILE_BYTES_MAX + 1].into(), ..large };
        let refused = write(&app, "ann", more).await;
        assert!(matches!(refused, Err(FileError::TooLarge(10_485_761))), "{refused:?}");
        assert_eq!(numbers(&app, "large").await, [1]);
        write(&app, "ann", new("empty", "")).await.unwrap();
        assert_eq!(read(&app, "empty", None).await, is(1, ""));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_files_are_one_for_some_file_system() {
    on_every_database(async |app| {
        write(&app, "ann", new("docs/README.md", "one")).await.unwrap();
        for twin in ["docs/readme.md", "DOCS/README.md"] {
            let refused = write(&app, "ann", new(twin, "two")).await;
            let Err(FileError::Twin { existing, .. }) = refused else { panic!("{twin}: {refused:?}") };
            assert_eq!(existing, path("docs/README.md"));
        }
        for (file, existing) in
            [("docs", "docs/README.md"), ("Docs", "docs/README.md"), ("docs/readme.md/x", "docs/README.md")]
        {
            let refused = write(&app, "ann", new(file, "two")).await;
            let Err(FileError::InTheWay { existing: found, .. }) = refused else { panic!("{file}: {refused:?}") };
            assert_eq!(found, path(existing));
        }
        for file in ["docs0", "doc", "docs/README.md0", "docs/README"] {
            write(&app, "ann", new(file, "near")).await.unwrap();
        }
        delete(&app, "docs/README.md", None).await.unwrap();
        write(&app, "ann", new("docs/readme.md", "two")).await.unwrap();
        let refused = write(&app, "ann", new("docs/README.md", "three")).await;
        assert!(matches!(refused, Err(FileError::Twin { .. })), "the deleted one cannot come back: {refused:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_listed_by_path_directory_and_glob_in_pages() {
    on_every_database(async |app| {
        for file in ["src/b.rs", "src/a/x.rs", "src/a.rs", "src.rs", "doc/é.md", "doc/z.md", "SRC2"] {
            write(&app, "ann", new(file, file)).await.unwrap();
        }
        let below = |directory: &str| FileFilter { directory: directory.into(), pattern: None };
        let all = ["SRC2", "doc/z.md", "doc/é.md", "src.rs", "src/a.rs", "src/a/x.rs", "src/b.rs"];
        assert_eq!(names(&app, below("")).await, all);
        assert_eq!(names(&app, below("src/")).await, ["src/a.rs", "src/a/x.rs", "src/b.rs"]);
        assert_eq!(names(&app, below("src/a/")).await, ["src/a/x.rs"]);
        let glob = |text: &str| FileFilter { directory: String::new(), pattern: Some(Pattern::new(text).unwrap()) };
        assert_eq!(names(&app, glob("**/*.rs")).await, ["src.rs", "src/a.rs", "src/a/x.rs", "src/b.rs"]);
        assert_eq!(names(&app, glob("src/*.rs")).await, ["src/a.rs", "src/b.rs"]);
        let (mut after, mut paged) = (None, Vec::new());
        loop {
            let page = app.db.files(&reads(), &glob("**/*.rs"), after.as_ref(), 2).await.unwrap();
            assert!(page.files.len() <= 2);
            paged.extend(page.files.iter().map(|file| file.path.as_str().to_owned()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(paged, ["src.rs", "src/a.rs", "src/a/x.rs", "src/b.rs"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_revisions_go_with_their_contents_and_the_newest_stays() {
    on_every_database(async |app| {
        for n in 1..=6_u64 {
            let at = NOW.after(Duration::from_secs(n));
            write(app.at(at), "ann", new("a", &format!("text {n}"))).await.unwrap();
        }
        write(&app, "ann", new("b", "text 1")).await.unwrap();
        write(&app, "ann", new("c", "text 7")).await.unwrap();
        delete(&app, "c", None).await.unwrap();
        let prune = async |keep| app.prune_revisions(&in_workspace("ann"), keep).await.unwrap();
        prune(KeepRevisions::default()).await;
        assert_eq!(numbers(&app, "a").await, [6, 5, 4, 3, 2, 1]);
        prune(KeepRevisions { age_max: Some(Duration::from_secs(4)), count_max: None }).await;
        assert_eq!(numbers(&app, "a").await, [6, 5, 4, 3, 2], "it is 6 now");
        assert_eq!(read(&app, "b", None).await, is(1, "text 1"), "another file has the same contents");
        prune(KeepRevisions { age_max: None, count_max: Some(2) }).await;
        assert_eq!(numbers(&app, "a").await, [6, 5]);
        prune(KeepRevisions { age_max: None, count_max: Some(0) }).await;
        prune(KeepRevisions { age_max: Some(Duration::ZERO), count_max: None }).await;
        assert_eq!((numbers(&app, "a").await, numbers(&app, "c").await), (vec![6], vec![2]));
        assert_eq!(read(&app, "a", None).await, is(6, "text 6"));
        write(&app, "ann", new("a", "text 7")).await.unwrap();
        assert_eq!(read(&app, "a", None).await, is(7, "text 7"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_write_undoes_nothing_of_its_neighbours() {
    on_every_database(async |app| {
        write(&app, "ann", new("a", "0")).await.unwrap();
        // All at once, so that they share commits: those that fail must take nobody along.
        let writes = (0..40).map(|n| {
            let new = if n % 4 == 0 { based("a", "never", 99) } else { new(&format!("f{n}"), "text") };
            write(&app, "ann", new)
        });
        let said = futures_util::future::join_all(writes).await;
        assert_eq!(said.iter().filter(|said| said.is_ok()).count(), 30);
        assert_eq!(names(&app, FileFilter::default()).await.len(), 31);
        assert_eq!(numbers(&app, "a").await, [1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_names_files_and_claims_that_cannot_be() {
    const DAMAGES: [(&str, &str); 8] = [
        ("update file set revision = 9 where path = 'a'", "file a (in main/w) is at revision 9, which does not exist"),
        ("insert into directory_file (namespace, path, revision, sha256) select namespace, path, 4, 'x' from file where path = 'e'",
            "file e (in main/w) is at revision 4 in a directory, and at 3"),
        ("update file set size = 9 where path = 'b'", "file b (in main/w) is not as its revision 1 says"),
        ("delete from file where path = 'c'", "file c (in main/w) has revisions, but does not exist"),
        ("update file set revision = 1, size = 1, sha256 = (select sha256 from revision where path = 'd' and number = 1)
          where path = 'd'", "file d (in main/w) has revision 2, but is at 1"),
        ("delete from revision where path = 'e' and number = 2", "file e (in main/w) has 2 revisions from 1 to 3"),
        ("update claim set pattern = 'x/*' where token = 2", "claim 2 (in main/w) is held beside claim 1"),
        ("update namespace set last_token = 1 where workspace = 'w'", "claim 2 (in main/w) has a token that is still to be given"),
    ];
    // Not `on_every_address`: what this leaves behind is not sound.
    let directory = in_memory();
    for address in [Some(sqlite(&directory)), postgres::new_schema().await].iter().flatten() {
        let app = open(address, Limits::default()).await;
        for file in ["a", "b", "c", "d", "e"] {
            write(&app, "ann", new(file, "1")).await.unwrap();
        }
        write(&app, "ann", new("d", "22")).await.unwrap();
        write(&app, "ann", new("e", "22")).await.unwrap();
        write(&app, "ann", new("e", "333")).await.unwrap();
        for pattern in ["x/1", "y/1"] {
            app.claim_file(&in_workspace("ann"), super::claims::new(pattern)).await.unwrap();
        }
        assert_eq!(app.db.audit().await.unwrap().findings, []);
        for (sql, _) in DAMAGES {
            tamper(address, sql).await;
        }
        let mut said: Vec<String> = app.db.audit().await.unwrap().findings.iter().map(ToString::to_string).collect();
        let mut expected = DAMAGES.map(|(_, expected)| expected);
        said.sort_unstable();
        expected.sort_unstable();
        assert_eq!(said, expected);
    }
}
