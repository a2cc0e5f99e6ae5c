//! Schedules: several hubs on one database do what a seed says, and a model says what must come of it.
//!
//! After every step, each answer and every row and event must be what the [`Model`] says. Where the order of
//! operations is the database's, or a caller left before its answer, the model is asked for every order, and whether
//! the operation was done: one of them must explain all of it. At the end, the hubs but one fall silent. That one must
//! then have everything, and can bring every task to its end.
//!
//! A failing schedule is made as short as it gets, and printed. `SKEP_TEST_SEED=n` runs one seed alone, many times over,
//! because what happens at once does so in an order that is not the seed's. `SKEP_TEST_SEEDS=n` runs so many.

mod draw;
mod model;
mod ops;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use futures_util::{FutureExt as _, StreamExt as _, future::join_all};
use skep_core::{
    db::Now,
    session::{ATTACH_TIME, HUB_TIME},
    task::RETRY_DELAY_MAX,
};
use tokio::{runtime, task::JoinSet};

use self::{
    draw::{Draw, Random},
    model::Model,
    ops::Op,
};
use super::*;

/// Seeds on SQLite, unless `SKEP_TEST_SEEDS` says otherwise: a minute on two cores that have other things to do, too.
const SEEDS: u64 = 1_000;
/// Seeds on PostgreSQL, where everything takes longer.
const POSTGRES_SEEDS: u64 = 12;
/// How often a single seed is run.
const REPEATS: u64 = 50;
/// Steps of a schedule.
const STEPS: usize = 60;
/// Microseconds that a hub's clock may be off in those schedules in which clocks are.
const CLOCK_ERROR_MAX_US: usize = 2_000_000;
/// How long to look for a shorter schedule that fails.
const SHRINK_TIME: Duration = Duration::from_secs(20);
/// How often a shorter schedule is tried, since it may fail only now and then.
const SHRINK_TRIES: usize = 3;

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// These calls, at once.
    Together(Vec<Call>),
    /// The hub of this slot dies with these calls under way, and a new process opens the database.
    Die(usize, Vec<Call>),
    /// Time passes.
    Wait(Duration),
}

/// An operation asked for at a hub.
#[derive(Clone, Debug)]
struct Call {
    slot: usize,
    op: Op,
    /// The caller leaves without its answer, after so many turns of the executor.
    lost: Option<usize>,
}

/// Where the steps come from.
enum Script {
    Draw(Draw),
    Given(std::vec::IntoIter<Step>),
}

impl Script {
    fn next(&mut self, done: usize, model: &Model, now: Timestamp) -> Option<Step> {
        match self {
            Script::Draw(draw) => (done < STEPS).then(|| draw.step(model, now)),
            Script::Given(steps) => steps.next(),
        }
    }
}

/// What holds for a whole schedule.
#[derive(Clone, Debug)]
struct Setting {
    /// How far each hub's clock is ahead, in microseconds.
    ahead: Vec<i64>,
    /// How far a hub says that it may be.
    error: Duration,
}

impl Setting {
    fn draw(random: &mut Random) -> Setting {
        let hubs = 2 + random.below(3);
        let error = if random.percent(50) { 0 } else { random.below(CLOCK_ERROR_MAX_US) };
        let ahead = (0..hubs).map(|_| random.below(2 * error + 1) as i64 - error as i64).collect();
        Setting { ahead, error: Duration::from_micros(error as u64) }
    }
}

struct Slot {
    app: App,
    clock: Clock,
}

/// The hubs, and the model of what they share.
struct World<'a> {
    address: &'a str,
    setting: Setting,
    slots: Vec<Slot>,
    now: Timestamp,
    model: Model,
    rows: Rows,
}

