use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

fn covers(glob: &str, path: &str) -> bool {
    pattern(glob).covers(&FilePath::new(path).unwrap())
}

#[test]
fn a_glob_stands_for_what_its_table_says() {
    for (glob, fits, fits_not) in [
        ("a/b", &["a/b", "A/B"][..], &["a", "a/b/c", "a/bb"][..]),
        ("*.rs", &["a.rs", ".rs", "a.b.rs"], &["a/b.rs", "a.rsx"]),
        ("a/*", &["a/b"], &["a", "a/b/c"]),
        ("**", &["a", "a/b", "a/b/c"], &[]),
        ("**/a", &["a", "b/a", "b/c/a"], &["ba", "a/b"]),
        ("a/**", &["a/b", "a/b/c"], &["a", "ab"]),
        ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "a/xb"]),
        ("?", &["a", "é", "["], &["ab", "a/b"]),
        ("[a-cx]", &["a", "c", "x", "B", "[a-cx]"], &["d", "-"]),
        ("[!a-c]", &["d", "-"], &["a", "b"]),
        ("[]a-]", &["]", "a", "-"], &["b"]),
        ("src/{a,b/*}.rs", &["src/a.rs", "src/b/x.rs", "src/{a,b/*}.rs"], &["src/b.rs"]),
        ("{a,{b,c}d}", &["a", "bd", "cd"], &["b", "ad"]),
        ("pages/[id].tsx", &["pages/[id].tsx", "pages/i.tsx"], &["pages/id.tsx"]),
        ("a\\*", &["a*"], &["ab"]),
        ("x\\[1]", &["x[1]"], &["x1"]),
        ("[\\]]", &["]"], &["a"]),
        ("[!!]{a,b}", &["xa", "xb"], &["!a"]),
    ] {
        for path in fits {
            assert!(covers(glob, path), "{glob} {path}");
        }
        for path in fits_not {
            assert!(!covers(glob, path), "{glob} {path}");
        }
    }
}

#[test]
fn what_is_no_glob_is_refused_with_the_reason() {
    for (text, why) in [
        ("a[", "not closed"),
        ("a[b/c]", "not closed"),
        ("{a", "not closed"),
        ("*a}", "no `{`"),
        ("a**", "between slashes"),
        ("[b-a]", "before it begins"),
        ("a\\", "separate names"),
        ("src\\main.rs", "separate names"),
        ("{{{{{{a}}}}}}", "too deep"),
        (&"{a,b}".repeat(6), "too many"),
        (&"?".repeat(GLOB_TOKENS_MAX + 1), "too much"),
    ] {
        let refused = Pattern::new(text).unwrap_err().to_string();
        assert!(refused.contains(why), "{text}: {refused}");
    }
    for text in ["", "/*", "../*", "a//*", "a/{,b}/c", "{.,a}/*", "\0*", "a/"] {
        assert!(matches!(Pattern::new(text), Err(InvalidPattern::Path(_))), "{text}");
    }
    assert!(Pattern::new(&"?".repeat(GLOB_TOKENS_MAX)).is_ok());
}

#[test]
fn patterns_overlap_where_a_path_fits_both() {
    let overlap = |a: &str, b: &str| {
        let (a, b) = (pattern(a), pattern(b));
        assert_eq!(a.overlaps(&b), b.overlaps(&a));
        a.overlaps(&b)
    };
    for (a, b) in [
        ("a", "A"),
        ("*.rs", "a*"),
        ("src/**", "**/*.rs"),
        ("**/test/**", "src/**"),
        ("a*b", "*c*"),
        ("[a-f]x", "[!a-e]x"),
        ("{a,b}/c", "b/*"),
        ("*a*", "*b*"),
        ("**", "x/y/z"),
    ] {
        assert!(overlap(a, b), "{a} {b}");
    }
    for (a, b) in [
        ("a", "b"),
        ("*.rs", "*.py"),
        ("src/*", "src/a/*"),
        ("src/**", "docs/**"),
        ("[a-c]", "[d-f]"),
        ("a?", "a"),
        ("**/a", "**/b"),
        ("[!a]", "a"),
        ("*", "a/**"),
    ] {
        assert!(!overlap(a, b), "{a} {b}");
    }
}

