//! What is wrong with one field of a request.

/// One field that a request got wrong: where, why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, in the proto's names: `events[3].prompt_tokens`.
    pub field: String,
    /// Stable, for programs: `NEGATIVE`, `TOO_LONG`, `MISSING`, …
    pub reason: &'static str,
    /// For a person: what is wrong, and what to do.
    pub message: String,
}

impl Violation {
    /// A violation of `field`.
    pub fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Violation {
        Violation { field: field.into(), reason, message: message.into() }
    }
}
