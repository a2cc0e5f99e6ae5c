//! `/servers`: the MCP servers behind this hub, to look at, add, change and take out while it runs.
//!
//! Whoever may name a command may run it here, outside of any sandbox. So changing the servers needs the hub's own token,
//! which is the operator's; callers with tokens of their own may not, and on a hub without a token it is not to be had.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post},
};
use skep_core::policy::{Operate, Permit, Read};
use skep_mcp::server::{LOCAL, http::Fields};

use super::{
    http::{Caller, Shared, name},
    problem::{Kind, Problem, json_response},
};
use crate::{
    api,
    config::servers,
    hub::upstreams::{Restarts, State as ServerState, Status, Upstream, UpstreamError},
};

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/servers", get(list))
        .route("/servers/{name}", get(show).put(put).delete(delete))
        .route("/servers/{name}/restart", post(restart))
}

async fn list(State(hub): State<Arc<Shared>>, caller: Caller) -> Result<Response, Problem> {
    caller.permit::<Read>()?;
    let servers = hub.calls.catalogue.upstreams().servers();
    let servers = servers.iter().map(|server| shown_to(&caller, server)).collect();
    Ok(json_response(StatusCode::OK, &api::Servers { servers }))
}

async fn show(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    caller.permit::<Read>()?;
    let name = name(path)?;
    let servers = hub.calls.catalogue.upstreams().servers();
    let found = servers.iter().find(|server| server.name == name).ok_or_else(|| unknown(&name))?;
    Ok(json_response(StatusCode::OK, &shown_to(&caller, found)))
}

/// What a caller may see of a server. Its processes may be other principals', and what they print (which errors quote) may
/// hold what those have told them, so that is the operator's alone.
fn shown_to(caller: &Caller, server: &Status) -> api::Server {
    match caller.permit() {
        Ok(permit) => server.shown_to_operator(&permit),
        Err(_) => server.shown(),
    }
}

/// Add a server or change the one of this name. The body is its entry, as in a file: `{"command": …}`.
async fn put(
    State(hub): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let name = name(path)?;
    may_change(&hub, &headers)?;
    let entry = hub.bodies.read(LOCAL, &headers, body).await?.into_arguments()?.parse()?;
    let config = servers::read_one(&name, entry, |name| std::env::var(name).ok())
        .map_err(|faults| Problem::new(Kind::InvalidServer, faults.join("; ")))?;
    let mut configs = configs(&hub);
    let is_new = configs.insert(name, config).is_none();
    set(&hub, configs).await?;
    let code = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_response(code, &api::DONE))
}

async fn delete(
    State(hub): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = name(path)?;
    may_change(&hub, &headers)?;
    let mut configs = configs(&hub);
    configs.remove(&name).ok_or_else(|| unknown(&name))?;
    set(&hub, configs).await?;
    Ok(json_response(StatusCode::OK, &api::DONE))
}

/// End a server when its calls have ended; the next call starts it anew, also one that is left alone for its failures. Who has
/// a token of its own may end what is its own, and nothing that others call.
async fn restart(
    State(hub): State<Arc<Shared>>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let restarts = match caller.permit() {
        Ok(permit) => Restarts::All(permit),
        Err(_) => Restarts::Own(caller.permit()?),
    };
    let name = name(path)?;
    match hub.calls.catalogue.upstreams().restart(&name, &restarts).await {
        Ok(()) => Ok(json_response(StatusCode::OK, &api::DONE)),
        Err(UpstreamError::Unknown { .. }) => Err(unknown(&name)),
        Err(error @ UpstreamError::Shared { .. }) => Err(Problem::new(Kind::NotTheOperator, error.to_string())),
        Err(error) => Err(Problem::busy(Kind::Busy, error.to_string())),
    }
}

fn configs(hub: &Shared) -> BTreeMap<String, Upstream> {
    let configs = hub.calls.catalogue.upstreams().configs();
    configs.into_iter().map(|config| (config.name.clone(), config)).collect()
}

async fn set(hub: &Shared, configs: BTreeMap<String, Upstream>) -> Result<(), Problem> {
    let set = hub.mcp.set(configs.into_values().collect()).await;
    set.map_err(|error| Problem::new(Kind::OneServer, error.to_string()))
}

fn may_change(hub: &Shared, headers: &HeaderMap) -> Result<(), Problem> {
    if hub.guard.admits().wants_token() {
        if hub.guard.check_token(&Fields::from(headers))?.actor.permit::<Operate>().is_ok() {
            return Ok(());
        }
        let message = "a server is a command that is run here, so only who knows the hub's own token (SKEP_TOKEN) may add \
                       and change servers";
        return Err(Problem::new(Kind::NotTheOperator, message));
    }
    let message = "a server is a command that is run here, so adding and changing servers needs a token: set SKEP_TOKEN, \
                   or write them into the file that --mcp-config names";
    Err(Problem::new(Kind::TokenNeeded, message))
}

fn unknown(name: &str) -> Problem {
    let message =
        format!("there is no MCP server {:?}; GET /servers lists them", skep_tools::schema::shorten(name, 100));
    Problem::new(Kind::UnknownServer, message)
}

/// What people and programs see of a server.
impl Status {
    /// As `GET /servers` shows it to the operator.
    pub fn shown_to_operator(&self, _: &Permit<Operate>) -> api::Server {
        let (pids, stderr) = (Some(self.pids.clone()), self.stderr.clone());
        api::Server { pids, stderr, last_error: self.last_error.clone(), ..self.shown() }
    }

    /// As `GET /servers` shows it to other callers.
    fn shown(&self) -> api::Server {
        api::Server {
            name: self.name.clone(),
            state: self.state.name(),
            retry_after_s: self.state.wait().map(|wait| wait.as_secs_f64().ceil()),
            pids: None,
            calls_running: self.in_flight,
            calls_waiting: self.waiting,
            starts: self.starts,
            revision: self.info.as_ref().map(|info| info.revision.as_str()),
            server: self.info.as_ref().map(|info| info.server.clone().unwrap_or_default()),
            last_error: self.last_error.clone().filter(|_| self.state == ServerState::Disabled),
            stderr: Vec::new(),
        }
    }
}
