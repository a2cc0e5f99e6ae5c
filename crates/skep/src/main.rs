//! `skep`: see [`skep`] for the map.

fn main() {
    skep_sandbox::init();
}
