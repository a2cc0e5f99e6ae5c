//! Revisions of files.

use skep_core::{
    app::App,
    db::{FileFilter, RevisionFilter},
    file::NewRevision,
    path::FilePath,
    policy::Read,
};

use super::{Added, TIMES, permit};

/// `read` and `old` read a file as it is and as it was at first, `history` a page of its revisions, `all` one of all files'.
pub(crate) const OPERATIONS: &[&str] = &["write", "read", "old", "history", "all", "list"];
const FILES: usize = 100;

pub(crate) fn add(app: App, n: usize) -> Added {
    Box::pin(async move { write(&app, n, n).await })
}

fn path(n: usize) -> FilePath {
    FilePath::new(&format!("src/part{}.rs", n % FILES)).unwrap()
}

async fn write(app: &App, n: usize, content: usize) {
    let bytes = format!("fn part() -> u32 {{\n    {content}\n}}\n").into_bytes().into();
    let new = NewRevision { path: path(n), bytes, base: None, token: None };
    app.write_file(&permit("agent"), new).await.unwrap();
}

pub(crate) async fn operate(app: &App, operation: &str, time: usize, revisions: usize) {
    let reads = permit::<Read>("agent");
    let of_file = (revisions / FILES).min(20);
    let count = match operation {
        "write" => return write(app, time, usize::MAX - revisions - time).await,
        "read" => return assert!(app.db.file(&reads, &path(time), None).await.unwrap().is_some()),
        "old" => return assert!(app.db.file(&reads, &path(time), Some(1)).await.unwrap().is_some()),
        "history" => app.db.revisions(&reads, &path(time), None, of_file).await.unwrap().len(),
        "all" => {
            let filter = RevisionFilter::default();
            app.db.revisions_of_all(&reads, &filter, None, of_file).await.unwrap().revisions.len()
        }
        _ => {
            return assert_eq!(
                app.db.files(&reads, &FileFilter::default(), None, TIMES).await.unwrap().files.len(),
                FILES
            );
        }
    };
    assert_eq!(count, of_file);
}