#[test]
fn the_hardest_globs_are_compared_in_no_time() {
    let (a, b) = (format!("{}a", "*a".repeat(120)), format!("{}b", "*a".repeat(120)));
    let (a, b) = (pattern(&a), pattern(&b));
    let started = std::time::Instant::now();
    for _ in 0..10 {
        assert!(!a.overlaps(&b));
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}

/// Short globs over few characters, so that many of them meet.
fn glob() -> impl Strategy<Value = String> {
    let parts = prop::sample::select(vec!["a", "b", "*", "?", "[ab]", "[b-z]", "{a,ba}", "{*a,b?}"]);
    let name = prop::collection::vec(parts, 1..4).prop_filter_map("`**` within a name", |parts| {
        let name = parts.concat();
        Pattern::new(&name).is_ok().then_some(name)
    });
    let name = prop_oneof![4 => name, 1 => Just("**".to_owned())];
    let globs = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    globs.prop_filter("it stands for too much", |glob| Pattern::new(glob).is_ok())
}

/// Every path of so few characters.
fn paths() -> Vec<String> {
    let mut all = vec![String::new()];
    let mut last = all.clone();
    for _ in 0..6 {
        last = last.iter().flat_map(|path| ["a", "b", "/"].map(|next| format!("{path}{next}"))).collect();
        all.extend(last.iter().cloned());
    }
    all.retain(|path| FilePath::new(path).is_ok());
    all
}

/// Whether a path fits, as an independent program understands globs.
fn fits_for_others(glob: &str) -> impl Fn(&str) -> bool {
    let matcher = globset::GlobBuilder::new(glob).literal_separator(true).build().unwrap().compile_matcher();
    move |path| path == glob || matcher.is_match(path)
}

/// The same walk as [`meets`], which remembers the way: a path that fits both.
fn common_path(a: &Pattern, b: &Pattern) -> Option<String> {
    let lists = |pattern: &Pattern| match &pattern.alternatives {
        Some(globs) => globs.to_vec(),
        None => vec![literal(&pattern.folded)],
    };
    let (a, b) = (lists(a), lists(b));
    a.iter().flat_map(|a| b.iter().map(move |b| (a, b))).find_map(|(a, b)| {
        let start = ((0, false), (0, false));
        let (mut seen, mut next) = (HashSet::from([start]), VecDeque::from([(start, String::new())]));
        while let Some(((at, bt), path)) = next.pop_front() {
            if (at, bt) == ((a.len(), false), (b.len(), false)) {
                return Some(path);
            }
            let silent = skipped(a, at).map(|at| (at, bt)).into_iter();
            let silent = silent.chain(skipped(b, bt).map(|bt| (at, bt))).map(|places| (places, path.clone()));
            let mut all: Vec<_> = silent.collect();
            for (set, after) in steps(a, at).into_iter().flatten() {
                for (other, after_other) in steps(b, bt).into_iter().flatten() {
                    // A letter rather than the first control character.
                    let common = set.common(other).0;
                    let letters = common.iter().flat_map(|(from, to)| [(*from).max('a' as u32).min(*to)]);
                    let letter = letters.max_by_key(|letter| *letter <= 'z' as u32).and_then(char::from_u32);
                    all.extend(letter.map(|letter| ((after, after_other), format!("{path}{letter}"))));
                }
            }
            next.extend(all.into_iter().filter(|(places, _)| seen.insert(*places)));
        }
        None
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_glob_fits_what_it_fits_for_others(glob in glob()) {
        let (ours, theirs) = (pattern(&glob), fits_for_others(&glob));
        for path in paths() {
            let fits = ours.covers(&FilePath::new(&path).unwrap());
            prop_assert_eq!(fits, theirs(&path), "{} {}", glob, path);
        }
    }

    #[test]
    fn globs_overlap_exactly_where_some_path_fits_both(a in glob(), b in glob()) {
        let (fits_a, fits_b) = (fits_for_others(&a), fits_for_others(&b));
        let (a, b) = (pattern(&a), pattern(&b));
        let common = common_path(&a, &b);
        prop_assert_eq!(a.overlaps(&b), common.is_some(), "{} {}", a, b);
        match common {
            // An empty name stands for one that the same `*` fits.
            Some(path) => {
                let path: Vec<&str> = path.split('/').map(|name| if name.is_empty() { "a" } else { name }).collect();
                let path = path.join("/");
                prop_assert!(fits_a(&path) && fits_b(&path), "{} {}: {} does not fit both", a, b, path);
            }
            None => {
                let both = paths().into_iter().find(|path| fits_a(path) && fits_b(path));
                prop_assert_eq!(both, None, "{} {}", a, b);
            }
        }
    }

    #[test]
    fn any_text_is_a_pattern_or_is_refused(text in "[ab/*?{}\\[\\]\\\\,!-]{0,12}") {
        if let Ok(found) = Pattern::new(&text) {
            prop_assert!(found.overlaps(&found.clone()), "{}", text);
        }
    }
}
