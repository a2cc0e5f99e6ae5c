//! The schemas of tools, as models and their clients understand them.
//!
//! Clients pass the schema of a tool on to a model's API, and each API has a dialect of its own: what one takes, another
//! refuses or drops. This is what they have in common. What a schema means changes in one way only: an argument that may
//! be left out is not said to be nullable as well. Null is still taken for absent, since it is the type that decides.

use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::Transform};
use serde_json::{Map, Value, json};

/// Which side of a tool a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What a model writes.
    Arguments,
    /// What it reads; here null is a value, and what may be any value must not be narrowed.
    Answer,
}

/// The schema of a type for `side` of a tool. What its fields refer to is written out in place.
pub fn generate<T: JsonSchema>(side: Side) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let settings = match side {
        Side::Arguments => settings.for_deserialize(),
        // What is left out of an answer now and then is not required there.
        Side::Answer => settings.for_serialize(),
    };
    settings.with_transform(Portable(side)).into_generator().into_root_schema_for::<T>().to_value()
}

/// The largest integer that all readers of JSON can tell from its neighbours, for those that have no limit of their own.
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

/// Formats that JSON Schema defines and every dialect knows.
pub const FORMATS: [&str; 9] = ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"];

/// Whether a value may be anything, as a schema of ours says that.
pub fn is_any(schema: &Value) -> bool {
    let forms = schema["anyOf"].as_array().map_or(&[][..], Vec::as_slice);
    ["string", "number", "boolean", "object", "array"].iter().all(|kind| forms.iter().any(|form| form["type"] == *kind))
}

/// Keywords that say something about a value rather than constrain it.
const NOTES: [&str; 4] = ["title", "description", "default", "examples"];

#[derive(Clone, Copy)]
struct Portable(Side);

impl Transform for Portable {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(schema) = schema.as_object_mut() {
            self.rewrite(schema);
        }
    }
}

impl Portable {
    fn rewrite(self, schema: &mut Map<String, Value>) {
        self.rewrite_below(schema);
        bound(schema);
        words_to_enum(schema);
        if self.0 == Side::Arguments {
            leave_null_out(schema);
        }
        if let Some(forms) = schema.remove("oneOf") {
            // Forms that exclude each other anyway.
            schema.insert("anyOf".to_owned(), forms);
        }
        if let Some(word) = schema.remove("const") {
            schema.insert("enum".to_owned(), json!([word]));
        }
        split_types(schema);
        if schema.keys().all(|key| NOTES.contains(&&**key) || key == "$schema") {
            schema.insert("anyOf".to_owned(), self.any_value());
        }
    }

    fn rewrite_below(self, schema: &mut Map<String, Value>) {
        for (key, below) in schema {
            match (&**key, below) {
                ("properties", Value::Object(members)) => members.values_mut().for_each(|member| self.enter(member)),
                ("anyOf" | "oneOf", Value::Array(forms)) => forms.iter_mut().for_each(|form| self.enter(form)),
                ("items", items) => self.enter(items),
                // `true` and `false` are its usual values.
                ("additionalProperties", Value::Object(members)) => self.rewrite(members),
                _ => (),
            }
        }
    }

    fn enter(self, schema: &mut Value) {
        if *schema == Value::Bool(true) {
            *schema = json!({});
        }
        if let Value::Object(schema) = schema {
            self.rewrite(schema);
        }
    }

    /// The forms of a value that may be any.
    fn any_value(self) -> Value {
        let object = json!({ "type": "object", "additionalProperties": true });
        let simple = [json!({ "type": "string" }), json!({ "type": "number" }), json!({ "type": "boolean" }), object];
        let mut forms = simple.to_vec();
        match self.0 {
            // Some dialects want to know what is in a list, and a list in itself cannot be written without references.
            Side::Arguments => {
                let inner = json!({ "type": "array", "items": { "anyOf": simple } });
                let items = [&simple[..], &[inner]].concat();
                forms.push(json!({ "type": "array", "items": { "anyOf": items } }));
            }
            Side::Answer => forms.extend([json!({ "type": "array" }), json!({ "type": "null" })]),
        }
        forms.into()
    }
}

