//! `POST /mcp` on the short way, and what comes after it on the same connection.

use serde_json::json;

use crate::wire::{Hub, request, stateless};

/// A request that is answered without looking at anything else, with this id.
fn discover(id: u32) -> String {
    let (message, headers) = stateless(request(id, "server/discover", json!({})), json!({}));
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let body = message.to_string();
    format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn however_a_request_is_cut_its_answer_is_the_same() {
    let hub = Hub::start("");
    let mut connection = hub.connect().await;
    connection.0.get_ref().set_nodelay(true).unwrap();
    let whole = discover(1);
    connection.write(&whole).await.unwrap();
    let expected = connection.answer().await.unwrap().json();
    assert!(expected["result"]["capabilities"]["tools"].is_object(), "{expected}");
    for cut in (1..whole.len()).step_by(7) {
        let (first, second) = whole.split_at(cut);
        connection.write(first).await.unwrap();
        tokio::task::yield_now().await;
        connection.write(second).await.unwrap();
        assert_eq!(connection.answer().await.unwrap().json(), expected, "{cut}");
    }
}

#[tokio::test]
async fn requests_that_are_sent_ahead_are_answered_in_their_order_whatever_they_are() {
    const OTHER: u32 = 7;
    let hub = Hub::start("");
    let mut connection = hub.connect().await;
    let ask =
        |id| if id == OTHER { "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned() } else { discover(id) };
    connection.write(&(0..20).map(ask).collect::<String>()).await.unwrap();
    for id in 0..20 {
        let answer = connection.answer().await.unwrap();
        assert_eq!(answer.status, 200);
        match id {
            OTHER => assert_eq!(answer.json(), json!({ "status": "live" })),
            _ => assert_eq!(answer.json()["id"], id),
        }
    }
}

#[tokio::test]
async fn rules_of_every_request_hold_on_the_short_way() {
    let hub = Hub::start_with("", &[("SKEP_TOKEN", "correct-horse-battery")]);
    let (message, headers) = stateless(request(1, "server/discover", json!({})), json!({}));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let post = async |more: &[(&str, &str)]| hub.post("/mcp", &[&headers, more].concat(), &message).await;
    let token = ("authorization", "Bearer correct-horse-battery");
    let answer = post(&[token, ("x-request-id", "mine-1")]).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (200, "mine-1"));
    assert_eq!((answer.header("cache-control"), answer.header("x-content-type-options")), ("no-store", "nosniff"));
    assert!(httpdate_like(answer.header("date")), "{answer:?}");
    assert_eq!(post(&[]).await.status, 401);
    assert_eq!(post(&[("authorization", "Bearer correct-horse-batterx")]).await.status, 401);
    assert_eq!(post(&[token, ("sec-fetch-site", "cross-site")]).await.status, 403, "a web page");
    assert_eq!(post(&[token, ("host", "evil.example")]).await.status, 400, "two hosts");
    assert_eq!(post(&[token, ("accept", "text/html")]).await.status, 406);
    let counted = hub.get("/metrics", &[token]).await.body;
    let line = r#"skep_http_requests_total{method="POST",route="/mcp",status="200"} 1"#;
    assert!(counted.lines().any(|known| known == line), "{counted}");
}

/// As RFC 9110 (5.6.7) has it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn httpdate_like(text: &str) -> bool {
    text.len() == 29 && text.ends_with(" GMT") && text.as_bytes()[3] == b','
}