/// Reads the database past the store.
enum Rows {
    Sqlite(rusqlite::Connection),
    /// The connection is driven for as long as the set lives.
    Postgres(tokio_postgres::Client, #[expect(dead_code, reason = "held until it is dropped")] JoinSet<()>),
}

/// A line for each row, and for each event after a number. See [`Model::lines`].
const LINES: &str = "
    select 'hub ' || id || ' until ' || until from hub
    union all select 'session ' || id || ' of ' || worker || ' at ' || hub || ', '
        || case when token is null then 'no' else 'with' end || ' token' from session
    union all select 'run ' || id || ' ' || state || ' ' || created || ' ' || coalesce(ended, 0) || ' '
        || coalesce(report, 'null') from run
    union all select 'deletion of ' || run || ' ' || epoch || ', ' || (
            select count(*) from event where event.namespace = deletion.namespace and event.run = deletion.run)
        || ' events left' from deletion
    union all select 'task ' || id || ' ' || epoch || ' ' || coalesce(run, '-') || ' ' || position || ' ' || state || ' priority '
        || priority || ' deadline ' || coalesce(deadline, 0) || ' due '
        || case when state in ('pending', 'in_progress') then due else 0 end || ' waits for ' || case when state = 'pending' then waiting_for else 0 end
        || ' attempt ' || attempt || ' failures ' || failures || ' losses ' || losses || ' by ' || coalesce(worker, '-')
        || ' in ' || coalesce(session, '-') || ': ' || coalesce(result, '-') from task
    union all select 'need of ' || task || ' for ' || depends_on from dependency
    union all select 'event ' || coalesce(run, '-') || ' ' || coalesce(task, '-') || ' ' || place || ': ' || kind || ' '
        || at || ' ' || data from (
            select event.*, row_number() over (partition by run, task order by number) as place from event
            where number > $1) as new";

impl Rows {
    async fn open(address: &str) -> Rows {
        if let Some(path) = address.strip_prefix("sqlite:") {
            return Rows::Sqlite(rusqlite::Connection::open(path).unwrap());
        }
        let (client, connection) = tokio_postgres::connect(address, tokio_postgres::NoTls).await.unwrap();
        let mut driven = JoinSet::new();
        driven.spawn(connection.map(drop));
        Rows::Postgres(client, driven)
    }

    async fn texts(&self, sql: &str, values: &[i64]) -> Vec<String> {
        match self {
            Rows::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql).unwrap();
                let rows = statement.query_map(rusqlite::params_from_iter(values), |row| row.get(0)).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Rows::Postgres(client, _) => {
                let rows = client.query_raw(sql, values).await.unwrap();
                rows.map(|row| row.unwrap().get(0)).collect().await
            }
        }
    }

    async fn lines(&self, after: i64) -> Vec<String> {
        let mut lines = self.texts(LINES, &[after]).await;
        lines.sort();
        lines
    }

    async fn last_event(&self) -> i64 {
        let last = self.texts("select cast(coalesce(max(last_event), 0) as text) from namespace", &[]).await;
        last[0].parse().unwrap()
    }
}

impl<'a> World<'a> {
    async fn open(address: &'a str, setting: Setting) -> World<'a> {
        let mut slots = Vec::new();
        for _ in &setting.ahead {
            slots.push(Slot::open(address, setting.error).await);
        }
        let (now, rows) = (Timestamp(1_000_000_000), Rows::open(address).await);
        World { address, setting, slots, now, model: Model::default(), rows }
    }

    async fn close(&self) {
        for slot in &self.slots {
            slot.app.db.close().await;
        }
    }

    /// The time as a hub sees it.
    fn seen_by(&self, slot: usize) -> Now {
        let at = Timestamp(self.now.0 + self.setting.ahead[slot]);
        Now { at, error: self.setting.error }
    }

    /// Do a step, and say if what came of it is not what the model says.
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        for (slot, ahead) in self.slots.iter().zip(&self.setting.ahead) {
            slot.clock.set(Timestamp(self.now.0 + ahead));
        }
        let last_event = self.rows.last_event().await;
        let (calls, heard) = match step {
            Step::Wait(time) => {
                self.now = self.now.after(*time);
                return Ok(());
            }
            Step::Together(calls) => (calls, self.call(calls).await),
            Step::Die(slot, calls) => {
                let heard = self.call(calls).await;
                self.slots[*slot].app.db.close().await;
                self.slots[*slot] = Slot::open(self.address, self.setting.error).await;
                (calls, heard)
            }
        };
        self.model.mark();
        let lines = self.rows.lines(last_event).await;
        self.explain(calls, &heard, &lines)
    }

    /// Make calls at once. Gives the answers of those that waited for one.
    async fn call(&self, calls: &[Call]) -> Vec<Option<Vec<String>>> {
        let heard = join_all(calls.iter().map(|call| self.slots[call.slot].call(call))).await;
        for call in calls.iter().filter(|call| call.lost.is_some()) {
            self.slots[call.slot].wait_for_what_is_queued().await;
        }
        heard
    }

