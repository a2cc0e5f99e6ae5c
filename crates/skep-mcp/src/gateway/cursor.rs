//! Our own cursors: where a page of a merged list ended, by name, so that they stay good when servers come and go.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// The item after which the next page begins: its server and its key.
pub(super) type Place = (String, String);

pub(super) fn write(place: &Place) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(place).unwrap_or_default())
}

pub(super) fn read(cursor: &str) -> Option<Place> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_place_comes_back_and_any_other_text_is_refused(place: Place, text: String) {
            let cursor = write(&place);
            proptest::prop_assert_eq!(read(&cursor), Some(place));
            proptest::prop_assert!(read(&text).is_none_or(|place| read(&write(&place)) == Some(place)));
        }
    }
}
