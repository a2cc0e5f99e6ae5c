//! Source `web`: the engines that can be asked, each by its documented API.
//!
//! - SearXNG: `GET /search?format=json`, which its operator has to allow (`search.formats` in its `settings.yml`).
//! - Brave Search: `GET /res/v1/web/search` with `X-Subscription-Token`.
//! - Tavily: `POST /search` with a bearer token.
//! - DuckDuckGo: its Instant Answer API, which needs no key. It answers what it knows by itself (definitions, topics);
//!   it is no list of pages.

use std::time::Instant;

use reqwest::{Client, Url, header::ACCEPT};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_tools::{
    error::ToolError,
    search::{self, EngineName},
    workspace::Context,
};

use super::{
    Answer, Found,
    http::{Engine, Http, Key},
};
use crate::page::{self, Style};

/// Results that Brave and Tavily give at most.
const RESULTS_MAX: usize = 20;
/// Characters of an excerpt.
const SNIPPET_CHARS_MAX: usize = 600;
/// Bytes of an excerpt that is written in HTML.
const SNIPPET_BYTES_MAX: usize = 4 * SNIPPET_CHARS_MAX;
/// Section of the configuration.
const SECTION: &str = "search.web";

/// Its name for people, its address, and the environment variable that its users keep the key in.
fn usual(engine: EngineName) -> (&'static str, Option<&'static str>, Option<&'static str>) {
    match engine {
        EngineName::Searxng => ("SearXNG", None, None),
        EngineName::Brave => ("Brave Search", Some("https://api.search.brave.com"), Some("BRAVE_API_KEY")),
        EngineName::Tavily => ("Tavily", Some("https://api.tavily.com"), Some("TAVILY_API_KEY")),
        EngineName::Duckduckgo => ("DuckDuckGo", Some("https://api.duckduckgo.com"), None),
    }
}

/// What an answer calls it.
fn source(engine: EngineName) -> &'static str {
    match engine {
        EngineName::Searxng => "searxng",
        EngineName::Brave => "brave",
        EngineName::Tavily => "tavily",
        EngineName::Duckduckgo => "duckduckgo",
    }
}

/// The configured engine, or what to do to have one.
pub(super) struct Web {
    engine: Result<(EngineName, Engine), ToolError>,
}

impl Web {
    pub(super) fn new(settings: &search::Web, env: impl Fn(&str) -> Option<String>) -> Web {
        Web { engine: choose(settings, env) }
    }

    pub(super) async fn search(
        &self,
        http: &Http,
        context: &Context,
        query: &str,
        limit: usize,
    ) -> Result<Answer, ToolError> {
        let (name, engine) = self.engine.as_ref().map_err(Clone::clone)?;
        let client = http.client().await?;
        let page = match name {
            EngineName::Searxng => searxng(engine, client, context, query).await?,
            EngineName::Brave => brave(engine, client, context, query, limit).await?,
            EngineName::Tavily => tavily(engine, client, context, query, limit).await?,
            EngineName::Duckduckgo => duckduckgo(engine, client, context, query).await?,
        };
        Ok(page.answer(source(*name), limit))
    }
}

