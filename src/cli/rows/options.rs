//! `-o` and `--out`: where rows go, and as what.

use std::path::{Path, PathBuf};

use super::file::WholeFile;
use crate::cli::output::Format;

/// Where rows go.
#[derive(Debug, Clone, clap::Args)]
pub struct OutOptions {
    /// How to print the result [default: table]
    #[arg(short, long, env = "RATER_OUTPUT", value_enum)]
    output: Option<Format>,
    /// Write the rows to this file instead: its ending says how, .parquet, .csv, .json, .jsonl,
    /// .ndjson (one object a line) or .txt. It is there whole at the end, or not at all
    #[arg(long, env = "RATER_OUT", value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Where rows go, decided.
#[derive(Debug)]
pub enum Target {
    /// To standard output.
    Screen(Format),
    /// To a file, as text.
    Text(WholeFile, Format),
    /// To a file, as Parquet.
    Parquet(WholeFile),
}

impl OutOptions {
    /// Where the rows go. An error is one line: an ending that says nothing, or something else
    /// than `-o`, or a place where no file can be made.
    pub fn target(&self) -> Result<Target, String> {
        let Some(path) = &self.out else { return Ok(Target::Screen(self.output.unwrap_or_default())) };
        let format = named(path)?;
        if let Some(asked) = self.output
            && format != Some(asked)
        {
            return Err(format!(
                "--out {} and -o (RATER_OUTPUT) say different things; the file's ending is enough",
                path.display()
            ));
        }
        let file = WholeFile::begin(path).map_err(|error| format!("--out {}: {error}", path.display()))?;
        Ok(match format {
            Some(format) => Target::Text(file, format),
            None => Target::Parquet(file),
        })
    }

    /// Whether rows go to a file.
    pub fn to_file(&self) -> bool {
        self.out.is_some()
    }
}

/// What a file's ending says; none is Parquet, which can't be printed.
fn named(path: &Path) -> Result<Option<Format>, String> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match ending.as_str() {
        "parquet" => Ok(None),
        "csv" => Ok(Some(Format::Csv)),
        "json" | "jsonl" | "ndjson" => Ok(Some(Format::Json)),
        "txt" => Ok(Some(Format::Table)),
        _ => Err(format!(
            "--out {}: ends in none of .parquet, .csv, .json, .jsonl, .ndjson and .txt, which say what to write",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(out: &str, output: Option<Format>) -> Result<Target, String> {
        OutOptions { output, out: Some(out.into()) }.target()
    }

    #[test]
    fn the_ending_says_how_and_nothing_may_contradict_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        for (name, format) in [
            ("a.csv", Format::Csv),
            ("a.CSV", Format::Csv),
            ("a.json", Format::Json),
            ("a.jsonl", Format::Json),
            ("a.b.ndjson", Format::Json),
            ("a.txt", Format::Table),
        ] {
            for output in [None, Some(format)] {
                let target = target(&at(name), output).expect(name);
                assert!(matches!(target, Target::Text(_, found) if found == format), "{name}");
            }
        }
        assert!(matches!(target(&at("a.parquet"), None), Ok(Target::Parquet(_))));
        for output in [Format::Table, Format::Json, Format::Csv] {
            let error = target(&at("a.parquet"), Some(output)).expect_err("refused");
            assert!(error.contains("RATER_OUTPUT") && error.lines().count() == 1, "{error}");
        }
        assert!(target(&at("a.csv"), Some(Format::Json)).is_err());
        for name in ["a", "a.xml", "parquet", ".csv", "a.csv.gz", "a."] {
            assert!(target(&at(name), None).expect_err(name).contains(".parquet, .csv"), "{name}");
        }
        let nowhere = target(&at("no/a.csv"), None).expect_err("no such folder");
        assert!(nowhere.contains("no/a.csv") && nowhere.lines().count() == 1, "{nowhere}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
    }
}
