//! Lengths of time as people write them in files: `500ms`, `10s`, `2m`, `1h`, or a plain number of seconds.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in a file, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, garde::Validate)]
#[garde(allow_unvalidated)]
pub struct Span(pub Duration);

/// How to write one.
pub const FORMS: &str = "a time such as 500ms, 10s, 2m or 1h";
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
/// More digits are not a time that anybody means.
const DIGITS_MAX: usize = 9;

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let error = || format!("must be {FORMS}");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        let number: u64 = number.parse().ok().filter(|_| digits <= DIGITS_MAX).ok_or_else(error)?;
        Ok(Span(Duration::from_millis(number * millis)))
    }
}

/// In the largest unit that leaves no rest.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let unit = UNITS.iter().rev().find(|(_, size)| millis > 0 && millis.is_multiple_of(u128::from(*size)));
        let (name, size) = unit.unwrap_or(&("s", 1_000));
        write!(f, "{}{name}", millis / u128::from(*size))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Seconds(u32),
            Text(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Seconds(seconds)) => Ok(Span(Duration::from_secs(seconds.into()))),
            Ok(Written::Text(text)) => text.parse().map_err(de::Error::custom),
            Err(_) => Err(de::Error::custom(format!("must be {FORMS}"))),
        }
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": FORMS,
            "type": ["string", "integer"],
            "pattern": format!("^[0-9]{{1,{DIGITS_MAX}}}(ms|s|m|h)$"),
            "minimum": 0,
            "maximum": u32::MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_mean_what_they_say() {
        let cases = [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0), ("90s", 90_000)];
        for (text, millis) in cases {
            assert_eq!(text.parse::<Span>().unwrap().0.as_millis(), millis, "{text}");
        }
        assert_eq!(serde_json::from_str::<Span>("10").unwrap().0.as_secs(), 10);
        for text in ["", "10", "s", "-1s", "1.5s", "10 s", "1d", "10S", "1234567890s", "１s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for json in ["-1", "1.5", "null", "[]", "4294967296"] {
            assert!(serde_json::from_str::<Span>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn the_schema_accepts_what_is_read_and_nothing_else() {
        let schema = crate::schema::Schema::of::<Span>();
        for json in [r#""500ms""#, r#""2m""#, "10", r#""10""#, r#""1d""#, "-1", "4294967296", "1.5", r#""1234567890s""#]
        {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            let is_valid = schema.violations(&value).is_empty();
            assert_eq!(is_valid, serde_json::from_value::<Span>(value).is_ok(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in 0u64..=999_999_999) {
            let span = Span(Duration::from_millis(millis));
            prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }
    }
}
