//! What has to be done with a file, from what the directory, the store, and both together had of it.
//!
//! Each side is known by the SHA-256 of what it has. What both had when they were last the same tells which side has
//! changed since. Contents that only one side has are never removed before the other one has them.

/// What is known of a file. `None` stands for no file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// What both had when they were last the same.
    pub(super) agreed: Option<&'a str>,
    /// What the directory has.
    pub(super) directory: Option<&'a str>,
    /// What the store has.
    pub(super) store: Option<&'a str>,
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Both sides are the same.
    Nothing,
    /// The directory gets what the store has, or the file is deleted there.
    ToDirectory,
    /// The store gets what the directory has, or the file is deleted there.
    ToStore,
    /// Both have changed: see [`of_both`].
    Both,
}

/// What has to be done with a file.
pub(super) fn step(known: Known<'_>) -> Step {
    let Known { agreed, directory, store } = known;
    if directory == store {
        Step::Nothing
    } else if directory == agreed {
        Step::ToDirectory
    } else if store == agreed {
        Step::ToStore
    } else if directory.is_none() {
        // Who deleted the file had not seen what was written since.
        Step::ToDirectory
    } else {
        Step::Both
    }
}

/// What has to be done where both sides have changed, given what the store had between the two (`None`: it was deleted).
///
/// The directory may only be behind, because the hub was killed before it could note what it had written there.
/// Otherwise the changes have to be merged.
pub(super) fn of_both<'a>(directory: &str, mut between: impl Iterator<Item = Option<&'a str>>) -> Step {
    match between.any(|sha256| sha256 == Some(directory)) {
        true => Step::ToDirectory,
        false => Step::Both,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_side_that_has_changed_is_copied_to_the_other() {
        let of = |agreed, directory, store| step(Known { agreed, directory, store });
        let (a, b, c) = (Some("a"), Some("b"), Some("c"));
        for (agreed, directory, store, expected) in [
            (None, None, None, Step::Nothing),
            (a, b, b, Step::Nothing),
            (a, None, None, Step::Nothing),
            (None, a, None, Step::ToStore),
            (a, b, a, Step::ToStore),
            (a, None, a, Step::ToStore),
            (None, None, a, Step::ToDirectory),
            (a, a, b, Step::ToDirectory),
            (a, a, None, Step::ToDirectory),
            (a, None, b, Step::ToDirectory),
            (a, b, None, Step::Both),
            (None, a, b, Step::Both),
            (a, b, c, Step::Both),
        ] {
            assert_eq!(of(agreed, directory, store), expected, "{agreed:?} {directory:?} {store:?}");
        }
        assert_eq!(of_both("b", [Some("a"), None, Some("b")].into_iter()), Step::ToDirectory);
        assert_eq!(of_both("b", [Some("a"), None].into_iter()), Step::Both);
    }

    /// Somebody changes one of the sides, or a hub makes them the same.
    #[derive(Clone, Debug)]
    enum Act {
        Store(Option<u8>),
        Directory(Option<u8>),
        /// With a hub that is killed before it notes what both have, in the last case.
        Sync {
            is_killed: bool,
        },
    }

    fn act() -> impl Strategy<Value = Act> {
        let contents = || proptest::option::weighted(0.8, 0..4_u8);
        prop_oneof![
            contents().prop_map(Act::Store),
            contents().prop_map(Act::Directory),
            any::<bool>().prop_map(|is_killed| Act::Sync { is_killed }),
        ]
    }

    #[derive(Default)]
    struct World {
        directory: Option<String>,
        /// All revisions, oldest first.
        store: Vec<Option<String>>,
        /// The number of a revision, and what it had.
        agreed: Option<(usize, String)>,
    }

    impl World {
        fn write(&mut self, contents: Option<String>) {
            if self.store.last().cloned().flatten() != contents {
                self.store.push(contents);
            }
        }

        fn sync(&mut self, is_killed: bool) {
            let newest = self.store.last().cloned().flatten();
            let known = Known {
                agreed: self.agreed.as_ref().map(|(_, sha256)| &**sha256),
                directory: self.directory.as_deref(),
                store: newest.as_deref(),
            };
            let mut step = step(known);
            if let (Step::Both, Some(directory)) = (step, &self.directory) {
                let from = self.agreed.as_ref().map_or(0, |(number, _)| *number);
                let last = self.store.len().saturating_sub(1);
                let between = self.store.get(from..last).unwrap_or_default().iter().map(Option::as_deref);
                step = of_both(directory, between);
            }
            match step {
                Step::Nothing => {}
                Step::ToDirectory => self.directory = newest,
                Step::ToStore | Step::Both => self.write(self.directory.clone()),
            }
            assert_eq!(self.directory, self.store.last().cloned().flatten(), "both are the same");
            if !is_killed {
                self.agreed = self.directory.clone().map(|sha256| (self.store.len(), sha256));
            }
        }
    }

    proptest! {
        #[test]
        fn both_become_the_same_and_nothing_that_was_ever_seen_is_lost(acts in prop::collection::vec(act(), 1..40)) {
            let mut world = World::default();
            for act in acts {
                match act {
                    Act::Store(contents) => world.write(contents.map(|contents| contents.to_string())),
                    Act::Directory(contents) => world.directory = contents.map(|contents| contents.to_string()),
                    Act::Sync { is_killed } => {
                        let seen = world.directory.clone();
                        world.sync(is_killed);
                        prop_assert!(seen.is_none() || world.store.contains(&seen), "the directory had {seen:?}");
                        let before = world.store.clone();
                        world.sync(is_killed);
                        prop_assert_eq!(&world.store, &before, "a second time changes nothing");
                    }
                }
            }
        }
    }
}
