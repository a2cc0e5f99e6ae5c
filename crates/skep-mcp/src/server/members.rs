//! A JSON object whose members stay text: what is not looked at passes through byte for byte and in its order.

use serde::{
    Deserialize, Serialize,
    de::{MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::value::{RawValue, to_raw_value};

/// The members of an object, in their order. Of two with one name the first is meant.
#[derive(Clone, Debug, Default)]
pub struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// The members of an object, or `None` if the text is another value.
    pub fn parse(object: &RawValue) -> Option<Members> {
        serde_json::from_str(object.get()).ok()
    }

    /// The member of this name.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The member of this name, as a type; `None` also where it does not fit.
    pub fn read<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        self.get(name).and_then(|value| serde_json::from_str(value.get()).ok())
    }

    /// Replace the member of this name where it stands, or add it at the end.
    pub fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, place)) => *place = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The same with a value that is serialised. One that cannot be is left out.
    pub fn put(&mut self, name: &str, value: impl Serialize) {
        if let Ok(value) = to_raw_value(&value) {
            self.set(name, value);
        }
    }

    /// Take the member of this name out, and whatever else has that name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), &**value))
    }

    /// As text again.
    pub fn into_raw(self) -> Box<RawValue> {
        to_raw_value(&self).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Serialize for Members {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
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
