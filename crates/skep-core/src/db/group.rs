//! A group of writes that share a transaction, the same on both databases.
//!
//! ```text
//!   begin ─ lock the namespace ─ closure ─ closure ─ closure ─ events ─ commit ─▶ answer all
//! ```
//!
//! Making a commit durable costs far more than the change itself, so writes that wait share one. No caller is answered
//! before the commit, not even with a refusal, because a refusal too may depend on what a neighbour has just changed.
//!
//! The namespace is locked first, before anything is read. So the writes of a namespace see each other's results however
//! many hubs there are, no two of them deadlock, and the numbers of its events follow one another.
//!
//! Operations of one type that wait in a queue are done together (`queue.rs`): 64 claims are one
//! `select` and one `update`.
//!
//! When a closure that has changed something returns an error or panics, when a statement fails, or when the database
//! itself rolls back, the group is *spoiled*: all of it is rolled back, and each of its closures is called again in a
//! transaction of its own, where its failure concerns no other. There are no savepoints, because they would cost every
//! write something, and spoiled groups are rare.

use std::{future::poll_fn, task::Poll};

use super::{
    DbError, Scope, Sql,
    clock::Time,
    error::Doing,
    events::append_events,
    namespaces::Namespaces,
    queue::{Ran, Write, waits_for_something_else},
};
use crate::{Namespace, event::Event};

/// Operations that are done together, at most: enough to spread the cost of a statement.
pub(super) const TOGETHER_MAX: usize = 64;

/// Why a group was rolled back.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Each of its writes is to be called again alone.
    Spoiled,
    /// None of them would succeed alone, either.
    Failed(DbError),
}

impl From<DbError> for Trouble {
    fn from(error: DbError) -> Trouble {
        Trouble::Failed(error)
    }
}

/// What a group has to commit.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The namespaces that it has locked, with their numbers; the last one is used again most often.
    opened: Vec<(Namespace, i64)>,
    /// Events by namespace, in the order in which they happened there.
    events: Vec<Appended>,
}

/// The events of a group in one namespace.
#[derive(Debug)]
struct Appended {
    namespace: i64,
    /// The number before that of the first, once they are numbered.
    after: i64,
    events: Vec<Event>,
}

impl Changes {
    /// The events of a namespace, and the number before that of the first. Leaves none.
    pub(super) fn take_events(&mut self, namespace: i64) -> Option<(i64, Vec<Event>)> {
        let place = self.events.iter().position(|appended| appended.namespace == namespace)?;
        let Appended { after, events, .. } = self.events.swap_remove(place);
        Some((after, events))
    }

    /// The namespaces that the group has used, with their numbers.
    pub(super) fn namespaces(&mut self) -> Vec<(Namespace, i64)> {
        std::mem::take(&mut self.opened)
    }

    /// The number of a namespace that the group has locked.
    fn number_of(&self, namespace: &Namespace) -> Option<i64> {
        self.opened.iter().rev().find_map(|(name, number)| (name == namespace).then_some(*number))
    }

    fn add(&mut self, namespace: i64, new: Vec<Event>) {
        if new.is_empty() {
            return;
        }
        match self.events.iter_mut().find(|appended| appended.namespace == namespace) {
            Some(appended) => appended.events.extend(new),
            None => self.events.push(Appended { namespace, after: 0, events: new }),
        }
    }
}

/// Begin a transaction and run operations, those of `group` and whatever `fill` adds to it, up to the one that spoils
/// it. `fill` is called before each operation, with how many are done.
pub(super) async fn run(
    sql: &mut Sql<'_>,
    namespaces: &Namespaces,
    time: &Time,
    group: &mut Vec<Box<dyn Write>>,
    mut fill: impl FnMut(&mut Vec<Box<dyn Write>>, usize),
) -> Result<Changes, Trouble> {
    sql.begin().await.doing("begin a write")?;
    let (mut changes, mut done) = (Changes::default(), 0);
    loop {
        fill(group, done);
        let Some((write, others)) = group.get_mut(done..).and_then(<[_]>::split_first_mut) else { return Ok(changes) };
        done += 1;
        if write.begin() {
            let others = together_with(&**write, others);
            done += others.len();
            let namespace = match changes.number_of(write.namespace()) {
                Some(namespace) => namespace,
                None => {
                    let namespace = namespaces.lock(sql, write.namespace()).await.doing("lock the namespace")?;
                    changes.opened.push((write.namespace().clone(), namespace));
                    namespace
                }
            };
            match call(&mut **write, others, sql, Scope { namespace, now: time.now() }).await {
                _ if sql.has_failed() => return Err(Trouble::Spoiled),
                Ran::Keep(new) => changes.add(namespace, new),
                Ran::Undo { changed: false } => {}
                Ran::Undo { changed: true } => return Err(Trouble::Spoiled),
            }
        }
    }
}

/// Number the events of a group and write them down: the last thing before the commit.
pub(super) async fn write_events(sql: &mut Sql<'_>, changes: &mut Changes) -> Result<(), DbError> {
    for Appended { namespace, after, events } in &mut changes.events {
        *after = append_events(sql, *namespace, events).await.doing("append the events")?;
    }
    Ok(())
}

/// Of those behind a write, the next ones that can be done together with it.
fn together_with<'a>(write: &dyn Write, behind: &'a mut [Box<dyn Write>]) -> &'a mut [Box<dyn Write>] {
    let Some(kind) = write.kind() else { return &mut [] };
    let near = behind.iter().take(TOGETHER_MAX - 1);
    let count = near.take_while(|other| other.kind() == Some(kind) && other.namespace() == write.namespace()).count();
    &mut behind[..count]
}

/// Run an operation. One that is not ready although the database owes it no answer waits for something that it should
/// not.
async fn call(write: &mut dyn Write, others: &mut [Box<dyn Write>], sql: &mut Sql<'_>, scope: Scope) -> Ran {
    let is_waiting = sql.is_waiting();
    let mut closure = write.run(others, sql.reborrow(), scope);
    let ran = poll_fn(|context| match closure.as_mut().poll(context) {
        Poll::Ready(ran) => Poll::Ready(Some(ran)),
        Poll::Pending if is_waiting() => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    });
    let ran = ran.await;
    drop(closure);
    ran.unwrap_or_else(|| {
        write.refuse(waits_for_something_else());
        Ran::Undo { changed: true }
    })
}
