use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::document::{Document, Format};
use proptest::prelude::*;
use serde_json::{Value, json};

fn project(value: &Value) -> Project {
    let document = Document::parse("project.json", Format::Json, value.to_string().as_bytes()).unwrap();
    assert_eq!(document.validate(schema()), []);
    document.deserialise().unwrap()
}

fn shop() -> Value {
    json!({
        "name": "E-Commerce Platform",
        "description": "Full-stack e-commerce application",
        "requirements": "User auth, product catalog, shopping cart, payments",
        "tech_stack": {
            "frontend": "React + TypeScript", "backend": "Python + FastAPI", "database": "PostgreSQL", "cache": "Redis",
        },
        "priority": "high",
    })
}

fn faults(value: &Value) -> Vec<String> {
    let document = Document::parse("project.json", Format::Json, value.to_string().as_bytes()).unwrap();
    document.validate(schema()).into_iter().map(|fault| fault.to_string()).collect()
}

/// The tasks as `id: kind < what it depends on`.
fn lines(breakdown: &Breakdown) -> Vec<String> {
    let line = |task: &ProjectTask| format!("{}: {} < {}", task.id, task.kind, task.depends_on.join(" "));
    breakdown.tasks.iter().map(line).collect()
}

#[test]
fn each_requirement_is_built_from_the_data_to_the_pages_and_tested() {
    let breakdown = project(&shop()).break_down();
    assert_eq!(
        lines(&breakdown),
        [
            "plan: manager < ",
            "data-model: database < plan",
            "setup-backend: backend < plan",
            "setup-frontend: frontend < plan",
            "user-auth-backend: backend < setup-backend data-model",
            "user-auth-frontend: frontend < setup-frontend user-auth-backend",
            "user-auth-tests: qa < user-auth-backend user-auth-frontend",
            "product-catalog-backend: backend < setup-backend data-model",
            "product-catalog-frontend: frontend < setup-frontend product-catalog-backend",
            "product-catalog-tests: qa < product-catalog-backend product-catalog-frontend",
            "shopping-cart-backend: backend < setup-backend data-model",
            "shopping-cart-frontend: frontend < setup-frontend shopping-cart-backend",
            "shopping-cart-tests: qa < shopping-cart-backend shopping-cart-frontend",
            "payments-backend: backend < setup-backend data-model",
            "payments-integration: integration < payments-backend",
            "payments-frontend: frontend < setup-frontend payments-backend",
            "payments-tests: qa < payments-integration payments-frontend",
            "tests: qa < user-auth-tests product-catalog-tests shopping-cart-tests payments-tests",
            "review: manager < tests",
        ]
    );
    assert_eq!(breakdown.tasks[1].title, "Data model on PostgreSQL and Redis");
    assert!(breakdown.tasks.iter().all(|task| task.priority == Priority::High));
    assert_eq!(breakdown.unknown, []);
}

#[test]
fn the_stack_decides_who_takes_part() {
    let mut api = shop();
    api["tech_stack"] = json!({ "backend": "Go", "ci": ["GitHub Actions", "Docker"], "testing": "pytest" });
    api["requirements"] = json!(["Search", "Nightly backups", "Slack messages about orders"]);
    let breakdown = project(&api).break_down();
    let kinds: BTreeSet<Kind> = breakdown.tasks.iter().map(|task| task.kind).collect();
    assert!(!kinds.contains(&Kind::Frontend), "{kinds:?}");
    let lines = lines(&breakdown);
    for line in [
        "environments: devops < setup-backend",
        "nightly-backups-database: database < plan",
        "slack-messages-about-orders-integration: integration < slack-messages-about-orders-backend",
        "search-tests: qa < search-backend setup-qa",
        "deploy: devops < environments tests",
        "review: manager < deploy",
    ] {
        assert!(lines.iter().any(|known| known == line), "{line}\n{}", lines.join("\n"));
    }
}

#[test]
fn what_no_rule_knows_is_said_and_given_to_somebody() {
    let mut value = shop();
    value["tech_stack"] = json!({ "frobnicator": "Zorg 9", "ours": "Kubernetes" });
    let breakdown = project(&value).break_down();
    assert_eq!(breakdown.unknown, [Unknown { entry: "frobnicator: Zorg 9".into(), kind: Kind::Backend }]);
    assert!(breakdown.tasks.iter().any(|task| task.id == "environments"), "Kubernetes says itself whose it is");
}

