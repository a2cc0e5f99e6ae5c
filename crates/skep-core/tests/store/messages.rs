//! What agents of a workspace can rely on that join it and send each other messages.

use std::collections::BTreeSet;

use futures_util::FutureExt as _;
use skep_core::{
    app::{Acknowledge, MemberError, MessageError, Selection, Sent},
    limits::{INBOX_MAX, MEMBER_KEPT, MEMBERS_MAX, MESSAGE_BYTES_MAX},
    member::{TTL_DEFAULT, Unread},
    message::{Message, MessageKind, NewMessage},
    page::{Page, Start},
    policy::Operate,
};
use tokio::{task::JoinSet, time::timeout};

use super::*;

/// Nothing takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

fn agent(name: &str) -> Permit {
    agent_in("w", "ann", name)
}

fn to(recipient: &str, body: &str) -> NewMessage {
    let recipient = Some(recipient.to_owned());
    NewMessage { kind: MessageKind::Request, recipient, reply_to: None, body: json!(body).into(), key: None }
}

fn to_all(body: &str) -> NewMessage {
    NewMessage { kind: MessageKind::Broadcast, recipient: None, ..to("", body) }
}

async fn join(app: &App, names: &[&str]) {
    for name in names {
        app.join_workspace(&agent(name), None, TTL_DEFAULT).await.unwrap();
    }
}

async fn send(app: &App, from: &str, new: NewMessage) -> i64 {
    app.send_message(&agent(from), new).await.unwrap().number
}

async fn read(app: &App, permit: &Permit, selection: Selection) -> Result<Page<Message>, MessageError> {
    app.read_messages(permit, selection, &[], 100, Duration::ZERO).await
}

/// The numbers of what an agent has not acknowledged.
async fn unread(app: &App, name: &str) -> Vec<i64> {
    numbers(&read(app, &agent(name), Selection::Unread { after: 0 }).await.unwrap())
}

fn numbers(page: &Page<Message>) -> Vec<i64> {
    page.rows.iter().map(|message| message.number).collect()
}

async fn acknowledge(app: &App, name: &str, numbers: &[i64]) -> usize {
    let these = Acknowledge { up_to: None, numbers: numbers.to_vec() };
    app.acknowledge(&agent(name), these).await.unwrap()
}

async fn acknowledge_up_to(app: &App, name: &str, number: i64) -> usize {
    app.acknowledge(&agent(name), Acknowledge { up_to: Some(number), numbers: Vec::new() }).await.unwrap()
}

async fn present(app: &Hub, at: Timestamp) -> Vec<(String, bool)> {
    let members = app.at(at).db.members(&agent("a").to_read()).await.unwrap();
    members.into_iter().map(|member| (member.name.clone(), member.is_present(at))).collect()
}

fn after(s: u64) -> Timestamp {
    NOW.after(Duration::from_secs(s))
}

