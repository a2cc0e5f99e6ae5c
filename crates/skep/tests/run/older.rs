//! Runs that an older program has left behind go on with this one.

use serde_json::Value;

use super::User;

const FAILED: &str = "01m8failed0000000000000000";
const KILLED: &str = "01m8killed0000000000000000";

/// A user whose runs are those of an older program.
fn user() -> User {
    let user = User::new();
    let rows = include_str!("written_at_0008.sql").replace("{workspace}", user.workspace().to_str().unwrap());
    rusqlite::Connection::open(user.home().join("skep.db")).unwrap().execute_batch(&rows).unwrap();
    user
}

fn tasks(report: &Value) -> Vec<(&str, &str)> {
    fn text(value: &Value) -> &str {
        value.as_str().unwrap()
    }
    report["tasks"].as_array().unwrap().iter().map(|task| (text(&task["id"]), text(&task["status"]))).collect()
}

#[test]
fn a_run_that_was_killed_under_an_older_program_is_resumed() {
    let user = user();
    user.file("go", "");
    let said = user.skep(&["resume", KILLED, "--quiet"]).ok().stdout();
    assert!(said.starts_with("# old\nfirst held skipped last hello hello held old\n"), "{said}");
    let report = user.skep(&["show", KILLED, "--json"]).ok().json();
    let expected = [("first", "completed"), ("held", "completed"), ("skipped", "skipped"), ("last", "completed")];
    assert_eq!(tasks(&report), expected);
    assert_eq!(report["tasks"][0]["attempts"], 1, "what was completed is not repeated");
    assert_eq!(report["artefacts"][0]["path"], "outputs/last/out.txt");
    let log = user.skep(&["logs", KILLED, "--task", "held"]).ok().stdout();
    assert!(log.contains("held: started by actor-2") && log.contains("held: completed"), "{log}");
}

#[test]
fn a_run_that_has_failed_under_an_older_program_is_retried() {
    let user = user();
    let before = user.skep(&["show", FAILED, "--json"]).ok().json();
    assert_eq!(tasks(&before), [("bad", "failed"), ("then", "blocked")]);
    assert_eq!(before["tasks"][1]["error"], "bad did not succeed");
    user.file("mended", "");
    user.skep(&["retry", FAILED, "--task", "bad", "--quiet"]).ok();
    let after = user.skep(&["show", FAILED, "--json"]).ok().json();
    assert_eq!(tasks(&after), [("bad", "completed"), ("then", "completed")]);
}