    /// Find an order in which these calls, of which those without an answer may not have been done, give these answers
    /// and lead to these lines.
    fn explain(&mut self, calls: &[Call], heard: &[Option<Vec<String>>], lines: &[String]) -> Result<(), String> {
        let parts: Vec<Vec<Op>> = calls.iter().map(|call| call.op.parts()).collect();
        let mut nearest = None;
        for order in orders(calls, heard) {
            let (mut model, mut told) = (self.model.clone(), vec![Vec::new(); calls.len()]);
            for &n in &order {
                let (part, now) = (&parts[n][told[n].len()], self.seen_by(calls[n].slot));
                self.check_expiry(part, calls[n].slot, &model)?;
                told[n].push(model.apply(part, now));
            }
            let other = (0..calls.len()).find(|n| heard[*n].as_ref().is_some_and(|heard| *heard != told[*n]));
            let expected = model.lines();
            if other.is_none() && expected == lines {
                self.model = model;
                return Ok(());
            }
            let why = other.map_or_else(
                || difference(&expected, lines),
                |n| format!("call {n} was told\n  {:?}\nand should have been told\n  {:?}", heard[n], told[n]),
            );
            nearest.get_or_insert(why);
        }
        Err(format!("nothing explains what came of this step. If it had been done in order: {}", nearest.unwrap()))
    }

    /// Whatever the clocks say, nobody's time ends before it is over.
    fn check_expiry(&self, op: &Op, slot: usize, model: &Model) -> Result<(), String> {
        let Op::ExpireHubs = op else { return Ok(()) };
        let mut after = model.clone();
        after.apply(op, self.seen_by(slot));
        for (hub, until) in &model.hubs {
            if !after.hubs.contains_key(hub) && self.now < until.after(ATTACH_TIME) {
                return Err(format!("{hub} is forgotten at {:?}, but had time until {until:?}", self.now));
            }
        }
        Ok(())
    }

    /// All hubs but the first fall silent. It has everything then, and brings every task to its end.
    async fn end(&mut self) -> Result<(), String> {
        // One's clock may have been ahead, the other's may be behind, and that one allows for as much again.
        let wait = HUB_TIME + ATTACH_TIME + 3 * self.setting.error;
        self.step(&Step::Wait(wait)).await?;
        let session = NewSession { id: SessionId("last/0".into()), worker: WorkerId("last".into()), token: None };
        let last = Holder { worker: session.worker.clone(), session: session.id.clone() };
        for op in [Op::Join(HubId("last".into()), vec![session]), Op::ExpireHubs, Op::ReleaseLost] {
            self.one(op).await?;
        }
        if let Some((task, by)) = self.model.held().first() {
            return Err(format!("{task:?} still is in progress by {by:?}, whose hub has been silent for {wait:?}"));
        }
        self.one(Op::FinishDeletions).await?;
        for run in self.model.interrupted() {
            self.one(Op::Resume(run)).await?;
        }
        let tasks = self.model.tasks.len();
        for round in 0_usize.. {
            let unfinished = self.model.tasks.values().filter(|task| !task.state.is_over()).count();
            if unfinished == 0 {
                break;
            }
            if round > tasks {
                return Err(format!("{unfinished} tasks cannot be brought to their end"));
            }
            self.step(&Step::Wait(RETRY_DELAY_MAX)).await?;
            self.one(Op::Beat(HubId("last".into()))).await?;
            self.one(Op::ExpireTasks).await?;
            for queue in ["p", "q"] {
                self.one(Op::Claim(queue.into(), last.clone())).await?;
            }
            for (task, by) in self.model.held() {
                self.one(Op::Finish(task, by)).await?;
            }
        }
        self.model.unmark();
        let lines = self.rows.lines(0).await;
        let expected = self.model.lines();
        if expected != lines { Err(difference(&expected, &lines)) } else { Ok(()) }
    }

    async fn one(&mut self, op: Op) -> Result<(), String> {
        self.step(&Step::Together(vec![Call { slot: 0, op, lost: None }])).await
    }
}

impl Slot {
    async fn open(address: &str, error: Duration) -> Slot {
        let clock = Clock::manual(NOW).unsure(error);
        let db = Db::open(address, Limits { clock: clock.clone(), ..Limits::default() }).await.unwrap();
        Slot { app: App::new(db), clock }
    }

    /// The answer, if the caller waits for it.
    async fn call(&self, call: &Call) -> Option<Vec<String>> {
        let answer = call.op.call(&self.app);
        let Some(turns) = call.lost else { return Some(answer.await) };
        let leaves = async {
            for _ in 0..(1 << (4 * turns)) - 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            () = leaves => None,
        }
    }

