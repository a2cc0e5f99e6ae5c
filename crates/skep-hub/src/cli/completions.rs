//! `skep completions` and `skep man`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, print};

/// Print the completions of commands and flags for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep completions bash > ~/.local/share/bash-completion/completions/skep
  skep completions zsh > ~/.local/share/zsh/site-functions/_skep     # a directory in $fpath
  skep completions fish > ~/.config/fish/completions/skep.fish")]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write the pages of all commands into a directory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  skep man | man -l -
  skep man ~/.local/share/man/man1")]
pub(super) struct ManArguments {
    /// Directory for the pages of all commands: skep.1, skep-run.1, …; it is made if need be
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn completions(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "skep", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(arguments: &ManArguments) -> anyhow::Result<ExitCode> {
    match &arguments.directory {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            print(&String::from_utf8(page)?)?;
        }
        Some(directory) => {
            let written = || {
                std::fs::create_dir_all(directory)?;
                clap_mangen::generate_to(Cli::command(), directory)
            };
            written().with_context(|| format!("cannot write to {}", directory.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
