//! What a tool is, the tools that Skep has built in, and what they stand on.
//!
//! [`tool`] says what a tool is and why a call of one fails ([`error`]); [`built_in`] has one file for each. A call sees
//! directories ([`workspace`]), takes memory for its answer ([`room`]), and reaches the outside by [`net`] and [`model`].
//! Arguments and settings are read from values ([`value`]) and files ([`document`]) and checked against [`schema`].
//!
//! This crate knows no hub: who calls, what runs at once and what is counted are decided above.

pub mod built_in;
pub mod document;
pub mod duration;
pub mod error;
pub mod model;
pub mod net;
pub mod room;
pub mod schema;
pub mod size;
pub mod tool;
pub mod value;
pub mod workspace;
