//! Redis beside PostgreSQL: what it is good for while it is there, and that nothing depends on it.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
    time::Instant,
};

use futures_util::StreamExt as _;
use skep_core::{
    db::{DbError, RedisReport},
    file::NewRevision,
    path::FilePath,
};

use super::{
    redis_server::{Redis as Server, make_cluster},
    *,
};

/// How long a test waits for what must come; a busy machine takes long.
const PATIENCE: Duration = Duration::from_secs(60);

fn writes() -> Permit {
    agent_in("w", "ann", "coder")
}

fn path(name: &str) -> FilePath {
    FilePath::new(name).unwrap()
}

/// Contents that are kept in Redis, and that no other test has.
fn contents(name: &str) -> Vec<u8> {
    format!("{name} of {}\n", std::process::id()).repeat(200).into_bytes()
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn write(hub: &Hub, name: &str, bytes: &[u8]) {
    let new = NewRevision { path: path(name), bytes: bytes.into(), base: None, token: None };
    hub.write_file(&writes(), new).await.unwrap();
}

async fn read(hub: &Hub, name: &str) -> Vec<u8> {
    hub.db.file(&writes().to_read(), &path(name), None).await.unwrap().unwrap().bytes.unwrap()
}

fn report(hub: &Hub) -> RedisReport {
    hub.db.redis().unwrap()
}

/// Do something again and again until it says that it is enough.
async fn until(what: &str, mut is_enough: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_enough().await {
        assert!(begun.elapsed() < PATIENCE, "{what} takes too long");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connected(hub: &Hub) {
    until("to connect", async || report(hub).is_connected).await;
}

async fn disconnected(hub: &Hub) {
    until("to lose the connection", async || !report(hub).is_connected).await;
}

/// A new database with this Redis.
async fn with(redis: &str) -> Option<String> {
    let address = postgres::new_schema().await?;
    with_redis().insert(address.clone(), redis.to_owned());
    Some(address)
}

/// A new database with a Redis of the test's own, and a hub on it.
async fn own(settings: &str) -> Option<(Server, String, Hub)> {
    let server = Server::start(settings)?;
    let address = with(&server.tcp()).await?;
    let hub = open(&address, Limits::default()).await;
    connected(&hub).await;
    Some((server, address, hub))
}

async fn client(address: &str) -> ::redis::aio::MultiplexedConnection {
    ::redis::Client::open(address).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Read until Redis has been asked and has had it.
async fn hit(hub: &Hub, name: &str, bytes: &[u8]) {
    let before = report(hub).hits;
    until("a hit", async || {
        assert_eq!(read(hub, name).await, bytes);
        report(hub).hits > before
    })
    .await;
}

// ---- what it is good for

#[tokio::test(flavor = "multi_thread")]
async fn what_one_hub_writes_or_reads_another_one_has_from_redis() {
    let Some((server, address, one)) = own("").await else { return };
    let two = open(&address, Limits::default()).await;
    connected(&two).await;
    let (large, small) = (contents("large"), b"small".to_vec());
    write(&one, "large", &large).await;
    write(&one, "small", &small).await;
    hit(&two, "large", &large).await;
    let mut redis = client(&server.tcp()).await;
    let key = format!("skep:blob:{}", sha256(&large));
    let seconds: i64 = ::redis::cmd("TTL").arg(&key).query_async(&mut redis).await.unwrap();
    assert!((1..=3600).contains(&seconds), "{seconds}");
    // Small contents come with their row.
    assert_eq!(read(&two, "small").await, small);
    let there: bool =
        ::redis::cmd("EXISTS").arg(format!("skep:blob:{}", sha256(&small))).query_async(&mut redis).await.unwrap();
    assert!(!there);
    // What is forgotten comes from the database, and is there again.
    let _: () = ::redis::cmd("FLUSHALL").query_async(&mut redis).await.unwrap();
    assert_eq!(read(&two, "large").await, large);
    hit(&two, "large", &large).await;
    hit(&one, "large", &large).await;
    // An old revision has contents, too, and a deleted file has none.
    write(&one, "large", &contents("other")).await;
    hit(&two, "large", &contents("other")).await;
    let old = two.db.file(&writes().to_read(), &path("large"), Some(1)).await.unwrap().unwrap();
    assert_eq!(old.bytes, Some(large));
    one.delete_file(&writes(), &path("large"), None, None).await.unwrap();
    assert_eq!(two.db.file(&writes().to_read(), &path("large"), None).await.unwrap().unwrap().bytes, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_are_not_what_their_hash_says_are_not_used() {
    let Some((server, _, hub)) = own("").await else { return };
    let bytes = contents("sound");
    write(&hub, "f", &bytes).await;
    hit(&hub, "f", &bytes).await;
    let mut redis = client(&server.tcp()).await;
    let key = format!("skep:blob:{}", sha256(&bytes));
    let mut others = vec![bytes[..10].to_vec(), [&*bytes, b"x"].concat(), bytes.clone()];
    others[2][7] ^= 1;
    for other in others {
        let before = report(&hub).damaged;
        // A hub may be putting the right contents there at the moment.
        until("to find damaged contents", async || {
            let _: () = ::redis::cmd("SET").arg(&key).arg(&other).query_async(&mut redis).await.unwrap();
            assert_eq!(read(&hub, "f").await, bytes);
            report(&hub).damaged > before
        })
        .await;
    }
    // A key of another type is an error.
    let before = report(&hub);
    until("to find a list", async || {
        let mut list = ::redis::pipe();
        list.atomic().cmd("DEL").arg(&key).ignore().cmd("LPUSH").arg(&key).arg(1).ignore();
        let _: () = list.query_async(&mut redis).await.unwrap();
        assert_eq!(read(&hub, "f").await, bytes);
        report(&hub).errors > before.errors
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hubs_wake_each_other_through_redis() {
    const TURNS: i64 = 20;
    let Some((server, address, one)) = own("").await else { return };
    let two = open(&address, Limits::default()).await;
    connected(&two).await;
    let mut pubsub = ::redis::Client::open(server.tcp()).unwrap().get_async_pubsub().await.unwrap();
    pubsub.psubscribe("skep:*:events").await.unwrap();
    let (mut at_one, mut at_two) = (follow(&one), follow(&two));
    one.log_step(&writes(), step("first")).await.unwrap();
    see_all(&mut at_one, &one).await;
    see_all(&mut at_two, &one).await;
    let begun = Instant::now();
    for turn in 0..TURNS {
        let (writer, reader) = if turn % 2 == 0 { (&one, &mut at_two) } else { (&two, &mut at_one) };
        writer.log_step(&writes(), step(&turn.to_string())).await.unwrap();
        see_all(reader, writer).await;
    }
    // With polls alone, each turn would take a second.
    assert!(begun.elapsed() < Duration::from_secs(TURNS as u64 / 2), "{:?}", begun.elapsed());
    let notice = tokio::time::timeout(PATIENCE, pubsub.on_message().next()).await.unwrap().unwrap();
    assert!(notice.get_payload::<String>().unwrap().contains(':'));
    assert!(two.db.sync_lag().is_some());
    // What is not true there costs a look, and nothing else.
    let channel = notice.get_channel_name().to_owned();
    let mut redis = client(&server.tcp()).await;
    for text in ["1:9223372036854775807 2:5", "0:1", "1:x", "", "look"] {
        let _: i64 = ::redis::cmd("PUBLISH").arg(&channel).arg(text).query_async(&mut redis).await.unwrap();
    }
    one.log_step(&writes(), step("last")).await.unwrap();
    see_all(&mut at_two, &one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_a_workspace_is_published_by_the_hub_that_committed_it() {
    const EVENTS: i64 = 50;
    let Some((server, address, one)) = own("").await else { return };
    let two = open(&address, Limits::default()).await;
    connected(&two).await;
    let mut pubsub = ::redis::Client::open(server.tcp()).unwrap().get_async_pubsub().await.unwrap();
    pubsub.psubscribe("task:*").await.unwrap();
    for n in 0..EVENTS {
        let hub = if n % 2 == 0 { &one } else { &two };
        hub.log_step(&writes(), step(&n.to_string())).await.unwrap();
    }
    // The events of the team itself are no task's.
    one.submit(&permit(), new("t")).await.unwrap();
    one.log_step(&agent_in("other", "ann", "coder"), step("there")).await.unwrap();
    let mut told = Vec::new();
    let mut messages = pubsub.on_message();
    while told.len() <= EVENTS as usize {
        let message = tokio::time::timeout(PATIENCE, messages.next()).await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        assert_eq!(event["kind"], "step.logged");
        told.push((message.get_channel_name().to_owned(), event["number"].as_i64().unwrap()));
    }
    told.sort();
    let expected = std::iter::once(("task:other:updates".to_owned(), 1));
    let expected = expected.chain((1..=EVENTS).map(|number| ("task:w:updates".to_owned(), number)));
    assert_eq!(told, expected.collect::<Vec<_>>());
    until("to count", async || report(&one).published + report(&two).published == 1 + EVENTS as u64).await;
}

// ---- that nothing depends on it

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_and_comes_back_is_missed_by_nobody() {
    let Some((mut server, address, one)) = own("").await else { return };
    let two = open(&address, Limits::default()).await;
    connected(&two).await;
    let mut follower = follow(&two);
    for round in 0..3 {
        for n in 0..10 {
            if n == 5 {
                server.tell("kill");
            }
            let bytes = contents(&format!("{round} {n}"));
            write(&one, "f", &bytes).await;
            assert_eq!(read(&two, "f").await, bytes);
            one.log_step(&writes(), step("s")).await.unwrap();
        }
        see_all(&mut follower, &one).await;
        disconnected(&one).await;
        let said = format!("127.0.0.1:{} does not accept", server.port);
        until("to say so", async || report(&one).why.is_some_and(|why| why.contains(&said))).await;
        server.tell("start");
        connected(&one).await;
        connected(&two).await;
        let bytes = contents(&format!("{round} again"));
        write(&one, "again", &bytes).await;
        hit(&two, "again", &bytes).await;
    }
    assert!(report(&one).connections >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_costs_a_moment_and_not_one_for_each_read() {
    const READS: u64 = 200;
    let Some((mut server, _, hub)) = own("").await else { return };
    let bytes = contents("hanging");
    write(&hub, "f", &bytes).await;
    hit(&hub, "f", &bytes).await;
    server.tell("pause");
    let before = report(&hub).misses;
    for _ in 0..READS {
        assert_eq!(read(&hub, "f").await, bytes);
        hub.log_step(&writes(), step("s")).await.unwrap();
    }
    // Those that have asked Redis have waited for it.
    let waited = report(&hub).misses - before;
    assert!((1..=READS / 10).contains(&waited), "{waited}");
    until("to notice", async || {
        read(&hub, "f").await;
        !report(&hub).is_connected
    })
    .await;
    assert!(report(&hub).why.unwrap().contains("does not answer in time"));
    server.tell("resume");
    connected(&hub).await;
    hit(&hub, "f", &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_redis_that_can_be_used_is_named_and_done_without() {
    let Some(locked) = Server::start("requirepass hush") else { return };
    let replica = Server::start("replicaof 127.0.0.1 1\nreplica-serve-stale-data yes").unwrap();
    let limited = Server::start("user default on nopass ~other:* &* +@all").unwrap();
    let (http, silent) = (answering("HTTP/1.1 400 Bad Request\r\n\r\n"), answering(""));
    let nobody =
        format!("redis://127.0.0.1:{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    for (address, said) in [
        (locked.tcp(), "asks for a password"),
        (locked.tcp().replace("//", "//:wrong-hush@"), "password"),
        (replica.tcp(), "is a replica"),
        (limited.tcp(), "ACL SETUSER"),
        (http, "does not answer as Redis does"),
        (silent, "does not answer in time"),
        (nobody.clone(), "does not accept connections"),
        ("unix:///no/such.sock".to_owned(), "does not accept connections"),
        ("redis://no-such-host.invalid".to_owned(), "no-such-host.invalid:6379 cannot be used"),
        (nobody.replace("redis:", "redis+cluster:"), "the cluster of 127.0.0.1"),
        (format!("{}/mymaster", nobody.replace("redis:", "redis+sentinel:")), "the sentinel 127.0.0.1"),
    ] {
        let Some(database) = with(&address).await else { return };
        let hub = open(&database, Limits::default()).await;
        let bytes = contents(&address);
        write(&hub, "f", &bytes).await;
        assert_eq!(read(&hub, "f").await, bytes);
        until(&format!("to find out what is wrong with {address}"), async || report(&hub).why.is_some()).await;
        let why = report(&hub).why.unwrap();
        assert!(why.contains(said) && !why.contains("hush"), "{address}: {why}");
        assert_eq!((report(&hub).is_connected, report(&hub).connections), (false, 0));
        hub.db.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_the_rights_that_the_documentation_lists_is_enough() {
    let documentation = include_str!("../../../../docs/database.md");
    let rule = documentation.lines().find_map(|line| line.strip_prefix("ACL SETUSER ")).unwrap();
    let Some(server) = Server::start(&format!("user default off\nuser {rule}")) else { return };
    let Some(address) = with(&server.tcp().replace("//", "//skep:PASSWORD@")).await else { return };
    let (one, two) = (open(&address, Limits::default()).await, open(&address, Limits::default()).await);
    connected(&one).await;
    connected(&two).await;
    let bytes = contents("allowed");
    write(&one, "f", &bytes).await;
    hit(&two, "f", &bytes).await;
    until("to be asked for its memory", async || report(&one).memory_bytes > 0).await;
    until("to publish", async || report(&one).published > 0).await;
}

/// A server that answers everything with this.
fn answering(text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("redis://{}", listener.local_addr().unwrap());
    // It ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(1..) = stream.read(&mut bytes) {
                    if stream.write_all(text.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_keeps_nothing_more_and_goes_on_waking_hubs() {
    let Some((mut server, address, one)) = own("maxmemory-policy noeviction").await else { return };
    server.tell("config set maxmemory 1");
    let two = open(&address, Limits::default()).await;
    connected(&two).await;
    let (mut follower, bytes) = (follow(&two), contents("full"));
    write(&one, "f", &bytes).await;
    assert_eq!(read(&two, "f").await, bytes);
    see_all(&mut follower, &one).await;
    until("to be asked for its memory", async || report(&one).memory_bytes_max == 1).await;
    assert!(report(&one).memory_bytes > 1 && report(&one).is_connected && report(&one).hits == 0);
    server.tell("config set maxmemory 0");
    hit(&two, "f", &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_refused_beside_sqlite_and_with_an_address_that_cannot_be() {
    let directory = in_memory();
    let open = async |database: &str, redis: &str| {
        let redis = Redis { address: redis, show: shown };
        match Db::open_with(database, Some(redis), Limits::default()).await {
            Err(DbError::Redis(why)) => why,
            other => panic!("{:?}", other.err()),
        }
    };
    let why = open(&sqlite(&directory), "redis://localhost").await;
    assert!(why.contains("set `database` to a PostgreSQL"), "{why}");
    let Some(database) = postgres::new_schema().await else { return };
    let why = open(&database, "redis://u:hush@h/one").await;
    assert!(why.contains("number of a database") && !why.contains("hush"), "{why}");
    let why = open(&database, "rediss://h?sslrootcert=/no/such/file").await;
    assert!(why.contains("/no/such/file cannot be used"), "{why}");
}

// ---- several servers

#[tokio::test(flavor = "multi_thread")]
async fn hubs_follow_the_master_that_the_sentinels_name() {
    let Some(mut master) = Server::start("") else { return };
    let replica = Server::start(&format!("replicaof 127.0.0.1 {}", master.port)).unwrap();
    let sentinels: Vec<_> = (0..3).map(|_| Server::sentinel_of(&master).unwrap()).collect();
    let places: Vec<String> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    // One that is not there is passed by.
    let Some(address) = with(&format!("redis+sentinel://127.0.0.1:1,{}/mymaster", places.join(","))).await else {
        return;
    };
    let (one, two) = (open(&address, Limits::default()).await, open(&address, Limits::default()).await);
    connected(&one).await;
    connected(&two).await;
    let before = contents("before");
    write(&one, "f", &before).await;
    hit(&two, "f", &before).await;
    // The sentinels have to know of each other and of the replica.
    until("the sentinels to agree", async || {
        let mut agree = true;
        for sentinel in &sentinels {
            let known: String =
                ::redis::cmd("INFO").arg("sentinel").query_async(&mut client(&sentinel.tcp()).await).await.unwrap();
            agree &= known.contains("slaves=1,sentinels=3");
        }
        agree
    })
    .await;
    master.tell("kill");
    let during = contents("during");
    write(&one, "f", &during).await;
    assert_eq!(read(&two, "f").await, during);
    let is_master = async || {
        let role: Vec<::redis::Value> =
            ::redis::cmd("ROLE").query_async(&mut client(&replica.tcp()).await).await.unwrap();
        role.first() == Some(&::redis::Value::BulkString(b"master".to_vec()))
    };
    until("a failover", async || is_master().await).await;
    until("to connect again", async || report(&one).is_connected && report(&two).is_connected).await;
    let after = contents("after");
    write(&one, "f", &after).await;
    hit(&two, "f", &after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_used_as_one_redis_and_the_loss_of_a_node_loses_nothing() {
    const FILES: usize = 12;
    let settings = "cluster-enabled yes\ncluster-node-timeout 1000\n";
    let Some(first) = Server::start(settings) else { return };
    let mut nodes = vec![first, Server::start(settings).unwrap(), Server::start(settings).unwrap()];
    make_cluster(&nodes);
    let places: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let Some(address) = with(&format!("redis+cluster://{}", places.join(","))).await else { return };
    let (one, two) = (open(&address, Limits::default()).await, open(&address, Limits::default()).await);
    connected(&one).await;
    connected(&two).await;
    let mut pubsub = ::redis::Client::open(nodes[2].tcp()).unwrap().get_async_pubsub().await.unwrap();
    pubsub.subscribe("task:w:updates").await.unwrap();
    let mut follower = follow(&two);
    // Enough that every node has some.
    for n in 0..FILES {
        let bytes = contents(&n.to_string());
        write(&one, &n.to_string(), &bytes).await;
        hit(&two, &n.to_string(), &bytes).await;
    }
    see_all(&mut follower, &one).await;
    for n in 1..=FILES {
        let message = tokio::time::timeout(PATIENCE, pubsub.on_message().next()).await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        assert_eq!(event["number"], n);
    }
    until("to be asked for its memory", async || report(&one).memory_bytes > 0).await;
    nodes[0].tell("kill");
    for n in 0..FILES {
        let bytes = contents(&format!("{n} again"));
        write(&one, &n.to_string(), &bytes).await;
        assert_eq!(read(&two, &n.to_string()).await, bytes);
    }
    see_all(&mut follower, &one).await;
    nodes[0].tell("start");
    until("all contents to be kept again", async || {
        let mut all = true;
        for n in 0..FILES {
            let before = report(&two).hits;
            assert_eq!(read(&two, &n.to_string()).await, contents(&format!("{n} again")));
            all &= report(&two).hits > before;
        }
        all
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_with_tls_is_believed_if_its_certificate_is_right() {
    let (authority, other) = (tls::Authority::new("authority"), tls::Authority::new("another authority"));
    let of_server = authority.issue(Some("localhost"), "localhost", |_| {});
    let of_hub = authority.issue(None, "hub", |_| {});
    let ca = authority.pem();
    let files = [("server.crt", &*of_server.certificate), ("server.key", &*of_server.key), ("ca.crt", &*ca)];
    // The port without TLS is that of the test's own commands.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = format!(
        "tls-port {port}\ntls-cert-file server.crt\ntls-key-file server.key\ntls-ca-cert-file ca.crt\n\
         tls-auth-clients yes\n"
    );
    let Some(_server) = Server::start_with(&settings, &files) else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let own = format!("sslcert={}&sslkey={}", file("hub.crt", &of_hub.certificate), file("hub.key", &of_hub.key));
    let (ca, other) = (file("ca.crt", &ca), file("other.crt", &other.pem()));
    let at = |host: &str, parameters: String| format!("rediss://{host}:{port}?{parameters}");
    let Some(address) = with(&at("localhost", format!("sslrootcert={ca}&{own}"))).await else { return };
    let hub = open(&address, Limits::default()).await;
    connected(&hub).await;
    let bytes = contents("encrypted");
    write(&hub, "f", &bytes).await;
    hit(&hub, "f", &bytes).await;
    for refused in [
        at("localhost", format!("sslrootcert={other}&{own}")),
        at("127.0.0.1", format!("sslrootcert={ca}&{own}")),
        at("localhost", format!("sslrootcert={ca}")),
        format!("redis://localhost:{port}"),
    ] {
        let Some(address) = with(&refused).await else { return };
        let hub = open(&address, Limits::default()).await;
        until(&format!("to refuse {refused}"), async || report(&hub).why.is_some()).await;
        assert!(!report(&hub).is_connected && report(&hub).connections == 0, "{refused}");
        write(&hub, "f", &bytes).await;
    }
}

// ---- helpers

fn step(message: &str) -> skep_core::step::NewStep {
    skep_core::step::NewStep { level: skep_core::step::Level::Info, message: message.to_owned(), data: None }
}

fn follow(hub: &Hub) -> EventFollower {
    hub.follow(&writes().to_read(), EventFilter::default(), 0)
}

/// Read until all has come that has happened at this hub.
async fn see_all(follower: &mut EventFollower, hub: &Hub) {
    let last = follow(hub).skip_to_end().await.unwrap();
    while follower.number() < last {
        tokio::time::timeout(PATIENCE, follower.next()).await.unwrap().unwrap();
    }
}