    /// The writes of a namespace are done in order, so what was asked for before is done or never will be.
    async fn wait_for_what_is_queued(&self) {
        // These do nothing, one in the namespace of the tasks and one in that of the hubs.
        self.app.prune_events(&permit(), Timestamp(i64::MIN)).await.unwrap();
        self.app.expire_hubs(Duration::MAX).await.unwrap();
    }
}

/// Every order of every set of calls that may have been done: all of those that were answered, and some of the others.
/// A call with several parts is named once for each.
fn orders(calls: &[Call], heard: &[Option<Vec<String>>]) -> Vec<Vec<usize>> {
    let lost: Vec<usize> = (0..heard.len()).filter(|n| heard[*n].is_none()).collect();
    let mut orders = Vec::new();
    for undone in 0..1_usize << lost.len() {
        let is_done = |n: &usize| lost.iter().position(|lost| lost == n).is_none_or(|bit| undone >> bit & 1 == 0);
        let done = (0..heard.len()).filter(is_done);
        let parts: Vec<usize> = done.flat_map(|n| vec![n; calls[n].op.parts().len()]).collect();
        permute(&mut Vec::new(), &parts, &mut orders);
    }
    orders.retain(|order| may_be(order, calls));
    orders
}

fn permute(begun: &mut Vec<usize>, of: &[usize], orders: &mut Vec<Vec<usize>>) {
    if begun.len() == of.len() {
        orders.push(begun.clone());
    }
    let count = |all: &[usize], n: usize| all.iter().filter(|other| **other == n).count();
    for n in of.iter().copied().collect::<BTreeSet<usize>>() {
        if count(begun, n) < count(of, n) {
            begun.push(n);
            permute(begun, of, orders);
            begun.pop();
        }
    }
}

/// Between the parts of a call comes only what is done together with it: exchanges at the same hub.
fn may_be(order: &[usize], calls: &[Call]) -> bool {
    let is_together = |one: &Call, other: &Call| one.slot == other.slot && other.op.is_exchange();
    order.iter().enumerate().all(|(at, n)| {
        let next = order[at + 1..].iter().position(|other| other == n).unwrap_or(0);
        order[at + 1..][..next].iter().all(|other| is_together(&calls[*n], &calls[*other]))
    })
}

fn difference(expected: &[String], lines: &[String]) -> String {
    let mut text = String::from("the database is not as it must be");
    for (what, these, others) in [("should have", expected, lines), ("has", lines, expected)] {
        for line in these.iter().filter(|line| !others.contains(line)) {
            let _ = write!(text, "\n  {what}: {line}");
        }
    }
    text
}

/// A schedule that went wrong, up to where it did.
struct Failure {
    steps: Vec<Step>,
    why: String,
}

/// Run a schedule on an empty database at this address.
async fn run(address: &str, setting: &Setting, script: Script) -> Result<(), Failure> {
    const TIME_MAX: Duration = Duration::from_secs(120);
    let mut steps = Vec::new();
    let all = AssertUnwindSafe(tokio::time::timeout(TIME_MAX, run_steps(address, setting, script, &mut steps)));
    let why = match all.catch_unwind().await {
        Ok(Ok(Ok(()))) => return Ok(()),
        Ok(Ok(Err(why))) => why,
        Ok(Err(_)) => format!("it is not over after {TIME_MAX:?}"),
        Err(panic) => match panic.downcast::<String>() {
            Ok(message) => format!("a panic: {message}"),
            Err(_) => "a panic".to_owned(),
        },
    };
    Err(Failure { steps, why })
}

async fn run_steps(address: &str, setting: &Setting, mut script: Script, steps: &mut Vec<Step>) -> Result<(), String> {
    let mut world = World::open(address, setting.clone()).await;
    while let Some(step) = script.next(steps.len(), &world.model, world.now) {
        steps.push(step.clone());
        world.step(&step).await?;
    }
    world.end().await?;
    let audit = world.slots[0].app.db.audit().await.map_err(|error| error.to_string())?;
    world.close().await;
    if audit.findings.is_empty() { Ok(()) } else { Err(format!("the audit finds {:#?}", audit.findings)) }
}

/// Where schedules run.
enum Database {
    /// A directory, and an empty database in it to be copied.
    Sqlite(tempfile::TempDir, PathBuf),
    Postgres(String),
}

