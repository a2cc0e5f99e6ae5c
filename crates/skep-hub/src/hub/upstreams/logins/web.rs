//! Authorization servers as they may be reached: the server that names one is a stranger, so by the rules for strangers' addresses,
//! unless the operator's server is itself on this machine or in a private network; then so may be its authorization server.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use reqwest::Url;
use skep_mcp::client::auth::{Answer, Request, Web};
use skep_tools::net;

#[derive(Debug)]
pub(super) struct Guarded(net::Client);

impl Guarded {
    pub(super) async fn new(settings: &net::Settings, server: &Url) -> Guarded {
        let client = net::Client::new(settings);
        Guarded(if net::is_inside(server).await { client.inside() } else { client })
    }
}

impl Web for Guarded {
    fn send(&self, request: Request, bytes_max: usize, time_max: Duration) -> BoxFuture<'_, Result<Answer, String>> {
        Box::pin(async move {
            let Request { method, url, headers, body } = request;
            let (body_max, deadline) = (bytes_max, Instant::now() + time_max);
            let request = net::Request { method, url, headers, body, body_max, follow: false, deadline };
            let answer = self.0.send(request).await.map_err(|error| error.to_string())?;
            if answer.truncated {
                return Err(format!("the answer is longer than {bytes_max} bytes"));
            }
            Ok(Answer { status: answer.status, headers: answer.headers, body: answer.body })
        })
    }
}

#[cfg(test)]
mod tests {
    use reqwest::{Method, header::HeaderMap};

    use super::*;

    #[tokio::test]
    async fn only_a_server_inside_may_name_an_authorization_server_inside() {
        let (server, limit) = (tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), Duration::from_secs(5));
        let inner: Url = format!("http://{}/", server.local_addr().unwrap()).parse().unwrap();
        let asked = async |named_by: &Url| {
            let web = Guarded::new(&net::Settings::default(), named_by).await;
            let (url, headers) = (inner.clone(), HeaderMap::new());
            web.send(Request { method: Method::GET, url, headers, body: Vec::new() }, 1, limit).await.err().unwrap()
        };
        let refused = asked(&"https://1.1.1.1/mcp".parse().unwrap()).await;
        assert!(refused.contains("an address of this machine"), "{refused}");
        let (reached, _) = tokio::join!(asked(&inner), async { drop(server.accept().await.unwrap()) });
        assert!(reached.contains("gave no valid answer"), "{reached}");
    }
}
