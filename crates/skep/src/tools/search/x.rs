//! Source `x`: posts of the last seven days, by recent search of the X API v2 (`GET /2/tweets/search/recent`).

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Answer, Found,
    http::{Engine, Http, Key},
    web::shortened,
};
use crate::{catalogue::ToolError, workspace::Context};

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

/// Searches of X: section `[search.x]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address of the API if it is not X's own.
    pub base_url: Option<String>,
    /// Name of the environment variable with the bearer token. Default: X_BEARER_TOKEN.
    pub api_key_env: Option<String>,
}

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
    pub(super) fn new(settings: &Settings, env: impl Fn(&str) -> Option<String>) -> X {
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
