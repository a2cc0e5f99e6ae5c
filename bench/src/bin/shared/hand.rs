//! What a user would write by hand on PostgreSQL, on connections of its own.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use super::{postgres, rate, store};

/// Tables as somebody would make them.
const TABLES: &str = "create table if not exists own_step (task text, number bigint generated always as identity,
        at timestamptz default now(), agent text, message text, data jsonb, primary key (task, number));
    create table if not exists own_lock (path text primary key, holder text, until timestamptz)";

/// How many rows a second are inserted, a transaction each.
pub(crate) async fn inserts(database: &str, connections: usize, time: Duration) -> f64 {
    const INSERT: &str = "insert into own_step (task, agent, message, data) values ('t', 'agent', $1, $2::text::jsonb)";
    postgres::execute(database, TABLES).await;
    let clients = connect(database, connections).await;
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for client in clients {
        running.spawn(async move {
            let (insert, data) = (client.prepare(INSERT).await.unwrap(), store::data().to_string());
            let mut inserted = 0;
            while begun.elapsed() < time {
                client.execute(&insert, &[&store::MESSAGE, &data]).await.unwrap();
                inserted += 1;
            }
            inserted
        });
    }
    rate(running.join_all().await.into_iter().sum(), begun)
}

/// How many transactions a second lock a row with `select … for update`, one for each connection, and say who has it.
pub(crate) async fn locks(database: &str, connections: usize, time: Duration) -> f64 {
    const SELECT: &str = "select holder, until from own_lock where path = $1 for update";
    const UPDATE: &str = "update own_lock set holder = 'agent', until = now() + interval '60 s' where path = $1";
    postgres::execute(database, TABLES).await;
    let clients = connect(database, connections).await;
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for (n, client) in clients.into_iter().enumerate() {
        running.spawn(async move {
            let path = format!("src/part{n}.rs");
            client.execute("insert into own_lock values ($1) on conflict do nothing", &[&path]).await.unwrap();
            let (select, update) = (client.prepare(SELECT).await.unwrap(), client.prepare(UPDATE).await.unwrap());
            let mut done = 0;
            while begun.elapsed() < time {
                client.batch_execute("begin").await.unwrap();
                client.query(&select, &[&path]).await.unwrap();
                client.execute(&update, &[&path]).await.unwrap();
                client.batch_execute("commit").await.unwrap();
                done += 1;
            }
            done
        });
    }
    rate(running.join_all().await.into_iter().sum(), begun)
}

async fn connect(database: &str, connections: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "it ends with the client")]
        tokio::spawn(connection);
        clients.push(client);
    }
    clients
}