impl Database {
    async fn sqlite() -> Database {
        let directory = in_memory();
        let empty = directory.path().join("empty.db");
        Db::open(&format!("sqlite:{}", empty.display()), Limits::default()).await.unwrap().close().await;
        Database::Sqlite(directory, empty)
    }

    /// The address of an empty database; on PostgreSQL, the only one there is.
    async fn empty(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        match self {
            Database::Sqlite(directory, empty) => {
                let path = directory.path().join(format!("{}.db", COUNT.fetch_add(1, Ordering::SeqCst)));
                fs::copy(empty, &path).unwrap();
                format!("sqlite:{}", path.display())
            }
            Database::Postgres(address) => {
                let sql = "set skep.hub = 'test'; delete from deletion; delete from hub; delete from session; delete from dependency; delete from task;
                     delete from run; delete from event; update namespace set epoch = 0";
                postgres::execute(address, sql).await;
                address.clone()
            }
        }
    }

    /// Run a schedule on an empty database.
    async fn run(&self, setting: &Setting, script: Script) -> Result<(), Failure> {
        let address = self.empty().await;
        let result = run(&address, setting, script).await;
        if let Some(path) = address.strip_prefix("sqlite:") {
            for suffix in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(format!("{path}{suffix}")); // the others are there only after a failure
            }
        }
        result
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, and is {text:?}")))
}

/// The same seeds each time, so that a change is blamed for what it breaks. Who looks for more asks for more.
fn seeds(count: u64) -> Vec<u64> {
    if let Some(seed) = number("SKEP_TEST_SEED") {
        return vec![seed; REPEATS as usize];
    }
    (0..number("SKEP_TEST_SEEDS").unwrap_or(count)).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Run the schedules of these seeds, as many at a time as there are threads.
fn run_seeds(database: &Database, seeds: &[u64], threads: usize) {
    let (next_seed, first_failure) = (AtomicUsize::new(0), Mutex::new(None));
    let (next, failed) = (&next_seed, &first_failure);
    let work = async || {
        while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
            let mut random = Random(seed);
            let setting = Setting::draw(&mut random);
            let script = Script::Draw(Draw::new(random, setting.ahead.len()));
            if let Err(failure) = database.run(&setting, script).await {
                next.store(seeds.len(), Ordering::SeqCst);
                failed.lock().unwrap().get_or_insert((seed, setting, failure));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            let work = &work;
            scope.spawn(move || block_on(work()));
        }
    });
    let Some((seed, setting, failure)) = first_failure.into_inner().unwrap() else { return };
    eprintln!("seed {seed} fails after {} steps: {}\nlooking for fewer", failure.steps.len(), failure.why);
    let failure = block_on(shrink(database, &setting, failure));
    let mut steps = String::new();
    for step in &failure.steps {
        let _ = writeln!(steps, "  {step:?}");
    }
    panic!("SKEP_TEST_SEED={seed} fails with {setting:?} after\n{steps}{}", failure.why);
}

/// Leave out what need not be there for it to fail.
async fn shrink(database: &Database, setting: &Setting, mut failure: Failure) -> Failure {
    let begun = Instant::now();
    let fails = async |steps: Vec<Step>| {
        for _ in 0..SHRINK_TRIES {
            let script = Script::Given(steps.clone().into_iter());
            if let Err(failure) = database.run(setting, script).await {
                return Some(failure);
            }
        }
        None
    };
    let mut size = failure.steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < failure.steps.len() && begun.elapsed() < SHRINK_TIME {
            let mut steps = failure.steps.clone();
            steps.drain(at..(at + size).min(steps.len()));
            match fails(steps).await {
                Some(shorter) => failure = shorter,
                None => at += size,
            }
        }
        size /= 2;
    }
    failure
}

#[test]
fn hubs_that_share_an_sqlite_file_do_what_the_model_says_in_every_schedule() {
    let database = block_on(Database::sqlite());
    let threads = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    run_seeds(&database, &seeds(SEEDS), threads);
}

#[test]
fn hubs_that_share_a_postgresql_do_what_the_model_says_in_every_schedule() {
    let Some(address) = block_on(postgres::new_schema()) else { return };
    block_on(async { Db::open(&address, Limits::default()).await.unwrap().close().await });
    run_seeds(&Database::Postgres(address), &seeds(POSTGRES_SEEDS), 1);
}
