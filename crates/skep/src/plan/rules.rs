//! Understands simple sentences without a model.

/// The plan that a sentence asks for.
pub fn plan(sentence: &str) -> Result<super::Plan, NotUnderstood> {
    Err(NotUnderstood(sentence.to_owned()))
}

/// A sentence that no rule covers.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not understood; write a plan, or configure a model ([model] in skep.toml)")]
pub struct NotUnderstood(String);
