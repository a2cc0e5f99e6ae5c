//! What this machine can do.
//!
//! Finds out by running a real sandbox: a sysctl that looks right proves nothing where a security module or a
//! container's filter refuses all the same.

use tokio_util::sync::CancellationToken;

use crate::{
    advice::{Weaker, advice},
    outcome::End,
    request::{Request, Run},
    sandbox::Sandbox,
    tier::{Protection, Tier},
};

/// What this machine can do, found out by running a real sandbox.
#[derive(Clone, Debug)]
pub struct Report {
    /// The strongest tier that works; `None` if none does.
    pub tier: Option<Tier>,
    /// What cannot be enforced.
    pub missing: Vec<Protection>,
    /// What is wrong and the exact cure, for people.
    pub advice: Vec<String>,
}

impl Sandbox {
    /// Find out what this machine can do, by running a real sandbox.
    pub async fn probe(&self) -> Report {
        let mut request = Request::new(Run::Argv(vec!["true".into()]));
        request.min_tier = Tier::WEAKEST;
        let nothing = |advice| Report { tier: None, missing: Vec::new(), advice: vec![advice] };
        match self.run(request, CancellationToken::new()).await {
            Ok(outcome) if outcome.end == End::Exit(0) => {
                let weaker = self.weaker().await.map(|Weaker { reason, cure }| format!("{reason}: {cure}"));
                let advice =
                    weaker.into_iter().chain(outcome.missing.iter().map(|missing| advice(*missing, outcome.tier)));
                let advice = advice.collect();
                Report { tier: Some(outcome.tier), missing: outcome.missing, advice }
            }
            Ok(outcome) => nothing(format!("`true` does not run inside: it ended with {:?}", outcome.end)),
            Err(error) => nothing(match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            }),
        }
    }
}
