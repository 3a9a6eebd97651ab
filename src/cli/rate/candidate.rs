//! The candidate of a dry run: reading it, and what the service finds wrong with it, in the
//! words of `rater validate`.

use std::path::Path;

use crate::cli::validate;
use crate::domain::pricebook::MAX_BYTES;
use crate::grpc::client::Failure;

const FIELD: &str = "pricebook_yaml";

/// The file's text, or one line that says why not.
pub fn read(file: &Path) -> Result<String, String> {
    let wrong = |what: &str| format!("--pricebook {}: {what}", file.display());
    let bytes = validate::read(file).map_err(|error| wrong(&error.to_string()))?;
    if bytes.len() > MAX_BYTES {
        return Err(wrong(&format!("has more than {MAX_BYTES} bytes; a pricebook has at most 1 MiB")));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8; write it as UTF-8 text"))?;
    match text.trim().is_empty() {
        // The service would take it for none, and rate with the loaded one.
        true => Err(wrong("is empty; name the pricebook to try")),
        false => Ok(text),
    }
}

/// A line for each finding, `FILE:LINE:COLUMN: error: message [code]`; none when the failure is
/// about something else.
pub fn diagnostics(file: &Path, failure: &Failure) -> Option<Vec<String>> {
    let about = |(field, _): &(String, String)| field.starts_with(FIELD);
    if failure.code != "INVALID_ARGUMENT" || !failure.violations.iter().any(about) {
        return None;
    }
    let name = file.display();
    let line = |(field, what): &(String, String)| {
        let what = match what.split_once(": ") {
            Some((code, message)) if is_code(code) => format!("error: {message} [{code}]"),
            _ => format!("error: {what}"),
        };
        match field.strip_prefix(FIELD) {
            Some(place) => format!("{name}{place}: {what}"),
            // How many more there are.
            None if field.is_empty() => format!("{name}: {what}"),
            None => format!("rater: {field}: {what}"),
        }
    };
    Some(failure.violations.iter().map(line).collect())
}

fn is_code(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("new.yaml");
        std::fs::write(&file, bytes).expect("a file");
        read(&file).expect_err("refused").replace(&*file.to_string_lossy(), "new.yaml")
    }

    #[test]
    fn a_file_that_is_no_pricebook_is_one_clear_line() {
        let missing = read(Path::new("/no/such/new.yaml")).expect_err("refused");
        assert!(missing.starts_with("--pricebook /no/such/new.yaml: No such file"), "{missing}");
        assert!(said(&vec![b'#'; MAX_BYTES + 1]).starts_with("--pricebook new.yaml: has more than 1048576"));
        assert!(said(b"version: \xff").contains("is not UTF-8"));
        assert!(said(b" \n").contains("is empty"));
    }

    #[test]
    fn a_file_of_the_largest_size_is_read_whole() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), vec![b'#'; MAX_BYTES]).expect("written");
        assert_eq!(read(file.path()).map(|text| text.len()), Ok(MAX_BYTES));
    }
}
