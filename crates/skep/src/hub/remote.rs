//! What one hub says about itself, for a person who asks it from the command line.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Hubs, innermost, message, object};

/// Time for a hub to answer. It may first wait a moment for MCP servers that are starting.
const SHOW_TIME_MAX: Duration = Duration::from_secs(30);

/// Why a hub showed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShowError {
    /// There is no answer.
    #[error("the hub {hub} cannot be reached: {why}")]
    Unreachable {
        /// The hub.
        hub: String,
        /// What went wrong.
        why: String,
    },
    /// It does not want to.
    #[error("the hub {hub} refuses ({status}): {why}{}", if matches!(.status, 401 | 403) { "; SKEP_TOKEN or token_file says the token" } else { "" })]
    Refused {
        /// The hub.
        hub: String,
        /// Its status.
        status: u16,
        /// What it says.
        why: String,
    },
    /// Something else answers there.
    #[error("{hub} is not a hub: it answered with {status}")]
    NotAHub {
        /// What was taken for a hub.
        hub: String,
        /// The status of its answer.
        status: String,
    },
}

impl Hubs {
    /// What the first hub shows at a path, whose segments these are: `["tools", "bash"]`.
    pub async fn show(&self, path: &[&str]) -> Result<Map<String, Value>, ShowError> {
        let hub = &self.hubs[0]; // there is one
        let name = hub.name.clone();
        let mut url = hub.health.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop().extend(path);
        }
        let request = self.with_token(hub.client.get(url)).timeout(SHOW_TIME_MAX);
        let unreachable = |error: reqwest::Error| ShowError::Unreachable { hub: name.clone(), why: innermost(&error) };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        match object(response).await.map_err(unreachable)? {
            Some(answer) if status.is_success() => Ok(answer),
            Some(answer) if answer.contains_key("message") => {
                Err(ShowError::Refused { hub: name, status: status.as_u16(), why: message(&answer) })
            }
            _ => Err(ShowError::NotAHub { hub: name, status: status.to_string() }),
        }
    }
}
