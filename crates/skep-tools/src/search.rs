//! Who is asked beyond this machine, as it is configured.

use schemars::JsonSchema;
use serde::Deserialize;

/// Who is asked beyond this machine: section `[search]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Source `web`.
    pub web: Web,
    /// Source `x`.
    pub x: X,
}

/// Who searches the web: section `[search.web]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Web {
    /// The engine. If absent, it follows from `base_url` (`searxng`), `BRAVE_API_KEY` or `TAVILY_API_KEY`.
    pub engine: Option<EngineName>,
    /// Its address if it is not the usual one, such as `http://localhost:8888` for SearXNG.
    pub base_url: Option<String>,
    /// Name of the environment variable with the key, if it is not the usual one.
    pub api_key_env: Option<String>,
}

/// An engine that searches the web.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// SearXNG, which one runs oneself.
    Searxng,
    /// The Brave Search API.
    Brave,
    /// Tavily.
    Tavily,
    /// The Instant Answer API of DuckDuckGo.
    Duckduckgo,
}

/// Searches of X: section `[search.x]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct X {
    /// Address of the API if it is not X's own.
    pub base_url: Option<String>,
    /// Name of the environment variable with the bearer token. Default: X_BEARER_TOKEN.
    pub api_key_env: Option<String>,
}
