//! The fast path of `POST /mcp`: HTTP that is read and written by hand, beside hyper and the router.
//!
//! Every call of a tool over MCP is one such request. Reading a head, finding a route and writing an answer in general cost as
//! much as everything else that the hub does for the call. All that is written by hand to save this is here.
//!
//! **What it answers itself** ([`head`]): a request that begins with the bytes `POST /mcp HTTP/1.1`, with a head of moderate
//! size, a short body whose length is given exactly once and in digits, and no field that changes how the request is to be
//! read or answered. Such a request cannot be read in two ways.
//!
//! **What it hands on**: everything else. The first request of a connection that is not of this kind goes to hyper and the
//! router from its first byte, and so does all that follows it on the connection. Whatever is old, odd, long or wrong is
//! judged there alone, so that the fast path can be narrow. In doubt, a request is handed on.
//!
//! **Both give the same answer.** The rules are not written twice: the guard, tokens, limits, counting and the protocol are
//! the same functions, called in the same order ([`plain`]). What is written twice (reading requests, framing answers) is
//! compared by a table of requests in `tests.rs`, each sent both ways. A change here adds its rows there.

mod head;
mod in_place;
mod plain;
#[cfg(test)]
mod tests;

pub(super) use in_place::in_place;
pub(super) use plain::{Limits, Plain, Rest};
