//! Lists of a contract's enum: sets, whatever their order and however often a value is in them.

use std::collections::BTreeSet;

use crate::domain::violation::Violation;

/// The distinct values in the order of their numbers. One that `known` has no meaning for
/// (UNSPECIFIED, as a rule), or that the contract does not have, is refused by the field.
pub(super) fn distinct<P: TryFrom<i32>, T>(
    field: &'static str,
    values: Vec<i32>,
    known: impl Fn(P) -> Option<T>,
    wrong: &mut Vec<Violation>,
) -> Vec<T> {
    let numbers: BTreeSet<i32> = values.into_iter().collect();
    let found: Vec<Option<T>> =
        numbers.into_iter().map(|number| P::try_from(number).ok().and_then(&known)).collect();
    if found.iter().any(Option::is_none) {
        let message = "must hold only values of the contract, and none that is UNSPECIFIED";
        wrong.push(Violation::new(field, "UNKNOWN", message));
    }
    found.into_iter().flatten().collect()
}