#[test]
fn the_tasks_of_the_largest_project_can_be_submitted_at_once() {
    let all = "responsive dark mode, with backups, webhooks, monitoring and load tests";
    let requirements: Vec<String> = (0..REQUIREMENTS_MAX).map(|n| format!("{n} {all}")).collect();
    let stack = json!({ "frontend": "a", "backend": "b", "database": "c", "devops": "d", "chat": "e", "qa": "f" });
    let breakdown = project(&json!({ "name": "p", "requirements": requirements, "tech_stack": stack })).break_down();
    assert!(breakdown.tasks.len() > 6 * REQUIREMENTS_MAX, "each kind has work for each requirement");
    assert!(breakdown.tasks.len() <= skep_core::limits::SUBMITTED_MAX, "{}", breakdown.tasks.len());
}

#[test]
fn without_a_stack_somebody_builds_it() {
    let breakdown = project(&json!({ "name": "x", "requirements": "a thing" })).break_down();
    assert_eq!(
        lines(&breakdown),
        [
            "plan: manager < ",
            "a-thing-backend: backend < plan",
            "a-thing-tests: qa < a-thing-backend",
            "tests: qa < a-thing-tests",
            "review: manager < tests"
        ]
    );
}

#[test]
fn requirements_are_parted_where_people_part_them() {
    for (text, each) in [
        ("User auth, catalog; cart\nand payments.", vec!["User auth", "catalog", "cart", "payments"]),
        ("- log in (OAuth2, SSO)\n- log out\n", vec!["log in (OAuth2, SSO)", "log out"]),
        ("a, A,, a ", vec!["a"]),
        ("open ( bracket\nnext", vec!["open ( bracket", "next"]),
    ] {
        assert_eq!(Requirements::Text(text.into()).each(), each, "{text}");
    }
    let list = Requirements::List(vec!["one, with a comma".into(), " ".into()]);
    assert_eq!(list.each(), ["one, with a comma"]);
}

#[test]
fn every_kind_of_bad_project_is_refused_with_what_is_wrong() {
    for (pointer, value, words) in [
        ("name", json!(""), "name"),
        ("requirements", json!(" , ;"), "there is no requirement"),
        ("requirements", json!((0..=REQUIREMENTS_MAX).map(|n| format!("r{n}")).collect::<Vec<_>>()), "too many"),
        ("requirements", json!(["x".repeat(REQUIREMENT_CHARS_MAX + 1)]), "more than 500 characters"),
        ("requirements", json!(7), "requirements"),
        ("tech_stack", json!({ "backend": 7 }), "backend is neither a text nor a list"),
        ("tech_stack", json!((0..=STACK_MAX).map(|n| (n.to_string(), json!("x"))).collect::<Map<_, _>>()), "50"),
        ("priority", json!("urgent"), "critical"),
        ("budget", json!(1), "budget"),
    ] {
        let mut project = shop();
        project[pointer] = value;
        let faults = faults(&project);
        assert!(faults.iter().any(|fault| fault.contains(words)), "{pointer}: {faults:?}");
    }
}

proptest! {
    #[test]
    fn any_project_becomes_a_graph_in_which_everything_leads_to_the_review(
        requirements in prop::collection::vec("[a-zA-Z üß#+(),-]{1,40}", 1..12),
        stack in prop::collection::btree_map("[a-z ]{1,10}", prop::sample::select(vec!["React", "Go", "Redis", "AWS", "Zorg"]), 0..6),
    ) {
        let value = json!({ "name": "p", "requirements": requirements, "tech_stack": stack });
        let document = Document::parse("p.json", Format::Json, value.to_string().as_bytes()).unwrap();
        prop_assume!(document.validate(schema()).is_empty());
        let project: Project = document.deserialise().unwrap();
        let breakdown = project.break_down();
        prop_assert_eq!(&breakdown, &project.break_down());
        let mut place = BTreeMap::new();
        for (n, task) in breakdown.tasks.iter().enumerate() {
            prop_assert!(task.depends_on.iter().all(|on| place.contains_key(on)), "{} comes before what it needs", task.id);
            prop_assert!(place.insert(task.id.clone(), n).is_none(), "{} is there twice", task.id);
        }
        let needed: BTreeSet<&String> = breakdown.tasks.iter().flat_map(|task| &task.depends_on).collect();
        let last: Vec<&str> = breakdown.tasks.iter().map(|task| &*task.id).filter(|id| !needed.contains(&id.to_string())).collect();
        prop_assert!(last == ["review"], "nobody waits for {last:?}");
    }
}
