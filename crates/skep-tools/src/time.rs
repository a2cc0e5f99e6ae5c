//! Times, as people and programs read them.

use skep_core::Timestamp;

/// A time of the store, in RFC 3339.
pub fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.0).map_or_else(|_| at.0.to_string(), |at| at.to_string())
}
