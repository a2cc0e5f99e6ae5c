//! Memory entries.

use serde_json::json;
use skep_core::{
    app::App,
    memory::{NewEntry, Query},
    policy::Write,
};

use super::{Added, TIMES, permit};

/// How many different words there are that are neither in all entries nor in one alone.
const SUBJECTS: usize = 500;

/// `one`, `some` and `all`: searches for a word that is in one entry, in one of [`SUBJECTS`], and in each. `both`: for one
/// that is in all and one that is in some. `begin`: for the beginning of words that are in all.
pub(crate) const OPERATIONS: &[&str] = &["store", "replace", "retrieve", "list", "one", "some", "all", "both", "begin"];

pub(crate) fn add(app: App, n: usize) -> Added {
    Box::pin(async move { drop(app.store_memory(&permit("a"), NewEntry::new(key(n), value(n))).await.unwrap()) })
}

pub(crate) async fn operate(app: &App, operation: &str, time: usize, entries: usize) {
    let (permit, n) = (permit::<Write>("a"), time * entries / TIMES);
    let reads = permit.to_read();
    match operation {
        // One key again and again, so that their number stays; it is deleted in between, which is not free either.
        "store" => {
            app.store_memory(&permit, NewEntry::new("new", value(time))).await.unwrap();
            app.delete_memory(&permit, "new", None).await.unwrap().unwrap();
        }
        "replace" => drop(app.store_memory(&permit, NewEntry::new(key(n), value(n))).await.unwrap()),
        "retrieve" => assert!(app.db.memory(&reads, &key(n)).await.unwrap().is_some()),
        "list" => assert_eq!(
            app.db.list_memory(&reads, "entry", Some(&key(n)), 20).await.unwrap().len(),
            20.min(entries - n - 1)
        ),
        search => {
            let query = match search {
                "one" => format!("only{n}x"),
                "some" => format!("subject{}x", n % SUBJECTS),
                "all" => "everywhere".to_owned(),
                "both" => format!("everywhere subject{}x", n % SUBJECTS),
                _ => "every".to_owned(),
            };
            let found = app.db.search_memory(&reads, Query::new(&query).unwrap(), 20).await.unwrap();
            assert!(!found.hits.is_empty(), "{query}");
        }
    }
}

fn key(n: usize) -> String {
    format!("entry/{n:07}")
}

fn value(n: usize) -> serde_json::Value {
    let subject = format!("subject{}x", n % SUBJECTS);
    json!({ "text": format!("everywhere the same words, everything about {subject} and only{n}x"), "n": n })
}
