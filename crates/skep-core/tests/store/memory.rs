//! What agents can rely on that remember something together.

use skep_core::{
    app::MemoryError,
    limits::{self, INLINE_BYTES_MAX, Invalid, MEMORY_SEARCHED_MAX, MEMORY_TTL_MAX, MEMORY_TTL_MIN},
    memory::{About, Entry, Found, NewEntry, Query},
};

use super::*;

const TTL: Duration = Duration::from_secs(60);

async fn store(app: &App, entry: NewEntry) -> Result<About, MemoryError> {
    app.store_memory(&permit(), entry).await
}

async fn put(app: &App, key: &str, value: Value) -> About {
    store(app, NewEntry::new(key, value)).await.unwrap()
}

async fn get(app: &App, key: &str) -> Option<Entry> {
    app.db.memory(&reader_in("main"), key).await.unwrap()
}

async fn delete(app: &App, key: &str) -> Option<About> {
    app.delete_memory(&permit(), key, None).await.unwrap()
}

async fn keys(app: &App, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let page = app.db.list_memory(&reader_in("main"), prefix, after, limit).await.unwrap();
    page.into_iter().map(|about| about.key).collect()
}

async fn search(app: &App, query: &str) -> Found {
    app.db.search_memory(&reader_in("main"), Query::new(query).unwrap(), 100).await.unwrap()
}

