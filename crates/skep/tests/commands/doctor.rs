//! `skep doctor`.

use serde_json::Value;

use crate::support::User;

fn finding(findings: &Value, what: &str) -> Value {
    let all = findings["findings"].as_array().unwrap();
    all.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("{what}: {findings:#}")).clone()
}

#[test]
fn the_doctor_says_whether_a_hub_can_tell_users_apart_and_what_follows_if_not() {
    let user = User::new();
    let here = finding(&user.skep(&["doctor", "--json"]).json(), "callers");
    assert!(here["works"] == true && here["cure"].is_null(), "{here}");

    // A sandbox refuses the question, as other containers do.
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_skep"));
    let (directory, name) = (program.parent().unwrap().to_str().unwrap(), program.file_name().unwrap());
    let program = format!("/workspace/{}", name.to_str().unwrap());
    let exec = ["exec", "-C", directory, "--memory", "2G", "--timeout", "2m", "--env", "SKEP_HOME=/tmp/home"];
    let said = user.skep(&[&exec[..], &[&program, "doctor", "--json"]].concat());
    let inside = finding(&said.json(), "callers");
    assert!(inside["works"] == false && inside["required"] == false, "{inside}");
    assert!(inside["detail"].as_str().unwrap().contains("SOCK_DIAG"), "{inside}");
    let cure = inside["cure"].as_str().unwrap();
    assert!(cure.contains("Unix socket") && cure.contains("SKEP_TOKEN"), "{cure}");
}
