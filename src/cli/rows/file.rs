//! A file that appears whole or not at all. It is written beside its place under another name,
//! and takes its place only once all of it is on the disk; until then whatever stood there stays.
//! Given up, it leaves nothing behind. A process that is killed can't clean up: it leaves the
//! other file, `.NAME.….tmp`, and never a part of one under the name that was asked for.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file on its way.
#[derive(Debug)]
pub struct WholeFile {
    /// As it was asked for.
    path: PathBuf,
    /// Behind a link: what it points to is replaced, and the link stays.
    place: PathBuf,
    temporary: BufWriter<NamedTempFile>,
}

impl WholeFile {
    /// Begins one. Fails where the file couldn't be put in its place later, as far as that can be
    /// known.
    pub fn begin(path: &Path) -> io::Result<WholeFile> {
        let place = if path.is_symlink() { fs::canonicalize(path)? } else { path.to_path_buf() };
        let permissions = match fs::metadata(&place) {
            Ok(there) if !there.is_file() => return Err(io::Error::other("is not a file")),
            Ok(there) => there.permissions(),
            // As any program makes a file; the umask has its say.
            Err(_) => Permissions::from_mode(0o666),
        };
        let name = place.file_name().ok_or_else(|| io::Error::other("names no file"))?;
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".tmp")
            .permissions(permissions)
            .tempfile_in(folder(&place))?;
        Ok(WholeFile { path: path.into(), place, temporary: BufWriter::new(temporary) })
    }

    /// Where it will be, as it was asked for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it in its place, once all of it is on the disk.
    pub fn finish(self) -> io::Result<()> {
        let temporary = self.temporary.into_inner().map_err(|error| error.into_error())?;
        temporary.as_file().sync_all()?;
        temporary.persist(&self.place).map_err(|error| error.error)?;
        // The new name, too, where the file system can be asked for that.
        File::open(folder(&self.place)).and_then(|folder| folder.sync_all()).or(Ok(()))
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

/// A small one, at once.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut file = WholeFile::begin(path)?;
    file.write_all(text.as_bytes())?;
    file.finish()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_at_the_end_and_not_before() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("rows.csv");
        fs::write(&path, "old").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("its mode");
        let mut file = WholeFile::begin(&path).expect("begun");
        file.write_all(&[b'x'; 100_000]).expect("written");
        file.flush().expect("flushed");
        assert_eq!(fs::read_to_string(&path).expect("there"), "old");
        file.finish().expect("finished");
        assert_eq!(fs::read(&path).expect("there").len(), 100_000);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
        assert_eq!(names(dir.path()), ["rows.csv"]);
    }

    #[test]
    fn a_file_that_is_given_up_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("rows.csv");
        let mut file = WholeFile::begin(&path).expect("begun");
        file.write_all(b"half").expect("written");
        drop(file);
        assert_eq!(names(dir.path()), Vec::<String>::new());
        assert!(WholeFile::begin(dir.path()).is_err(), "a folder is not a file");
    }

    #[test]
    fn a_link_stays_and_what_it_points_to_is_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        let (place, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&place, "old").expect("written");
        symlink(&place, &link).expect("linked");
        replace(&link, "new").expect("replaced");
        assert_eq!(fs::read_to_string(&place).expect("there"), "new");
        assert!(link.is_symlink());
        assert_eq!(names(dir.path()), ["link", "real"]);
    }
}
