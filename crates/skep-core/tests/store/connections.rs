//! Connections to PostgreSQL: what is promised whatever the settings of the server are, what is refused, and what
//! happens when the server goes away.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use sha2::{Digest, Sha256};
use skep_core::db::DbError;
use tokio::{net::TcpListener, sync::Notify, task::JoinSet, time::sleep};

use super::{
    private::{Bouncer, Proxy, Server, ask},
    *,
};

/// A server for tests that leave it as it was, but for databases and roles of their own.
async fn shared() -> Option<&'static Server> {
    static SHARED: LazyLock<Option<Server>> =
        LazyLock::new(|| Server::start("lock_timeout = 0\nmax_connections = 300\n", &[]));
    tokio::task::spawn_blocking(|| SHARED.as_ref()).await.unwrap()
}

async fn refusal(address: &str) -> DbError {
    match Db::open(address, Limits::default()).await {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

fn assert_unsuitable(refused: &DbError, what: &str) {
    assert!(matches!(refused, DbError::Unsuitable(why) if why.contains(what)), "{refused:?}");
}

/// Have the database note the settings of each transaction that writes a task.
const NOTE: &str = "
    create table public.noted (setting text);
    create function public.note() returns trigger language plpgsql as $$ begin
        insert into public.noted select name || '=' || setting from pg_settings where name in
        ('synchronous_commit', 'transaction_isolation', 'search_path', 'lock_timeout', 'statement_timeout',
         'idle_in_transaction_session_timeout', 'application_name');
        return null;
    end $$;
    create trigger note after insert on task execute function public.note()";

/// Submit a task to a store at this address, and what the settings were.
async fn noted(address: &str, schema: &str) -> String {
    let app = open(address, Limits::default()).await;
    let path = format!("set search_path = {schema}; {NOTE}");
    postgres::execute(address.split(" options").next().unwrap(), &path).await;
    app.submit(&permit(), new("a")).await.unwrap();
    app.db.close().await;
    ask(address, "select string_agg(distinct setting, ' ' order by setting) from public.noted").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_durable_and_a_wait_has_an_end_whatever_the_server_is_set_to() {
    let Some(server) = shared().await else { return };
    let address = server.database("weak").await;
    let weak = "synchronous_commit = off, default_transaction_isolation = 'serializable', search_path = elsewhere, \
                statement_timeout = 0, idle_in_transaction_session_timeout = 0";
    for setting in weak.split(", ") {
        server.execute(&format!("alter database weak set {setting}")).await;
    }
    assert_eq!(
        noted(&address, "skep").await,
        "application_name=skep idle_in_transaction_session_timeout=15000 lock_timeout=10000 search_path=skep \
         statement_timeout=20000 synchronous_commit=on transaction_isolation=read committed"
    );

    let address = server.database("stubborn").await;
    server.execute("alter role postgres in database stubborn set synchronous_commit = local").await;
    postgres::execute(&address, "create schema x").await;
    let options = "-c synchronous_commit=off -c default_transaction_isolation=serializable -c search_path=x \
                   -c statement_timeout=7s";
    let settings = noted(&format!("{address} options='{options}'"), "x").await;
    for expected in ["synchronous_commit=on", "=read committed", "search_path=x", "statement_timeout=7000"] {
        assert!(settings.contains(expected), "{settings}");
    }

    let address = server.database("strong").await;
    server.execute("alter database strong set synchronous_commit = remote_apply").await;
    assert!(noted(&address, "skep").await.contains("synchronous_commit=remote_apply"));
}

/// A database as the first edition left it, with a task in it.
async fn first_edition(address: &str) {
    let steps = [
        ("start", include_str!("../../migrations/0001_start.sql")),
        ("mcp_tasks", include_str!("../../migrations/0002_mcp_tasks.sql")),
    ];
    let mut all =
        "create table skep_migration (number bigint primary key, name text not null, sha256 text not null);".to_owned();
    for (number, (name, sql)) in (1..).zip(steps) {
        let sum: String = Sha256::digest(sql).iter().map(|byte| format!("{byte:02x}")).collect();
        all += &format!("{sql}; insert into skep_migration values ({number}, '{name}', '{sum}');");
    }
    all += "insert into task values ('main', 'old', null, 'q', 0, '[]', 0, 0, false, 'pending', 0, 0, 0, 0, null,
            '{\"of\": \"old\"}', null);
            insert into log values ('main', 1);
            insert into event values ('main', 1, 0, 'task.submitted', null, 'old', '{\"state\": \"pending\"}')";
    postgres::execute(address, &all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_first_edition_are_moved_with_all_that_is_in_them() {
    let Some(server) = shared().await else { return };
    let address = server.database("old").await;
    first_edition(&address).await;
    let opened = futures_util::future::join_all((0..3).map(|_| Db::open(&address, Limits::default()))).await;
    for db in opened {
        let app = App::new(db.unwrap());
        let found = app.db.task(&permit().to_read(), &id("old")).await.unwrap();
        assert_eq!(found.unwrap().input.as_str(), r#"{"of": "old"}"#);
    }
    sound(&address).await;
    let left = "select string_agg(tablename, ' ') from pg_tables where schemaname = 'public'";
    assert_eq!(ask(&address, left).await, None);

    // A program of the first edition looks in `public`. It must not begin anew there.
    postgres::execute(&address, "insert into skep.skep_migration values (9999, 'tomorrow', 'x')").await;
    let old = refusal(&format!("{address} options='-c search_path=public'")).await;
    assert!(matches!(old, DbError::Newer { found: 9999, .. }), "{old:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_others_are_left_alone() {
    let Some(server) = shared().await else { return };
    let address = server.database("shared").await;
    postgres::execute(&address, "create table task (x int); insert into task values (7)").await;
    let app = open(&address, Limits::default()).await;
    app.submit(&permit(), new("a")).await.unwrap();
    assert_eq!(ask(&address, "select x from public.task").await.unwrap(), "7");

    let pinned = format!("{} options='-c search_path=nowhere'", server.database("pinned").await);
    assert_unsuitable(&refusal(&pinned).await, "search_path=nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_address_has_put_elsewhere_is_not_begun_anew_without_it() {
    let Some(server) = shared().await else { return };
    let address = server.database("elsewhere").await;
    let pinned = format!("{address} options='-c search_path=public'");
    open(&pinned, Limits::default()).await.submit(&permit(), new("a")).await.unwrap();
    // As a later edition would leave it.
    postgres::execute(&address, "insert into skep_migration values (9999, 'tomorrow', 'x')").await;
    assert_unsuitable(&refusal(&address).await, "options=-csearch_path=public");
    postgres::execute(&address, "delete from skep_migration where number = 9999").await;
    assert!(task(&open(&pinned, Limits::default()).await, "a").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_is_told_which_it_needs() {
    let Some(server) = shared().await else { return };
    let address = server.database("guarded").await;
    server.execute("create role guest login").await;
    let guest = address.replace("user=postgres", "user=guest");
    let refused = refusal(&guest).await;
    assert!(matches!(refused, DbError::Denied(_)), "{refused:?}");
    assert!(refused.to_string().contains("create schema skep authorization"), "{refused}");
    postgres::execute(&address, "create schema skep authorization guest").await;
    open(&guest, Limits::default()).await.submit(&permit(), new("a")).await.unwrap();

    let refused = refusal(&address.replace("user=postgres", "user=nobody")).await;
    assert!(matches!(refused, DbError::Refused { .. }), "{refused:?}");
    let refused = refusal(&address.replace("guarded", "nothing")).await;
    assert!(matches!(refused, DbError::Refused { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_is_refused_and_one_that_stops_taking_them_is_left() {
    let Some(mut server) = Server::start("", &[]) else { return };
    let app = open(&server.address(), Limits::default()).await;
    app.submit(&permit(), new("a")).await.unwrap();
    server.execute("alter system set default_transaction_read_only = on").await;
    server.tell("reload");
    let refused = loop {
        // It takes the server a moment to read its settings.
        if let Err(error) = app.submit(&permit(), new("b")).await {
            break error;
        }
        sleep(Duration::from_millis(10)).await;
    };
    assert!(matches!(&refused, TaskError::Db(DbError::Unsuitable(why)) if why.contains("read_only")), "{refused:?}");
    assert_unsuitable(&refusal(&server.address()).await, "default_transaction_read_only");
    let writable = format!("{} options='-c default_transaction_read_only=off'", server.address());
    postgres::execute(&writable, "alter system reset default_transaction_read_only").await;
    server.tell("restart");
    app.submit(&permit(), new("c")).await.unwrap();
}

/// Writers that go on until they are told to stop, and what they have been promised.
struct Writers {
    stop: Arc<AtomicBool>,
    /// One of them has been promised something.
    promised: Arc<Notify>,
    running: JoinSet<Vec<String>>,
}

impl Writers {
    fn start(app: &Hub) -> Writers {
        let (stop, told, mut running) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()), JoinSet::new());
        for writer in 0..4 {
            let (app, stop, told) = (app.clone(), Arc::clone(&stop), Arc::clone(&told));
            running.spawn(async move {
                let mut promised = Vec::new();
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("{writer}-{n}");
                    match app.submit(&permit(), new(&name)).await {
                        Ok(_) => {
                            promised.push(name);
                            told.notify_one();
                        }
                        Err(TaskError::Db(DbError::Unreachable(_) | DbError::Unsure(_) | DbError::Unsuitable(_))) => {
                            sleep(Duration::from_millis(20)).await;
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                promised
            });
        }
        Writers { stop, promised: told, running }
    }

    /// Stop them once they have been promised something, which may take a while on a busy machine.
    async fn stop(self) -> Vec<String> {
        self.promised.notified().await;
        self.stop.store(true, Ordering::Relaxed);
        self.running.join_all().await.concat()
    }
}

/// Write until it works, within a generous time.
async fn write_again(app: &Hub, name: &str) {
    let begun = Instant::now();
    while let Err(error) = app.submit(&permit(), new(name)).await {
        assert!(begun.elapsed() < Duration::from_secs(60), "{error:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_and_comes_back_is_used_again_and_has_what_was_acknowledged() {
    let Some(mut server) = Server::start("", &[]) else { return };
    let app = open(&server.address(), Limits::default()).await;
    for round in 0..3 {
        let writers = Writers::start(&app);
        write_again(&app, &format!("before {round}")).await;
        server.tell("restart");
        write_again(&app, &format!("after {round}")).await;
        let promised = writers.stop().await;
        assert!(!promised.is_empty());
        for name in promised.iter().chain(&[format!("before {round}"), format!("after {round}")]) {
            assert!(task(&app, name).await.is_some(), "{name} is lost");
        }
    }
    // Nobody was at work here.
    server.tell("restart");
    assert!(task(&app, "after 2").await.is_some());
    app.submit(&permit(), new("last")).await.unwrap();
    assert_eq!(sound(&server.address()).await.events_missing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_the_standby_is_found_and_has_what_was_acknowledged() {
    let Some(mut primary) = Server::start("", &[]) else { return };
    let Some(mut standby) = Server::standby_of(&primary, "") else { return };
    primary.execute("alter system set synchronous_standby_names = '*'").await;
    primary.tell("reload");
    let synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    while ask(&primary.address(), synchronous).await.unwrap() != "1" {
        sleep(Duration::from_millis(20)).await;
    }
    assert_unsuitable(&refusal(&standby.address()).await, "is a standby");
    // The standby first, so that it must be passed by.
    let address = format!(
        "host={},{} port={},{} user=postgres dbname=postgres target_session_attrs=read-write",
        standby.directory, primary.directory, standby.port, primary.port
    );
    let app = open(&address, Limits::default()).await;
    let writers = Writers::start(&app);
    write_again(&app, "before").await;
    primary.tell("stop");
    standby.tell("promote");
    write_again(&app, "after").await;
    let promised = writers.stop().await;
    assert!(!promised.is_empty());
    for name in promised.iter().map(String::as_str).chain(["before", "after"]) {
        assert!(task(&app, name).await.is_some(), "{name} is lost");
    }
    assert_eq!(ask(&standby.address(), "select count(*) from skep.task where id = 'after'").await.unwrap(), "1");
    assert_eq!(sound(&standby.address()).await.events_missing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_never_answers_is_given_up_for_the_next() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let refused = refusal(&format!("host=127.0.0.1 port={port} user=u dbname=d connect_timeout=1")).await;
    assert!(matches!(refused, DbError::Unreachable(_)), "{refused:?}");
    let Some(server) = Server::start("", &[]) else { return };
    let address = format!(
        "host=127.0.0.1,{} port={port},{} user=postgres dbname=postgres connect_timeout=3",
        server.directory, server.port
    );
    open(&address, Limits::default()).await.submit(&permit(), new("a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_not_answered_ends_and_the_next_one_takes_another_connection() {
    let Some(server) = shared().await else { return };
    server.database("stalling").await;
    let proxy = Proxy::start(server);
    let address = format!("host=127.0.0.1 port={} user=postgres dbname=stalling sslmode=disable", proxy.port);
    let app = open(&address, Limits { read_time_max: Duration::from_secs(2), ..Limits::default() }).await;
    app.submit(&permit(), new("a")).await.unwrap();
    for _ in 0..2 {
        assert!(task(&app, "a").await.is_some(), "both connections for reads are there");
    }
    proxy.stall();
    for _ in 0..2 {
        let refused = app.db.task(&permit().to_read(), &id("a")).await;
        assert!(matches!(refused, Err(DbError::Unreachable(_))), "{refused:?}");
    }
    for _ in 0..2 {
        assert!(task(&app, "a").await.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_makes_do_with_the_connections_that_it_gets() {
    let Some(server) = shared().await else { return };
    server.execute("create role few login connection limit 4").await;
    server.execute("create database few owner few").await;
    let address = server.address().replace("user=postgres dbname=postgres", "user=few dbname=few");
    let app = open(&address, Limits::default()).await;
    let mut writers = JoinSet::new();
    for n in 0..200 {
        let app = app.clone();
        writers.spawn(async move { app.submit(&permit_in(&format!("{}", n % 40)), new(&n.to_string())).await });
    }
    for written in writers.join_all().await {
        written.unwrap();
    }
    for n in 0..4 {
        assert!(app.db.task(&permit_in(&n.to_string()).to_read(), &id(&n.to_string())).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_hands_each_transaction_to_another_session_is_refused() {
    let Some(server) = shared().await else { return };
    for settings in [
        "pool_mode = transaction\ndefault_pool_size = 1",
        "pool_mode = transaction\ndefault_pool_size = 20",
        "pool_mode = transaction\ndefault_pool_size = 20\nmin_pool_size = 5\nserver_round_robin = 1",
        "pool_mode = statement\ndefault_pool_size = 1",
    ] {
        let settings = format!("{settings}\nignore_startup_parameters = options");
        let Some(bouncer) = Bouncer::start(server, &settings) else { return };
        assert_unsuitable(&refusal(&bouncer.address()).await, "pool_mode=session");
        // What was asked has changed nothing for those who use the pooler rightly.
        assert_eq!(ask(&bouncer.address(), "show search_path").await.unwrap(), "\"$user\", public");
        let options = format!("{} options='-c search_path=public'", bouncer.address());
        assert_unsuitable(&refusal(&options).await, "drops the `options`");
    }
    let Some(bouncer) = Bouncer::start(server, "pool_mode = transaction") else { return };
    assert_unsuitable(&refusal(&bouncer.address()).await, "refuses startup options");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_keeps_a_session_may_be_used() {
    let Some(server) = shared().await else { return };
    let settings = "pool_mode = session\ndefault_pool_size = 40\nignore_startup_parameters = options";
    let Some(bouncer) = Bouncer::start(server, settings) else { return };
    let app = open(&bouncer.address(), Limits::default()).await;
    let writers = Writers::start(&app);
    write_again(&app, "a").await;
    for name in writers.stop().await {
        assert!(task(&app, &name).await.is_some(), "{name} is lost");
    }
    assert_eq!(ask(&bouncer.address(), "select count(*) > 0 from skep.task").await.unwrap(), "t");
}
