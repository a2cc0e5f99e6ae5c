//! Where a call is run: here, or at a hub and here only if no hub answers.
//!
//! Agents and the command line make their calls through an [`Executor`] and need not know which it is. It tells with
//! every answer where the call ran and why there. A hub has a workspace and outputs of its own: what it reads and
//! writes is not here.

use std::{fmt, sync::Arc};

use serde_json::Map;
use skep_tools::{
    error::ToolError,
    tool::{Annotations, Answer, Call},
    workspace::Context,
};

use crate::{
    hub::{calls::Calls, catalogue::Catalogue},
    remote::{self, Answered, HubError, Hubs, PassedOver, Why},
};

/// Makes calls.
#[derive(Clone)]
pub enum Executor {
    /// In this process.
    Local(Arc<Calls>),
    /// At hubs.
    Hubs {
        /// The hubs.
        hubs: Arc<Hubs>,
        /// What is used when none of them answers, or none knows the tool.
        fallback: Arc<Calls>,
    },
}

/// Where a call ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this process.
    Here {
        /// The hubs that should have run it.
        instead_of: Vec<PassedOver>,
    },
    /// At a hub.
    Hub {
        /// Its address.
        hub: String,
        /// The hubs that were not used before.
        passed_over: Vec<PassedOver>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, others) = match self {
            Place::Here { instead_of } => ("here", instead_of),
            Place::Hub { hub, passed_over } => (hub.as_str(), passed_over),
        };
        match others.as_slice() {
            [] => f.write_str(place),
            others => write!(f, "{place}, because {}", remote::list(others)),
        }
    }
}

impl Place {
    /// `local`, or the address of the hub.
    pub fn name(&self) -> &str {
        match self {
            Place::Here { .. } => "local",
            Place::Hub { hub, .. } => hub,
        }
    }

    /// What people should know of: that a hub did not do what it was asked for.
    pub fn note(&self) -> Option<String> {
        let (Place::Here { instead_of: others } | Place::Hub { passed_over: others, .. }) = self;
        (!others.is_empty()).then(|| format!("runs {self}"))
    }
}

impl Executor {
    /// The tools that can be called here.
    pub fn catalogue(&self) -> &Catalogue {
        match self {
            Executor::Local(calls) | Executor::Hubs { fallback: calls, .. } => &calls.catalogue,
        }
    }

    /// Make a call.
    pub async fn call(&self, call: Call, context: Context) -> (Result<Answer, ToolError>, Place) {
        match self {
            Executor::Local(calls) => (calls.values(context, call).await, Place::Here { instead_of: Vec::new() }),
            Executor::Hubs { hubs, fallback } => remote(hubs, fallback, call, context).await,
        }
    }
}

async fn remote(hubs: &Hubs, fallback: &Calls, mut call: Call, context: Context) -> (Result<Answer, ToolError>, Place) {
    let known = fallback.catalogue.get(&call.tool).ok();
    call.deadline = call.deadline.or(known.map(|tool| tool.deadline));
    let annotations = known.map_or(Annotations::default(), |tool| tool.annotations);
    let Some(result) = context.cancel.run_until_cancelled(hubs.call(&call, annotations)).await else {
        return (Err(ToolError::Cancelled), Place::Here { instead_of: Vec::new() });
    };
    let instead_of = match result {
        Ok(Answered { result, hub, mut passed_over }) => match result {
            Err(ToolError::Unknown { .. }) if known.is_some() => {
                passed_over.push(PassedOver { hub, why: Why::NoSuchTool });
                passed_over
            }
            result => return (result, Place::Hub { hub, passed_over }),
        },
        Err(HubError::NoneAnswers { passed_over }) => passed_over,
        Err(error @ HubError::MayHaveRun { .. }) => return unsettled(error),
    };
    (fallback.values(context, call).await, Place::Here { instead_of })
}

/// Nobody knows whether it ran; the answer says so, and leaves it to the caller to look.
fn unsettled(error: HubError) -> (Result<Answer, ToolError>, Place) {
    let message = error.to_string();
    let (hub, passed_over) = match error {
        HubError::MayHaveRun { hub, passed_over, .. } => (hub, passed_over),
        HubError::NoneAnswers { passed_over } => (String::new(), passed_over),
    };
    let detail = Map::from_iter([("may_have_run".to_owned(), true.into())]);
    (Err(ToolError::Failed { message, detail }), Place::Hub { hub, passed_over })
}
