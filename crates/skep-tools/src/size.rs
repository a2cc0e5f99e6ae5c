//! Numbers of bytes as people write them: `512M`, `1G`, `10MiB`, `1.5GB`, or a plain number of bytes. Flags, variables and
//! files have the same forms.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::duration::Decimal;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, garde::Validate)]
#[garde(allow_unvalidated)]
pub struct Size {
    /// The bytes.
    pub bytes: u64,
}

/// How to write one.
pub const FORMS: &str = "a size such as 512M, 1G, 10MiB or 4096";
/// As the GNU tools have them: `M` and `MiB` are powers of 1024, `MB` is a power of 1000. Small letters mean the same.
const UNITS: [(&str, u64); 13] = [
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];
/// Units that [`Size`] is shown in.
const SHOWN: [(&str, u64); 5] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10), ("", 1)];
/// Numbers before a unit are smaller.
const NUMBER_MAX: u64 = 1_000_000_000;
const MEBIBYTE: u64 = 1 << 20;
/// No machine has more, and it fits every number that it is counted in.
const BYTES_MAX: u64 = 1 << 53;

impl Size {
    /// So many bytes.
    pub const fn of_bytes(bytes: u64) -> Size {
        Size { bytes }
    }

    /// For limits whose plain numbers have always been mebibytes: `512` is `512M`. Nothing is no limit that anybody means.
    pub fn or_mebibytes(text: &str) -> Result<Size, String> {
        parse(text, MEBIBYTE)
            .and_then(|size| if size.bytes == 0 { Err("must be more than 0".to_owned()) } else { Ok(size) })
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        parse(text, 1)
    }
}

fn parse(text: &str, plain_unit: u64) -> Result<Size, String> {
    let error = || format!("must be {FORMS}");
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain && plain_unit == 1 {
        // A plain number of bytes may have more digits than anybody would write before a unit.
        return text.parse().ok().filter(|bytes| *bytes <= BYTES_MAX).map(Size::of_bytes).ok_or_else(error);
    }
    let (number, unit) = Decimal::begins(text).ok_or_else(error)?;
    let unit_bytes = match UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name)) {
        Some((_, bytes)) => *bytes,
        None if is_plain => plain_unit,
        None => return Err(error()),
    };
    number.times(unit_bytes).filter(|bytes| *bytes <= BYTES_MAX).map(Size::of_bytes).ok_or_else(error)
}

/// In the largest unit that leaves no rest, and a number that can be read back.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, unit): &&(&str, u64)| {
            self.bytes > 0 && self.bytes.is_multiple_of(*unit) && self.bytes / unit < NUMBER_MAX
        };
        let (name, bytes) = SHOWN.iter().find(fits).unwrap_or(&("", 1));
        write!(f, "{}{name}", self.bytes / bytes)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer) {
            Ok(Written::Bytes(bytes)) if bytes <= BYTES_MAX => Ok(Size { bytes }),
            Ok(Written::Text(text)) => text.parse().map_err(de::Error::custom),
            _ => Err(de::Error::custom(format!("must be {FORMS}"))),
        }
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": FORMS,
            "type": ["string", "integer"],
            "pattern": "^([0-9]{1,16}|[0-9]{1,9}(\\.[0-9]{1,9})?([bB]|[kKmMgGtT]([iI]?[bB])?))$",
            "minimum": 0,
            "maximum": BYTES_MAX,
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
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("1G", 1 << 30),
            ("10MiB", 10 << 20),
            ("10mib", 10 << 20),
            ("1.5K", 1536),
            ("2kB", 2000),
            ("3GB", 3_000_000_000),
            ("4096", 4096),
            ("4096B", 4096),
            ("10485760000", 10_485_760_000),
            ("0", 0),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse::<Size>().map(|size| size.bytes), Ok(bytes), "{text}");
        }
        assert_eq!(Size::or_mebibytes("512"), "512M".parse());
        assert_eq!(Size::or_mebibytes("512K"), "512K".parse());
        assert_eq!(Size::or_mebibytes("0"), Err("must be more than 0".to_owned()));
        for text in ["", "M", "-1M", "1 G", "1.5", "1X", "1MM", "99999999999999999999", "9999999T", "１G", ".5G", "1e9"]
        {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_schema_accepts_what_is_read_and_nothing_else() {
        let schema = crate::schema::Schema::of::<Size>();
        for json in
            [r#""512M""#, r#""1 G""#, "10", r#""10""#, r#""1.5GiB""#, r#""1.5""#, "-1", "1.5", "null", r#""1x""#]
        {
            let value: serde_json::Value = serde_json::from_str(json).unwrap();
            let is_valid = schema.violations(&value).is_empty();
            assert_eq!(is_valid, serde_json::from_value::<Size>(value).is_ok(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in 0..=BYTES_MAX) {
            let size = Size { bytes };
            prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
        }
    }
}
