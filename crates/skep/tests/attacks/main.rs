//! What an intruder would try, against the real program.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod found_settings;
mod names;
mod others;
mod outputs;
mod spoofing;
#[path = "../support/mod.rs"]
mod support;
mod surplus;
mod templates;
mod terminal;
mod unread;
#[allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it")]
#[path = "../served/wire.rs"]
mod wire;
