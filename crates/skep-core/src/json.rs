//! JSON as text. What no rule reads travels through the core as its caller wrote it: nothing is parsed, nothing is
//! changed on the way, and what comes back is the same to the byte.

use std::{
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, IgnoredAny},
    ser::Error as _,
};
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::hex::hex;

/// Bytes of a value that its row keeps itself, as JSON text; a larger one is a blob, which the row names.
pub const INLINE_BYTES_MAX: usize = 4 << 10;

/// A JSON value as text; cheap to clone. Two of them are equal if their texts are.
#[derive(Clone)]
pub struct Json(Arc<Text>);

struct Text {
    text: String,
    /// In hexadecimal; computed when it is first asked for.
    sha256: OnceLock<String>,
}

impl Json {
    /// This text, which must be one JSON value. It may be nested to any depth.
    pub fn from_text(text: impl Into<String>) -> Result<Json, serde_json::Error> {
        let text = text.into();
        serde_json::from_str::<IgnoredAny>(&text)?;
        Ok(Json::new(text))
    }

    /// What is written here and serialized without fail: no maps with keys that are no texts.
    pub(crate) fn of(value: &impl Serialize) -> Json {
        serde_json::to_string(value).map_or_else(|_| Json::null(), Json::new)
    }

    /// What the database has, which was JSON when it was written.
    pub(crate) fn from_database(text: impl Into<String>) -> Json {
        Json::new(text.into())
    }

    fn new(text: String) -> Json {
        Json(Arc::new(Text { text, sha256: OnceLock::new() }))
    }

    /// The value `null`.
    pub fn null() -> Json {
        static NULL: LazyLock<Json> = LazyLock::new(|| Json::new("null".to_owned()));
        NULL.clone()
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.as_str().trim_ascii() == "null"
    }

    /// The text, exactly as it was given.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether it is kept as a blob.
    pub(crate) fn is_large(&self) -> bool {
        self.as_str().len() > INLINE_BYTES_MAX
    }

    /// SHA-256 of the text, in hexadecimal. It is computed once for all clones.
    pub(crate) fn sha256(&self) -> &str {
        self.0.sha256.get_or_init(|| hex(&Sha256::digest(&self.0.text)))
    }

    /// The value, read as a `T`. Fails if it is none, or is nested too deep to be read.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }

    /// How many arrays and objects are inside each other at most.
    pub(crate) fn depth(&self) -> usize {
        let (mut depth, mut deepest, mut in_string) = (0_usize, 0, false);
        let mut bytes = self.as_str().bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => in_string = !in_string,
                b'\\' if in_string => drop(bytes.next()),
                b'[' | b'{' if !in_string => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        deepest
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Json) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Json::from)
    }
}

impl Default for Json {
    fn default() -> Json {
        Json::null()
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Json {
        Json::new(value.to_string())
    }
}

impl From<Box<RawValue>> for Json {
    fn from(value: Box<RawValue>) -> Json {
        Json::new(Box::<str>::from(value).into_string())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As it is, where the text of another value is written.
impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(self.as_str()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn text_that_is_no_json_is_refused_and_what_is_json_stays_to_the_byte() {
        for text in ["", "{", "1 2", "nul", "{\"a\":}", "\"\u{1}\""] {
            assert!(Json::from_text(text).is_err(), "{text}");
        }
        let text = " {\"b\": 1.50,\n \"a\":\"\\u0000\\ud800\", \"b\":1e999}";
        let kept = Json::from_text(text).unwrap();
        assert_eq!(kept.as_str(), text);
        assert_eq!(serde_json::to_string(&[kept]).unwrap(), format!("[{}]", text.trim_start()));
    }

    #[test]
    fn depth_counts_arrays_and_objects_and_no_brackets_in_strings() {
        for (text, depth) in [("1", 0), ("[]", 1), (r#"{"a":[[1],{"b":2}]}"#, 3), (r#"["[[[\"[", "\\", []]"#, 2)] {
            assert_eq!(Json::from_text(text).unwrap().depth(), depth, "{text}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(Json::from_text(deep).unwrap().depth(), 100_000, "without recursion");
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(null)), any::<i64>().prop_map(Value::from), ".*".prop_map(Value::from)];
        leaf.prop_recursive(6, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..4).prop_map(Value::from_iter),
            ]
        })
    }

    fn depth_of(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(depth_of).max().unwrap_or(0),
            _ => 0,
        }
    }

    proptest! {
        #[test]
        fn any_value_is_read_back_and_as_deep_as_it_is(value in value()) {
            let text = Json::from(value.clone());
            prop_assert_eq!(text.depth(), depth_of(&value));
            prop_assert_eq!(text.parse::<Value>().unwrap(), value);
        }
    }
}
