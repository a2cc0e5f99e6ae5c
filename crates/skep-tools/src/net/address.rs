//! Which addresses are out there for everybody, and which are somebody's own.
//!
//! The lists are those of the IANA special-purpose address registries (RFC 6890) with what is not globally reachable,
//! and the addresses at which clouds hand their secrets to a machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why this address must not be reached on behalf of a stranger; `None` if it may.
pub(super) fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) => forbidden_v6(address),
    }
}

/// Networks by their first address and the length of their prefix.
const FORBIDDEN_V4: [([u8; 4], u32, &str); 16] = [
    ([0, 0, 0, 0], 8, "an address of this machine"),
    ([10, 0, 0, 0], 8, "an address of a private network"),
    ([100, 64, 0, 0], 10, "an address of a provider's inner network"),
    ([127, 0, 0, 0], 8, "an address of this machine"),
    ([168, 63, 129, 16], 32, "the address of a cloud's own services"), // Azure; the others' are link-local
    ([169, 254, 0, 0], 16, "a link-local address, where clouds keep their metadata"),
    ([172, 16, 0, 0], 12, "an address of a private network"),
    ([192, 0, 0, 0], 24, "an address reserved for protocols"),
    ([192, 0, 2, 0], 24, "an address for documentation"),
    ([192, 88, 99, 0], 24, "the address of an IPv6 relay"),
    ([192, 168, 0, 0], 16, "an address of a private network"),
    ([198, 18, 0, 0], 15, "an address for benchmarks"),
    ([198, 51, 100, 0], 24, "an address for documentation"),
    ([203, 0, 113, 0], 24, "an address for documentation"),
    ([224, 0, 0, 0], 4, "a multicast address"),
    ([240, 0, 0, 0], 4, "a reserved or broadcast address"),
];

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    let within = |(first, length, why): &([u8; 4], u32, &'static str)| {
        let differs = u32::from(address) ^ u32::from_be_bytes(*first);
        (differs >> (32 - length) == 0).then_some(*why)
    };
    FORBIDDEN_V4.iter().find_map(within)
}

/// Of IPv6 only 2000::/3 is handed out to the world (RFC 4291, 2.4), so what is not in it is refused without a list:
/// loopback, unique-local, link-local, site-local, multicast, IPv4-compatible and whatever may yet be defined.
fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(inner) = address.to_ipv4_mapped().or_else(|| nat64(address)) {
        return forbidden_v4(inner);
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Some("an address of this machine"),
        [0xfc00..=0xfdff, ..] => Some("an address of a private network"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        [0x2001, 0x0db8, ..] | [0x3fff, 0..0x1000, ..] => Some("an address for documentation"),
        [0x2001, 0, ..] | [0x2002, ..] => Some("an address that hides an IPv4 address"), // Teredo, 6to4
        [0x2001, 0..0x200, ..] => Some("an address reserved for protocols"),
        [0x2000..0x4000, ..] => None,
        _ => Some("not an address of the public internet"),
    }
}

/// The IPv4 address that a network without IPv4 reaches by this one (RFC 6052, 2.1).
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same question, answered by the standard library and by arithmetic on whole octets instead of the table.
    fn is_special(address: Ipv4Addr) -> bool {
        let [a, b, c, d] = address.octets();
        a == 0
            || a >= 240
            || address.is_private()
            || address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_documentation()
            || (a == 100 && (64..128).contains(&b))
            || (a == 198 && (b == 18 || b == 19))
            || (a == 192 && b == 0 && c == 0)
            || (a == 192 && b == 88 && c == 99)
            || [a, b, c, d] == [168, 63, 129, 16]
    }

    /// Addresses at and beside the borders of the networks, where a wrong mask shows, and any others.
    fn v4() -> impl Strategy<Value = Ipv4Addr> {
        let border = (0..FORBIDDEN_V4.len(), -2i64..=2, any::<bool>()).prop_map(|(index, off, at_end)| {
            let (first, length, _) = FORBIDDEN_V4[index];
            let size = if at_end { 1i64 << (32 - length) } else { 0 };
            Ipv4Addr::from((i64::from(u32::from_be_bytes(first)) + size + off).rem_euclid(1 << 32) as u32)
        });
        prop_oneof![border, any::<u32>().prop_map(Ipv4Addr::from)]
    }

    fn embedded(prefix: [u16; 6], inner: Ipv4Addr) -> IpAddr {
        let [a, b, c, d] = inner.octets();
        let [p0, p1, p2, p3, p4, p5] = prefix;
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Ipv6Addr::new(p0, p1, p2, p3, p4, p5, high, low).into()
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_refused_exactly_if_it_is_special(address in v4()) {
            prop_assert_eq!(forbidden(address.into()).is_some(), is_special(address), "{}", address);
        }

        #[test]
        fn an_ipv4_address_is_judged_alike_inside_an_ipv6_address(inner in v4()) {
            for prefix in [[0, 0, 0, 0, 0, 0xffff], [0x64, 0xff9b, 0, 0, 0, 0]] {
                let outer = embedded(prefix, inner);
                prop_assert_eq!(forbidden(outer), forbidden(inner.into()), "{}", outer);
            }
        }

        #[test]
        fn forms_that_hide_an_ipv4_address_are_refused(inner in any::<u32>().prop_map(Ipv4Addr::from), tail in any::<u64>()) {
            let [a, b, c, d] = inner.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let compatible = embedded([0; 6], inner);
            let local_nat64 = embedded([0x64, 0xff9b, 1, 0, 0, 0], inner);
            let tail = u128::from(tail);
            let six_to_four = Ipv6Addr::from(u128::from(Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 0)) | tail);
            let teredo = Ipv6Addr::from(u128::from(Ipv6Addr::new(0x2001, 0, high, low, 0, 0, 0, 0)) | tail);
            for address in [compatible, local_nat64, six_to_four.into(), teredo.into()] {
                prop_assert!(forbidden(address).is_some(), "{}", address);
            }
        }

        #[test]
        fn an_ipv6_address_outside_of_the_public_range_is_refused(address in any::<u128>().prop_map(Ipv6Addr::from)) {
            let inner = address.to_ipv4_mapped().or(nat64(address)).is_some();
            let public = (0x2000..0x4000).contains(&address.segments()[0]);
            prop_assert!(public || inner || forbidden(address.into()).is_some(), "{}", address);
        }
    }

    #[test]
    fn known_addresses_are_judged_rightly() {
        let good = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.32.0.1", "198.20.0.1"];
        let good6 = ["2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2001:4860:4860::8888", "64:ff9b::808:808"];
        for address in good.iter().chain(&good6) {
            assert_eq!(forbidden(address.parse().unwrap()), None, "{address}");
        }
        let bad = ["127.0.0.1", "169.254.169.254", "100.100.100.200", "255.255.255.255", "::1", "::", "fd00:ec2::254"];
        let bad6 =
            ["fe80::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2001:db8::1", "3fff:fff::1"];
        for address in bad.iter().chain(&bad6).chain(&["2001:10::1", "5f00::1", "4000::1", "::7f00:1"]) {
            assert!(forbidden(address.parse().unwrap()).is_some(), "{address}");
        }
    }
}
