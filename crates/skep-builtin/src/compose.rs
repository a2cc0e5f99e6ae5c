//! `compose`: an answer made from the answers of others.

use serde_json::Value;
use skep_tools::{
    error::ToolError,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

/// See [`BuiltIn::DESCRIPTION`].
pub(super) struct Compose;

/// What is given is given back, so arguments and answer are one.
#[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(super) struct Composition {
    /// For people: most often a text, with templates in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Value>,
    /// For programs: any JSON, with templates in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl BuiltIn for Compose {
    const NAME: &'static str = "compose";
    const DESCRIPTION: &'static str = "Give back the arguments as they are. This is the coordinator's step in a plan: \
        it puts the results of other tasks together by templates in `text` and `data`, such as \
        {{ tasks.count.stdout }}; the templates do the work, before the tool is called.";
    const ANNOTATIONS: Annotations =
        Annotations { read_only_hint: true, destructive_hint: false, idempotent_hint: true, open_world_hint: false };
    type Arguments = Composition;
    type Answer = Composition;

    async fn call(&self, _context: &Context, arguments: Composition) -> Result<Composition, ToolError> {
        match arguments {
            Composition { text: None, data: None } => Err(ToolError::argument("text", "give text, data, or both")),
            composition => Ok(composition),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Fixture, call};

    #[tokio::test]
    async fn what_goes_in_comes_out() {
        let fixture = Fixture::new();
        for arguments in [
            json!({"text": "hello"}),
            json!({"data": {"b": [1, null], "a": 2.5}}),
            json!({"text": {"x": 1}, "data": 0}),
        ] {
            assert_eq!(call(super::Compose, &fixture, arguments.clone()).await.unwrap(), arguments);
        }
        for arguments in [json!({}), json!({"texts": 1})] {
            assert_eq!(call(super::Compose, &fixture, arguments).await.unwrap_err().code(), "invalid_arguments");
        }
    }
}
