//! The Model Context Protocol in every revision, as server and as client. Knows no hub.

pub mod cancel;
pub mod client;
pub mod framing;
pub mod gateway;
pub mod message;
pub mod pace;
pub mod revision;
pub mod server;
pub mod spans;
pub mod timer;
