//! Lengths of time as people write them: `500ms`, `10s`, `1.5h`, `1m30s`, or a plain number of seconds. Flags, variables
//! and files have the same forms.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, garde::Validate)]
#[garde(allow_unvalidated)]
pub struct Span(pub Duration);

/// How to write one.
pub const FORMS: &str = "a time such as 500ms, 10s, 1m30s, 2h or 7d, or a number of seconds";
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", DAY_MS)];
const DAY_MS: u64 = 86_400_000;
/// A plain number is one of these.
const SECOND_MS: u64 = 1_000;
/// More digits before or after the point are not a time that anybody means.
const DIGITS_MAX: usize = 9;
/// The longest time, which is written in days with so many digits.
const TIME_MS_MAX: u64 = 999_999_999 * DAY_MS;

impl Span {
    /// A time of a flag that makes no sense as nothing.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn more_than_zero(text: &str) -> Result<Span, String> {
        match text.parse()? {
            Span(Duration::ZERO) => Err("must be more than 0s".to_owned()),
            time => Ok(time),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let error = || format!("must be {FORMS}");
        let (mut total_ms, mut rest) = (0_u64, text);
        loop {
            let (number, after) = Decimal::begins(rest).ok_or_else(error)?;
            let is_unit = |c: char| c.is_ascii_alphabetic();
            let (unit, after) = after.split_at(after.find(|c| !is_unit(c)).unwrap_or(after.len()));
            let unit_ms = match UNITS.iter().find(|(name, _)| *name == unit) {
                Some((_, unit_ms)) => *unit_ms,
                None if unit.is_empty() && rest == text && after.is_empty() => SECOND_MS,
                None => return Err(error()),
            };
            let sum = number.times(unit_ms).and_then(|ms| total_ms.checked_add(ms));
            total_ms = sum.filter(|ms| *ms <= TIME_MS_MAX).ok_or_else(error)?;
            if after.is_empty() {
                return Ok(Span(Duration::from_millis(total_ms)));
            }
            rest = after;
        }
    }
}

/// A number with a point, exactly as it was written: `whole + fraction / 10^digits`.
#[derive(Clone, Copy)]
pub(crate) struct Decimal {
    whole: u64,
    fraction: u64,
    digits: u32,
}

impl Decimal {
    /// The number that a text begins with, and what follows it.
    pub(crate) fn begins(text: &str) -> Option<(Decimal, &str)> {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, mut rest) = text.split_at(digits(text));
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            (fraction, rest) = after.split_at(digits(after));
            if fraction.is_empty() {
                return None;
            }
        }
        if whole.len() > DIGITS_MAX || fraction.len() > DIGITS_MAX {
            return None;
        }
        let digits = u32::try_from(fraction.len()).ok()?;
        let fraction = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        Some((Decimal { whole: whole.parse().ok()?, fraction, digits }, rest))
    }

    /// So many times this unit, rounded up: what is more than nothing stays so. `None` if it is too much.
    pub(crate) fn times(self, unit: u64) -> Option<u64> {
        let scale = 10_u128.pow(self.digits);
        let number = u128::from(self.whole) * scale + u128::from(self.fraction);
        u64::try_from((number * u128::from(unit)).div_ceil(scale)).ok()
    }
}

/// In the largest unit that leaves no rest.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let unit = UNITS.iter().rev().find(|(_, size)| millis > 0 && millis.is_multiple_of(u128::from(*size)));
        let (name, size) = unit.unwrap_or(&("s", SECOND_MS));
        let number = millis / u128::from(*size);
        match number.checked_ilog10() {
            Some(log) if log as usize >= DIGITS_MAX => {
                let (days, rest) = (millis / u128::from(DAY_MS), millis % u128::from(DAY_MS));
                write!(f, "{days}d{rest}ms")
            }
            _ => write!(f, "{number}{name}"),
        }
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
            Seconds(f64),
            Text(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Seconds(seconds)) if (0.0..=f64::from(u32::MAX)).contains(&seconds) => {
                // As whole milliseconds, rounded up; a float holds each of them exactly.
                Ok(Span(Duration::from_millis((seconds * 1_000.0).ceil() as u64)))
            }
            Ok(Written::Text(text)) => text.parse().map_err(de::Error::custom),
            _ => Err(de::Error::custom(format!("must be {FORMS}"))),
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
        let number = format!("[0-9]{{1,{DIGITS_MAX}}}(\\.[0-9]{{1,{DIGITS_MAX}}})?");
        json_schema!({
            "title": FORMS,
            "type": ["string", "number"],
            "pattern": format!("^({number}|({number}(ms|s|m|h|d))+)$"),
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
        let cases = [
            ("500ms", 500),
            ("10s", 10_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1h0m5s", 3_605_000),
            ("1.5s", 1_500),
            ("0.5h", 1_800_000),
            ("7d", 604_800_000),
            ("10", 10_000),
            ("0.25", 250),
            ("0.0001s", 1),
        ];
        for (text, millis) in cases {
            assert_eq!(text.parse::<Span>().unwrap().0.as_millis(), millis, "{text}");
        }
        assert_eq!(serde_json::from_str::<Span>("10").unwrap().0.as_secs(), 10);
        assert_eq!(serde_json::from_str::<Span>("1.5").unwrap().0.as_millis(), 1_500);
        let wrong = [
            "",
            "s",
            "-1s",
            "10 s",
            "1w",
            "10S",
            "1234567890s",
            "１s",
            "1.s",
            ".5s",
            "1m30",
            "5 ",
            "1e3",
            "inf",
            "nan",
        ];
        for text in wrong {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        for json in ["-1", "null", "[]", "4294967296"] {
            assert!(serde_json::from_str::<Span>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn the_schema_accepts_what_is_read_and_nothing_else() {
        let schema = crate::schema::Schema::of::<Span>();
        for json in [
            r#""500ms""#,
            r#""2m""#,
            "10",
            r#""10""#,
            r#""1m30s""#,
            r#""1.5h""#,
            r#""1d""#,
            r#""1w""#,
            r#""1m30""#,
            r#"".5s""#,
            "-1",
            "4294967296",
            "1.5",
            r#""1234567890s""#,
        ] {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            let is_valid = schema.violations(&value).is_empty();
            assert_eq!(is_valid, serde_json::from_value::<Span>(value).is_ok(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in prop_oneof![0..=999_999_999_u64, 0..=TIME_MS_MAX]) {
            let span = Span(Duration::from_millis(millis));
            prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }
    }
}
