//! JSON Schema: what a value must look like, and sentences about what it does not.
//!
//! The schemas come from Rust types, and so does the answer to whether a value fits: it does if the type reads it and its
//! limits (`garde`) hold. Only a value that does not fit is looked at by schema, for every fault at once: generating and compiling one takes
//! milliseconds and megabytes. The `jsonschema` crate finds the faults; the wording is ours, because people and models
//! act on it: it names what was expected and the *kind* of what was found. A value itself is quoted only where it was meant
//! to be one of a few words, and then cut short: it may be huge, or a secret.

pub mod portable;

use std::{borrow::Cow, sync::OnceLock};

use garde::Validate;
use jsonschema::{
    JsonType, ValidationError,
    error::{TypeKind, ValidationErrorKind as Kind},
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::value::{expected, kind_of, member, read};

/// Problems that are reported of one value or file. Whoever has more wants to mend these first.
pub const PROBLEMS_MAX: usize = 100;

/// The schema of a type. It is made when it is first needed.
#[derive(Debug)]
pub struct Schema {
    check: fn(&Value) -> Result<(), Vec<Violation>>,
    generate: fn() -> Value,
    json: OnceLock<Value>,
    validator: OnceLock<jsonschema::Validator>,
}

/// The schema of a type. What its fields refer to is written out in place.
pub fn generate<T: JsonSchema>() -> Value {
    let settings =
        schemars::generate::SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// One thing that the schema has against a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON Pointer (RFC 6901) of the value at fault; empty for the whole.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The value fits none of several forms; the reason may lie anywhere below.
    pub is_choice: bool,
}

impl Schema {
    /// The schema of a type, for reading it.
    pub const fn of<T: JsonSchema + DeserializeOwned + Validate<Context = ()>>() -> Schema {
        Schema { check: check::<T>, generate: generate::<T>, json: OnceLock::new(), validator: OnceLock::new() }
    }

    /// The schema itself.
    pub fn json(&self) -> &Value {
        self.json.get_or_init(self.generate)
    }

    /// Whether the type takes this value, which is what decides.
    pub fn takes(&self, value: &Value) -> bool {
        (self.check)(value).is_ok()
    }

    /// What is wrong with this value, at most [`PROBLEMS_MAX`] things.
    pub fn violations(&self, value: &Value) -> Vec<Violation> {
        let Err(in_type) = (self.check)(value) else { return Vec::new() };
        let mut found = Vec::new();
        let validator = self.validator.get_or_init(|| {
            jsonschema::validator_for(self.json())
                .expect("a schema that is derived from a type compiles; a test reads each")
        });
        let (value, renamed) = self.by_schema(value);
        for error in validator.iter_errors(&value) {
            self.explain(&error, &mut found);
            if found.len() >= PROBLEMS_MAX {
                found.truncate(PROBLEMS_MAX);
                break;
            }
        }
        for (alias, name) in renamed {
            let (alias, name) = (member("", &alias), member("", &name));
            for violation in &mut found {
                if violation.pointer.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                    violation.pointer.replace_range(..name.len(), &alias);
                }
            }
        }
        // Some limits have no place in a schema.
        if found.is_empty() { in_type } else { found }
    }

    /// The value with its members named as the schema has them, and which of them the caller calls otherwise. The type may
    /// take a member by several names, of which the schema knows one; that two are the same is known to the type alone.
    fn by_schema<'a>(&self, value: &'a Value) -> (Cow<'a, Value>, Vec<(String, String)>) {
        let mut renamed = Vec::new();
        let (Value::Object(members), Some(properties)) = (value, self.json()["properties"].as_object()) else {
            return (Cow::Borrowed(value), renamed);
        };
        let mut named = Map::new();
        for (name, value) in members {
            let is_same = |known: &&String| {
                let both = json!({ name: value, *known: value });
                let is_twice = |fault: &Violation| fault.message.starts_with("duplicate field");
                !members.contains_key(*known) && (self.check)(&both).is_err_and(|faults| faults.iter().any(is_twice))
            };
            let known = if properties.contains_key(name) { None } else { properties.keys().find(is_same) };
            renamed.extend(known.map(|known| (name.clone(), known.clone())));
            named.insert(known.unwrap_or(name).clone(), value.clone());
        }
        if renamed.is_empty() { (Cow::Borrowed(value), renamed) } else { (Cow::Owned(named.into()), renamed) }
    }

    fn explain(&self, error: &ValidationError<'_>, found: &mut Vec<Violation>) {
        let pointer = error.instance_path().as_str().to_owned();
        let value = error.instance();
        let say = |message: String| Violation { pointer: pointer.clone(), message, help: None, is_choice: false };
        match error.kind() {
            Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
                let known: Vec<&str> = match self.around(error).get("properties") {
                    Some(Value::Object(properties)) => properties.keys().map(String::as_str).collect(),
                    _ => Vec::new(),
                };
                for name in unexpected {
                    found.push(Violation {
                        pointer: member(&pointer, name),
                        message: "is not known here".to_owned(),
                        help: suggest(name, known.iter().copied()).or_else(|| one_of(&known)),
                        is_choice: false,
                    });
                }
            }
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => self.choose(error, context, found),
            Kind::Enum { options } => {
                // What may be left out may be null as well; nobody writes that on purpose.
                let options: Vec<Value> =
                    options.as_array().into_iter().flatten().filter(|one| !one.is_null()).cloned().collect();
                found.push(Violation { help: nearest(value, &options), ..say(expected_one_of(&options, value)) });
            }
            Kind::Constant { expected_value } => {
                let options = std::slice::from_ref(&**expected_value);
                found.push(say(expected_one_of(options, value)));
            }
            kind => found.push(say(self.sentence(kind, error))),
        }
    }

    /// One sentence for a violation that needs no more.
    fn sentence(&self, kind: &Kind, error: &ValidationError<'_>) -> String {
        let value = error.instance();
        match kind {
            Kind::Required { property: Value::String(name) } => format!("`{name}` is missing"),
            Kind::Type { kind } => expected(&types(kind), value),
            Kind::Pattern { pattern } => match self.around(error).get("title").and_then(Value::as_str) {
                Some(title) => format!("must be {title}"),
                None => format!("must match {pattern}"),
            },
            Kind::Minimum { limit } => format!("must be at least {limit}"),
            Kind::Maximum { limit } => format!("must be at most {limit}"),
            Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
            Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
            Kind::MinLength { limit: 1 } => "must not be empty".to_owned(),
            Kind::MinLength { limit } => format!("must have at least {limit} characters"),
            Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
            Kind::MinItems { limit } => format!("must have at least {limit} elements"),
            Kind::MaxItems { limit } => format!("must have at most {limit} elements"),
            Kind::MinProperties { limit } => format!("must have at least {limit} members"),
            Kind::MaxProperties { limit } => format!("must have at most {limit} members"),
            Kind::UniqueItems => "must not have the same element twice".to_owned(),
            _ => shorten(&error.masked_with("it").to_string(), MESSAGE_CHARS_MAX),
        }
    }

    /// A value that fits none of several forms: the faults of the one form that it was meant to have, if that is
    /// clear from its kind, or else what the forms are.
    fn choose(&self, error: &ValidationError<'_>, forms: &[Vec<ValidationError<'static>>], found: &mut Vec<Violation>) {
        let here = error.instance_path();
        let is_other_kind = |error: &ValidationError<'_>| {
            error.instance_path() == here
                && matches!(error.kind(), Kind::Type { .. } | Kind::Constant { .. } | Kind::Enum { .. })
        };
        let meant: Vec<_> = forms.iter().filter(|form| !form.iter().any(is_other_kind)).collect();
        if let [form] = meant[..] {
            form.iter().for_each(|error| self.explain(error, found));
            return;
        }
        let (mut kinds, mut options) = (Vec::new(), Vec::new());
        for error in forms.iter().flatten().filter(|error| error.instance_path() == here) {
            match error.kind() {
                Kind::Type { kind } => kinds.push(types(kind)),
                Kind::Constant { expected_value } => options.push((**expected_value).clone()),
                Kind::Enum { options: more } => options.extend(more.as_array().into_iter().flatten().cloned()),
                _ => {}
            }
        }
        kinds.dedup();
        let value = error.instance();
        let message = match meant.len() {
            0 if !options.is_empty() => expected_one_of(&options, value),
            0 if !kinds.is_empty() => expected(&kinds.join(" or "), value),
            _ => "has none of the forms that it may have".to_owned(),
        };
        let pointer = here.as_str().to_owned();
        found.push(Violation { pointer, message, help: nearest(value, &options), is_choice: !meant.is_empty() });
    }

    /// The part of the schema that holds the keyword which failed.
    fn around(&self, error: &ValidationError<'_>) -> &Value {
        let path = error.schema_path().as_str();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.json().pointer(parent).unwrap_or(&Value::Null)
    }
}

