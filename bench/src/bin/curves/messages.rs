//! Messages between agents.

use std::time::Duration;

use serde_json::json;
use skep_core::{
    app::{Acknowledge, App, Selection},
    message::{MessageKind, NewMessage},
    page::Start,
    policy::Operate,
};

use super::{Added, TIMES, permit};

/// `newest` and `middle` read a page of 20 messages as the operator, `unread` one of an agent's; `ack` acknowledges one.
pub(crate) const OPERATIONS: &[&str] = &["send", "newest", "middle", "unread", "ack"];
/// So many that none of them has too many messages that wait.
const AGENTS: usize = 200;

pub(crate) fn add(app: App, n: usize) -> Added {
    Box::pin(async move {
        if n < AGENTS {
            app.join_workspace(&permit(&agent(n)), None, Duration::from_secs(3600)).await.unwrap();
        }
        send(&app, n).await;
    })
}

fn agent(n: usize) -> String {
    format!("agent{}", n % AGENTS)
}

async fn send(app: &App, n: usize) {
    let new = NewMessage {
        kind: MessageKind::Notification,
        recipient: Some(agent(n)),
        reply_to: None,
        body: json!({ "text": "look at src/a.rs", "n": n }).into(),
        key: None,
    };
    app.send_message(&permit("sender"), new).await.unwrap();
}

pub(crate) async fn operate(app: &App, operation: &str, time: usize, messages: usize) {
    let (everybody, middle) = (permit::<Operate>("operator"), i64::try_from(time * (messages - 100) / TIMES).unwrap());
    let page = match operation {
        "send" => return send(app, time).await,
        "newest" => app.db.messages(&everybody, Start::Before(i64::MAX), &[], 20).await,
        "middle" => app.db.messages(&everybody, Start::After(middle), &[], 20).await,
        "unread" => {
            let unread =
                app.read_messages(&permit(&agent(time)), Selection::Unread { after: 0 }, &[], 20, Duration::ZERO).await;
            return assert!(!unread.unwrap().rows.is_empty());
        }
        _ => {
            let numbers = vec![middle.max(1)]; // perhaps another's, which is looked up the same
            app.acknowledge(&permit(&agent(time)), Acknowledge { up_to: None, numbers }).await.unwrap();
            return;
        }
    };
    assert_eq!(page.unwrap().rows.len(), 20);
}
