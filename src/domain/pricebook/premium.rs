//! The fine-tune premium, as it is written: a policy with the parameter that belongs to it
//! and no other.

use super::book::Premium;
use super::dated::{EFFECTIVE_FROM, Placed};
use super::fields::Check;
use crate::domain::yaml::diagnostic::{Path, Shown};
use crate::domain::yaml::fields::{Fields, Slot};

const WANTED: &str = "a policy, such as {policy: multiplier, factor: \"1.5\"}";

impl Check<'_> {
    /// The premium over time.
    pub fn premium(&mut self, slot: Slot<'_>, path: &Path<'_>) -> Option<Placed<Premium>> {
        self.timeline(slot, path, WANTED, Check::premium_entry)
    }

    fn premium_entry(&mut self, slot: Slot<'_>, path: &Path<'_>) -> Option<Premium> {
        let known = [EFFECTIVE_FROM, "policy", "factor", "markup"];
        let fields = self.report.fields(slot.node, path, WANTED, &known)?;
        let policy_path = path.key("policy");
        let Some(policy) = fields.get("policy") else {
            let message = "a premium needs a policy: identity, multiplier or markup";
            self.report.error("missing_policy", slot.at, &policy_path, message);
            return None;
        };
        match self.report.text(policy.node, &policy_path, "a policy: identity, multiplier or markup")? {
            "identity" => {
                let factor = self.without(fields, path, "factor", "identity");
                let markup = self.without(fields, path, "markup", "identity");
                (factor && markup).then_some(Premium::Identity)
            }
            "multiplier" => {
                let alone = self.without(fields, path, "markup", "multiplier");
                let factor = self.parameter(fields, slot, path, "factor", Check::factor)?;
                alone.then_some(Premium::Multiplier(factor))
            }
            "markup" => {
                let alone = self.without(fields, path, "factor", "markup");
                let markup = self.parameter(fields, slot, path, "markup", Check::rate)?;
                alone.then_some(Premium::Markup(markup))
            }
            other => {
                let message =
                    format_args!("unknown policy {}; write identity, multiplier or markup", Shown(other));
                self.report.error("unknown_policy", policy.node.place, &policy_path, message);
                None
            }
        }
    }

    /// Whether a parameter that the policy has no use for is absent.
    fn without(&mut self, fields: Fields<'_>, path: &Path<'_>, name: &str, policy: &str) -> bool {
        let Some(parameter) = fields.get(name) else { return true };
        let message = format_args!("{policy} takes no {name}; take it away, or change the policy");
        self.report.error("wrong_premium_parameter", parameter.at, &path.key(name), message);
        false
    }

    fn parameter<T>(
        &mut self,
        fields: Fields<'_>,
        entry: Slot<'_>,
        path: &Path<'_>,
        name: &str,
        read: fn(&mut Self, Slot<'_>, &Path<'_>) -> Option<T>,
    ) -> Option<T> {
        let path = path.key(name);
        let Some(parameter) = fields.get(name) else {
            let message = format_args!("this policy needs a {name}");
            self.report.error("missing_premium_parameter", entry.at, &path, message);
            return None;
        };
        read(self, parameter, &path)
    }
}
