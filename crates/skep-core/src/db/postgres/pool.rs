//! A pool of connections that works with fewer than it is set up for, if the server has no room for more.
//!
//! A server has a limit of connections for all its users, and a role may have a smaller one of its own. A pool that has
//! some connections waits until one of those is free, instead of telling callers that the server is full.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use deadpool::managed::{self, TimeoutType};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::timeout,
};

use super::connect::{Connection, Connector, PoolError};
use crate::db::{DbError, Doing};

/// How long to wait for one of our connections to be free.
const POOL_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a pool stays small after the server had no room for more.
const SMALL_TIME: Duration = Duration::from_secs(60);
/// The error of a server that has no room for more connections.
pub(super) const NO_ROOM: &str = "the database server has no room for more";

pub(super) struct Pool {
    connections: managed::Pool<Connector>,
    /// One for each connection that may be in use.
    places: Arc<Semaphore>,
    small: Mutex<Small>,
}

/// How far a pool was made smaller.
struct Small {
    places: usize,
    places_missing: usize,
    since: Instant,
}

/// A connection for exclusive use, until it is dropped and so returned.
pub(in crate::db) struct Object {
    connection: managed::Object<Connector>,
    _place: OwnedSemaphorePermit, // after the connection, which must be back when somebody else may have it
}

impl Object {
    /// Close it instead of returning it.
    pub(super) fn close(self) {
        drop(managed::Object::take(self.connection));
    }
}

impl Deref for Object {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Pool {
    pub(super) fn new(connector: &Connector, size: usize) -> Result<Pool, DbError> {
        // No limits of time here: places are waited for below, and to connect has a limit for each host of the address.
        let connections = managed::Pool::builder(connector.clone()).max_size(size).build().doing("set up the pool")?;
        let small = Mutex::new(Small { places: size, places_missing: 0, since: Instant::now() });
        Ok(Pool { connections, places: Arc::new(Semaphore::new(size)), small })
    }

    /// A connection that is free or can be made, or else one that becomes free.
    pub(super) async fn get(&self) -> Result<Object, PoolError> {
        self.grow();
        loop {
            let place = timeout(POOL_TIME_MAX, Arc::clone(&self.places).acquire_owned()).await;
            let place = place.map_err(|_| PoolError::Timeout(TimeoutType::Wait))?;
            let place = place.map_err(|_| PoolError::Closed)?;
            match self.connections.get().await {
                Ok(connection) => return Ok(Object { connection, _place: place }),
                Err(PoolError::Backend(DbError::Busy(NO_ROOM))) if self.shrink() => place.forget(),
                Err(error) => return Err(error),
            }
        }
    }

    /// A connection that is free or can be made.
    pub(super) async fn get_at_once(&self) -> Result<Object, PoolError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::NoPermits => PoolError::Timeout(TimeoutType::Wait),
            TryAcquireError::Closed => PoolError::Closed,
        })?;
        Ok(Object { connection: self.connections.get().await?, _place: place })
    }

    pub(super) fn close(&self) {
        self.places.close();
        self.connections.close();
    }

    /// One place fewer, unless it is the last one.
    fn shrink(&self) -> bool {
        let mut small = self.small();
        if small.places < 2 {
            return false;
        }
        if small.places_missing == 0 {
            tracing::warn!(
                "the database server has no room for more connections; writes wait for those that there are"
            );
        }
        small.places -= 1;
        small.places_missing += 1;
        small.since = Instant::now();
        true
    }

    /// After a while, there may be room again.
    fn grow(&self) {
        let mut small = self.small();
        if small.places_missing > 0 && small.since.elapsed() > SMALL_TIME {
            self.places.add_permits(small.places_missing);
            small.places += std::mem::take(&mut small.places_missing);
        }
    }

    fn small(&self) -> MutexGuard<'_, Small> {
        self.small.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
