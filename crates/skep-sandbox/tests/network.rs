//! A request reaches the hosts that it was granted, through the proxy, and nothing else.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::{IpAddr, Ipv4Addr};

use common::{again_as_ordinary_user, config, run, text};
use skep_sandbox::{Config, End, Error, Gate, Net, Outcome, Request, Run, Sandbox};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

#[test]
fn all_of_this_holds_for_an_ordinary_user() {
    again_as_ordinary_user();
}

/// A service of this machine that answers with the first line of what it is asked.
async fn service() -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            while !bytes.windows(4).any(|end| end == b"\r\n\r\n") && client.read_buf(&mut bytes).await.unwrap() > 0 {}
            let line = text(&bytes).lines().next().unwrap().to_owned();
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{line}", line.len());
            client.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, tasks)
}

/// This machine may be reached, the rest of the world not.
fn only_here() -> Option<Gate> {
    Some(Gate::new(|destination| match destination.address {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ok(()),
        address => Err(format!("{address} is not here")),
    }))
}

async fn python(code: &str, hosts: &[&str]) -> Outcome {
    let sandbox = Sandbox::start(Config { gate: only_here(), ..config() }).await.unwrap();
    let mut request = Request::new(Run::Python(code.into()));
    request.net = Net::Allow(hosts.iter().map(|host| (*host).to_owned()).collect());
    run(&sandbox, request).await
}

#[tokio::test]
async fn a_granted_host_is_reached_by_programs_that_know_nothing_of_it() {
    let (port, _service) = service().await;
    let here = format!("localhost:{port}");
    // The dot keeps it from being taken for the sandbox's own loopback.
    let code = format!("import urllib.request as r; print(r.urlopen('http://localhost.:{port}/a?b').read())");
    let outcome = python(&code, &[&here]).await;
    assert_eq!(text(&outcome.stdout), "b'GET /a?b HTTP/1.1'\n", "{}", text(&outcome.stderr));
    let [connection] = &outcome.connections[..] else { panic!("{outcome:?}") };
    assert_eq!((connection.host.as_str(), connection.port), ("localhost", port));
    assert_eq!(connection.connected, Ok(Ipv4Addr::LOCALHOST.into()));

    let code = format!(
        "import http.client as h; c = h.HTTPConnection('127.0.0.1', 3128); c.set_tunnel('localhost', {port})
c.request('GET', '/tunnel'); print(c.getresponse().read())"
    );
    let outcome = python(&code, &[&here]).await;
    assert_eq!(text(&outcome.stdout), "b'GET /tunnel HTTP/1.1'\n", "{}", text(&outcome.stderr));
}

#[tokio::test]
async fn what_was_not_granted_or_is_forbidden_is_refused_and_told() {
    let (port, _service) = service().await;
    let ask = |target: &str| {
        format!(
        "import socket; s = socket.create_connection(('127.0.0.1', 3128)); s.sendall(b'CONNECT {target} HTTP/1.1\\r\\n\\r\\n')
answer = b''.join(iter(lambda: s.recv(9999), b'')).decode(); print(answer.split('\\r\\n')[0], answer.split('\\n')[-2])"
    )
    };
    let granted = [&*format!("localhost:{port}"), "192.0.2.1:80", "no-such-name.invalid:80"];
    for (target, why) in [
        (format!("localhost:{}", port.wrapping_add(1)), "was not granted"),
        (format!("127.0.0.1:{port}"), "was not granted"),
        ("192.0.2.1:80".to_owned(), "is not here"),
        ("no-such-name.invalid:80".to_owned(), "cannot be resolved"),
    ] {
        let outcome = python(&ask(&target), &granted).await;
        let said = text(&outcome.stdout);
        assert!(said.starts_with("HTTP/1.1 403") && said.contains(why), "{target}: {said} {}", text(&outcome.stderr));
        assert!(outcome.connections[0].connected.as_ref().unwrap_err().contains(why), "{outcome:?}");
    }
    let outcome = python(&ask("nonsense"), &granted).await;
    assert!(text(&outcome.stdout).starts_with("HTTP/1.1 400"), "{outcome:?}");
    // Past the proxy there is nothing.
    let direct = format!(
        "import socket
for to in [('127.0.0.1', {port}), ('192.0.2.1', 80), ('1.1.1.1', 53)]:
    try: socket.create_connection(to, 1); print('reached', to)
    except OSError: pass"
    );
    let outcome = python(&direct, &granted).await;
    assert_eq!((outcome.end, text(&outcome.stdout)), (End::Exit(0), ""), "{}", text(&outcome.stderr));
}

#[tokio::test]
async fn nothing_is_granted_without_a_rule_or_to_what_is_no_host() {
    let mut request = Request::new(Run::Shell("true".into()));
    request.net = Net::Allow(vec!["localhost:1".into()]);
    let closed = Sandbox::start(config()).await.unwrap();
    assert!(matches!(closed.run(request.clone(), Default::default()).await, Err(Error::Invalid(_))));
    let open = Sandbox::start(Config { gate: only_here(), ..config() }).await.unwrap();
    for bad in ["localhost", "a:0", "http://a:80", "a b:80", "*:80"] {
        request.net = Net::Allow(vec![bad.into()]);
        assert!(matches!(open.run(request.clone(), Default::default()).await, Err(Error::Invalid(_))), "{bad}");
    }
}
