//! Measurements.

pub mod http;
pub mod hub;

use mimalloc as _; // the allocator of the product: what is measured here should stand on the same ground
