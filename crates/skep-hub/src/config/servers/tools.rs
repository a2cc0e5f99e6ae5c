//! What is said of a server's tools: which of them there are, and what calls of them need.
//!
//! ```toml
//! tools = { deny = ["delete_file"], write_file = { requires_claim = "{{ arguments.path }}" } }
//! ```

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};
use skep_plan::template::ArgumentsTemplate;
use skep_tools::value::member;

/// In a list of tools: each of them.
pub(super) const ALL: &str = "*";

/// Which tools there are, and what calls of them need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tools {
    /// Only these, if any is named; by the server's own names, `*` for all.
    pub allow: Vec<String>,
    /// Not these; `*` for none at all.
    pub deny: Vec<String>,
    /// What calls of a tool need, by the server's own name for it.
    #[serde(flatten, deserialize_with = "tables")]
    #[schemars(with = "BTreeMap<String, ToolSettings>")]
    pub named: BTreeMap<String, ToolSettings>,
}

/// What calls of one tool need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ToolSettings {
    /// The files of a task's workspace on which the caller must have an exclusive claim when the tool is called.
    pub requires_claim: Option<ClaimRequired>,
}

/// On which files a call needs a claim.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(from = "Form")]
#[schemars(with = "Form")]
pub struct ClaimRequired {
    /// The file: a template that sees `arguments`, and gives a path or a list of paths.
    pub path: String,
    /// The task whose workspace it is: a name, or a template that sees `arguments`. Default: what the call says.
    pub task: Option<String>,
    /// The directory that is the workspace for the server: it is taken off absolute paths.
    pub root: Option<String>,
}

/// Read what is said of tools by their names. A derived type takes a list, too, so `alow = ["read"]` would be a tool.
fn tables<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, ToolSettings>, D::Error> {
    let tables = BTreeMap::<String, Map<String, Value>>::deserialize(deserializer)?;
    let read = |(name, table)| Ok((name, ToolSettings::deserialize(Value::Object(table)).map_err(D::Error::custom)?));
    tables.into_iter().map(read).collect()
}

/// As it is written.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Form {
    /// The file: a template that sees `arguments`, and gives a path or a list of paths.
    Path(String),
    /// The same, and which workspace it is in.
    Table(Table),
}

/// On which files of which workspace a call needs a claim.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The file: a template that sees `arguments`, and gives a path or a list of paths.
    path: String,
    /// The task whose workspace it is: a name, or a template that sees `arguments`. Default: what the call says.
    task: Option<String>,
    /// The directory that is the workspace for the server, such as `/srv/files`: it is taken off absolute paths.
    root: Option<String>,
}

impl From<Form> for ClaimRequired {
    fn from(form: Form) -> ClaimRequired {
        match form {
            Form::Path(path) => ClaimRequired { path, task: None, root: None },
            Form::Table(Table { path, task, root }) => ClaimRequired { path, task, root },
        }
    }
}

impl Tools {
    /// Whether this tool is one of them.
    pub fn allows(&self, tool: &str) -> bool {
        let names = |list: &[String]| list.iter().any(|name| name == tool || name == ALL);
        (self.allow.is_empty() || names(&self.allow)) && !names(&self.deny)
    }

    /// Whether some of them are left out.
    pub fn is_filter(&self) -> bool {
        !self.allow.is_empty() || !self.deny.is_empty()
    }

    /// The claim that calls of this tool need.
    pub fn claim_required(&self, tool: &str) -> Option<&ClaimRequired> {
        self.named.get(tool)?.requires_claim.as_ref()
    }

    /// What a schema cannot tell: JSON Pointer from here, and what is wrong.
    pub(super) fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        for (tool, settings) in &self.named {
            let Some(ClaimRequired { path, task, root }) = &settings.requires_claim else { continue };
            let here = format!("{}/requires_claim", member("", tool));
            for template in [Some(path), task.as_ref()].into_iter().flatten() {
                if let Err(error) = ArgumentsTemplate::new(template) {
                    faults.push((here.clone(), error.to_string()));
                }
            }
            if root.as_ref().is_some_and(|root| !root.starts_with('/')) {
                faults.push((here, "`root` must be an absolute path, as the server has it".to_owned()));
            }
        }
        faults
    }
}
