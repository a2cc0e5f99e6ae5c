//! A JSON object whose members stay text: what is not looked at passes through byte for byte and in its order.

use std::borrow::Cow;

use serde::{
    Deserialize, Serialize,
    de::{
        Error as _,
        value::{BorrowedStrDeserializer, MapDeserializer},
    },
    ser::SerializeMap as _,
};
use serde_json::value::{RawValue, to_raw_value};

use crate::spans::{self, Span};

/// Names that most calls have, which are not copied.
const KNOWN: [&str; 4] = ["name", "arguments", "_meta", "uri"];

/// The members of an object, in their order. Of two with one name the first is meant. They are borrowed from the text until
/// they are replaced.
#[derive(Clone, Debug, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Members<'a> {
    /// The members of an object, or `None` if the text is another value.
    pub fn parse(object: &'a RawValue) -> Option<Members<'a>> {
        let of_span = |span: Span<'a>| Some((span.name, Cow::Borrowed(known(span.value)?)));
        spans::members(object.get())?.map(of_span).collect::<Option<_>>().map(Members)
    }

    /// The members of what is serialised as an object; none of anything else.
    pub fn of(value: &impl Serialize) -> Members<'static> {
        let text = to_raw_value(value).ok();
        text.as_deref().and_then(Members::parse).map(Members::into_owned).unwrap_or_default()
    }

    /// The same without the text.
    pub fn into_owned(self) -> Members<'static> {
        Members(self.0.into_iter().map(|(name, value)| (owned(&name), Cow::Owned(value.into_owned()))).collect())
    }

    /// A copy without the text.
    pub fn to_owned(&self) -> Members<'static> {
        Members(self.0.iter().map(|(name, value)| (owned(name), Cow::Owned((**value).to_owned()))).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all names and values.
    pub fn len_in_bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.get().len()).sum()
    }

    /// The member of this name.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The member of this name for as long as the text lives, if it was not replaced.
    pub fn get_in_text(&self, name: &str) -> Option<&'a RawValue> {
        match self.0.iter().find(|(known, _)| known == name)?.1 {
            Cow::Borrowed(value) => Some(value),
            Cow::Owned(_) => None,
        }
    }

    /// The member of this name, as a type; `None` also where it does not fit.
    pub fn read<'b, T: Deserialize<'b>>(&'b self, name: &str) -> Option<T> {
        self.get(name).and_then(|value| serde_json::from_str(value.get()).ok())
    }

    /// The member of this name, if it is a string; copied only where something in it is escaped.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        let value = self.get(name)?.get();
        match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
            Some(plain) if memchr::memchr(b'\\', plain.as_bytes()).is_none() => Some(Cow::Borrowed(plain)),
            _ => serde_json::from_str(value).map(Cow::Owned).ok(),
        }
    }

    /// Replace the member of this name where it stands, or add it at the end.
    pub fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, place)) => *place = Cow::Owned(value),
            None => self.0.push((Cow::Owned(name.to_owned()), Cow::Owned(value))),
        }
    }

    /// The same with a value that is serialised. One that cannot be is left out.
    pub fn put(&mut self, name: &str, value: impl Serialize) {
        if let Ok(value) = to_raw_value(&value) {
            self.set(name, value);
        }
    }

    /// Take the member of this name out, and whatever else has that name. Returns whether there was any.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != name);
        self.0.len() < before
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// As text again.
    pub fn into_raw(self) -> Box<RawValue> {
        to_raw_value(&self).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }
}

fn owned(name: &str) -> Cow<'static, str> {
    KNOWN.into_iter().find(|known| *known == name).map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
}

/// From text only: what is borrowed must be there.
impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?;
        Members::parse(text).ok_or_else(|| D::Error::custom("expected an object"))
    }
}

/// A part of a text that is known to be JSON, without reading it again.
fn known(part: &str) -> Option<&RawValue> {
    /// What serde_json calls this type where it is asked for it.
    const TOKEN: &str = "$serde_json::private::RawValue";
    let as_it_is = BorrowedStrDeserializer::<serde_json::Error>::new(part);
    let known = <&RawValue>::deserialize(MapDeserializer::new(std::iter::once((TOKEN, as_it_is))));
    known.or_else(|_| serde_json::from_str(part)).ok()
}

impl Serialize for Members<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(&**name, &**value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_touched_keeps_its_bytes_and_its_place() {
        let text = r#"{"z":1.50,"a":{"deep": [1e400,  "\u00e4"]},"resultType":"complete","b":null}"#;
        let mut members: Members = serde_json::from_str(text).unwrap();
        members.remove("resultType");
        members.put("a2", 7);
        assert_eq!(members.into_raw().get(), r#"{"z":1.50,"a":{"deep": [1e400,  "\u00e4"]},"b":null,"a2":7}"#);
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for text in ["[]", "1", "null", "\"a\""] {
            assert!(Members::parse(&RawValue::from_string(text.to_owned()).unwrap()).is_none(), "{text}");
        }
    }
}
