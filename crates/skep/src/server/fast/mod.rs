//! The fast path of `POST /mcp`, beside hyper and the router.

mod in_place;
mod plain;

pub(super) use in_place::in_place;
pub(super) use plain::{Limits, Plain, Rest};
