//! Source `web`: the engines that can be asked, each by its documented API.
//!
//! - SearXNG: `GET /search?format=json`, which its operator has to allow (`search.formats` in its `settings.yml`).
//! - Brave Search: `GET /res/v1/web/search` with `X-Subscription-Token`.
//! - Tavily: `POST /search` with a bearer token.
//! - DuckDuckGo: its Instant Answer API, which needs no key. It answers what it knows by itself (definitions, topics);
//!   it is no list of pages.

use std::time::{Duration, Instant};

use reqwest::{Client, header::ACCEPT};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Answer, Found,
    http::{Engine, Http, Key},
};
use crate::{catalogue::ToolError, tools::page, workspace::Context};

/// Results that Brave and Tavily give at most.
const RESULTS_MAX: usize = 20;
/// Characters of an excerpt.
const SNIPPET_CHARS_MAX: usize = 600;
/// How long the markup of one title or snippet is taken apart.
const PLAIN_TIME_MAX: Duration = Duration::from_millis(100);
/// Section of the configuration.
const SECTION: &str = "search.web";

/// Who searches the web: section `[search.web]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The engine. If absent, it follows from `base_url` (`searxng`), `BRAVE_API_KEY` or `TAVILY_API_KEY`.
    pub engine: Option<Name>,
    /// Its address if it is not the usual one, such as `http://localhost:8888` for SearXNG.
    pub base_url: Option<String>,
    /// Name of the environment variable with the key, if it is not the usual one.
    pub api_key_env: Option<String>,
}

/// An engine that searches the web.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// SearXNG, which one runs oneself.
    Searxng,
    /// The Brave Search API.
    Brave,
    /// Tavily.
    Tavily,
    /// The Instant Answer API of DuckDuckGo.
    Duckduckgo,
}

impl Name {
    /// Its name for people, its address, and the environment variable that its users keep the key in.
    fn usual(self) -> (&'static str, Option<&'static str>, Option<&'static str>) {
        match self {
            Name::Searxng => ("SearXNG", None, None),
            Name::Brave => ("Brave Search", Some("https://api.search.brave.com"), Some("BRAVE_API_KEY")),
            Name::Tavily => ("Tavily", Some("https://api.tavily.com"), Some("TAVILY_API_KEY")),
            Name::Duckduckgo => ("DuckDuckGo", Some("https://api.duckduckgo.com"), None),
        }
    }

    fn source(self) -> &'static str {
        match self {
            Name::Searxng => "searxng",
            Name::Brave => "brave",
            Name::Tavily => "tavily",
            Name::Duckduckgo => "duckduckgo",
        }
    }
}

/// The configured engine, or what to do to have one.
pub(super) struct Web {
    engine: Result<(Name, Engine), ToolError>,
}

impl Web {
    pub(super) fn new(settings: &Settings, env: impl Fn(&str) -> Option<String>) -> Web {
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
            Name::Searxng => searxng(engine, client, context, query).await?,
            Name::Brave => brave(engine, client, context, query, limit).await?,
            Name::Tavily => tavily(engine, client, context, query, limit).await?,
            Name::Duckduckgo => duckduckgo(engine, client, context, query).await?,
        };
        Ok(page.answer(name.source(), limit))
    }
}

fn choose(settings: &Settings, env: impl Fn(&str) -> Option<String>) -> Result<(Name, Engine), ToolError> {
    let unavailable = |message: String, cure: &str| ToolError::Unavailable { message, cure: cure.to_owned() };
    let env = |name: &str| env(name).filter(|value| !value.trim().is_empty());
    let by_key = || [Name::Brave, Name::Tavily].into_iter().find(|name| name.usual().2.and_then(&env).is_some());
    let by_address = settings.base_url.as_ref().map(|_| Name::Searxng);
    let name = settings.engine.or(by_address).or_else(by_key).ok_or_else(|| {
        let cure = "in skep.toml set [search.web] engine to \"searxng\" with base_url, \"brave\" with the key in \
                    BRAVE_API_KEY, \"tavily\" with the key in TAVILY_API_KEY, or \"duckduckgo\", which needs no key; \
                    source \"files\" always works";
        unavailable("no engine for the web is configured".to_owned(), cure)
    })?;
    let (title, usual_base, usual_env) = name.usual();
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
        Name::Searxng => "add json to search.formats in its settings.yml, and let its limiter pass this machine",
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
    for hit in &mut results {
        hit.title = hit.title.take().map(plain);
        hit.content = hit.content.take().map(plain);
    }
    Ok(Page { results, more: reply.query.more_results_available, notes: Vec::new() })
}

/// The text of a piece of HTML.
fn plain(html: String) -> String {
    if !html.contains(['<', '&']) {
        return html;
    }
    let Ok(base) = reqwest::Url::parse("about:blank") else { return html };
    page::read(&html, &base, page::Style::Text, html.len(), Instant::now() + PLAIN_TIME_MAX).text.trim().to_owned()
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
        let url = reqwest::Url::parse_with_params("https://duckduckgo.com/", [("q", query)]);
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
