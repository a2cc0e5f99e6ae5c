//! Callers from elsewhere, with a certificate that was made for the test.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer},
};

use crate::{
    support::User,
    wire::{Hub, initialize, request, within},
};

const TOKEN: &str = "correct-horse-battery";

/// A certificate and its key, in PEM form.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn hub(certificate: &str, key: &str) -> Hub {
    hub_with(certificate, key, "")
}

fn hub_with(certificate: &str, key: &str, more: &str) -> Hub {
    let user = User::new();
    user.file("cert.pem", certificate);
    user.file("key.pem", key);
    let settings = format!("[serve]\ntls_cert = 'cert.pem'\ntls_key = 'key.pem'\n{more}");
    Hub::of(user, &settings, &[("SKEP_TOKEN", TOKEN)])
}

#[tokio::test]
async fn http_is_spoken_over_tls_with_those_who_trust_the_certificate() {
    let (certificate, key) = certificate();
    let hub = hub(&certificate, &key);
    let url = format!("https://localhost:{}/mcp", hub.http.port());
    let root = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let post = |client: &reqwest::Client| {
        client.post(&url).bearer_auth(TOKEN).body(initialize("2025-11-25").to_string()).send()
    };
    let answer = post(&client).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.unwrap()["result"]["protocolVersion"], "2025-11-25");
    let suspicious = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(post(&suspicious).await.is_err(), "nobody vouches for it");
    assert!(reqwest::get(format!("http://localhost:{}/health/live", hub.http.port())).await.is_err());
    assert_eq!(post(&client).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_greeting_is_not_waited_for_without_end() {
    let (certificate, key) = certificate();
    let hub = hub_with(&certificate, &key, "head_time_max = '300ms'\n");
    let (mut silent, mut silent_lines) = (hub.connect().await, hub.lines().await);
    assert!(silent.answer().await.is_none());
    assert_eq!(silent_lines.next().await, None);
}

#[tokio::test]
async fn a_caller_that_speaks_another_protocol_within_tls_than_the_listener_is_not_greeted() {
    let (certificate, key) = certificate();
    let hub = hub(&certificate, &key);
    let greet = async |protocol: &[u8]| {
        let mut config = trusting(&certificate);
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(hub.http).await.unwrap();
        within(TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream)).await
    };
    let refused = greet(b"h2").await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
    greet(b"http/1.1").await.unwrap();
}

/// What a client needs that trusts this certificate and no other.
fn trusting(certificate: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let pem = tokio_rustls::rustls::pki_types::pem::PemObject::from_pem_slice(certificate.as_bytes());
    roots.add(pem.map(|found: CertificateDer<'static>| found).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth()
}

#[tokio::test]
async fn lines_are_spoken_over_tls_too() {
    let (certificate, key) = certificate();
    let hub = hub(&certificate, &key);
    let connector = TlsConnector::from(Arc::new(trusting(&certificate)));
    let stream = TcpStream::connect(hub.tcp).await.unwrap();
    let mut lines = BufReader::new(connector.connect("localhost".try_into().unwrap(), stream).await.unwrap());
    for message in [request(1, "authenticate", json!({ "token": TOKEN })), request(2, "ping", json!({}))] {
        lines.write_all(format!("{message}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(lines.read_line(&mut answer)).await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((&answer["id"], &answer["result"]["status"]), (&message["id"], &json!("ok")));
    }
    lines.shutdown().await.unwrap();
    assert_eq!(within(lines.read_to_end(&mut Vec::new())).await.unwrap(), 0, "it ends in good order");
    let mut plain = hub.lines().await;
    plain.write(&format!("{}\n", request(1, "ping", json!({})))).await.unwrap();
    let mut said = Vec::new();
    let _ = within(plain.0.read_to_end(&mut said)).await; // an alert, and the end
    assert!(!said.starts_with(b"{"), "nothing is said in the clear");
}

#[tokio::test]
async fn a_certificate_is_exchanged_while_the_hub_runs_and_one_that_cannot_be_used_changes_nothing() {
    let ((old, old_key), (new, new_key)) = (certificate(), certificate());
    let user = User::new();
    user.file("cert.pem", &old);
    user.file("key.pem", &old_key);
    let settings = "[serve]\ntls_cert = 'cert.pem'\ntls_key = 'key.pem'\n";
    let mut hub = Hub::of(user, settings, &[]);
    let url = format!("https://localhost:{}/health/live", hub.http.port());
    let trusting = |certificate: &str| {
        let root = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap()
    };
    let live = async |client: &reqwest::Client| client.get(&url).send().await?.text().await;
    let open = trusting(&old);
    live(&open).await.unwrap();

    hub.user.file("cert.pem", &new);
    hub.served.says("the certificate and its key stay as they were: the key in key.pem does not belong");
    live(&trusting(&old)).await.unwrap();
    hub.user.file("key.pem", &new_key);
    hub.served.says("the certificate and its key were read again");
    live(&trusting(&new)).await.unwrap();
    assert!(live(&trusting(&old)).await.is_err(), "who comes now sees the new one");
    live(&open).await.expect("who was there goes on");
}

#[test]
fn a_certificate_that_cannot_be_used_is_explained() {
    let user = User::new();
    let ((ours, _), (_, others)) = (certificate(), certificate());
    user.file("cert.pem", &ours);
    user.file("others.pem", &others);
    user.file("empty.pem", "");
    for (settings, expected) in [
        ("tls_cert = 'cert.pem'", "serve.tls_cert needs serve.tls_key"),
        ("tls_key = 'others.pem'", "serve.tls_key needs serve.tls_cert"),
        ("tls_cert = 'none.pem'\ntls_key = 'others.pem'", "none.pem cannot be used as serve.tls_cert"),
        ("tls_cert = 'empty.pem'\ntls_key = 'others.pem'", "there is none in it; one begins with `-----BEGIN`"),
        ("tls_cert = 'cert.pem'\ntls_key = 'cert.pem'", "cert.pem cannot be used as serve.tls_key"),
        (
            "tls_cert = 'cert.pem'\ntls_key = 'others.pem'",
            "the key in others.pem does not belong to the first certificate",
        ),
    ] {
        user.file("settings.toml", &format!("[serve]\n{settings}\n"));
        let said = user.skep(&["serve", "--config", "settings.toml", "--bind", "127.0.0.1:0", "--tcp", "127.0.0.1:0"]);
        assert!(said.code() != 0 && said.stderr().contains(expected), "{settings}: {}", said.stderr());
    }
}