// ---- members

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_present_until_it_is_not_heard_of_any_more() {
    on_every_database(async |app| {
        app.join_workspace(&agent("a"), Some("coder".into()), TTL_DEFAULT).await.unwrap();
        app.at(after(30)).join_workspace(&agent("b"), None, Duration::from_secs(10)).await.unwrap();
        let is = |a: bool, b: bool| vec![("a".to_owned(), a), ("b".to_owned(), b)];
        assert_eq!(present(&app, after(39)).await, is(true, true));
        assert_eq!(present(&app, after(40)).await, is(true, false), "nobody had to do anything for that");
        assert_eq!(present(&app, after(60)).await, is(false, false));
        // To read is a sign of life.
        read(app.at(after(70)), &agent("a"), Selection::Unread { after: 0 }).await.unwrap();
        assert_eq!(present(&app, after(129)).await, is(true, false));
        // So is to join again, which keeps the role.
        let again = app.at(after(120)).join_workspace(&agent("a"), None, TTL_DEFAULT).await.unwrap();
        assert_eq!((again.role.as_deref(), again.joined), (Some("coder"), NOW));
        assert!(app.at(after(130)).leave_workspace(&agent("a")).await.unwrap());
        assert!(!app.leave_workspace(&agent("a")).await.unwrap(), "to leave again is no error");
        assert_eq!(present(&app, after(130)).await, [("b".to_owned(), false)]);
        let told: Vec<String> = all_events(&app, &agent("a").to_read())
            .await
            .iter()
            .map(|event| format!("{} {}", event.kind.name(), data(event)["member"].as_str().unwrap()))
            .collect();
        assert_eq!(told, ["member.joined a", "member.joined b", "member.joined a", "member.left a"], "no heartbeats");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_by_reading_is_written_only_when_half_of_the_time_is_over() {
    on_every_database(async |app| {
        let until = async || app.db.members(&agent("a").to_read()).await.unwrap()[0].until;
        join(&app, &["a"]).await;
        read(app.at(after(30)), &agent("a"), Selection::Unread { after: 0 }).await.unwrap();
        assert_eq!(until().await, Some(after(60)), "not yet");
        read(app.at(after(31)), &agent("a"), Selection::Unread { after: 0 }).await.unwrap();
        assert_eq!(until().await, Some(after(91)));
        send(app.at(after(70)), "a", to("b", "hi")).await;
        assert_eq!(until().await, Some(after(130)), "to send is a heartbeat, too");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_its_principals_and_nobody_else_acts_or_reads_under_it() {
    on_every_database(async |app| {
        join(&app, &["a"]).await;
        send(&app, "b", to("a", "secret")).await;
        let bob = agent_in("w", "bob", "a");
        let taken = |error: MessageError| matches!(error, MessageError::Member(MemberError::NameTaken { .. }));
        let joined = app.join_workspace(&bob, None, TTL_DEFAULT).await.unwrap_err();
        assert_eq!(joined.to_string(), "the name \"a\" belongs to ann in this workspace; act under another name");
        assert!(taken(app.send_message(&bob, to("b", "as a")).await.unwrap_err()));
        assert!(taken(read(&app, &bob, Selection::Unread { after: 0 }).await.unwrap_err()));
        assert!(taken(app.acknowledge(&bob, Acknowledge::default()).await.unwrap_err()));
        assert!(matches!(app.leave_workspace(&bob).await, Err(MemberError::NameTaken { .. })));
        app.leave_workspace(&agent("a")).await.unwrap();
        let joined = app.join_workspace(&bob, None, TTL_DEFAULT).await;
        assert!(matches!(joined, Err(MemberError::NameTaken { .. })), "its messages wait: {joined:?}");

        // The operator may act for everybody, and the name stays whose it was.
        join(&app, &["a"]).await;
        let operator = permit().within(Some("w"), Some("a")).unwrap();
        let page = read(&app, &operator, Selection::Unread { after: 0 }).await.unwrap();
        assert_eq!(page.rows[0].body.as_str(), "\"secret\"");
        app.join_workspace(&operator, None, TTL_DEFAULT).await.unwrap();
        assert_eq!(unread(&app, "a").await, [1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_joined_is_told_so_and_can_still_send() {
    on_every_database(async |app| {
        let refused = read(&app, &agent("a"), Selection::Unread { after: 0 }).await.unwrap_err();
        assert_eq!(refused.to_string(), "\"a\" has not joined this workspace; join it first");
        assert_eq!(send(&app, "a", to("b", "hi")).await, 1);
        let ttl = app.join_workspace(&agent("a"), None, Duration::from_secs(4)).await.unwrap_err();
        assert_eq!(ttl.to_string(), "the time to live in seconds is 4, and must be from 5 to 3600");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_workspace_takes_another_member_in_the_place_of_one_that_is_done() {
    let limits = Limits { write_time_max: PATIENCE, ..Limits::default() };
    on_every_database_with(limits, async |app| {
        let names: Vec<String> = (0..MEMBERS_MAX).map(|n| format!("{n:04}")).collect();
        for some in names.chunks(100) {
            let permits: Vec<Permit> = some.iter().map(|name| agent(name)).collect();
            let joined = permits.iter().map(|permit| app.join_workspace(permit, None, TTL_DEFAULT));
            for joined in futures_util::future::join_all(joined).await {
                joined.unwrap();
            }
        }
        let more = async |name: &str| app.join_workspace(&agent(name), None, TTL_DEFAULT).await.map(drop);
        assert!(matches!(more("more").await, Err(MemberError::TooMany)));
        more("0000").await.expect("a heartbeat needs no room");
        app.leave_workspace(&agent("0001")).await.unwrap();
        send(&app, "0000", to("0002", "hi")).await;
        app.leave_workspace(&agent("0002")).await.unwrap();
        more("more").await.expect("0001 has left");
        assert!(matches!(more("even more").await, Err(MemberError::TooMany)), "a message waits for 0002");
        app.at(NOW.after(MEMBER_KEPT + 2 * TTL_DEFAULT));
        more("even more").await.expect("others have been away for a day");
        assert_eq!(app.db.members(&agent("a").to_read()).await.unwrap().len(), MEMBERS_MAX - 1);
    })
    .await;
}

// ---- messages

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_in_the_inbox_of_its_recipient_until_it_is_acknowledged() {
    on_every_database(async |app| {
        join(&app, &["a", "b"]).await;
        let body = Json::from_text("{\"do\": \"review\",\n \"n\": 1.50}").unwrap();
        let sent = app.send_message(&agent("a"), NewMessage { body: body.clone(), ..to("b", "") }).await.unwrap();
        assert_eq!(sent, Sent { number: 1, recipient: Some("b".into()), is_repeated: false });
        let page = read(&app, &agent("b"), Selection::Unread { after: 0 }).await.unwrap();
        let (principal, sender, recipient) = ("ann".into(), "a".into(), Some("b".into()));
        let (kind, key) = (MessageKind::Request, None);
        let message = Message { number: 1, at: NOW, principal, sender, recipient, kind, reply_to: None, key, body };
        assert_eq!(page, Page { rows: vec![message], next: Start::After(1), has_more: false, first: None });
        assert_eq!(unread(&app, "b").await, [1], "to read is not to acknowledge");
        assert!(unread(&app, "a").await.is_empty());

        let answer = NewMessage { kind: MessageKind::Response, recipient: None, reply_to: Some(1), ..to("", "done") };
        let sent = app.send_message(&agent("b"), answer).await.unwrap();
        assert_eq!(sent, Sent { number: 2, recipient: Some("a".into()), is_repeated: false }, "it goes to who asked");
        assert_eq!((acknowledge(&app, "b", &[1]).await, acknowledge(&app, "b", &[1, 77]).await), (1, 0));
        assert_eq!((unread(&app, "b").await, unread(&app, "a").await), (vec![], vec![2]));
        assert_eq!(app.db.unread(&agent("a").to_read(), "a").await.unwrap(), Unread { inbox: 1, to_all: 0 });

        let told = all_events(&app, &agent("a").to_read()).await.pop().unwrap();
        let expected = json!({"number": 2, "type": "response", "sender": "b", "recipient": "a", "reply_to": 1});
        assert_eq!((told.kind.name(), data(&told)), ("message.sent", expected), "what it says is not in the log");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_another_agent_is_shown_to_nobody_but_its_sender_and_the_operator() {
    on_every_database(async |app| {
        join(&app, &["a", "b", "c"]).await;
        send(&app, "a", to("b", "for b")).await;
        send(&app, "a", to_all("for all")).await;
        let visible =
            async |name: &str| numbers(&read(&app, &agent(name), Selection::Visible(Start::After(0))).await.unwrap());
        assert_eq!((visible("a").await, visible("b").await, visible("c").await), (vec![1, 2], vec![1, 2], vec![2]));
        let about = |number: i64| NewMessage { reply_to: Some(number), ..to("a", "about it") };
        for number in [1, 3, 0, -1] {
            let refused = app.send_message(&agent("c"), about(number)).await;
            assert!(matches!(refused, Err(MessageError::Unknown(n)) if n == number), "{refused:?}");
        }
        app.send_message(&agent("c"), about(2)).await.unwrap();
        let operator: Permit<Operate> = permit().actor().permit().unwrap();
        let operator = operator.within(Some("w"), None).unwrap();
        let all = app.db.messages(&operator, Start::Before(i64::MAX), &[], 2).await.unwrap();
        assert_eq!((numbers(&all), all.next, all.has_more), (vec![2, 3], Start::Before(2), true));
        let requests = app.db.messages(&operator, Start::After(0), &[MessageKind::Request], 9).await.unwrap();
        assert_eq!(numbers(&requests), [1, 3]);
        let elsewhere = agent_in("other", "ann", "b");
        app.join_workspace(&elsewhere, None, TTL_DEFAULT).await.unwrap();
        assert_eq!(read(&app, &elsewhere, Selection::Visible(Start::After(0))).await.unwrap().rows, []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_all_is_read_by_each_member_once_and_in_any_order() {
    on_every_database(async |app| {
        join(&app, &["a", "b"]).await;
        for n in 1..=4 {
            send(&app, "a", to_all(&n.to_string())).await;
        }
        send(&app, "a", to("b", "5")).await;
        join(&app, &["late"]).await;
        send(&app, "b", to_all("6")).await;
        assert_eq!(unread(&app, "a").await, [6], "its own are not for it to read");
        assert_eq!(unread(&app, "late").await, [6], "it joined after the others were sent");
        assert_eq!(unread(&app, "b").await, [1, 2, 3, 4, 5]);

        assert_eq!(acknowledge(&app, "b", &[3, 5, 6]).await, 2, "6 is its own");
        assert_eq!(unread(&app, "b").await, [1, 2, 4], "those that were skipped are still to be read");
        let count = app.db.unread(&agent("b").to_read(), "b").await.unwrap();
        assert_eq!(count, Unread { inbox: 2, to_all: 1 });
        assert_eq!(acknowledge(&app, "b", &[4, 4, 1]).await, 2);
        assert_eq!(unread(&app, "b").await, [2]);
        assert_eq!(acknowledge_up_to(&app, "b", 99).await, 1);
        assert_eq!(acknowledge_up_to(&app, "b", 99).await, 0);
        send(&app, "a", to_all("7")).await;
        assert_eq!(unread(&app, "b").await, [7], "99 was not there yet");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_waits_for_an_agent_that_has_never_joined() {
    on_every_database(async |app| {
        send(&app, "a", to("b", "hi")).await;
        join(&app, &["b"]).await;
        assert_eq!(unread(&app, "b").await, [1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_key_is_sent_once() {
    on_every_database(async |app| {
        let new = NewMessage { key: Some("k".into()), ..to("b", "once") };
        assert_eq!(send(&app, "a", new.clone()).await, 1);
        let again = app.send_message(&agent("a"), new.clone()).await.unwrap();
        assert_eq!(again, Sent { number: 1, recipient: Some("b".into()), is_repeated: true });
        let other = NewMessage { body: json!("something else").into(), ..new.clone() };
        let refused = app.send_message(&agent("a"), other).await;
        assert!(matches!(refused, Err(MessageError::KeyReused(1))), "{refused:?}");
        let bob = app.send_message(&agent_in("w", "bob", "x"), new.clone()).await.unwrap();
        assert_eq!((bob.number, bob.is_repeated), (2, false), "keys are each principal's own");
        let (c, new) = (agent("c"), NewMessage { key: Some("l".into()), ..new });
        let (one, other) = tokio::join!(app.send_message(&c, new.clone()), app.send_message(&c, new.clone()));
        assert_eq!((one.unwrap().number, other.unwrap().number), (3, 3));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_come_in_pages_that_memory_has_room_for() {
    on_every_database(async |app| {
        join(&app, &["b"]).await;
        let large = "ä".repeat(MESSAGE_BYTES_MAX / 2 - 1);
        for _ in 0..20 {
            send(&app, "a", to("b", &large)).await;
        }
        let refused = app.send_message(&agent("a"), to("b", &(large.clone() + "x"))).await;
        assert!(matches!(refused, Err(MessageError::Unsendable(_))), "{refused:?}");
        for selection in [Selection::Unread { after: 0 }, Selection::Visible(Start::After(0))] {
            let first = read(&app, &agent("b"), selection).await.unwrap();
            assert_eq!((first.rows.len(), first.next, first.has_more), (16, Start::After(16), true));
            assert_eq!(first.rows[0].body, json!(large).into());
        }
        let rest = read(&app, &agent("b"), Selection::Unread { after: 16 }).await.unwrap();
        assert_eq!((numbers(&rest), rest.has_more), (vec![17, 18, 19, 20], false));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_messages_are_read_page_by_page_and_by_kind() {
    on_every_database(async |app| {
        join(&app, &["b"]).await;
        for n in 0..6 {
            send(&app, "a", if n % 2 == 0 { to("b", "x") } else { to_all("x") }).await;
        }
        let page = async |after, kinds: &[MessageKind], limit| {
            let selection = Selection::Unread { after };
            app.read_messages(&agent("b"), selection, kinds, limit, Duration::ZERO).await.unwrap()
        };
        let first = page(0, &[], 4).await;
        assert_eq!((numbers(&first), first.next, first.has_more), (vec![1, 2, 3, 4], Start::After(4), true));
        let rest = page(4, &[], 2).await;
        assert_eq!((numbers(&rest), rest.next, rest.has_more), (vec![5, 6], Start::After(6), false));
        let requests = page(0, &[MessageKind::Request], 2).await;
        assert_eq!((numbers(&requests), requests.next, requests.has_more), (vec![1, 3], Start::After(3), true));
        let broadcasts = page(3, &[MessageKind::Broadcast, MessageKind::Response], 9).await;
        assert_eq!((numbers(&broadcasts), broadcasts.next, broadcasts.has_more), (vec![4, 6], Start::After(6), false));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_inbox_is_the_senders_to_hear_of_and_nothing_is_lost() {
    on_every_address(async |address| {
        let app = open(address, Limits::default()).await;
        join(&app, &["b"]).await;
        send(&app, "a", to("b", "first")).await;
        // So many by hand, which is quicker.
        let numbers = "with recursive n(n) as (select 2 union all select n + 1 from n where n < $max)".to_owned();
        let of_w = "(select id from namespace where workspace = 'w')";
        let fill = format!(
            "insert into message (namespace, number, at, principal, sender, recipient, kind, size, body)
                {numbers} select {of_w}, n, 1, 'ann', 'a', 'b', 'request', 1, '1' from n;
             insert into inbox (namespace, agent, number) {numbers} select {of_w}, 'b', n from n;
             update namespace set last_message = $max where workspace = 'w'"
        );
        tamper(address, &fill.replace("$max", &(INBOX_MAX - 1).to_string())).await;
        send(&app, "a", to("b", "last")).await;
        let refused = app.send_message(&agent("a"), to("b", "too many")).await;
        assert!(matches!(refused, Err(MessageError::InboxFull(_))), "{refused:?}");
        send(&app, "a", to_all("there is room for others")).await;
        let skips = app.acknowledge(&agent("b"), Acknowledge { up_to: None, numbers: vec![INBOX_MAX as i64] }).await;
        assert_eq!(skips.unwrap(), 1);
        send(&app, "a", to("b", "there is room again")).await;
        assert_eq!(acknowledge_up_to(&app, "b", i64::MAX).await, INBOX_MAX + 1);
        assert!(unread(&app, "b").await.is_empty());
    })
    .await;
}

/// Two hubs, many senders and readers at once: each reader sees each message to it and each one to all, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_reader_sees_every_message_once_however_many_send() {
    on_every_address(async |address| {
        const AGENTS: usize = 6;
        const EACH: usize = 12;
        let hubs = [open(address, Limits::default()).await, open(address, Limits::default()).await];
        let names: Vec<String> = (0..AGENTS).map(|n| format!("agent {n}")).collect();
        join(&hubs[0], &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let mut senders = JoinSet::new();
        let mut readers = JoinSet::new();
        for (n, name) in names.iter().cloned().enumerate() {
            let (app, names) = (hubs[n % 2].clone(), names.clone());
            senders.spawn(async move {
                let mut sent = Vec::new();
                for m in 0..EACH {
                    let new = match m % 3 {
                        0 => to_all("x"),
                        _ => to(&names[(n + m) % AGENTS], "x"),
                    };
                    let Sent { number, recipient, .. } = app.send_message(&agent(&names[n]), new).await.unwrap();
                    sent.push((number, names[n].clone(), recipient));
                }
                sent
            });
            let app = hubs[(n + 1) % 2].clone();
            readers.spawn(async move {
                let (mut seen, mut last) = (Vec::new(), false);
                while !last {
                    let selection = Selection::Unread { after: 0 };
                    let wait = Duration::from_secs(50);
                    let page = app.read_messages(&agent(&name), selection, &[], 3, wait).await.unwrap();
                    let read = numbers(&page);
                    last = page.rows.iter().any(|message| message.body == json!("the end").into());
                    acknowledge(&app, &name, &read).await;
                    seen.extend(read);
                }
                (name, seen)
            });
        }
        let sent: Vec<(i64, String, Option<String>)> = senders.join_all().await.into_iter().flatten().collect();
        let all: BTreeSet<i64> = sent.iter().map(|(number, ..)| *number).collect();
        assert_eq!(all, (1..=(AGENTS * EACH) as i64).collect(), "numbers have no gaps");
        let end = send(&hubs[0], "the test", to_all("the end")).await;
        for (name, seen) in timeout(PATIENCE, readers.join_all()).await.expect("a reader has missed something") {
            let for_it = sent.iter().filter(|(_, sender, recipient)| match recipient {
                Some(recipient) => *recipient == name,
                None => *sender != name,
            });
            let mut expected: Vec<i64> = for_it.map(|(number, ..)| *number).collect();
            expected.extend([end]);
            expected.sort_unstable();
            let mut seen = seen;
            seen.sort_unstable();
            assert_eq!(seen, expected, "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_a_message_and_no_longer_than_it_said() {
    on_every_database(async |app| {
        join(&app, &["b"]).await;
        let (b, selection) = (agent("b"), Selection::Unread { after: 0 });
        let mut waiting = Box::pin(app.read_messages(&b, selection, &[], 9, Duration::from_secs(50)));
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "there is nothing to read");
        send(&app, "a", to("c", "not for b")).await;
        assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "that was not for it");
        send(&app, "a", to("b", "at last")).await;
        let page = timeout(PATIENCE, waiting).await.expect("it was not woken").unwrap();
        assert_eq!(numbers(&page), [2]);
        acknowledge(&app, "b", &[2]).await;
        let page = app.read_messages(&b, selection, &[], 9, Duration::from_millis(100)).await.unwrap();
        assert_eq!(page.rows, []);
        let at_once = app.read_messages(&b, Selection::Visible(Start::After(0)), &[], 9, PATIENCE);
        assert_eq!(numbers(&timeout(PATIENCE / 2, at_once.boxed()).await.unwrap().unwrap()), [2]);
    })
    .await;
}