/// Whether the value is one of the type, or what the type has against it: less than what the schema has, and in other words.
fn check<T: DeserializeOwned + Validate<Context = ()>>(value: &Value) -> Result<(), Vec<Violation>> {
    let violation = |pointer, message| Violation { pointer, message, help: None, is_choice: false };
    let read = read::<T>(value).map_err(|(pointer, message)| vec![violation(pointer, message)])?;
    read.validate().map_err(|report| {
        let pointer = |path: &garde::Path| format!("/{path}").replace('[', "/").replace(']', "").replace('.', "/");
        report.iter().map(|(path, error)| violation(pointer(path), error.message().to_owned())).collect()
    })
}

/// Longer messages are cut.
const MESSAGE_CHARS_MAX: usize = 200;
/// Longer values are cut in messages.
const VALUE_CHARS_MAX: usize = 40;
/// More alternatives are not listed.
const ALTERNATIVES_MAX: usize = 12;

/// The beginning of a text, with `…` if that is not all.
pub fn shorten(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// "did you mean …?", if one of the known names is near enough.
pub fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest_name(name, known).map(|known| format!("did you mean {known:?}?"))
}

/// The known name that this one was probably meant to be.
pub fn nearest_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const NAME_BYTES_MAX: usize = 100; // the distance takes time that grows with the square
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let distance = |known: &&str| strsim::damerau_levenshtein(known, name);
    known.into_iter().min_by_key(distance).filter(|known| distance(known) <= 1 + name.len() / 3)
}

