//! Templates in settings that see the arguments of a call: `{{ arguments.path }}`.
//!
//! They are rendered for every call, in the hub itself. So only plain ones are taken (`syntax.rs`): names, comparisons and
//! filters whose values are hardly larger than what they are made of.

use minijinja::value::Serde;
use serde_json::Value;

use super::{Budget, Reference, TemplateError, is_template, renderer::PLAIN_WORK_MAX, syntax, unknown, value_of};

/// What such a template sees.
const ARGUMENTS: &str = "arguments";

/// A text with templates in it that see the arguments of a call and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentsTemplate(String);

impl ArgumentsTemplate {
    /// Check a template. Nothing of it is run.
    ///
    /// # Errors
    ///
    /// It is none, uses something other than `arguments`, or could make large values.
    pub fn new(text: impl Into<String>) -> Result<ArgumentsTemplate, TemplateError> {
        let text = text.into();
        if !is_template(&text) {
            return Ok(ArgumentsTemplate(text));
        }
        let syntax = syntax::of_template(&text)?;
        if let Some((used, message)) = syntax.uses.iter().find_map(|used| Some((used, unknown(used)?))) {
            return Err(TemplateError::new(used.line, message));
        }
        let is_other = |name: &Reference| !matches!(name, Reference::Unknown(root) if root == ARGUMENTS);
        if syntax.references.iter().any(is_other) {
            return Err(TemplateError::new(1, "a template here sees nothing but `arguments`, those of the call"));
        }
        if !syntax.is_plain || syntax.work > PLAIN_WORK_MAX {
            let message = "too much for a template that is filled in for each call; use names, comparisons and filters \
                           without arguments, as in `{{ arguments.path | trim }}`";
            return Err(TemplateError::new(1, message));
        }
        Ok(ArgumentsTemplate(text))
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it gives for these arguments: the value, if it is one expression and nothing else, or a text.
    ///
    /// # Errors
    ///
    /// The arguments lack what it uses, or have something there with which it cannot work.
    pub fn render(&self, arguments: &Value) -> Result<Value, TemplateError> {
        if !is_template(&self.0) {
            return Ok(self.0.as_str().into());
        }
        let arguments = minijinja::Value::from(Serde(arguments));
        value_of(&self.0, minijinja::context! { arguments => arguments }, &mut Budget::default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str, arguments: Value) -> Result<Value, String> {
        let template = ArgumentsTemplate::new(template).map_err(|error| error.to_string())?;
        template.render(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_gives_what_the_arguments_of_a_call_say() {
        let arguments = json!({ "path": "src/a.rs", "files": ["a", "b"], "at": { "line": 7 } });
        for (template, expected) in [
            ("{{ arguments.path }}", json!("src/a.rs")),
            ("{{ arguments.files }}", json!(["a", "b"])),
            ("docs/{{ arguments.path }}:{{ arguments.at.line }}", json!("docs/src/a.rs:7")),
            ("{{ arguments.path | upper }}", json!("SRC/A.RS")),
            ("README.md", json!("README.md")),
        ] {
            assert_eq!(render(template, arguments.clone()), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_a_call_lacks_is_said() {
        for template in ["{{ arguments.path }}", "src/{{ arguments.path }}", "{{ arguments.a.b }}"] {
            assert!(render(template, json!({})).unwrap_err().contains("not there"), "{template}");
        }
    }

    #[test]
    fn a_template_that_could_not_be_filled_in_for_each_call_is_no_template() {
        for (template, expected) in [
            ("{{ argument.path }}", "sees nothing but `arguments`"),
            ("{{ tasks.a.result }}", "sees nothing but `arguments`"),
            ("{{ arguments.path", "unexpected end"),
            ("{{ arguments.path | uper }}", "there is no filter `uper`"),
            ("{{ arguments.path * 1000000 }}", "too much"),
            ("{% for x in arguments.paths %}{{ x }}{% endfor %}", "too much"),
        ] {
            let error = render(template, json!({ "path": "a", "paths": ["a"] })).unwrap_err();
            assert!(error.contains(expected), "{template}: {error}");
        }
    }
}
