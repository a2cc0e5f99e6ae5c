//! The arguments of a call, as they came.

use serde_json::{Map, Value, value::RawValue};
use skep_mcp::framing::Held;
use skep_tools::room::values;

/// Values (numbers, strings, lists, …) in the arguments of one call. Each takes some 70 bytes of memory and as few as
/// two of the text, so the size of the text alone does not bound the memory.
pub const VALUES_MAX: usize = 100_000;

/// The arguments of a call, as they came.
#[derive(Debug)]
pub enum Payload {
    /// As values.
    Value(Value),
    /// As text, which it stays until the call has its turn: as values it takes many times the memory.
    Text(Text),
}

/// Arguments as text, and their share of the memory for large messages.
#[derive(Debug, Default)]
pub struct Text {
    /// JSON; none where there are no arguments.
    pub json: Option<Box<RawValue>>,
    /// Released when the call has ended.
    pub held: Option<Held>,
}

/// Why arguments cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They would take too much memory.
    #[error("the arguments hold more than {VALUES_MAX} values; put large data into one text")]
    TooManyValues,
    /// Lists in lists. Where.
    #[error("the JSON is nested too deep{0}")]
    TooDeep(String),
    /// What is wrong, and where.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
}

impl From<&serde_json::Error> for Malformed {
    fn from(error: &serde_json::Error) -> Malformed {
        let message = error.to_string();
        match message.strip_prefix("recursion limit exceeded") {
            Some(place) => Malformed::TooDeep(place.to_owned()),
            None => Malformed::NotJson(message),
        }
    }
}

impl Payload {
    /// The arguments as values. What is left of the payload is to be kept until the call has ended.
    pub(super) fn take(&mut self) -> Result<Value, Malformed> {
        match self {
            Payload::Value(value) => Ok(value.take()),
            Payload::Text(text) => text.parse(),
        }
    }
}

impl Text {
    /// The same as values, unless they are too many or too deep.
    pub fn parse(&self) -> Result<Value, Malformed> {
        let Some(json) = &self.json else { return Ok(Value::Object(Map::new())) };
        if values(json.get()) > VALUES_MAX {
            return Err(Malformed::TooManyValues);
        }
        serde_json::from_str(json.get()).map_err(|error| Malformed::from(&error))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_too_deep_or_too_many_are_refused_before_they_take_memory() {
        let arguments = |text: &str| {
            let json = RawValue::from_string(text.to_owned()).map_err(|error| Malformed::from(&error));
            match json.and_then(|json| Text { json: Some(json), held: None }.parse()) {
                Ok(_) => "ok",
                Err(Malformed::TooManyValues) => "too_many_values",
                Err(Malformed::TooDeep(_)) => "too_deep",
                Err(Malformed::NotJson(_)) => "not_json",
            }
        };
        assert_eq!(Text::default().parse(), Ok(json!({})));
        assert_eq!(arguments(&format!("{}{}", "[".repeat(127), "]".repeat(127))), "ok");
        assert_eq!(arguments(&format!("{}{}", "[".repeat(128), "]".repeat(128))), "too_deep");
        assert_eq!(arguments(&format!("{}{}", "[".repeat(99_000), "]".repeat(99_000))), "too_deep");
        assert_eq!(arguments(&format!("[{}0]", "0,".repeat(VALUES_MAX))), "too_many_values");
        assert_eq!(arguments(&format!("[{:?}]", ",[{".repeat(VALUES_MAX))), "ok", "a long text is one value");
        assert_eq!(arguments(r#""\ud800""#), "not_json", "half a character");
        assert_eq!(arguments("1e999"), "not_json", "no such number");
    }

    proptest! {
        #[test]
        fn never_fewer_values_are_counted_than_there_are(text in r#"[\[\]{},:"\\ a1]{0,40}"#) {
            fn count(value: &Value) -> usize {
                1 + match value {
                    Value::Array(items) => items.iter().map(count).sum(),
                    Value::Object(members) => members.values().map(count).sum(),
                    _ => 0,
                }
            }
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert!(values(&text) >= count(&value), "{text}");
            }
            let list = json!([text, {"a": text, "b": [1, [text]]}]);
            prop_assert!(values(&list.to_string()) >= count(&list));
            prop_assert!(values(&list.to_string()) <= 12, "texts count once");
        }
    }
}
