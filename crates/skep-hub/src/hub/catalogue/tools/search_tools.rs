//! `search_tools`: the tools of MCP servers, by what they are wanted for. With long lists of tools hidden behind it
//! (`tools.search`), a model reads the few that it needs.

use std::collections::HashMap;

use serde_json::Value;
use skep_mcp::gateway::{LIST_TIME_MAX, prefixed};
use skep_tools::{
    error::ToolError,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::super::listing::{Listed, listed_tools};
use crate::hub::upstreams::Upstreams;

/// Tools in an answer, at most.
const LIMIT_MAX: u32 = 50;
/// Tools in an answer, unless somebody says otherwise.
const LIMIT: u32 = 5;
/// Characters of a query.
const QUERY_CHARS_MAX: usize = 500;
/// What a word in a tool's name counts, beside one in its description.
const NAME_WEIGHT: f64 = 3.0;
/// How much a word counts that only begins like one of the query.
const PREFIX_WEIGHT: f64 = 0.5;

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct SearchTools {
    pub(super) upstreams: Upstreams,
}

#[derive(serde::Deserialize, schemars::JsonSchema, garde::Validate)]
#[serde(deny_unknown_fields)]
#[garde(allow_unvalidated)]
pub(super) struct Arguments {
    /// What the tool is wanted for, in a few words.
    #[garde(length(chars, min = 1, max = QUERY_CHARS_MAX))]
    query: String,
    /// How many to give back, the best first. Default: 5.
    #[garde(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
pub(super) struct Answer {
    /// The tools, the best first.
    tools: Vec<FoundTool>,
    /// How many tools were looked at.
    searched: usize,
    /// Why the tools of some servers were not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unavailable: Vec<String>,
    /// Servers that are still starting: search again for their tools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    starting: Vec<String>,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct FoundTool {
    /// The name by which it is called.
    name: String,
    /// What it does.
    description: String,
    /// JSON Schema of its arguments.
    input_schema: Value,
}

impl BuiltIn for SearchTools {
    const NAME: &'static str = "search_tools";
    const DESCRIPTION: &'static str = "Find tools of the connected MCP servers by what you want to do, with the JSON \
        Schemas of their arguments. A tool that was found is called by its name, whether or not it was listed.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    const RUNS_OTHERS: bool = true;
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, _: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let names = self.upstreams.names();
        let Listed { tools, unavailable, starting } = listed_tools(&self.upstreams, &names, LIST_TIME_MAX).await;
        let found = |(server, tool): (String, Value)| {
            Some(FoundTool {
                name: prefixed(&server, tool["name"].as_str()?)?,
                description: tool["description"].as_str().unwrap_or_default().to_owned(),
                input_schema: tool["inputSchema"].clone(),
            })
        };
        let tools: Vec<FoundTool> = tools.into_iter().filter_map(found).collect();
        let searched = tools.len();
        let limit = arguments.limit.unwrap_or(LIMIT) as usize;
        let tools = rank(&arguments.query, tools, |tool| (&tool.name, &tool.description), limit);
        Ok(Answer { tools, searched, unavailable, starting })
    }
}

/// The best of these for the query, by the words that they share with it: one that few tools have says more (idf). Those
/// that share none are left out; of equals the first by name comes first.
fn rank<T>(query: &str, tools: Vec<T>, text: impl Fn(&T) -> (&str, &str), limit: usize) -> Vec<T> {
    let mut wanted = words(query);
    wanted.sort_unstable();
    wanted.dedup();
    let texts: Vec<(Vec<String>, Vec<String>)> = tools
        .iter()
        .map(|tool| {
            let (name, description) = text(tool);
            (words(name), words(description))
        })
        .collect();
    let mut having: HashMap<&str, f64> = HashMap::new();
    for word in &wanted {
        let count =
            texts.iter().filter(|(name, description)| name.contains(word) || description.contains(word)).count();
        having.insert(word, count as f64);
    }
    let total = tools.len() as f64;
    let score = |(name, description): &(Vec<String>, Vec<String>)| -> f64 {
        let likeness = |word: &str, text: &[String]| -> f64 {
            let like = |other: &String| match other {
                other if other == word => 1.0,
                other
                    if word.len() > 3
                        && (other.starts_with(word) || word.starts_with(other.as_str()) && other.len() > 3) =>
                {
                    PREFIX_WEIGHT
                }
                _ => 0.0,
            };
            text.iter().map(like).fold(0.0, f64::max)
        };
        let weight = |word: &str| (1.0 + total / (1.0 + having.get(word).copied().unwrap_or_default())).ln();
        wanted
            .iter()
            .map(|word| weight(word) * (NAME_WEIGHT * likeness(word, name)).max(likeness(word, description)))
            .sum()
    };
    let mut scored: Vec<(f64, T)> = texts.iter().map(score).zip(tools).filter(|(score, _)| *score > 0.0).collect();
    scored.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| text(x).0.cmp(text(y).0)));
    scored.into_iter().take(limit).map(|(_, tool)| tool).collect()
}

/// The words of a text or a name, in lower case: `getUserName` and `get_user-name` have three.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for character in text.chars() {
        let begins = !character.is_alphanumeric() || (was_lower && character.is_uppercase());
        if begins && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if let (true, Some(word)) = (character.is_alphanumeric(), words.last_mut()) {
            word.extend(character.to_lowercase());
        }
        was_lower = character.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: [(&str, &str); 5] = [
        ("git__git_commit", "Record changes to the repository"),
        ("git__git_log", "Show the commit log of a repository"),
        ("time__convert_time", "Convert a time between timezones"),
        ("files__readFile", "Read a file of the repository"),
        ("files__write_file", "Create or overwrite a file"),
    ];

    fn best(query: &str) -> Vec<&'static str> {
        rank(query, TOOLS.to_vec(), |tool| (tool.0, tool.1), 3).into_iter().map(|tool| tool.0).collect()
    }

    #[test]
    fn the_words_of_a_name_count_most_and_rare_words_more_than_common_ones() {
        assert_eq!(best("commit my changes")[0], "git__git_commit");
        assert_eq!(best("what time is it in another timezone")[0], "time__convert_time");
        assert_eq!(best("read file"), ["files__readFile", "files__write_file"]);
        assert_eq!(best("overwrite")[0], "files__write_file");
    }

    #[test]
    fn what_shares_nothing_is_left_out() {
        assert_eq!(best("zebra"), [""; 0]);
        assert_eq!(best("?!"), [""; 0]);
    }

    #[test]
    fn names_are_taken_apart_into_words() {
        assert_eq!(words("getUserName"), ["get", "user", "name"]);
        assert_eq!(words("get_user-name v2"), ["get", "user", "name", "v2"]);
        assert_eq!(words("HTTPRequest Größe"), ["httprequest", "größe"]);
    }
}
