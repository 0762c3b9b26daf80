//! Which events a reader of the agent's socket wants.
//!
//! Pure. The filter is part of the socket's protocol, so an unknown field is an error.

use agent_common::reason::DropReason;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::labels::Label;
use super::schema::{Body, Event, Time, ViolationEvent};

/// An event must meet all conditions. It meets a list if one of the values matches, or if the list is empty. A filter
/// that names tenants, reasons or verdicts admits violations only. The default admits everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Filter {
    /// Only events of this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Tenants of the sender.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from_tenant: Vec<String>,
    /// Tenants of the receiver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to_tenant: Vec<String>,
    /// Drop reasons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reason: Vec<Label<DropReason>>,
    /// Verdicts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdict: Vec<Label<agent_common::counters::Outcome>>,
}

impl Filter {
    /// Whether the reader wants this event.
    pub(crate) fn admits(&self, event: &Event) -> bool {
        let since = self.since.map_or(Timestamp::MIN, |since| since.0);
        event.time.0 >= since
            && match &event.body {
                Body::Violation(violation) => self.admits_violation(violation),
                Body::Suppressed(_) | Body::State(_) => !self.is_about_violations(),
            }
    }

    fn is_about_violations(&self) -> bool {
        !(self.from_tenant.is_empty() && self.to_tenant.is_empty() && self.reason.is_empty() && self.verdict.is_empty())
    }

    fn admits_violation(&self, violation: &ViolationEvent) -> bool {
        names(&self.from_tenant, violation.source.tenant.as_deref())
            && names(&self.to_tenant, violation.destination.tenant.as_deref())
            && (self.reason.is_empty() || self.reason.contains(&violation.reason))
            && (self.verdict.is_empty() || self.verdict.contains(&violation.verdict))
    }
}

fn names(wanted: &[String], tenant: Option<&str>) -> bool {
    wanted.is_empty() || tenant.is_some_and(|tenant| wanted.iter().any(|name| name == tenant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::fixtures;

    #[test]
    fn each_condition_alone_can_refuse_an_event() {
        let event = fixtures::event(1);
        let acme = || vec!["acme".to_owned()];
        assert!(Filter::default().admits(&event));
        assert!(Filter { from_tenant: acme(), ..Filter::default() }.admits(&event));
        assert!(!Filter { to_tenant: acme(), ..Filter::default() }.admits(&event));
        assert!(!Filter { reason: vec![Label(DropReason::OffSubnet)], ..Filter::default() }.admits(&event));
        assert!(!Filter { since: Some(Time(Timestamp::MAX)), ..Filter::default() }.admits(&event));
    }
}
