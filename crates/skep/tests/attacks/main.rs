//! Attacks on the real program, as somebody would run them who means harm. Each test's name says what must hold.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod found_settings;
mod names;
#[path = "../support/mod.rs"]
mod support;
mod surplus;
mod templates;
mod terminal;
