//! Source `x`: posts of the last seven days, by recent search of the X API v2 (`GET /2/tweets/search/recent`).

use std::collections::HashMap;

use serde::Deserialize;
use skep_tools::{error::ToolError, search, workspace::Context};

use super::{
    Answer, Found,
    http::{Engine, Http, Key},
    web::shortened,
};

/// Posts that one request may ask for.
const POSTS_MIN: usize = 10;
/// Posts that one request may ask for.
const POSTS_MAX: usize = 100;
/// Characters of a post that are shown. Most have fewer; long ones may have thousands.
const SNIPPET_CHARS_MAX: usize = 1000;
/// Characters of a title.
const TITLE_CHARS_MAX: usize = 80;
/// Where the API is.
const BASE: &str = "https://api.x.com";
/// Environment variable with the bearer token.
const KEY_ENV: &str = "X_BEARER_TOKEN";

/// The API, or what to do to have it.
pub(super) struct X {
    engine: Result<Engine, ToolError>,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    data: Vec<Post>,
    #[serde(default)]
    includes: Includes,
    meta: Meta,
}

#[derive(Deserialize)]
struct Post {
    id: String,
    text: String,
    created_at: Option<String>,
    author_id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Includes {
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    id: String,
    username: String,
}

#[derive(Deserialize)]
struct Meta {
    next_token: Option<String>,
}

impl X {
    pub(super) fn new(settings: &search::X, env: impl Fn(&str) -> Option<String>) -> X {
        let variable = settings.api_key_env.as_deref().unwrap_or(KEY_ENV);
        let key = env(variable).filter(|value| !value.trim().is_empty()).ok_or_else(|| ToolError::Unavailable {
            message: "searching X needs a bearer token of the X API v2".to_owned(),
            cure: format!("put it into the environment variable {variable}, or search the web or files instead"),
        });
        let engine = key.and_then(|value| {
            let key = Key { value, env: variable.to_owned() };
            Engine::new("X", "search.x", settings.base_url.as_deref().unwrap_or(BASE), Some(key))
        });
        X { engine }
    }

