//! Steps, each of which is an event, too.

use skep_core::{
    app::App,
    db::News,
    event::EventFilter,
    page::Start,
    policy::Read,
    step::{Level, NewStep, StepFilter},
};

use super::{Added, TIMES, permit};

/// `newest` and `middle` read a page of 20 steps, `events` one of the events from the middle on, `of one` those of one agent.
pub(crate) const OPERATIONS: &[&str] = &["log", "newest", "middle", "of one", "events"];
const AGENTS: usize = 10;

pub(crate) fn add(app: App, n: usize) -> Added {
    Box::pin(async move { log(&app, n).await })
}

async fn log(app: &App, n: usize) {
    let step = NewStep { level: Level::Info, message: format!("compiled part {n}"), data: None };
    app.log_step(&permit(&format!("agent{}", n % AGENTS)), step).await.unwrap();
}

pub(crate) async fn operate(app: &App, operation: &str, time: usize, steps: usize) {
    let (reads, middle) = (permit::<Read>("agent0"), i64::try_from(time * (steps - 100) / TIMES).unwrap());
    let of = |agent: Option<&str>| StepFilter { agent: agent.map(str::to_owned), ..StepFilter::default() };
    let page = match operation {
        "log" => return log(app, time).await,
        "newest" => app.db.steps(&reads, of(None), Start::Before(i64::MAX), 20).await,
        "middle" => app.db.steps(&reads, of(None), Start::After(middle), 20).await,
        "of one" => app.db.steps(&reads, of(Some("agent0")), Start::Before(i64::MAX), 20).await,
        _ => {
            let mut events = app.follow(&reads, EventFilter::default(), middle);
            let News::Events(events) = events.next().await.unwrap() else { panic!("nothing was deleted") };
            return assert_eq!(events[0].number, middle + 1);
        }
    };
    assert_eq!(page.unwrap().rows.len(), 20);
}
