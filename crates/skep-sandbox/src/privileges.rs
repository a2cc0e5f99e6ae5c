//! Privileges, given up for good.

use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
    set_capabilities_secure_bits, set_no_new_privs,
};

use crate::{
    fault::{At as _, Fault},
    sys,
};

/// The highest capability that a kernel could know; there are 41 today.
const CAPABILITY_MAX: u32 = 63;

/// Gives up every way to gain a capability, for the caller and all that it starts.
pub(crate) fn refuse_privileges() -> Result<(), Fault> {
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_no_new_privs(true).at("refuse new privileges")?;
    set_capabilities_secure_bits(locked).at("lock capabilities")?;
    for capability in 0..=CAPABILITY_MAX {
        // The first error is the first capability that this kernel does not have.
        if sys::forbid_capability(capability).is_err() {
            break;
        }
    }
    clear_ambient_capability_set().at("drop ambient capabilities")
}

/// Gives up every capability but `kept`.
pub(crate) fn keep_capabilities(kept: CapabilitySet) -> Result<(), Fault> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).at("drop capabilities")
}
