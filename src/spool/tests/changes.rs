//! Changes of names in folders of the disk in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A change of names, which a power failure undoes or does not.
#[derive(Debug, Clone)]
pub enum Change {
    Made(PathBuf, u64),
    Gone(PathBuf),
    Moved(PathBuf, PathBuf, u64),
}

impl Change {
    pub fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Change::Made(path, node) => drop(names.insert(path.clone(), *node)),
            Change::Gone(path) => drop(names.remove(path)),
            Change::Moved(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }

    pub fn is_in(&self, dir: &Path) -> bool {
        match self {
            Change::Made(path, _) | Change::Gone(path) => path.parent() == Some(dir),
            Change::Moved(from, to, _) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}
