//! A refused batch in the words of the input: lines instead of indices.

use crate::grpc::client::Failure;

/// The lines to print: one for each field that the service named, and what to do.
pub fn explain(
    name: &str,
    failure: &Failure,
    lines: &[u64],
    skip_invalid: bool,
    stored: &str,
) -> Vec<String> {
    let fields = failure.violations.iter();
    let mut explained: Vec<String> = fields
        .map(|(field, what)| match place(field, lines) {
            Some((line, field)) => format!("{name}:{line}: {field}: {what}"),
            None => format!("{name}: {field}: {what}"),
        })
        .collect();
    let span = match lines {
        [] => String::new(),
        [only] => format!(":{only}"),
        [first, .., last] => format!(":{first}-{last}"),
    };
    let what = match failure.may_pass {
        // An answer may have been lost on the way.
        true => "given up; these lines may be stored or not",
        false => "these lines were not stored",
    };
    let advice = match skip_invalid || explained.is_empty() {
        true => "",
        false => "fix them, or leave out the bad ones with --skip-invalid; ",
    };
    // The only violation is the message once more.
    let why = if explained.len() == 1 { failure.code.to_string() } else { failure.to_string() };
    explained.push(format!("{name}{span}: {what}: {why}; {advice}{stored}"));
    explained
}

/// The line and the field of `events[3].prompt_tokens`.
fn place<'a>(field: &'a str, lines: &[u64]) -> Option<(u64, &'a str)> {
    let (index, field) = field.strip_prefix("events[")?.split_once(']')?;
    let line = lines.get(index.parse::<usize>().ok()?)?;
    Some((*line, field.strip_prefix('.').unwrap_or(field)))
}
