//! `skep plan`.

use serde_json::json;

use crate::support::User;

#[test]
fn a_project_is_shown_as_tasks_before_anything_runs() {
    let user = User::new();
    let shop = json!({
        "name": "Shop", "requirements": "catalog, payments", "tech_stack": { "backend": "Go", "ours": "Zorg 9" }, "priority": "high",
    });
    user.file("shop.json", &shop.to_string());
    let shown = user.skep(&["plan", "shop.json"]).ok().stdout();
    assert!(shown.starts_with("Shop: 9 tasks in 7 steps\n"), "{shown}");
    assert!(shown.contains("payments-integration") && shown.contains("after payments-backend"), "{shown}");
    assert!(shown.ends_with("no rule knows ours: Zorg 9; backend gets it\n"), "{shown}");
    let given = user.skep(&["plan", "shop.json", "--json"]).ok().json();
    assert_eq!((&given["tasks"][0]["type"], &given["tasks"][0]["priority"]), (&json!("manager"), &json!("high")));
    user.file(
        "shop.yaml",
        "name: Shop\nrequirements: [catalog, payments]\ntech_stack: { backend: Go, ours: Zorg 9 }\npriority: high\n",
    );
    assert_eq!(user.skep(&["plan", "shop.yaml", "--json"]).ok().json(), given, "in YAML it is the same project");
}

#[test]
fn a_project_is_submitted_for_workers_to_do() {
    let user = User::new();
    user.file("shop.yaml", "{ name: Shop, requirements: catalog, id: shop, tech_stack: { backend: Go } }\n");
    assert_eq!(user.skep(&["plan", "shop.yaml"]).code(), 1, "a plan has no id");
    user.file("shop.yaml", "{ name: Shop, requirements: catalog, tech_stack: { backend: Go } }\n");
    let said = user.skep(&["plan", "shop.yaml", "--submit", "--queue", "shop"]).ok().stdout();
    let id = said.trim_end().rsplit(' ').next().unwrap().to_owned();
    assert!(id.starts_with("project_") && said.contains("catalog-backend"), "{said}");
    let given = user.skep(&["tasks", "next", "--queue", "shop", "--type", "manager", "--json"]).ok().json();
    assert_eq!(given["task"]["task_id"], format!("{id}:plan"));
    let shown = user.skep(&["tasks", "show", &id]).ok().stdout();
    assert!(shown.contains("state: pending") && shown.contains("type: manager"), "{shown}");
}

#[test]
fn a_bad_project_is_refused_with_its_lines() {
    let user = User::new();
    user.file("bad.yaml", "name: Shop\nrequirements: ' '\npriority: urgent\n");
    let refused = user.skep(&["plan", "bad.yaml"]);
    assert_eq!((refused.code(), &*refused.stdout()), (1, ""));
    let said = refused.stderr();
    assert!(said.contains("bad.yaml:3") && said.contains("critical"), "{said}");
}