fn choose(settings: &search::Web, env: impl Fn(&str) -> Option<String>) -> Result<(EngineName, Engine), ToolError> {
    let unavailable = |message: String, cure: &str| ToolError::Unavailable { message, cure: cure.to_owned() };
    let env = |name: &str| env(name).filter(|value| !value.trim().is_empty());
    let by_key =
        || [EngineName::Brave, EngineName::Tavily].into_iter().find(|name| usual(*name).2.and_then(&env).is_some());
    let by_address = settings.base_url.as_ref().map(|_| EngineName::Searxng);
    let name = settings.engine.or(by_address).or_else(by_key).ok_or_else(|| {
        let cure = "in skep.toml set [search.web] engine to \"searxng\" with base_url, \"brave\" with the key in \
                    BRAVE_API_KEY, \"tavily\" with the key in TAVILY_API_KEY, or \"duckduckgo\", which needs no key; \
                    source \"files\" always works";
        unavailable("no engine for the web is configured".to_owned(), cure)
    })?;
    let (title, usual_base, usual_env) = usual(name);
    let base = settings.base_url.as_deref().or(usual_base).ok_or_else(|| {
        unavailable(format!("the address of {title} is not configured"), "set base_url in [search.web] of skep.toml")
    })?;
    let key = match settings.api_key_env.as_deref().or(usual_env) {
        Some(variable) => {
            let value = env(variable).ok_or_else(|| {
                unavailable(format!("{title} needs a key"), &format!("put it into the environment variable {variable}"))
            })?;
            Some(Key { value, env: variable.to_owned() })
        }
        None => None,
    };
    let without_key = match name {
        EngineName::Searxng => "add json to search.formats in its settings.yml, and let its limiter pass this machine",
        _ => "check its address",
    };
    Ok((name, Engine { without_key, ..Engine::new(title, SECTION, base, key)? }))
}

/// What an engine gave, in its order.
#[derive(Default)]
struct Page {
    results: Vec<Hit>,
    /// The engine has more.
    more: bool,
    notes: Vec<String>,
}

/// One result as most engines give it.
#[derive(Deserialize)]
struct Hit {
    #[serde(default)]
    title: Option<String>,
    url: String,
    #[serde(default, alias = "description")]
    content: Option<String>,
    #[serde(default, alias = "publishedDate", alias = "page_age")]
    published_date: Option<String>,
}

impl Page {
    fn answer(self, source: &'static str, limit: usize) -> Answer {
        let Page { results, more, notes } = self;
        let total = results.len() as u64;
        let found = |hit: Hit| Found {
            title: hit.title.filter(|title| !title.is_empty()).unwrap_or_else(|| hit.url.clone()),
            snippet: shortened(&hit.content.unwrap_or_default(), SNIPPET_CHARS_MAX),
            time: hit.published_date,
            url: hit.url,
            source,
            ..Found::default()
        };
        let results: Vec<_> = results.into_iter().take(limit).map(found).collect();
        Answer { truncated: more || total > limit as u64, results, total, notes, ..Answer::default() }
    }
}

/// A text of at most so many characters, and `…` if it was longer.
pub(super) fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

async fn searxng(engine: &Engine, client: &Client, context: &Context, query: &str) -> Result<Page, ToolError> {
    #[derive(Deserialize)]
    struct Reply {
        results: Vec<Hit>,
        /// Names of engines behind this one, each with its trouble.
        #[serde(default)]
        unresponsive_engines: Vec<(String, String)>,
    }
    let mut request = client.get(engine.url("/search")).query(&[("q", query), ("format", "json")]);
    if engine.key.is_some() {
        request = request.bearer_auth(engine.key()); // for one behind a proxy that asks for a token
    }
    let reply: Reply = engine.ask(context, request).await?;
    let silent = reply.unresponsive_engines.iter().map(|(name, why)| format!("SearXNG got nothing from {name}: {why}"));
    Ok(Page { notes: silent.collect(), results: reply.results, more: true })
}

async fn brave(
    engine: &Engine,
    client: &Client,
    context: &Context,
    query: &str,
    limit: usize,
) -> Result<Page, ToolError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Reply {
        query: Query,
        web: Option<Results>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Query {
        more_results_available: bool,
    }
    #[derive(Deserialize)]
    struct Results {
        results: Vec<Hit>,
    }
    let count = limit.min(RESULTS_MAX).to_string();
    let request = client
        .get(engine.url("/res/v1/web/search"))
        .query(&[("q", query), ("count", &count), ("text_decorations", "false")])
        .header(ACCEPT, "application/json")
        .header("X-Subscription-Token", engine.key());
    let reply: Reply = engine.ask(context, request).await?;
    let mut results = reply.web.map_or(Vec::new(), |web| web.results);
    // Its texts are HTML, with entities at least.
    for hit in &mut results {
        let Ok(page) = Url::parse(&hit.url) else { continue };
        for text in [&mut hit.title, &mut hit.content].into_iter().flatten() {
            *text = plain(text, &page, context.deadline);
        }
    }
    Ok(Page { results, more: reply.query.more_results_available, notes: Vec::new() })
}

