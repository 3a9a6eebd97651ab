//! `rater`: exit codes only; see [`rater::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    rater::cli::main()
}
