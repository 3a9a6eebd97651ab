//! A refused batch in the words of the input: lines instead of indices.

use tonic::Status;
use tonic_types::StatusExt;

/// What the service said, in one line.
pub fn describe(status: &Status) -> String {
    // `UNAVAILABLE`, as the protocol writes it.
    let code = format!("{:?}", status.code());
    let code = code.chars().fold(String::new(), |mut name, c| {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_uppercase());
        name
    });
    if status.message().is_empty() { code } else { format!("{code}: {}", status.message()) }
}

/// The lines to print: one for each field that the service named, and what to do.
pub fn explain(name: &str, status: &Status, lines: &[u64], skip_invalid: bool, stored: &str) -> Vec<String> {
    let violations =
        status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    let mut explained: Vec<String> = violations
        .iter()
        .map(|violation| match place(&violation.field, lines) {
            Some((line, field)) => format!("{name}:{line}: {field}: {}", violation.description),
            None => format!("{name}: {}: {}", violation.field, violation.description),
        })
        .collect();
    let what = if skip_invalid || explained.is_empty() {
        String::new()
    } else {
        "fix these, or leave them out with --skip-invalid; ".to_string()
    };
    let span = match lines {
        [] => String::new(),
        [only] => format!(":{only}"),
        [first, .., last] => format!(":{first}-{last}"),
    };
    explained.push(format!("{name}{span}: the batch was refused: {}; {what}{stored}", describe(status)));
    explained
}

/// The line and the field of `events[3].prompt_tokens`.
fn place<'a>(field: &'a str, lines: &[u64]) -> Option<(u64, &'a str)> {
    let (index, field) = field.strip_prefix("events[")?.split_once(']')?;
    let line = lines.get(index.parse::<usize>().ok()?)?;
    Some((*line, field.strip_prefix('.').unwrap_or(field)))
}
