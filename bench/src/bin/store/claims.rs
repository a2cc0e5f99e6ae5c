//! Claims on PostgreSQL: the store's, and the same by hand.

use std::time::{Duration, Instant};

use skep_core::{
    app::App,
    db::{Db, Limits},
    session::{HUB_TIME, HubId, NewSession, SessionId},
    task::{Holder, WorkerId},
};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, types::ToSql};

use super::{permit, postgres};

/// Tasks that wait to be claimed, for each second of the measurement: more than can be.
const TASKS_PER_SECOND: u64 = 40_000;

/// So that no change is noted as another program's.
const AS_A_HUB: &str = "set skep.hub = 'bench'";

/// The store: so many tasks for each claim.
pub(super) async fn of_store(address: &str, hubs: usize, callers: usize, count: usize, time: Duration) -> f64 {
    fill(address, time).await;
    let mut running = JoinSet::new();
    let mut apps = Vec::new();
    for hub in 0..hubs {
        let app = App::new(Db::open(address, Limits::default()).await.unwrap());
        let holder = |caller| Holder {
            worker: WorkerId(format!("w{hub}-{caller}")),
            session: SessionId(format!("s{hub}-{caller}")),
        };
        let session = |holder: Holder| NewSession { id: holder.session, worker: holder.worker, token: None };
        let sessions = (0..callers).map(holder).map(session).collect();
        app.join(&permit(0), &HubId(format!("h{hub}")), sessions, HUB_TIME).await.unwrap();
        apps.push((app, (0..callers).map(holder).collect::<Vec<_>>()));
    }
    let begun = Instant::now();
    for (app, holders) in &apps {
        for holder in holders {
            let (app, holder, permit) = (app.clone(), holder.clone(), permit(0));
            running.spawn(async move {
                let mut claimed = 0;
                while begun.elapsed() < time {
                    let tasks = app.claim_many(&permit, "q", &holder, count).await.unwrap();
                    assert!(!tasks.is_empty(), "too few tasks to measure");
                    claimed += tasks.len();
                }
                claimed
            });
        }
    }
    let claimed: usize = running.join_all().await.into_iter().sum();
    let rate = claimed as f64 / begun.elapsed().as_secs_f64();
    for (app, _) in apps {
        app.db.close().await;
    }
    rate
}

/// By hand: the least that a claim could be, without a log.
pub(super) async fn one_by_one(address: &str, connections: usize, time: Duration) -> f64 {
    const CLAIM: &str = "update task set state = 'in_progress', attempt = attempt + 1, worker = $1, session = $1
         where namespace = 1 and id = (
            select id from task where namespace = 1 and queue = 'q' and state = 'pending' and waiting_for = 0
                and priority = 2 and due <= $2 order by due, position, id limit 1 for update skip locked)
         returning id, attempt, input";
    fill(address, time).await;
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(address).await);
    }
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for client in clients {
        running.spawn(async move {
            let claim = client.prepare(CLAIM).await.unwrap();
            let mut claimed = 0;
            while begun.elapsed() < time {
                claimed += client.query(&claim, &[&"w", &2_i64]).await.unwrap().len();
            }
            claimed
        });
    }
    let claimed: usize = running.join_all().await.into_iter().sum();
    claimed as f64 / begun.elapsed().as_secs_f64()
}

/// By hand: the statements of the store, on one connection with nobody to wait for.
pub(super) async fn in_batches(address: &str, count: usize, time: Duration) -> f64 {
    const LOCK: &str = "select last_event, cast(cast(pg_current_xact_id() as text) as bigint),
         cast(extract(epoch from clock_timestamp()) * 1000000 as bigint) from namespace where id = 1 for update";
    const READY: &str =
        "select id, run, queue, position, depends_on, retries_max, retry_delay_us, allow_failure, state,
            due, waiting_for, attempt, failures, losses, worker, session, input, result
         from task where namespace = 1 and queue = 'q' and state = 'pending' and waiting_for = 0 and priority = 2 and due <= $1
         order by due, position, id limit $2";
    const SAVE: &str = "update task set state = 'in_progress', attempt = attempt + 1, worker = 'w', session = 's'
         from unnest($1::text[]) as new (id) where task.namespace = 1 and task.id = new.id";
    const EVENTS: &str = "with counted as (update namespace set last_event = $1 where id = 1)
         insert into event (namespace, number, at, kind, run, task, data)
         select 1, $2 + n, 1, 'task.started', null, task, data
         from unnest($3::text[], $4::text[]) with ordinality as new (task, data, n)";
    fill(address, time).await;
    let client = connect(address).await;
    let (lock, ready) = (client.prepare(LOCK).await.unwrap(), client.prepare(READY).await.unwrap());
    let (save, events) = (client.prepare(SAVE).await.unwrap(), client.prepare(EVENTS).await.unwrap());
    let (begun, mut claimed) = (Instant::now(), 0);
    let limit = i64::try_from(count).unwrap();
    while begun.elapsed() < time {
        let select: [&(dyn ToSql + Sync); 2] = [&i64::MAX, &limit];
        let (_, locked, found) = tokio::try_join!(
            client.batch_execute("begin"),
            client.query_one(&lock, &[]),
            client.query(&ready, &select),
        )
        .unwrap();
        let last: i64 = locked.get(0);
        let ids: Vec<&str> = found.iter().map(|row| row.get(0)).collect();
        let data: Vec<String> = ids.iter().map(|_| r#"{"attempt":1,"worker":"w0-0"}"#.to_owned()).collect();
        let end = last + limit;
        let update: [&(dyn ToSql + Sync); 1] = [&ids];
        let insert: [&(dyn ToSql + Sync); 4] = [&end, &last, &ids, &data];
        tokio::try_join!(
            client.execute(&save, &update),
            client.execute(&events, &insert),
            client.batch_execute("commit"),
        )
        .unwrap();
        assert_eq!(ids.len(), count, "too few tasks to measure");
        claimed += ids.len();
    }
    claimed as f64 / begun.elapsed().as_secs_f64()
}

/// A store with a namespace full of tasks, as it is once the server knows how many there are.
async fn fill(address: &str, time: Duration) {
    let app = App::new(Db::open(address, Limits::default()).await.unwrap());
    app.join(&permit(0), &HubId("fill".into()), Vec::new(), HUB_TIME).await.unwrap();
    app.db.close().await;
    let count = time.as_secs() * TASKS_PER_SECOND;
    let fill = format!(
        "{AS_A_HUB};
         insert into task (namespace, id, queue, position, depends_on, retries_max, retry_delay_us, allow_failure,
            state, due, waiting_for, attempt, failures, losses, input)
         select 1, 't' || n, 'q', 0, '[]', 0, 1000000, false, 'pending', 1, 0, 0, 0, 0, '{}'
         from generate_series(1, {count}) n; analyze task",
        super::input()
    );
    postgres::execute(address, &fill).await;
}

pub(super) async fn connect(address: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(address, NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the client")]
    tokio::spawn(connection);
    client.batch_execute(AS_A_HUB).await.unwrap();
    client
}
