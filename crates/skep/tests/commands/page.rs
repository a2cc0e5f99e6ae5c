//! What a browser sees of a hub, and what a program gets there.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::{Served, User};

/// What browsers accept when somebody opens a page.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn hub(user: &User) -> Served {
    Served::start(&mut user.command(&["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]))
}

fn ask(served: &Served, path: &str, accept: &str) -> RequestBuilder {
    reqwest::Client::new().request(Method::GET, format!("{}{path}", served.url)).header("accept", accept)
}

#[tokio::test]
async fn a_browser_gets_a_page_that_needs_nothing_else() {
    let user = User::new();
    let served = hub(&user);
    let answer = ask(&served, "/", BROWSER).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    let page = answer.text().await.unwrap();
    assert!(page.contains(&format!("{}/mcp", served.url)) && page.contains("href=\"/tools\""), "{page}");
    let elsewhere = page.matches("http").count() - page.matches(&served.url).count();
    assert_eq!(elsewhere, 0, "it works offline: {page}");
    assert!(!page.contains("<script"), "{page}");
    for path in ["/tools", "/servers", "/health", "/metrics"] {
        assert_eq!(ask(&served, path, BROWSER).send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_program_gets_json_and_at_an_unknown_path_a_problem() {
    let user = User::new();
    let served = hub(&user);
    let index: Value = ask(&served, "/", "*/*").send().await.unwrap().json().await.unwrap();
    assert_eq!((&index["name"], &index["mcp"]), (&json!("skep"), &json!(format!("{}/mcp", served.url))));
    let problem = ask(&served, "/nowhere", "application/json").send().await.unwrap();
    assert_eq!(problem.status(), StatusCode::NOT_FOUND);
    assert_eq!(problem.json::<Value>().await.unwrap()["code"], "not_found");
    let page = ask(&served, "/<b>", BROWSER).send().await.unwrap();
    assert_eq!(
        (page.status(), &page.headers()["content-type"]),
        (StatusCode::NOT_FOUND, &"text/html; charset=utf-8".parse().unwrap())
    );
    assert!(page.text().await.unwrap().contains("<h1>Not Found</h1>"));
}

#[tokio::test]
async fn pages_of_other_origins_and_callers_without_the_token_see_nothing_of_the_hub() {
    let user = User::new();
    let served = hub(&user);
    for (name, value) in
        [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("host", "evil.example")]
    {
        let answer = ask(&served, "/", BROWSER).header(name, value).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{name}");
        assert!(answer.headers().get("access-control-allow-origin").is_none());
        assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
        assert!(!answer.text().await.unwrap().contains("/mcp"), "{name}");
    }
    let mut command = user.command(&["serve", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]);
    let other = User::new();
    let closed =
        Served::start(command.env("SKEP_HOME", other.home()).env("SKEP_TOKEN", "correct-horse-battery-staple"));
    let answer = ask(&closed, "/", BROWSER).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(answer.headers().get("www-authenticate").is_some());
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    let page = answer.text().await.unwrap();
    assert!(page.contains("token") && !page.contains("/mcp"), "{page}");
}
