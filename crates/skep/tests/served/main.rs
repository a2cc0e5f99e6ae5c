//! A real `skep serve` and clients that are many, rude, or somebody else.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod bounds;
mod callers;
mod calls;
mod claimed;
mod collab;
mod editors;
mod half;
mod hidden;
mod plain;
mod principals;
mod rest;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod users;
mod wire;
