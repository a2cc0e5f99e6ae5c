//! A result, and what is changed in it on its way. It may be megabytes: what stays is not copied.

use std::{borrow::Cow, collections::VecDeque, ops::Range};

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::spans::{self, Span};

/// A result, and the changes.
pub(super) struct Edited {
    result: Box<RawValue>,
    /// Places of its text, in their order and apart from each other, and what comes there instead.
    changes: Vec<Change>,
}

type Change = (Range<usize>, Cow<'static, str>);

/// What becomes of a member.
pub(super) enum Fate {
    Stays,
    Goes,
    /// Its value becomes another one.
    Becomes(String),
}

impl From<Box<RawValue>> for Edited {
    fn from(result: Box<RawValue>) -> Edited {
        Edited { result, changes: Vec::new() }
    }
}

impl Edited {
    /// A result of whose members some change.
    pub(super) fn new(result: Box<RawValue>, fate: impl FnMut(&Span<'_>) -> Fate) -> Edited {
        let changes = changes(result.get(), fate);
        Edited { result, changes }
    }

    /// Have this in a place, behind those that were named before.
    pub(super) fn change(&mut self, place: Range<usize>, text: impl Into<Cow<'static, str>>) {
        self.changes.push((place, text.into()));
    }

    /// The result as it was.
    pub(super) fn original(&self) -> &str {
        self.result.get()
    }

    /// The text, in parts.
    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        let text = self.result.get();
        let ends = self.changes.iter().map(|(place, _)| place.start).chain([text.len()]);
        let begins = [0].into_iter().chain(self.changes.iter().map(|(place, _)| place.end));
        let kept = begins.zip(ends).map(|(begin, end)| text.get(begin..end).unwrap_or_default());
        let new = self.changes.iter().map(|(_, text)| &**text).chain([""]);
        kept.zip(new).flat_map(|(kept, new)| [kept, new])
    }

    /// The same as memory that may be sent: what stays is where it was.
    pub(super) fn into_pieces(self) -> VecDeque<Bytes> {
        let whole = Bytes::from(String::from(Box::<str>::from(self.result)));
        let mut pieces = VecDeque::with_capacity(2 * self.changes.len() + 1);
        let mut begin = 0;
        for (place, text) in self.changes {
            pieces.push_back(whole.slice(begin..place.start));
            pieces.push_back(Bytes::from(text.into_owned()));
            begin = place.end;
        }
        pieces.push_back(whole.slice(begin..));
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }

    /// As one value again.
    pub(super) fn into_raw(self) -> Box<RawValue> {
        match self.changes.is_empty() {
            true => self.result,
            false => RawValue::from_string(self.parts().collect()).unwrap_or(self.result),
        }
    }
}

/// The changes by which members go and change. With a member goes what parts it from the next one; with the last ones, what parts
/// them from those before.
fn changes(object: &str, mut fate: impl FnMut(&Span<'_>) -> Fate) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    // Where the last member that stays ends; and from where to where those after it go.
    let (mut kept, mut going): (Option<usize>, Option<Range<usize>>) = (None, None);
    for span in spans::members(object).into_iter().flatten() {
        let fate = fate(&span);
        if matches!(fate, Fate::Goes) {
            let begin = going.take().map_or(span.place.start, |going| going.start);
            going = Some(begin..span.place.end);
            continue;
        }
        changes.extend(going.take().map(|going| (going.start..span.place.start, "".into())));
        kept = Some(span.place.end);
        if let Fate::Becomes(value) = fate {
            changes.push((span.place.end - span.value.len()..span.place.end, value.into()));
        }
    }
    changes.extend(going.map(|going| (kept.unwrap_or(going.start)..going.end, "".into())));
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    proptest! {
        #[test]
        fn members_that_go_leave_the_others_as_they_were(
            names in prop::collection::vec("[a-f]", 0..6),
            blanks in prop::sample::select(vec!["", " ", "\n "]),
            fates in "[a-f]{0,4}",
            changed in "[a-f]{0,2}",
        ) {
            let names = names.into_iter().collect::<std::collections::BTreeSet<_>>();
            let members = |names: &mut dyn Iterator<Item = (&String, &str)>| {
                let members = names.map(|(name, value)| format!("{blanks}\"{name}\"{blanks}:{blanks}{value}{blanks}"));
                format!("{{{}{blanks}}}", members.collect::<Vec<_>>().join(","))
            };
            let value = |name: &String, is_new: bool| if is_new && changed.contains(name.as_str()) { "7" } else { "[1, {}]" };
            let before = members(&mut names.iter().map(|name| (name, value(name, false))));
            let stay = |name: &&String| !fates.contains(name.as_str());
            let after = members(&mut names.iter().filter(stay).map(|name| (name, value(name, true))));
            let edited = Edited::new(RawValue::from_string(before).unwrap(), |span| match &*span.name {
                name if fates.contains(name) => Fate::Goes,
                name if changed.contains(name) => Fate::Becomes("7".to_owned()),
                _ => Fate::Stays,
            });
            let text: String = edited.parts().collect();
            let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
            prop_assert_eq!(read(&text), read(&after));
            let raw: Box<RawValue> = Edited { changes: edited.changes.clone(), result: edited.result.clone() }.into_raw();
            prop_assert_eq!(raw.get(), &text);
            let pieces: Vec<u8> = edited.into_pieces().into_iter().flatten().collect();
            prop_assert_eq!(pieces, text.into_bytes());
        }
    }
}
