//! Windows of whole UTC hours (R14), and which window, trigger and basis a request gets.

/// Who wants a window rated (R9, R10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// A scheduled run: loud about what it takes away, and no reason to reprice.
    Routine,
    /// An operator's run over a window given explicitly.
    Backfill,
}

/// What a rollup that was billed before is rated at (R10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateBasis {
    /// The rates that it was billed at.
    Frozen,
    /// The pricebook's.
    Pricebook,
}
