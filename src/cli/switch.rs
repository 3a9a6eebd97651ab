//! An option that is on or off, as people write it in the environment.

use std::ffi::OsStr;

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::{Arg, Command, Error};

/// `1`, `true`, `yes`, `on`, or the opposite of one. Empty is off, as if the variable were not set:
/// a manifest may set it to nothing.
#[derive(Debug, Clone, Copy)]
pub struct Switch;

impl TypedValueParser for Switch {
    type Value = bool;

    fn parse_ref(&self, command: &Command, option: Option<&Arg>, value: &OsStr) -> Result<bool, Error> {
        match value.is_empty() {
            true => Ok(false),
            false => BoolishValueParser::new().parse_ref(command, option, value),
        }
    }
}
