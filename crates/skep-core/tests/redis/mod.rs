//! Redis servers, sentinels and clusters for tests. Each lives exactly as long as the pipe to its script.

use std::{net::TcpListener, process::Command, sync::LazyLock};

use super::private::{Files, Script, left_out};

/// A server of a test's own, or a sentinel.
pub(crate) struct Redis {
    script: Script,
    /// Where its socket is.
    pub(crate) directory: String,
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
}

/// The address of the one that all tests of this process use. `None` as in [`super::postgres::new_schema`].
pub(crate) fn shared() -> Option<&'static str> {
    static SHARED: LazyLock<Option<(Redis, String)>> = LazyLock::new(|| {
        let redis = Redis::start("")?;
        let address = redis.socket();
        Some((redis, address))
    });
    SHARED.as_ref().map(|(_, address)| &**address)
}

impl Redis {
    /// Start one with these settings: lines of `redis.conf`.
    pub(crate) fn start(settings: &str) -> Option<Redis> {
        Redis::start_with(settings, &[])
    }

    /// The same with files in its directory.
    pub(crate) fn start_with(settings: &str, files: Files<'_>) -> Option<Redis> {
        let settings = format!("unixsocket redis.sock\nsave \"\"\nappendonly no\n{settings}\n");
        Redis::run(&settings, files, |_| ("-s redis.sock".to_owned(), ""))
    }

    /// Start a sentinel for a master that is called `mymaster`, and which two sentinels may take for dead.
    pub(crate) fn sentinel_of(master: &Redis) -> Option<Redis> {
        let settings = format!(
            "sentinel monitor mymaster 127.0.0.1 {} 2\nsentinel down-after-milliseconds mymaster 1000\n\
             sentinel failover-timeout mymaster 5000\n",
            master.port
        );
        Redis::run(&settings, &[], |port| (format!("-p {port}"), "--sentinel"))
    }

    fn run(settings: &str, files: Files<'_>, reached: impl Fn(u16) -> (String, &'static str)) -> Option<Redis> {
        // Between choosing a port and its use, somebody else may take it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let settings = format!("port {port}\nbind 127.0.0.1\n{settings}");
            let files = [files, &[("redis.conf", &*settings)]].concat();
            let (reached, mode) = reached(port);
            let environment = [("REACHED", &*reached), ("MODE", mode)];
            match Script::start(include_str!("server.sh"), &files, &environment) {
                Some((script, directory)) => return Some(Redis { script, directory, port }),
                None if !is_installed() => break,
                None => {}
            }
        }
        left_out("Redis", "redis-server and redis-cli")
    }

    /// The address of its port.
    pub(crate) fn tcp(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The address of its socket.
    pub(crate) fn socket(&self) -> String {
        format!("unix://{}/redis.sock", self.directory)
    }

    /// Have the script do something, and wait until it is done: `kill`, `start`, `pause`, `resume`, or a command for
    /// `redis-cli`.
    pub(crate) fn tell(&mut self, what: &str) {
        self.script.tell(what);
    }
}

/// Make a cluster of servers that were started with `cluster-enabled yes`.
pub(crate) fn make_cluster(nodes: &[Redis]) {
    let places = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
    let made = Command::new("redis-cli").args(["--cluster", "create"]).args(places).arg("--cluster-yes").output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
}

fn is_installed() -> bool {
    Command::new("redis-server").arg("--version").output().is_ok_and(|output| output.status.success())
}
