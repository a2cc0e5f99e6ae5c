//! Measurements.

use mimalloc as _; // the allocator of the product: what is measured here should stand on the same ground
