//! `skep files` and `skep claims`, on the database and at a hub.

use crate::support::{Served, User};

fn shares_files(user: &User) {
    let skep = |arguments: &[&str]| user.skep(&[arguments, &["--task", "t1"]].concat());
    let source = |text: &str| {
        user.file("source.txt", text);
        user.workspace().join("source.txt").display().to_string()
    };
    let put = |text: &str, more: &[&str]| skep(&[&["files", "put", "notes.md", &source(text)], more].concat());
    assert_eq!(put("1\n2\n3\n", &[]).ok().stdout(), "revision 1\n");
    assert_eq!(put("one\n2\n3\n", &["--base-revision", "1", "--agent", "bob"]).ok().stdout(), "revision 2\n");
    assert_eq!(skep(&["files", "cat", "notes.md"]).ok().stdout(), "one\n2\n3\n");
    assert_eq!(skep(&["files", "cat", "notes.md", "--revision", "1"]).ok().stdout(), "1\n2\n3\n");

    let conflict = put("1\n2\nthree\n", &["--base-revision", "1"]);
    assert_eq!(conflict.code(), 1);
    let said = conflict.stderr();
    assert!(said.contains("is at revision 2, not 1") && said.contains("+one") && said.contains("--merge"), "{said}");
    let merged = put("1\n2\nthree\n", &["--base-revision", "1", "--merge"]).ok().stdout();
    assert_eq!(merged, "revision 3, merged with revision 2\n");

    let listed = skep(&["files", "ls"]).ok().stdout();
    assert!(listed.starts_with("PATH ") && listed.contains("notes.md") && listed.contains("local"), "{listed}");
    let log = skep(&["files", "log", "notes.md", "--diffs"]).ok().stdout();
    assert!(log.contains("local/bob") && log.contains("+one") && log.contains("revision 1 "), "{log}");
    let diff = skep(&["files", "diff", "notes.md", "--from", "1"]).ok().stdout();
    assert!(diff.contains("-1\n+one\n 2\n-3\n+three\n") && diff.contains("(revision 3)"), "{diff}");
    assert_eq!(skep(&["files", "undo", "notes.md"]).ok().stdout(), "revision 4\n");
    assert_eq!(skep(&["files", "cat", "notes.md"]).ok().stdout(), "one\n2\n3\n");
    skep(&["files", "rm", "notes.md"]).ok();
    assert_eq!(skep(&["files", "cat", "notes.md"]).code(), 1);
    skep(&["files", "undo", "notes.md"]).ok();
    assert_eq!(skep(&["files", "cat", "notes.md", "--json"]).ok().json()["revision"], 6);

    let taken = skep(&["claims", "take", "*.md", "--ttl", "10m", "--agent", "bob"]).ok().stdout();
    let token = taken.trim().to_owned();
    let again = skep(&["claims", "take", "notes.md"]);
    assert!(again.code() == 1 && again.stderr().contains("is over at"), "{}", again.stderr());
    let claims = skep(&["claims", "ls", "notes.md"]).ok().stdout();
    assert!(claims.contains("*.md") && claims.contains("local/bob") && claims.contains("exclusive"), "{claims}");
    let refused = put("x", &[]);
    assert!(refused.code() == 1 && refused.stderr().contains("is claimed by local/bob"), "{}", refused.stderr());
    put("x", &["--token", &token]).ok();
    assert_eq!(skep(&["claims", "release", &token]).code(), 2, "what it is on must be said");
    assert_eq!(skep(&["claims", "release", &token, "--force"]).ok().stdout(), "released\n");
    assert_eq!(skep(&["claims", "release", &token, "*.md"]).ok().stdout(), "it was over already\n");
    assert_eq!(skep(&["claims", "ls"]).ok().stdout(), "nothing is claimed\n");
    assert_eq!(user.skep(&["files", "ls"]).code(), 2, "files are a task's");
}

#[test]
fn files_are_shared_in_the_database_without_a_hub() {
    shares_files(&User::new());
}

#[test]
fn files_are_shared_at_the_hub_that_runs_here() {
    let user = User::new();
    let _served = Served::hub(&user, &["--tcp", "127.0.0.1:0"], None);
    shares_files(&user);
}
