//! What can't be stored as it is, set aside where a person can see it, mend it and send it again:
//! one letter a file in `dead-letters/` of the spool.
//!
//! It promises:
//!
//! - A letter is whole or not there, whatever dies when, and it is on the disk when
//!   [`DeadLetters::put`] returns. What it says was written, or it is told as damaged.
//! - The same content is the same letter, however often it is refused: its tries are counted in
//!   full, and the last 20 are remembered.
//! - No file is given up, replaced or overlooked because it can't be read.
//! - Many processes may use a folder at once. Only [`DeadLetters::lock`] excludes, and only others
//!   who ask for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use chrono::{DateTime, Utc};

mod error;
mod file;
mod folder;
mod letter;

pub use error::Error;
pub use letter::{Attempt, Content, Letter, Refused, canonical};

use folder::{Folder, Unread};

/// The dead letters of a spool. All of it blocks on the disk.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    folder: Folder,
}

/// A file among the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A whole letter.
    Letter(Letter),
    /// Something that can't be read as one.
    Damaged {
        /// The letter that it was, or the file's name.
        id: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The right to replay, mend or drop, until it is given up.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "it is held, and closed")] File);

impl DeadLetters {
    /// Those of the spool in this folder. Nothing is read or written yet.
    pub fn of(spool: &Path) -> DeadLetters {
        DeadLetters { folder: Folder { dir: spool.join("dead-letters") } }
    }

    /// The folder of the files.
    pub fn dir(&self) -> &Path {
        &self.folder.dir
    }

    /// Sets these aside: when it returns, each is whole on the disk. One that is there already has
    /// one more try in its history. When it fails, each is there or not, and may be put again.
    pub fn put(&self, letters: Vec<Refused>) -> Result<(), Error> {
        self.put_at(letters, Utc::now())
    }

    fn put_at(&self, letters: Vec<Refused>, at: DateTime<Utc>) -> Result<(), Error> {
        if letters.is_empty() {
            return Ok(());
        }
        self.folder.create()?;
        let _turn = self.folder.turn();
        let mut all: BTreeMap<String, Letter> = BTreeMap::new();
        for refused in letters {
            let letter = Letter::first(refused, at);
            let there = match all.remove(&letter.id) {
                Some(there) => Some(there),
                None => self.to_replace(&letter.id)?,
            };
            let letter = match there {
                Some(there) => there.joined(letter),
                None => letter,
            };
            all.insert(letter.id.clone(), letter);
        }
        self.folder.write(&all.into_values().collect::<Vec<_>>())
    }

    /// Clears away what writers that were killed left an hour ago or earlier.
    pub fn sweep(&self) {
        self.folder.sweep();
    }

    /// The letter in whose place one of the same id will stand. What can't be read is moved out of
    /// the way.
    fn to_replace(&self, id: &str) -> Result<Option<Letter>, Error> {
        match self.folder.read(id) {
            Ok(letter) => Ok(Some(letter)),
            Err(Unread::Missing) => Ok(None),
            Err(Unread::Damaged(_)) => self.folder.set_aside(id).map(|()| None),
            Err(Unread::Io(source)) => {
                Err(Error::Io { what: "read a letter in", path: self.dir().into(), source })
            }
        }
    }

    /// Every letter, one at a time, in no order.
    pub fn entries(&self) -> Result<impl Iterator<Item = Entry>, Error> {
        let names = self.folder.names()?;
        let entry = |id: String| match self.folder.read(&id) {
            Ok(letter) => Some(Entry::Letter(letter)),
            // Sent or dropped meanwhile.
            Err(Unread::Missing) => None,
            Err(Unread::Damaged(why)) => Some(Entry::Damaged { id, why }),
            Err(Unread::Io(error)) => Some(Entry::Damaged { id, why: error.to_string() }),
        };
        Ok(names.into_keys().filter_map(entry))
    }

    /// Every letter, oldest first; what can't be read comes after them.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = self.entries()?.collect();
        entries.sort_by_cached_key(Entry::order);
        Ok(entries)
    }

    /// One, by its whole id.
    pub fn get(&self, id: &str) -> Result<Letter, Error> {
        self.folder.read(id).map_err(|unread| match unread {
            Unread::Missing => Error::Unknown(id.into()),
            Unread::Damaged(why) => Error::Damaged { id: id.into(), why },
            Unread::Io(error) => Error::Damaged { id: id.into(), why: error.to_string() },
        })
    }

    /// The text of a letter's file.
    pub fn text(&self, letter: &Letter) -> Result<String, Error> {
        file::encode(letter).map_err(|error| Error::Damaged { id: letter.id.clone(), why: error.to_string() })
    }

    /// The whole ids that these begin, in their order and each once.
    pub fn find(&self, prefixes: &[String]) -> Result<Vec<String>, Error> {
        let names = self.folder.names()?;
        let mut found = Vec::new();
        for prefix in prefixes {
            let from = names.range(prefix.clone()..).map(|(id, _)| id);
            let ids: Vec<&String> = from.take_while(|id| id.starts_with(prefix.as_str())).collect();
            let id = match ids[..] {
                _ if prefix.is_empty() => return Err(Error::Unknown("\"\"".into())),
                [] => return Err(Error::Unknown(prefix.clone())),
                [id] => id,
                // A whole id that another begins with.
                [id, ..] if id == prefix => id,
                _ => return Err(Error::Ambiguous { prefix: prefix.clone(), count: ids.len() }),
            };
            if !found.contains(id) {
                found.push(id.clone());
            }
        }
        Ok(found)
    }

    /// Every id, of damaged ones too.
    pub fn ids(&self) -> Result<Vec<String>, Error> {
        Ok(self.folder.names()?.into_keys().collect())
    }

    /// How many there are, damaged ones among them. Reads none of them.
    pub fn count(&self) -> Result<u64, Error> {
        self.folder.count()
    }

    /// Takes one away, by its whole id.
    pub fn remove(&self, id: &str) -> Result<(), Error> {
        match self.folder.remove([id])? {
            0 => Err(Error::Unknown(id.into())),
            _ => Ok(()),
        }
    }

    /// Takes these away, and says how many of them were there.
    pub fn remove_all(&self, ids: &[String]) -> Result<u64, Error> {
        self.folder.remove(ids.iter().map(String::as_str))
    }

    /// Gives a letter another content, and with it another id; its history stays. It is never
    /// not there: the old one goes once the new one is on the disk. The new letter.
    pub fn mend(&self, id: &str, content: Content) -> Result<Letter, Error> {
        let _turn = self.folder.turn();
        let old = self.get(id)?;
        let new = old.clone().mended(content.kept());
        if new.id == old.id {
            return Ok(old);
        }
        let new = match self.to_replace(&new.id)? {
            Some(there) if there.was(&old) => there,
            Some(there) => there.joined(new),
            None => new,
        };
        self.folder.write(std::slice::from_ref(&new))?;
        self.folder.remove([id])?;
        Ok(new)
    }

    /// Keeps other processes from replaying, mending and dropping, which would tread on each
    /// other's toes. Letters can be put and read all the same.
    pub fn lock(&self) -> Result<Lock, Error> {
        self.folder.lock().map(Lock)
    }
}

impl Entry {
    /// Oldest first, then by id; damaged ones last.
    fn order(&self) -> (bool, DateTime<Utc>, String) {
        match self {
            Entry::Letter(letter) => (false, letter.first_at, letter.id.clone()),
            Entry::Damaged { id, .. } => (true, DateTime::default(), id.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
