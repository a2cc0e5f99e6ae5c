//! What a tool is, and what tools stand on.
//!
//! [`tool`] says what a tool is and why a call of one fails ([`error`]); the built-in ones are made from [`parts`]. A call
//! sees directories ([`workspace`]), takes memory for its answer ([`room`]), runs commands ([`sandboxed`]) and code
//! ([`code`]), reaches the outside by [`net`] and [`model`], and works on what
//! agents share ([`shared`]). Arguments and settings are read from values ([`value`])
//! and files ([`document`]) and checked against [`schema`].
//!
//! This crate knows no hub: who calls, what runs at once and what is counted are decided above.

pub mod code;
pub mod diff;
pub mod document;
pub mod duration;
pub mod error;
pub mod merge;
pub mod model;
pub mod net;
pub mod parts;
pub mod project;
pub mod room;
pub mod sandboxed;
pub mod schema;
pub mod search;
pub mod shared;
pub mod size;
pub mod time;
pub mod tool;
pub mod value;
pub mod workspace;