fn one_of(known: &[&str]) -> Option<String> {
    let is_short = !known.is_empty() && known.len() <= ALTERNATIVES_MAX;
    is_short.then(|| format!("known are {}", known.join(", ")))
}

fn nearest(value: &Value, options: &[Value]) -> Option<String> {
    suggest(value.as_str()?, options.iter().filter_map(Value::as_str))
}

fn expected_one_of(options: &[Value], value: &Value) -> String {
    let options: Vec<String> = options.iter().map(Value::to_string).collect();
    let found = match value {
        Value::String(text) => format!("{:?}", shorten(text, VALUE_CHARS_MAX)),
        other => kind_of(other).to_owned(),
    };
    match &options[..] {
        [only] => format!("must be {only}, not {found}"),
        all => format!("must be one of {}, not {found}", shorten(&all.join(", "), MESSAGE_CHARS_MAX)),
    }
}

fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => name(*one).to_owned(),
        TypeKind::Multiple(several) => {
            let names: Vec<&str> = several.iter().filter(|one| *one != JsonType::Null).map(name).collect();
            names.join(" or ")
        }
    }
}

fn name(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Null => "nothing",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Number => "a number",
        JsonType::String => "text",
        JsonType::Array => "a list",
        JsonType::Object => "a table",
    }
}

#[cfg(test)]
mod tests;
