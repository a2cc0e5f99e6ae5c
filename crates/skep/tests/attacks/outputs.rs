//! One principal after what another has made.

use serde_json::{Value, json};

use crate::wire::{Hub, call, initialize};

const OPERATOR: &str = "operator-correct-horse-battery";
const ANN: &str = "ann-correct-horse-battery";
const BOB: &str = "bob-correct-horse-battery";

fn hub() -> Hub {
    let settings = format!("[serve.tokens]\nann = '{ANN}'\nbob = '{BOB}'\n");
    Hub::start_with(&settings, &[("SKEP_TOKEN", OPERATOR)])
}

/// Somebody who knows a token, and may have a session.
struct Person<'a> {
    hub: &'a Hub,
    bearer: String,
    session: Option<String>,
}

impl<'a> Person<'a> {
    fn new(hub: &'a Hub, token: &str) -> Person<'a> {
        Person { hub, bearer: format!("Bearer {token}"), session: None }
    }

    async fn in_session(hub: &'a Hub, token: &str) -> Person<'a> {
        let mut person = Person::new(hub, token);
        let opened = hub.post("/mcp", &[("authorization", &person.bearer)], initialize("2025-11-25")).await;
        person.session = Some(opened.header("mcp-session-id").to_owned());
        person
    }

    /// What a tool answers: over REST, or in the session if there is one.
    async fn call(&self, tool: &str, arguments: Value) -> Value {
        let authorization = ("authorization", self.bearer.as_str());
        let Some(session) = &self.session else {
            return self.hub.post(&format!("/tools/{tool}"), &[authorization], arguments).await.json();
        };
        let headers = [authorization, ("mcp-session-id", session)];
        let answer = self.hub.post("/mcp", &headers, call(1, tool, arguments)).await.json();
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        serde_json::from_str(text).unwrap()
    }

    async fn reads(&self, path: &str) -> Option<String> {
        Some(self.call("file_read", json!({ "path": path })).await["content"].as_str()?.to_owned())
    }

    /// Leave a secret and a program.
    async fn leaves(&self, secret: &str) {
        let written = self.call("file_write", json!({ "path": "secret.txt", "content": secret })).await;
        assert_eq!(written["path"], "outputs/secret.txt", "{written}");
        let code = format!("print('{secret}')");
        let program = json!({ "language": "python", "code": code, "path": "program.py" });
        let kept = self.call("generate_code", program).await;
        assert_eq!(kept["path"], "outputs/program.py", "{kept}");
    }

    async fn runs(&self) -> Value {
        self.call("execute_generated_code", json!({ "path": "outputs/program.py" })).await
    }

    async fn sees_inputs(&self) -> String {
        let command = "cd /inputs && grep -rs . . | sort";
        let answer = self.call("bash", json!({ "command": command })).await;
        answer["stdout"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

#[tokio::test]
async fn what_one_principal_has_made_is_neither_seen_nor_changed_nor_run_by_another() {
    let hub = hub();
    let (ann, bob) = (Person::new(&hub, ANN), Person::new(&hub, BOB));
    ann.leaves("hers").await;
    // Every way to look.
    assert_eq!(bob.reads("outputs/secret.txt").await, None);
    let listed = bob.call("list_files", json!({ "path": "outputs", "recursive": true })).await;
    assert!(!listed.to_string().contains("secret"), "{listed}");
    let found = bob.call("search", json!({ "source": "files", "query": "hers", "path": "outputs" })).await;
    assert!(!found.to_string().contains("secret.txt"), "{found}");
    assert_eq!(bob.runs().await["code"], "failed");
    assert_eq!(bob.sees_inputs().await, "");
    // Every way around.
    let names = std::fs::read_dir(hub.user.home().join("outputs/principals")).unwrap();
    let names: Vec<String> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for name in &names {
        for path in [
            format!("outputs/../{name}/secret.txt"),
            format!("outputs/principals/{name}/secret.txt"),
            format!("outputs/../../principals/{name}/secret.txt"),
            format!("./outputs/principals/{name}/secret.txt"),
        ] {
            assert_eq!(bob.reads(&path).await, None, "{path}");
        }
    }
    // What he puts in its place is his alone.
    bob.leaves("his").await;
    assert_eq!(ann.reads("outputs/secret.txt").await.as_deref(), Some("hers"));
    assert_eq!(bob.reads("outputs/secret.txt").await.as_deref(), Some("his"));
    assert_eq!((&ann.runs().await["stdout"], &bob.runs().await["stdout"]), (&json!("hers\n"), &json!("his\n")));
    let (hers, his) = (ann.sees_inputs().await, bob.sees_inputs().await);
    assert!(hers.contains("./secret.txt:hers") && !hers.contains("his"), "{hers}");
    assert!(his.contains("./secret.txt:his") && !his.contains("hers"), "{his}");
    let edited = json!({ "path": "outputs/secret.txt", "old_text": "his", "new_text": "changed" });
    assert_eq!(bob.call("file_edit", edited).await["status"], "ok");
    let left = bob.call("bash", json!({ "command": "echo left > /outputs/secret.txt" })).await;
    assert_eq!(left["outputs"], json!(["outputs/secret.txt"]), "{left}");
    assert_eq!(ann.reads("outputs/secret.txt").await.as_deref(), Some("hers"));
}

#[tokio::test]
async fn what_one_session_has_made_is_not_another_ones() {
    let hub = hub();
    let (one, two) = (Person::in_session(&hub, ANN).await, Person::in_session(&hub, ANN).await);
    one.leaves("first").await;
    assert_eq!(two.reads("outputs/secret.txt").await, None);
    assert_eq!(two.runs().await["code"], "failed");
    assert_eq!(two.sees_inputs().await, "");
    two.leaves("second").await;
    assert_eq!(one.runs().await["stdout"], "first\n", "what was generated is found by the session's next call");
    assert_eq!(two.runs().await["stdout"], "second\n");
    assert_eq!(one.reads("outputs/secret.txt").await.as_deref(), Some("first"));
    assert_eq!(Person::new(&hub, ANN).reads("outputs/secret.txt").await, None);
}

#[tokio::test]
async fn the_operator_has_the_outputs_of_the_hub_as_without_tokens() {
    let hub = hub();
    let (first, second) = (Person::new(&hub, OPERATOR), Person::in_session(&hub, OPERATOR).await);
    first.leaves("operators").await;
    assert_eq!(second.reads("outputs/secret.txt").await.as_deref(), Some("operators"));
    assert_eq!(second.runs().await["stdout"], "operators\n");
    let path = hub.user.home().join("outputs/secret.txt");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "operators");
    assert_eq!(Person::new(&hub, ANN).sees_inputs().await, "");
}