    pub(super) async fn search(
        &self,
        http: &Http,
        context: &Context,
        query: &str,
        limit: usize,
    ) -> Result<Answer, ToolError> {
        let engine = self.engine.as_ref().map_err(Clone::clone)?;
        let count = limit.clamp(POSTS_MIN, POSTS_MAX).to_string();
        let request = http
            .client()
            .await?
            .get(engine.url("/2/tweets/search/recent"))
            .query(&[
                ("query", query),
                ("max_results", &count),
                ("tweet.fields", "created_at,author_id"),
                ("expansions", "author_id"),
                ("user.fields", "username"),
            ])
            .bearer_auth(engine.key());
        let reply: Reply = engine.ask(context, request).await?;
        let names: HashMap<String, String> =
            reply.includes.users.into_iter().map(|user| (user.id, user.username)).collect();
        let total = reply.data.len() as u64;
        let results = reply.data.into_iter().take(limit).map(|post| found(post, &names)).collect();
        let truncated = reply.meta.next_token.is_some() || total > limit as u64;
        Ok(Answer { results, total, truncated, ..Answer::default() })
    }
}

fn found(post: Post, names: &HashMap<String, String>) -> Found {
    let author = post.author_id.as_ref().and_then(|id| names.get(id));
    let line = shortened(&post.text.split_whitespace().collect::<Vec<_>>().join(" "), TITLE_CHARS_MAX);
    Found {
        title: author.map_or(line.clone(), |author| format!("@{author}: {line}")),
        // X leads from this address to the post whoever wrote it.
        url: format!("https://x.com/{}/status/{}", author.map_or("i/web", String::as_str), post.id),
        snippet: shortened(&post.text, SNIPPET_CHARS_MAX),
        time: post.created_at,
        source: "x",
        ..Found::default()
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        Json, Router,
        extract::RawQuery,
        http::{HeaderMap, StatusCode, header},
        routing::get,
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        search::Search,
        testing::{Fixture, Server, call, serve},
    };

    /// The API, giving this status and answer where it is asked as documented.
    async fn api(status: u16, answer: Value) -> Server {
        let recent = get(async move |headers: HeaderMap, RawQuery(query): RawQuery| {
            let parameters =
                "max_results=10&tweet.fields=created_at%2Cauthor_id&expansions=author_id&user.fields=username";
            if headers[header::AUTHORIZATION] != "Bearer s3cret"
                || query != Some(format!("query=bees+lang%3Aen&{parameters}"))
            {
                return (StatusCode::IM_A_TEAPOT, [("x-rate-limit-reset", "0")], Json(json!({"title": query})));
            }
            (StatusCode::from_u16(status).unwrap(), [("x-rate-limit-reset", "1795219140")], Json(answer))
        });
        serve(Router::new().route("/2/tweets/search/recent", recent)).await
    }

    async fn search(server: &Server, limit: u32) -> Result<Value, ToolError> {
        let settings = serde_json::from_value(json!({"x": {"base_url": server.url("")}})).unwrap();
        let tool = Search::new(&settings, |name| (name == "X_BEARER_TOKEN").then(|| "s3cret".to_owned()));
        call(tool, &Fixture::new(), json!({"query": "bees lang:en", "source": "x", "max_results": limit})).await
    }

    #[tokio::test]
    async fn posts_are_given_with_author_time_and_address() {
        let answer = json!({
            "data": [
                {"id": "1234567890123456789", "text": "Bees are\nback!", "created_at": "2026-11-20T10:30:00.000Z",
                 "author_id": "42", "edit_history_tweet_ids": ["1234567890123456789"]},
                {"id": "1234567890123456788", "text": "x".repeat(2000), "edit_history_tweet_ids": []},
            ],
            "includes": {"users": [{"id": "42", "name": "Bee Keeper", "username": "keeper"}]},
            "meta": {"newest_id": "1234567890123456789", "oldest_id": "1234567890123456788", "result_count": 2,
                "next_token": "b26v89c19zqg8o3f"},
        });
        let server = api(200, answer).await;
        let answer = search(&server, 5).await.unwrap();
        let first = &answer["results"][0];
        for (member, value) in [
            ("title", "@keeper: Bees are back!"),
            ("url", "https://x.com/keeper/status/1234567890123456789"),
            ("snippet", "Bees are\nback!"),
            ("time", "2026-11-20T10:30:00.000Z"),
            ("source", "x"),
        ] {
            assert_eq!(first[member], value);
        }
        let second = &answer["results"][1];
        assert_eq!(second["url"], "https://x.com/i/web/status/1234567890123456788");
        assert_eq!(second["snippet"].as_str().unwrap().chars().count(), SNIPPET_CHARS_MAX + 1, "cut, with an ellipsis");
        assert_eq!((&answer["total"], &answer["truncated"]), (&json!(2), &json!(true)));
        assert_eq!(search(&server, 1).await.unwrap()["results"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn no_posts_are_no_error() {
        let server = api(200, json!({"meta": {"result_count": 0}})).await;
        let answer = search(&server, 5).await.unwrap();
        assert_eq!((&answer["results"], &answer["truncated"]), (&json!([]), &json!(false)));
    }

    #[tokio::test]
    async fn an_error_of_the_api_says_what_to_do() {
        let problem = |title: &str, detail: &str| json!({"title": title, "detail": detail, "type": "about:blank"});
        for (status, answer, code, words) in [
            (401, problem("Unauthorized", "Unauthorized"), "unavailable", "environment variable X_BEARER_TOKEN"),
            (403, problem("Client Forbidden", "not enrolled"), "unavailable", "HTTP 403: not enrolled"),
            (429, problem("Too Many Requests", "slow down"), "busy", "try again after 2026-11-20T23:59:00Z: slow down"),
            (
                400,
                json!({"errors": [{"message": "no viable alternative"}], "title": "Invalid Request"}),
                "invalid_arguments",
                "query: X does not accept it (HTTP 400: no viable alternative)",
            ),
            (503, problem("Service Unavailable", "over capacity"), "failed", "try again later"),
            (200, json!({"data": [{"text": "no id"}], "meta": {}}), "failed", "data[0]: missing field `id`"),
        ] {
            let error = search(&api(status, answer).await, 5).await.unwrap_err();
            assert_eq!(error.code(), code, "{status}: {error}");
            assert!(error.to_string().contains(words), "{status}: {error}");
        }
    }

    #[tokio::test]
    async fn without_a_token_it_says_where_to_put_one() {
        let tool = Search::new(&Default::default(), |_| None);
        let error = call(tool, &Fixture::new(), json!({"query": "bees", "source": "x"})).await.unwrap_err();
        assert_eq!(error.code(), "unavailable");
        assert!(error.to_string().contains("environment variable X_BEARER_TOKEN"), "{error}");
    }
}
