//! What tools and the hub's other interfaces have in common that work on what agents share: files ([`files`]), claims
//! ([`claims`]), steps, messages, memory.

pub mod claims;
mod conflict;
pub mod files;

use serde_json::Map;
use skep_core::{
    Timestamp,
    app::App,
    db::DbError,
    limits::Invalid,
    policy::{Permit, Right},
};

pub use crate::time::rfc3339 as time;
use crate::{
    error::{Fault, ToolError},
    workspace::Context,
};

/// The store, where this process has one.
#[derive(Clone, Default)]
pub struct Shared(pub Option<App>);

impl Shared {
    /// The store's operations, and the caller's right in a workspace, or else in its team's own namespace. With `agent`,
    /// it is one of the caller's agents that acts.
    pub fn open<R: Right>(
        &self,
        context: &Context,
        workspace: Option<&str>,
        agent: Option<&str>,
    ) -> Result<(&App, Permit<R>), ToolError> {
        let permit: Permit<R> =
            context.permit.actor().permit().map_err(|denied| ToolError::Denied(denied.to_string()))?;
        let permit = permit.within(workspace, agent).map_err(refused)?;
        let app = self.0.as_ref().ok_or_else(|| ToolError::Unavailable {
            message: "there is no store here to share anything in".into(),
            cure: "call the tool on a hub (`skep serve`)".into(),
        })?;
        Ok((app, permit))
    }
}

/// What the store refuses in any state, as a fault of the arguments.
pub fn refused(invalid: Invalid) -> ToolError {
    ToolError::InvalidArguments(vec![Fault { pointer: String::new(), message: invalid.to_string() }])
}

/// What the store cannot do now.
pub fn store_failed(error: DbError) -> ToolError {
    let message = error.to_string();
    match error {
        error if error.may_pass() => ToolError::Busy(message),
        // It may have been done, so the call is not simply made again.
        DbError::Unsure(_) => {
            ToolError::Failed { message, detail: Map::from_iter([("may_have_run".to_owned(), true.into())]) }
        }
        _ => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the store failed");
            ToolError::Internal(message)
        }
    }
}

/// A time that the caller gave.
pub fn moment(name: &str, text: Option<String>) -> Result<Option<Timestamp>, ToolError> {
    let Some(text) = text else { return Ok(None) };
    let at: jiff::Timestamp =
        text.parse().map_err(|_| ToolError::argument(name, "must be a time like 2026-05-01T12:30:00Z"))?;
    Ok(Some(Timestamp(at.as_microsecond())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_come_back_is_told_so_and_whoever_cannot_know_is_told_that() {
        let cause = || std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let refused = DbError::Refused { server: "db".into(), source: cause() };
        let standby = DbError::Unsuitable("db is a standby".into());
        for error in [DbError::Unreachable(cause()), standby, refused, DbError::Full(cause()), DbError::Closed] {
            let told = store_failed(error);
            assert!(matches!(told, ToolError::Busy(_)), "{told:?}");
        }
        assert_eq!(store_failed(DbError::Unsure(cause())).to_json()["may_have_run"], true);
        assert_eq!(store_failed(DbError::Corrupt(cause())).code(), "internal");
    }
}
