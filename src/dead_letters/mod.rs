//! What can't be stored as it is, set aside where a person can see it, mend it and send it again.

use std::path::{Path, PathBuf};

mod error;
mod letter;

pub use error::Error;
pub use letter::{Attempt, Content, Letter, Refused};

/// The dead letters of a spool. Many processes may use them at once.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    dir: PathBuf,
}

/// A file among the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A whole letter.
    Letter(Letter),
    /// Something that can't be read as one.
    Damaged {
        /// What it is called.
        id: String,
        /// What is wrong with it.
        why: String,
    },
}

impl DeadLetters {
    /// Those of the spool in this folder. Nothing is read or written yet.
    pub fn of(spool: &Path) -> DeadLetters {
        DeadLetters { dir: spool.join("dead-letters") }
    }

    /// Sets these aside: when it returns, each is whole on the disk. One that is there already has
    /// one more try in its history. Blocks.
    pub fn put(&self, letters: Vec<Refused>) -> Result<(), Error> {
        drop(letters);
        Err(Error::InUse(self.dir.clone()))
    }

    /// All of them, oldest first. Blocks.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        Ok(Vec::new())
    }

    /// One, by its whole id. Blocks.
    pub fn get(&self, id: &str) -> Result<Letter, Error> {
        Err(Error::Unknown(id.into()))
    }

    /// Takes one away. Blocks.
    pub fn remove(&self, id: &str) -> Result<(), Error> {
        Err(Error::Unknown(id.into()))
    }

    /// How many there are, damaged ones among them. Reads none of them.
    pub fn count(&self) -> Result<u64, Error> {
        Ok(0)
    }
}
