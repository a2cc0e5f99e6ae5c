//! Real hubs to measure.

use std::{io, path::PathBuf, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// The `skep` beside this program.
pub fn beside() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("skep"))
}

/// Start a program that says on standard error where it listens; it ends with the value that is returned.
pub async fn listening(mut command: Command) -> io::Result<(Child, String)> {
    let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no standard error"))?;
    let mut lines = BufReader::new(stderr).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some((_, address)) = line.split_once("listening on http://") {
            let address = address.trim().to_owned();
            // What else it says is read, so that it never waits for somebody who does.
            let stderr = lines.into_inner().into_inner().into_owned_fd()?;
            std::thread::spawn(move || {
                let mut all = std::fs::File::from(stderr);
                std::io::copy(&mut all, &mut std::io::sink())
            });
            return Ok((child, address));
        }
    }
    Err(io::Error::other(format!("{command:?} ended without saying where it listens")))
}