/// The keys that a search finds, the best first.
async fn found(app: &App, query: &str) -> Vec<String> {
    search(app, query).await.hits.into_iter().map(|hit| hit.about.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_comes_back_to_the_byte_with_who_stored_it_and_when() {
    on_every_database(async |app| {
        let text = "{\"b\": 1.50,\n \"a\":\"\\u0000\"}";
        let agent = permit().within(None, Some("coder")).unwrap();
        let entry = NewEntry::new("k", Json::from_text(text).unwrap());
        let made = app.store_memory(&agent, entry).await.unwrap();
        let kept = get(&app, "k").await.unwrap();
        assert_eq!((kept.value.as_str(), &kept.about), (text, &made));
        assert_eq!((made.author.as_str(), made.agent.as_deref()), ("test", Some("coder")));
        assert_eq!((made.revision, made.bytes, made.expires), (1, 1 + text.len() as u64, None));
        assert_eq!((made.created, made.updated), (NOW, NOW));

        let large = "x".repeat(2 * INLINE_BYTES_MAX);
        let replaced = put(app.at(LATER), "k", large.clone().into()).await;
        assert_eq!((replaced.revision, replaced.created, replaced.updated, replaced.agent), (2, NOW, LATER, None));
        assert_eq!(get(&app, "k").await.unwrap().value, Json::from(Value::from(large)));
        assert_eq!(put(&app, "k", json!(null)).await.revision, 3);
        assert_eq!(get(&app, "k").await.unwrap().value, Json::null());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_based_on_an_old_revision_gets_what_is_there_instead() {
    on_every_database(async |app| {
        let based = |base, value: &str| NewEntry { base_revision: Some(base), ..NewEntry::new("k", json!(value)) };
        assert!(matches!(store(&app, based(1, "a")).await, Err(MemoryError::Conflict { current: None, .. })));
        assert_eq!(store(&app, based(0, "a")).await.unwrap().revision, 1);
        assert_eq!(store(&app, based(1, "b")).await.unwrap().revision, 2);
        for base in [0, 1, 3] {
            let Err(MemoryError::Conflict { current: Some(current), .. }) = store(&app, based(base, "c")).await else {
                panic!("{base} was accepted");
            };
            assert_eq!((current.about.revision, current.value), (2, json!("b").into()));
            let deleted = app.delete_memory(&permit(), "k", Some(base)).await;
            assert!(matches!(deleted, Err(MemoryError::Conflict { .. })), "{deleted:?}");
        }
        assert_eq!(app.delete_memory(&permit(), "k", Some(2)).await.unwrap().unwrap().revision, 2);
        assert_eq!(delete(&app, "k").await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_revision_of_a_key_ever_stands_for_two_values() {
    on_every_database(async |app| {
        for _ in 0..3 {
            put(&app, "k", json!(1)).await;
        }
        delete(&app, "k").await.unwrap();
        assert_eq!(put(&app, "k", json!(2)).await.revision, 4);
        let short = NewEntry { ttl: Some(TTL), ..NewEntry::new("k", json!(3)) };
        store(&app, short).await.unwrap();
        app.clock.set(NOW.after(TTL));
        let anew = NewEntry { base_revision: Some(0), ..NewEntry::new("k", json!(4)) };
        let made = store(&app, anew).await.unwrap();
        assert_eq!((made.revision, made.created, made.expires), (6, NOW.after(TTL), None), "a new entry");
        let late = store(&app, NewEntry { base_revision: Some(5), ..NewEntry::new("k", json!(5)) }).await;
        assert!(matches!(late, Err(MemoryError::Conflict { .. })), "{late:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_entry_is_there_for_nobody_at_once_and_is_then_deleted() {
    on_every_database(async |app| {
        let large = "x ".repeat(INLINE_BYTES_MAX);
        for n in 0..250 {
            let entry = NewEntry { ttl: Some(TTL), ..NewEntry::new(format!("short {n}"), json!(n)) };
            store(&app, entry).await.unwrap();
        }
        store(&app, NewEntry { ttl: Some(TTL), ..NewEntry::new("short large", json!(large)) }).await.unwrap();
        put(&app, "long", json!("short")).await;
        let elsewhere = permit().within(Some("w"), None).unwrap();
        let entry = NewEntry { ttl: Some(TTL), ..NewEntry::new("short", json!(0)) };
        app.store_memory(&elsewhere, entry).await.unwrap();

        app.clock.set(Timestamp(NOW.after(TTL).0 - 1));
        assert!(get(&app, "short 7").await.is_some());
        assert_eq!(app.expire_memory().await.unwrap(), 0);
        app.clock.set(NOW.after(TTL));
        assert_eq!(get(&app, "short 7").await, None);
        assert_eq!(keys(&app, "", None, 10).await, ["long"]);
        assert_eq!(found(&app, "short").await, ["long"]);
        assert_eq!(delete(&app, "short 7").await, None);
        assert_eq!(app.db.memory(&elsewhere.to_read(), "short").await.unwrap(), None);
        assert_eq!(app.expire_memory().await.unwrap(), 252, "in every namespace, in however many steps");
        app.clock.set(NOW);
        assert_eq!(get(&app, "short 7").await, None, "really");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_clock_may_be_ahead_takes_no_entry_away_before_its_time() {
    const ERROR: Duration = Duration::from_secs(5);
    let clock = Clock::manual(NOW).unsure(ERROR);
    let limits = Limits { clock: clock.clone(), ..Limits::default() };
    on_every_address(async |address| {
        let app = open(address, Limits::default()).await;
        let ahead = App::new(Db::open(address, limits.clone()).await.unwrap());
        store(&app, NewEntry { ttl: Some(TTL), ..NewEntry::new("k", json!(1)) }).await.unwrap();
        // What the hub thinks that the time is, while it may still be `ERROR` less.
        let end = NOW.after(TTL + ERROR);
        clock.set(Timestamp(end.0 - 1));
        assert!(get(&ahead, "k").await.is_some());
        assert_eq!((found(&ahead, "k").await.len(), keys(&ahead, "", None, 9).await.len()), (1, 1));
        assert_eq!(ahead.expire_memory().await.unwrap(), 0);
        clock.set(end);
        assert_eq!(get(&ahead, "k").await, None);
        assert_eq!(ahead.expire_memory().await.unwrap(), 1);
        clock.set(NOW);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_in_pages_by_their_beginning() {
    on_every_database(async |app| {
        let all = ["a", "a/1", "a/2", "a_", "aB", "b", "ä", "\u{10ffff}", "\u{10ffff}x"];
        for key in all.iter().rev() {
            put(&app, key, json!("large".repeat(1000))).await;
        }
        assert_eq!(keys(&app, "", None, 100).await, ["a", "a/1", "a/2", "aB", "a_", "b", "ä", all[7], all[8]]);
        assert_eq!(keys(&app, "", None, 3).await, ["a", "a/1", "a/2"]);
        assert_eq!(keys(&app, "", Some("a/2"), 2).await, ["aB", "a_"]);
        assert_eq!(keys(&app, "a/", None, 100).await, ["a/1", "a/2"]);
        assert_eq!(keys(&app, "a/", Some("a/1"), 100).await, ["a/2"]);
        assert_eq!(keys(&app, "a/", Some("a"), 100).await, ["a/1", "a/2"], "what comes before is not asked for");
        assert_eq!(keys(&app, "\u{10ffff}", None, 100).await, [all[7], all[8]]);
        assert_eq!(keys(&app, "c", None, 100).await, [""; 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_what_has_all_its_words_the_last_of_them_as_a_beginning() {
    on_every_database(async |app| {
        put(&app, "project_context", json!({ "language": "Rust", "deps": ["tokio", "serde 1.0"] })).await;
        put(&app, "notes/web", json!("Actix-Web on Tokio, in RUST")).await;
        put(&app, "東京都", json!("新しい project")).await;
        assert_eq!(found(&app, "context project").await, ["project_context"]);
        assert_eq!(found(&app, "language").await, ["project_context"], "names are words");
        assert_eq!(found(&app, "rust tok").await, ["notes/web", "project_context"], "of equals the newest first");
        assert_eq!(found(&app, "tok rust").await, [""; 0], "only the last may be a beginning");
        assert_eq!(found(&app, "京都").await, ["東京都"]);
        assert_eq!(found(&app, "京都 proj").await, ["東京都"]);
        assert_eq!(found(&app, "rust python").await, [""; 0]);
        assert_eq!(found(&app, "1").await, ["project_context"]);
        assert_eq!(found(&app, "ＷＥＢ").await, ["notes/web"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rarer_words_and_more_of_them_come_first() {
    on_every_database(async |app| {
        for n in 0..20 {
            put(&app, &format!("common-{n}"), json!("error in the log")).await;
        }
        put(&app, "often", json!("error error error")).await;
        put(&app, "prefix", json!("errors")).await;
        put(&app, "newest", json!("error")).await;
        let order = found(&app, "error").await;
        assert_eq!(order[..3], ["often", "newest", "prefix"], "{order:?}");
        assert_eq!(search(&app, "error").await.total, 23);

        put(&app, "x", json!("alpha beta beta beta")).await;
        put(&app, "y", json!("alpha alpha alpha beta")).await;
        for n in 0..20 {
            put(&app, &format!("beta-{n}"), json!("beta")).await;
        }
        assert_eq!(found(&app, "alpha beta").await, ["y", "x"], "alpha is rarer");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_sees_an_entry_as_it_is_now() {
    on_every_database(async |app| {
        let large = vec!["old"; INLINE_BYTES_MAX].join(" ");
        put(&app, "k", json!(large)).await;
        let hit = search(&app, "old").await.hits.pop().unwrap();
        assert_eq!(hit.value, None, "large values are not brought along");
        put(&app, "k", json!("new")).await;
        assert_eq!(found(&app, "old").await, [""; 0]);
        let hit = search(&app, "new").await.hits.pop().unwrap();
        assert_eq!((hit.value, hit.about.revision), (Some(json!("new").into()), 2));
        delete(&app, "k").await;
        assert_eq!(found(&app, "new").await, [""; 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_for_common_words_looks_at_the_newest_entries_and_says_so() {
    on_every_database(async |app| {
        let mut storing = tokio::task::JoinSet::new();
        for n in 0..MEMORY_SEARCHED_MAX {
            let app = app.clone();
            let value = json!({ "n": n, "text": "common", "third": if n % 3 == 0 { "fizz" } else { "" } });
            storing.spawn(async move { put(&app, &format!("{n:04}"), value).await });
        }
        storing.join_all().await;
        let before = search(&app, "common").await;
        assert_eq!((before.total, before.hits.len()), (MEMORY_SEARCHED_MAX, limits::MEMORY_FOUND_MAX));
        put(&app, "last", json!("common fizz rare")).await;
        let all = search(&app, "common").await;
        assert_eq!((all.total, all.is_complete), (MEMORY_SEARCHED_MAX, false));
        assert_eq!(all.hits.iter().filter(|hit| hit.about.key == "last").count(), 1, "the newest is among them");
        let some = search(&app, "common fizz").await;
        assert_eq!((some.total, some.is_complete), (MEMORY_SEARCHED_MAX.div_ceil(3) + 1, true));
        assert_eq!(found(&app, "common rare").await, ["last"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_knows_nothing_of_the_memory_of_another() {
    on_every_database(async |app| {
        put(&app, "k", json!("team")).await;
        let elsewhere = permit().within(Some("w"), None).unwrap();
        app.store_memory(&elsewhere, NewEntry::new("k", json!("workspace"))).await.unwrap();
        assert_eq!(get(&app, "k").await.unwrap().value, json!("team").into());
        assert_eq!(found(&app, "workspace").await, [""; 0]);
        assert_eq!(app.db.memory(&reader_in("other"), "k").await.unwrap(), None);
        assert_eq!(app.db.list_memory(&reader_in("other"), "", None, 10).await.unwrap(), []);
        let query = Query::new("team").unwrap();
        assert_eq!(app.db.search_memory(&reader_in("other"), query, 10).await.unwrap().hits, []);
        app.delete_memory(&elsewhere, "k", None).await.unwrap().unwrap();
        assert!(get(&app, "k").await.is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_and_deleted_is_told_without_the_value() {
    on_every_database(async |app| {
        let agent = permit().within(None, Some("coder")).unwrap();
        let entry = NewEntry { ttl: Some(TTL), ..NewEntry::new("k", json!("secret")) };
        app.store_memory(&agent, entry).await.unwrap();
        delete(&app, "k").await;
        delete(&app, "k").await;
        let told: Vec<(String, Value)> =
            log(&app).await.iter().map(|event| (event.kind.name().to_owned(), data(event))).collect();
        let stored = json!({ "key": "k", "revision": 1, "expires": NOW.after(TTL).0 });
        let expected = [("memory.stored".to_owned(), stored), ("memory.deleted".to_owned(), json!({ "key": "k" }))];
        assert_eq!(told, expected);
        let of_agent = EventFilter { agent: Some("coder".into()), ..EventFilter::default() };
        assert_eq!(events(&app, of_agent, 0).await.len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_refused_and_changes_nothing() {
    on_every_database(async |app| {
        let fits = "x".repeat(limits::MEMORY_VALUE_BYTES_MAX - 2);
        put(&app, "k", json!(fits)).await;
        let ttl = |ttl| NewEntry { ttl: Some(ttl), ..NewEntry::new("k", json!(1)) };
        let bad = [
            NewEntry::new("k", json!(format!("{fits}x"))),
            NewEntry::new("", json!(1)),
            NewEntry::new("a\nb", json!(1)),
            NewEntry::new("x".repeat(limits::NAME_BYTES_MAX + 1), json!(1)),
            NewEntry::new("k", Json::from_text("[".repeat(200) + &"]".repeat(200)).unwrap()),
            ttl(Duration::ZERO),
            ttl(MEMORY_TTL_MIN - Duration::from_millis(1)),
            ttl(MEMORY_TTL_MAX + Duration::from_secs(1)),
        ];
        for entry in bad {
            let refused = store(&app, entry.clone()).await;
            assert!(matches!(refused, Err(MemoryError::Invalid(_))), "{refused:?} of {:?}", entry.ttl);
        }
        let long = store(&app, ttl(Duration::MAX)).await.unwrap_err().to_string();
        assert_eq!(long, Invalid::Ttl(Duration::MAX).to_string());
        assert_eq!(get(&app, "k").await.unwrap().about.revision, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_entries_share_is_kept_as_long_as_one_has_it() {
    on_every_database(async |app| {
        let large = json!("x".repeat(2 * INLINE_BYTES_MAX));
        for key in ["a", "b"] {
            put(&app, key, large.clone()).await;
        }
        put(&app, "a", json!(1)).await;
        assert_eq!(get(&app, "b").await.unwrap().value, large.clone().into());
        put(&app, "b", large.clone()).await;
        assert_eq!(get(&app, "b").await.unwrap().value, large.into());
        delete(&app, "b").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_agents_that_store_at_once_lose_nothing() {
    const AGENTS: i64 = 8;
    const TIMES: i64 = 25;
    on_every_database(async |app| {
        put(&app, "counter", json!(0)).await;
        let mut counting = tokio::task::JoinSet::new();
        for agent in 0..AGENTS {
            let app = app.clone();
            counting.spawn(async move {
                for n in 0..TIMES {
                    put(&app, &format!("{agent}/{n}"), json!({ "agent": agent, "n": n })).await;
                    loop {
                        let Entry { about, value } = get(&app, "counter").await.unwrap();
                        let next = json!(value.parse::<i64>().unwrap() + 1);
                        let based = NewEntry { base_revision: Some(about.revision), ..NewEntry::new("counter", next) };
                        match store(&app, based).await {
                            Ok(_) => break,
                            Err(MemoryError::Conflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
        counting.join_all().await;
        let counter = get(&app, "counter").await.unwrap();
        assert_eq!(counter.value, json!(AGENTS * TIMES).into());
        assert_eq!(counter.about.revision, AGENTS * TIMES + 1);
        assert_eq!(keys(&app, "", None, 1000).await.len() as i64, AGENTS * TIMES + 1);
    })
    .await;
}
