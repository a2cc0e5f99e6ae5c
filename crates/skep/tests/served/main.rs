//! A real `skep serve` and clients that are many, rude, or somebody else.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod alerts;
mod bounds;
mod callers;
mod calls;
mod claimed;
mod collab;
mod editors;
mod half;
mod hidden;
mod outage;
mod plain;
#[path = "../../../skep-core/tests/postgres/mod.rs"]
mod postgres;
mod principals;
#[expect(dead_code, reason = "the tests of the store use all of it")]
#[path = "../../../skep-core/tests/postgres/private.rs"]
mod private;
mod queue;
#[expect(dead_code, reason = "the tests of the store use all of it")]
#[path = "../../../skep-core/tests/redis/mod.rs"]
mod redis_server;
mod rest;
mod several;
#[path = "../support/mod.rs"]
mod support;
mod sync;
mod tls;
mod users;
mod wire;
