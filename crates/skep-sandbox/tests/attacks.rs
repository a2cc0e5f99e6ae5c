//! Everything on the attack list, on both ways to a sandbox and as both kinds of user.

mod common;

use common::{again_as_ordinary_user, sandbox};
use skep_sandbox::Verdict;

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

#[tokio::test]
async fn no_attack_reaches_anything() {
    let attempts = sandbox().await.selftest().await;
    for attempt in &attempts {
        println!("{:<45} {:?}", attempt.attack, attempt.verdict);
    }
    assert!(attempts.len() > 60);
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.verdict != Verdict::Defended).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