/// The text of a piece of HTML.
fn plain(html: &str, page: &Url, deadline: Instant) -> String {
    match html.contains(['<', '&']) {
        true => page::read(html, page, Style::Text, SNIPPET_BYTES_MAX, deadline).text,
        false => html.to_owned(),
    }
}

async fn tavily(
    engine: &Engine,
    client: &Client,
    context: &Context,
    query: &str,
    limit: usize,
) -> Result<Page, ToolError> {
    #[derive(Deserialize)]
    struct Reply {
        results: Vec<Hit>,
    }
    let body = json!({"query": query, "max_results": limit.min(RESULTS_MAX), "search_depth": "basic"});
    let request = client.post(engine.url("/search")).bearer_auth(engine.key()).json(&body);
    let reply: Reply = engine.ask(context, request).await?;
    Ok(Page { more: reply.results.len() == limit.min(RESULTS_MAX), results: reply.results, notes: Vec::new() })
}

async fn duckduckgo(engine: &Engine, client: &Client, context: &Context, query: &str) -> Result<Page, ToolError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Reply {
        #[serde(default)]
        heading: String,
        #[serde(default)]
        abstract_text: String,
        #[serde(default, rename = "AbstractURL")]
        abstract_url: String,
        /// A text, or for some answers an object that is made for a browser.
        #[serde(default)]
        answer: Value,
        #[serde(default)]
        definition: String,
        #[serde(default, rename = "DefinitionURL")]
        definition_url: String,
        #[serde(default)]
        results: Vec<Topic>,
        related_topics: Vec<Topic>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Topic {
        Group {
            #[serde(rename = "Topics")]
            topics: Vec<Topic>,
        },
        One {
            #[serde(rename = "Text")]
            text: String,
            #[serde(rename = "FirstURL")]
            url: String,
        },
    }
    fn add(topics: Vec<Topic>, hits: &mut Vec<Hit>) {
        for topic in topics {
            match topic {
                Topic::Group { topics } => add(topics, hits),
                Topic::One { text, url } => {
                    hits.push(hit(text.split(" - ").next().unwrap_or(&text).to_owned(), url, text.clone()))
                }
            }
        }
    }
    fn hit(title: String, url: String, content: String) -> Hit {
        Hit { title: Some(title), url, content: Some(content), published_date: None }
    }
    let parameters = [("q", query), ("format", "json"), ("no_html", "1"), ("no_redirect", "1"), ("t", "skep")];
    let reply: Reply = engine.ask(context, client.get(engine.url("/")).query(&parameters)).await?;
    let mut results = Vec::new();
    if let Some(answer) = reply.answer.as_str().filter(|answer| !answer.is_empty()) {
        let url = Url::parse_with_params("https://duckduckgo.com/", [("q", query)]);
        results.push(hit(query.to_owned(), url.map(Into::into).unwrap_or_default(), answer.to_owned()));
    }
    for (text, url) in [(reply.abstract_text, reply.abstract_url), (reply.definition, reply.definition_url)] {
        if !text.is_empty() {
            results.push(hit(reply.heading.clone(), url, text));
        }
    }
    add(reply.results, &mut results);
    add(reply.related_topics, &mut results);
    let note = "DuckDuckGo's interface gives what it knows by itself, not a list of pages".to_owned();
    let notes = if results.is_empty() { vec![note] } else { Vec::new() };
    Ok(Page { results, more: false, notes })
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::Body,
        extract::Request,
        http::{HeaderMap, HeaderValue, StatusCode, header},
        response::{IntoResponse, Response},
    };
    use serde_json::Value;
    use skep_tools::tool::Tool;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        search::{Search, Settings},
        testing::{Fixture, Server, call, call_within, serve},
    };

    /// What an engine was asked.
    #[derive(Debug)]
    struct Asked {
        method: String,
        path: String,
        query: String,
        headers: HeaderMap,
        body: String,
    }

    /// An engine that gives one answer to whatever it is asked, and tells what that was.
    async fn engine(answer: impl IntoResponse) -> (Server, mpsc::UnboundedReceiver<Asked>) {
        let (tell, asked) = mpsc::unbounded_channel();
        let (parts, body) = answer.into_response().into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let router = Router::new().fallback(async move |request: Request| {
            let (asked, asked_body) = request.into_parts();
            let asked_body = axum::body::to_bytes(asked_body, usize::MAX).await.unwrap();
            let _ = tell.send(Asked {
                method: asked.method.to_string(),
                path: asked.uri.path().to_owned(),
                query: asked.uri.query().unwrap_or_default().to_owned(),
                headers: asked.headers,
                body: String::from_utf8(asked_body.to_vec()).unwrap(),
            });
            Response::from_parts(parts.clone(), Body::from(body.clone()))
        });
        (serve(router).await, asked)
    }

    /// The tool with this engine at this address.
    fn tool(engine: &str, base_url: &str) -> Search {
        let settings = json!({"web": {"engine": engine, "base_url": base_url}, "x": {"base_url": base_url}});
        let settings: Settings = serde_json::from_value(settings).unwrap();
        Search::new(&settings, |name| name.ends_with("_API_KEY").then(|| "s3cret".to_owned()))
    }

    async fn search(engine: &str, server: &Server, limit: u32) -> Result<Value, ToolError> {
        let arguments = json!({"query": "bees & \"wax\"", "source": "web", "limit": limit});
        call(tool(engine, &server.url("/")), &Fixture::new(), arguments).await
    }

    /// The results of an answer, without what only files have.
    fn results(answer: &Value) -> Value {
        let members = ["title", "url", "snippet", "time", "source"];
        let of_web = |found: &Value| -> Value {
            members.map(|name| (name.to_owned(), found[name].clone())).into_iter().collect()
        };
        answer["results"].as_array().unwrap().iter().map(of_web).collect()
    }

    #[tokio::test]
    async fn searxng_is_asked_for_json() {
        let payload = r#"{"query": "bees", "number_of_results": 0, "results": [
            {"url": "https://example.org/bees", "title": "Bees", "content": "All about bees.",
             "publishedDate": "2026-03-01T00:00:00", "engine": "brave", "engines": ["brave", "mojeek"],
             "positions": [1, 2], "score": 1.5, "category": "general", "template": "default.html",
             "parsed_url": ["https", "example.org", "/bees", "", "", ""], "thumbnail": null},
            {"url": "https://example.net/", "title": "", "content": null, "publishedDate": null, "engine": "mojeek"}],
            "answers": [], "corrections": [], "infoboxes": [], "suggestions": ["bees knees"],
            "unresponsive_engines": [["google", "Suspended: CAPTCHA"]]}"#;
        let (server, mut asked) = engine(payload).await;
        let answer = search("searxng", &server, 50).await.unwrap();
        let expected = json!([
            {"title": "Bees", "url": "https://example.org/bees", "snippet": "All about bees.",
             "time": "2026-03-01T00:00:00", "source": "searxng"},
            {"title": "https://example.net/", "url": "https://example.net/", "snippet": "", "time": null,
             "source": "searxng"},
        ]);
        assert_eq!(results(&answer), expected);
        assert_eq!((&answer["total"], &answer["truncated"]), (&json!(2), &json!(true)));
        assert_eq!(answer["notes"], json!(["SearXNG got nothing from google: Suspended: CAPTCHA"]));
        let asked = asked.recv().await.unwrap();
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/search"));
        assert_eq!(asked.query, "q=bees+%26+%22wax%22&format=json");
        assert_eq!(asked.headers.get(header::AUTHORIZATION), None);
    }

    #[tokio::test]
    async fn brave_is_asked_with_its_token_and_its_html_becomes_text() {
        let payload = r#"{"type": "search", "query": {"original": "bees", "more_results_available": false},
            "mixed": {"type": "mixed", "main": [{"type": "web", "index": 0, "all": false}]},
            "web": {"type": "search", "family_friendly": true, "results": [
                {"type": "search_result", "title": "Bees &amp; wax", "url": "https://example.org/", "is_source_local": false,
                 "description": "The <strong>bees</strong> don&#x27;t rest.", "page_age": "2026-01-02T03:04:05",
                 "age": "January 2, 2026", "language": "en", "meta_url": {"hostname": "example.org"}},
                {"type": "search_result", "title": "Two", "url": "https://example.net/", "description": "a < b"}]}}"#;
        let (server, mut asked) = engine(payload).await;
        let answer = search("brave", &server, 50).await.unwrap();
        assert_eq!(
            results(&answer)[0],
            json!({"title": "Bees & wax", "url": "https://example.org/", "snippet": "The bees don't rest.",
                "time": "2026-01-02T03:04:05", "source": "brave"})
        );
        assert_eq!((&answer["results"][1]["snippet"], &answer["truncated"]), (&json!("a < b"), &json!(false)));
        let asked = asked.recv().await.unwrap();
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/res/v1/web/search"));
        assert_eq!(asked.query, "q=bees+%26+%22wax%22&count=20&text_decorations=false");
        assert_eq!(asked.headers["x-subscription-token"], "s3cret");
        assert_eq!(asked.headers[header::ACCEPT], "application/json");

        let (server, _) = engine(r#"{"type": "search", "query": {"original": "xyzzy"}}"#).await;
        assert_eq!(search("brave", &server, 1).await.unwrap()["total"], 0, "no section `web` means no results");
    }

    #[tokio::test]
    async fn tavily_is_asked_with_a_body_and_a_bearer_token() {
        let payload = r#"{"query": "bees", "follow_up_questions": null, "answer": null, "images": [], "results": [
            {"url": "https://example.org/", "title": "One", "content": "First.", "score": 0.92, "raw_content": null},
            {"url": "https://example.net/", "title": "Two", "content": "Second.", "score": 0.5, "raw_content": null,
             "published_date": "Mon, 02 Mar 2026 10:00:00 GMT"}], "response_time": 1.1, "request_id": "123e4567"}"#;
        let (server, mut asked) = engine(payload).await;
        let answer = search("tavily", &server, 2).await.unwrap();
        let times: Vec<_> = answer["results"].as_array().unwrap().iter().map(|found| &found["time"]).collect();
        assert_eq!(times, [&Value::Null, &json!("Mon, 02 Mar 2026 10:00:00 GMT")]);
        assert_eq!(answer["truncated"], true, "as many as were asked for: there may be more");
        let asked = asked.recv().await.unwrap();
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/search"));
        assert_eq!(asked.headers[header::AUTHORIZATION], "Bearer s3cret");
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        assert_eq!(body, json!({"query": "bees & \"wax\"", "max_results": 2, "search_depth": "basic"}));
    }

    #[tokio::test]
    async fn duckduckgo_gives_what_it_knows_from_all_its_sections() {
        let payload = r#"{"Abstract": "Bees fly.", "AbstractText": "Bees fly.", "AbstractSource": "Wikipedia",
            "AbstractURL": "https://en.wikipedia.org/wiki/Bee", "Heading": "Bee", "Type": "A", "Entity": "",
            "Answer": "42", "AnswerType": "calc", "Definition": "", "DefinitionSource": "", "DefinitionURL": "",
            "Image": "", "ImageHeight": 0, "ImageIsLogo": 0, "Infobox": "", "Redirect": "",
            "Results": [{"FirstURL": "https://bees.example/", "Icon": {}, "Result": "<a>", "Text": "Official site"}],
            "RelatedTopics": [
                {"FirstURL": "https://duckduckgo.com/Beehive", "Icon": {"URL": ""}, "Result": "<a>",
                 "Text": "Beehive - A home for bees."},
                {"Name": "Music", "Topics": [{"FirstURL": "https://duckduckgo.com/B", "Result": "", "Text": "The Bees"}]}],
            "meta": {"src_name": "Wikipedia"}}"#;
        let javascript = [(header::CONTENT_TYPE, "application/x-javascript")];
        let (server, mut asked) = engine((javascript, payload)).await;
        let answer = search("duckduckgo", &server, 4).await.unwrap();
        let of = |member: &str| -> Vec<String> {
            let results = answer["results"].as_array().unwrap().iter();
            results.map(|found| found[member].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(of("title"), ["bees & \"wax\"", "Bee", "Official site", "Beehive"]);
        assert_eq!(of("snippet"), ["42", "Bees fly.", "Official site", "Beehive - A home for bees."]);
        assert_eq!(of("url")[0], "https://duckduckgo.com/?q=bees+%26+%22wax%22");
        assert_eq!((&answer["total"], &answer["truncated"]), (&json!(5), &json!(true)));
        let asked = asked.recv().await.unwrap();
        assert_eq!(asked.query, "q=bees+%26+%22wax%22&format=json&no_html=1&no_redirect=1&t=skep");

        // Some answers are objects for a browser; nothing known is no error, but worth a note.
        let nothing = r#"{"Heading": "", "AbstractText": "", "AbstractURL": "", "Answer": {"from": "timer"}, "Results": [],
            "RelatedTopics": []}"#;
        let (server, _) = engine(nothing).await;
        let answer = search("duckduckgo", &server, 4).await.unwrap();
        assert!(answer["notes"][0].as_str().unwrap().contains("not a list of pages"), "{answer}");
    }

    #[tokio::test]
    async fn an_error_of_the_engine_says_what_to_do() {
        let status = |status: u16, body: &'static str| (StatusCode::from_u16(status).unwrap(), body).into_response();
        let with = |mut response: Response, name: &'static str, value: &'static str| {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
            response
        };
        let brave = r#"{"type": "ErrorResponse", "error": {"code": "SUBSCRIPTION_TOKEN_INVALID",
            "detail": "The token s3cret is not valid.", "status": 422}, "time": 1772000000}"#;
        let tavily = r#"{"detail": {"error": "This request exceeds your plan's set usage limit."}}"#;
        let limited = with(status(429, ""), "x-ratelimit-remaining", "0, 1000");
        let limited = with(limited, "x-ratelimit-reset", "1, 1419704");
        for (name, answer, code, words) in [
            (
                "brave",
                status(401, brave),
                "unavailable",
                "does not accept the key (HTTP 401: The token … is not valid.); check the key in the environment variable BRAVE_API_KEY",
            ),
            ("searxng", status(403, "<html>"), "unavailable", "add json to search.formats"),
            ("tavily", status(432, tavily), "unavailable", "plan is used up (HTTP 432: This request exceeds"),
            ("brave", limited, "busy", "limits the rate; try again in 1s"),
            ("tavily", with(status(429, tavily), "retry-after", "7"), "busy", "; try again in 7s: This request"),
            (
                "searxng",
                with(status(429, ""), "retry-after", "Fri, 20 Nov 2026 23:59:00 GMT"),
                "busy",
                "after Fri, 20 Nov",
            ),
            (
                "searxng",
                with(status(302, ""), "location", "/login"),
                "unavailable",
                "redirects to /login; correct base_url",
            ),
            ("searxng", status(404, ""), "unavailable", "no such service at http://127.0.0.1"),
            ("brave", status(422, brave), "invalid_arguments", "query: Brave Search does not accept it"),
            ("tavily", status(503, "upstream"), "failed", "Tavily has trouble (HTTP 503); try again later"),
            ("searxng", status(200, "<html>"), "failed", "does not document"),
            (
                "tavily",
                status(200, r#"{"results": [{"title": "no address"}]}"#),
                "failed",
                "results[0]: missing field `url`",
            ),
            ("brave", status(200, r#"{"web": {"results": 3}}"#), "failed", "web.results"),
        ] {
            let (server, _) = engine(answer).await;
            let error = search(name, &server, 1).await.unwrap_err();
            assert_eq!(error.code(), code, "{name}: {error}");
            assert!(error.to_string().contains(words), "{name}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_late_silent_or_endless_does_no_harm() {
        let never = Router::new().fallback(async || std::future::pending::<()>().await);
        let server = serve(never).await;
        let arguments = json!({"query": "bees", "source": "web"});
        let deadline = Some(std::time::Duration::from_millis(50));
        let late = call_within(tool("searxng", &server.url("")), &Fixture::new(), arguments.clone(), deadline).await;
        assert_eq!(late.unwrap_err().to_string(), "search timed out after 0.05s");

        let (server, _) = engine("x".repeat(5 << 20)).await;
        assert!(search("searxng", &server, 1).await.unwrap_err().to_string().contains("more than 4 MiB"));

        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let silent = call(tool("searxng", &format!("http://{closed}")), &Fixture::new(), arguments).await;
        let error = silent.unwrap_err();
        assert!(error.to_string().contains("cannot be reached: Connection refused"), "{error}");
        assert!(error.is_transient() && !error.to_string().contains("bees"), "{error}");
    }

    #[test]
    fn an_answer_from_the_web_may_be_given_again_but_files_are_always_searched() {
        let kept = |arguments: Value| (Tool::new(tool("searxng", "http://localhost")).cache_ttl)(&arguments);
        assert!(kept(json!({"query": "bees", "source": "web"})).is_some());
        assert_eq!(kept(json!({"query": "bees", "source": "files"})), None);
        assert_eq!(kept(json!({"query": "bees"})), None);
    }

    #[test]
    fn the_engine_follows_from_the_settings_and_the_environment() {
        let chosen = |settings: Value, variables: &[&str]| {
            let settings = serde_json::from_value(settings).unwrap();
            let web = Web::new(&settings, |name| variables.contains(&name).then(|| "k".to_owned()));
            web.engine.map(|(name, engine)| format!("{name:?} {} {:?}", engine.base, engine.key))
        };
        let brave = "Brave https://api.search.brave.com Some($BRAVE_API_KEY)";
        assert_eq!(chosen(json!({}), &["BRAVE_API_KEY", "TAVILY_API_KEY"]).unwrap(), brave);
        assert_eq!(chosen(json!({"engine": "brave"}), &["BRAVE_API_KEY"]).unwrap(), brave);
        assert_eq!(chosen(json!({"engine": "duckduckgo"}), &[]).unwrap(), "Duckduckgo https://api.duckduckgo.com None");
        assert_eq!(
            chosen(json!({"base_url": "http://localhost:8888/sub/"}), &["BRAVE_API_KEY"]).unwrap(),
            "Searxng http://localhost:8888/sub None"
        );
        assert_eq!(
            chosen(json!({"engine": "tavily", "api_key_env": "MINE", "base_url": "https://proxy"}), &["MINE"]).unwrap(),
            "Tavily https://proxy Some($MINE)"
        );
        for (settings, words) in [
            (json!({}), "[search.web] engine to \"searxng\""),
            (json!({"engine": "searxng"}), "set base_url in [search.web]"),
            (json!({"engine": "brave"}), "environment variable BRAVE_API_KEY"),
            (json!({"engine": "searxng", "base_url": "localhost:8888"}), "\"localhost:8888\" is not an http address"),
        ] {
            let error = chosen(settings.clone(), &[]).unwrap_err();
            assert_eq!(error.code(), "unavailable");
            assert!(error.to_string().contains(words), "{settings}: {error}");
        }
    }
}
