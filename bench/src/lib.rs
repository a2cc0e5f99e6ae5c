//! Measurements.

/// The allocator of the product: what is measured here should stand on the same ground.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
