//! The process that becomes the command: locks itself in, puts the request's files in place, and executes.
//!
//! Owns the order of these steps. Everything that could be refused to the command is refused before the first byte of
//! the request is acted on, so even writing its files happens inside the walls.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    },
    path::Path,
};

use rustix::{
    process::chdir,
    thread::{CapabilitySet, set_no_new_privs},
};

use crate::{
    defence::Defence,
    fault::{At, Fault},
    interpreter::Interpreter,
    landlock::{self, Grants},
    limits,
    order::{Work, place_streams},
    privileges::keep_capabilities,
    request::{self, Limits, Net},
    sys,
    template::Template,
    wire::{self, Job, Message as _, Report},
};

/// Characters of an explanation: what fits into a report.
const WHY_MAX: usize = 1000;

/// Becomes the command of `job`. If that is not possible the server is told on `report`.
pub(crate) fn run(template: &Template, job: &Job, report: &OwnedFd) -> ! {
    let message = match lock_in(template, &job.limits, &job.net) {
        Ok(()) => execute(job),
        Err(fault) => Report::Fault(fault),
    };
    let _ = wire::send(report, &message.bytes(), &[]);
    sys::exit(127)
}

/// Locks itself in, waits for an order, and becomes its command.
pub(crate) fn wait(template: &Template, orders: &OwnedFd) -> ! {
    let locked = lock_in(template, &Limits::default(), &Net::None);
    if locked.is_ok() {
        rehearse();
    }
    let Some(Work { report, job, stdout, stderr, stdin }) = Work::receive(orders) else { sys::exit(0) };
    let placed = || place_streams(&stdout, &stderr, stdin.as_ref()).at("place descriptors");
    let message = match locked.and_then(|()| placed()).and_then(|()| job.at("read the job")) {
        Ok(job) => execute(&job),
        Err(fault) => Report::Fault(fault),
    };
    let _ = wire::send(&report, &message.bytes(), &[]);
    sys::exit(127)
}

/// Locks itself in and becomes an interpreter whose program will come. A byte says that it could not.
pub(crate) fn boot(template: &Template, interpreter: &Interpreter, unborn: &OwnedFd) -> ! {
    if lock_in(template, &Limits::default(), &Net::None).is_ok() {
        execute(&interpreter.job());
    }
    let _ = rustix::io::write(unborn, b"x");
    sys::exit(127)
}

/// Goes through the motions of a request with a job that cannot be executed.
///
/// The first write to each page of memory that is shared with the keeper copies it. Better now than while a request
/// waits for it.
fn rehearse() {
    let job = Job {
        // A directory.
        argv: vec!["/".into()],
        env: request::ENVIRONMENT.map(Into::into).to_vec(),
        cwd: request::CWD.into(),
        files: Vec::new(),
        limits: Limits::default(),
        net: Net::None,
    };
    if let Ok(job) = Job::parse(&job.bytes()) {
        execute(&job);
    }
}

/// Takes away everything that the command is not to have, for good.
fn lock_in(template: &Template, limits: &Limits, net: &Net) -> Result<(), Fault> {
    sys::reset_signals().at("reset signals")?;
    sys::close_from_at_exec(3).at("close descriptors")?;
    let defences = template.defences;
    if defences.has(Defence::ResourceLimits) {
        limits::set_rlimits(limits, template.counted)?;
    }
    // Landlock and the filter cannot be had without this much.
    set_no_new_privs(true).at("refuse new privileges")?;
    if defences.has(Defence::Capabilities) {
        keep_capabilities(CapabilitySet::empty())?;
    }
    if defences.has(Defence::Landlock) {
        let Template { readable: read, writable: write, .. } = template;
        landlock::enforce(template.landlock, &Grants { write, read, tcp: net.loopback() })?;
    }
    if defences.has(Defence::Filter) {
        sys::filter_calls(&template.filter).at("load the system call filter")?;
    }
    Ok(())
}

/// Puts the files in place and executes. Returns only to say what the request is at fault for.
fn execute(job: &Job) -> Report {
    // The request's own words can be long.
    let short = |why: String| why.chars().take(WHY_MAX).collect();
    match prepare(job) {
        Ok((program, argv, env)) => {
            let error = search(&program, &argv, &env, job);
            let why = short(format!("`{}` cannot be executed: {error}", program.to_string_lossy()));
            Report::Unexecuted { why, found: error.kind() != io::ErrorKind::NotFound }
        }
        Err(why) => Report::Unfit(short(why)),
    }
}

/// The program, its arguments and its environment.
type Executed = (CString, Vec<CString>, Vec<CString>);

fn prepare(job: &Job) -> Result<Executed, String> {
    for (path, bytes) in &job.files {
        write(path, bytes).map_err(|error| unwritten(path, &error))?;
    }
    chdir(&job.cwd).map_err(|error| unentered(&job.cwd, &error.into()))?;
    let strings = |words: &[std::ffi::OsString]| -> Result<Vec<CString>, _> {
        words.iter().map(|word| CString::new(word.as_bytes())).collect()
    };
    let (Ok(argv), Ok(env)) = (strings(&job.argv), strings(&job.env)) else {
        return Err("an argument or a variable has a NUL byte in it".into());
    };
    let program = argv.first().ok_or("there is no program to run")?.clone();
    Ok((program, argv, env))
}

fn unentered(cwd: &Path, error: &io::Error) -> String {
    let cure = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; it is closed to the sandbox's user: open it (chmod o+rx), or run the server as its owner"
        }
        _ => "",
    };
    format!("the working directory {} cannot be entered: {error}{cure}", cwd.display())
}

/// Executes `program`, by its path if it has one, otherwise the first of that name on `PATH`.
fn search(program: &CString, argv: &[CString], env: &[CString], job: &Job) -> io::Error {
    if program.as_bytes().contains(&b'/') {
        return sys::exec(program, argv, env);
    }
    let path = job.env.iter().rev().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for directory in path.unwrap_or_default().split(|byte| *byte == b':') {
        let candidate = Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(program.as_bytes()));
        let Ok(candidate) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
        let error = sys::exec(&candidate, argv, env);
        if error.raw_os_error() != Some(libc::ENOENT) {
            worst = error;
        }
    }
    worst
}

/// Says that a file of the request could not be written.
pub(crate) fn unwritten(path: &Path, error: &io::Error) -> String {
    format!("the file {} cannot be written: {error}", path.display()).chars().take(WHY_MAX).collect()
}

/// Writes a file of the request.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
    file.write_all(bytes)
}