/// Says by limits what the type of a number says by a name that only Rust knows.
fn bound(schema: &mut Map<String, Value>) {
    let Some(format) = schema.get("format").and_then(Value::as_str).filter(|format| !FORMATS.contains(format)) else {
        return;
    };
    let limits = match format {
        "int8" => Some((i8::MIN.into(), i8::MAX.into())),
        "int16" => Some((i16::MIN.into(), i16::MAX.into())),
        "int32" => Some((i32::MIN.into(), i32::MAX.into())),
        "int64" | "int" => Some((-INTEGER_MAX, INTEGER_MAX)),
        "uint8" => Some((0, u8::MAX.into())),
        "uint16" => Some((0, u16::MAX.into())),
        "uint32" => Some((0, u32::MAX.into())),
        "uint64" | "uint" => Some((0, INTEGER_MAX)),
        _ => None,
    };
    schema.remove("format");
    if let Some((minimum, maximum)) = limits {
        for (name, limit) in [("minimum", minimum), ("maximum", maximum)] {
            schema.entry(name).or_insert_with(|| limit.into());
        }
    }
}

/// Makes a choice between words that are explained one by one a list of words, with the explanations before it.
fn words_to_enum(schema: &mut Map<String, Value>) {
    let Some(Value::Array(forms)) = schema.get("oneOf").or_else(|| schema.get("anyOf")) else { return };
    let mut words = Vec::new();
    let mut meanings = Vec::new();
    for form in forms {
        // What is below has been rewritten already.
        match form.get("enum").and_then(Value::as_array) {
            Some(of_form) if form["type"] == "string" => {
                words.extend(of_form.iter().cloned());
                if let ([Value::String(word)], Some(meaning)) = (&of_form[..], form["description"].as_str()) {
                    meanings.push(format!("{word}: {}", meaning.trim_end_matches('.')));
                }
            }
            _ => return,
        }
    }
    schema.remove("oneOf");
    schema.remove("anyOf");
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), words.into());
    if !meanings.is_empty() {
        let about = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        let about = format!("{about} {}.", meanings.join("; "));
        schema.insert("description".to_owned(), about.trim_start().into());
    }
}

/// An argument that may be null may be left out, which is enough.
fn leave_null_out(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|one| one != "null");
    }
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    for key in ["anyOf", "oneOf"] {
        let Some(Value::Array(forms)) = schema.get_mut(key) else { continue };
        forms.retain(|form| form["type"] != "null");
        if let [Value::Object(only)] = &mut forms[..] {
            let mut only = std::mem::take(only);
            schema.remove(key);
            if let (Some(Value::String(about)), Some(Value::String(more))) =
                (schema.get_mut("description"), only.remove("description"))
            {
                *about = format!("{about} {more}");
            }
            for (name, value) in only {
                schema.entry(name).or_insert(value);
            }
        }
    }
}

/// Keywords that constrain values of a type; one that is not listed holds for all.
fn concerns(keyword: &str) -> Option<&'static [&'static str]> {
    Some(match keyword {
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => &["integer", "number"],
        "minLength" | "maxLength" | "pattern" | "format" => &["string"],
        "items" | "minItems" | "maxItems" | "uniqueItems" => &["array"],
        "properties" | "required" | "additionalProperties" | "minProperties" | "maxProperties" => &["object"],
        _ => return None,
    })
}

/// Makes a list of types a choice between schemas with one type each.
fn split_types(schema: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = schema.get("type") else { return };
    if let [only] = &types[..] {
        let only = only.clone();
        schema.insert("type".to_owned(), only);
        return;
    }
    let types = types.clone();
    schema.remove("type");
    let notes = |key: &str| NOTES.contains(&key) || key == "$schema";
    let constraints: Vec<(String, Value)> =
        schema.iter().filter(|(key, _)| !notes(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    schema.retain(|key, _| notes(key));
    let form = |kind: &Value| {
        let concerned = |(key, _): &&(String, Value)| match concerns(key) {
            Some(types) => types.iter().any(|one| kind == one),
            None => kind != "null",
        };
        let mut form = Map::from_iter([("type".to_owned(), kind.clone())]);
        form.extend(constraints.iter().filter(concerned).cloned());
        if let Some(Value::Array(words)) = form.get_mut("enum") {
            words.retain(|word| !word.is_null());
        }
        Value::Object(form)
    };
    let forms: Vec<Value> = types.iter().map(form).collect();
    schema.insert("anyOf".to_owned(), forms.into());
}

#[cfg(test)]
mod tests;
