//! A setting of the allocator. It is here, and not where it is used, as it takes `unsafe`.

use std::{ffi::c_int, time::Duration};

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// `mi_option_purge_delay` in `mimalloc.h`, for which the bindings have no name.
const PURGE_DELAY: mi_option_t = 15 as c_int;

/// Give memory that was freed back to the kernel after this time, rounded down to milliseconds.
///
/// mimalloc otherwise keeps it for a second, in case it is needed again. A program that makes and drops many large values may
/// then take up several times the memory that it uses. It has an effect only where mimalloc is the allocator.
pub fn keep_freed_memory_for(time: Duration) {
    let ms = time.as_millis().try_into().unwrap_or(i32::MAX);
    // SAFETY: mimalloc keeps its options in atomic variables and ignores numbers that it does not know, so any value may be set
    // at any time, whatever other threads do.
    unsafe { mi_option_set(PURGE_DELAY, ms.into()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_the_setting_is_that_of_its_name() {
        // SAFETY: as above.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        let by_name = std::env::var("MIMALLOC_PURGE_DELAY").ok().and_then(|value| value.parse().ok());
        assert_eq!(delay(), by_name.unwrap_or(1000), "what mimalloc keeps freed memory for, in milliseconds");
        keep_freed_memory_for(Duration::from_millis(7));
        assert_eq!(delay(), 7);
    }
}
