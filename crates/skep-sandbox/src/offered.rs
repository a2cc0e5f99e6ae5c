//! Sandboxes that are ready and that the server has already, with everything of its own that a request needs.
//!
//! A request is handed straight to one: nothing is made for it, and the zygote, on the way through which it would wait
//! for one more process to be woken, hears of it afterwards. How many there are is the zygote's to decide (`pool.rs`).

use std::{
    collections::VecDeque,
    fmt,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::io::unix::AsyncFd;

use crate::{
    channel,
    order::Sockets,
    supervise::{Ends, Supervised},
    wire::{Asked, Call, Message as _, Offer},
};

/// Offers that are kept. There are fewer unless sandboxes die before they are used, of which nobody tells the server.
const OFFERS_MAX: usize = 8;

/// One of them.
pub(crate) struct Offered {
    number: u32,
    sockets: Sockets,
    supervised: Supervised,
    ends: Ends,
}

/// A request that was handed over, of which the zygote has not heard.
pub(crate) struct Taken {
    number: u32,
    report: OwnedFd,
}

impl Offered {
    /// `None`: this is no offer, or descriptors are scarce.
    fn new(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Offered> {
        let Offer(number) = Offer::parse(bytes).ok()?;
        let mut fds = fds.into_iter();
        let (sockets, pidfd) = (Sockets { keeper: fds.next()?, command: fds.next()? }, fds.next()?);
        let (supervised, ends) = Supervised::ready(pidfd).ok()?;
        Some(Offered { number, sockets, supervised, ends })
    }

    /// Hands it a request. `None`: it has died, and nothing was run.
    pub(crate) fn hand_over(self, job: &[u8], call: &Call, stdin: Option<&OwnedFd>) -> Option<(Supervised, Taken)> {
        let Offered { number, sockets, supervised, ends } = self;
        let mut fds = vec![ends.report.as_fd(), ends.stdout.as_fd(), ends.stderr.as_fd()];
        fds.extend(stdin.map(OwnedFd::as_fd));
        sockets.hand_over(job, &fds, call).ok()?;
        Some((supervised, Taken { number, report: ends.report }))
    }
}

impl Taken {
    /// Tells the zygote. An error means that it has died, and the sandbox with it.
    pub(crate) async fn tell(self, control: &AsyncFd<OwnedFd>) -> std::io::Result<()> {
        channel::send(control, &Asked::Taken(self.number).bytes(), &[self.report.as_fd()]).await
    }
}

/// Those that the server has, the oldest first.
#[derive(Clone, Default)]
pub(crate) struct Offers(Arc<Mutex<VecDeque<Offered>>>);

impl fmt::Debug for Offers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offers").finish_non_exhaustive()
    }
}

impl Offers {
    pub(crate) fn take(&self) -> Option<Offered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Takes in what is offered on `control`, until its other side is closed.
    pub(crate) async fn hear(self, control: Arc<AsyncFd<OwnedFd>>) {
        while let Ok(Some((bytes, fds))) = channel::receive(&control).await {
            let Some(offered) = Offered::new(&bytes, fds) else { continue };
            let mut offers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            offers.push_back(offered);
            if offers.len() > OFFERS_MAX {
                offers.pop_front();
            }
        }
    }
}
