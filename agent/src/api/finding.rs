//! One finding about a document: what is wrong, where, and what to do.
//!
//! Codes are stable, because people search for them, suppress them in CI and write them into runbooks. A code is never
//! reused. Knows no rule.

use std::fmt;
use std::path::PathBuf;

/// What is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file as the caller named it.
    pub file: PathBuf,
    /// Line in the file, from 1; 0 for the whole file.
    pub line: usize,
    /// `Kind/name` or `Kind/namespace/name`, if it could be read.
    pub object: Option<String>,
    /// Path of the field; empty for the whole object.
    pub field: String,
    /// Kind of the finding.
    pub code: Code,
    /// What is wrong, in one sentence without a full stop.
    pub problem: String,
    /// What to do; empty if the problem says it.
    pub remedy: String,
}

/// Whether a finding makes its object invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSeverity {
    /// The object is refused, or loses what it claims.
    Error,
    /// The object is accepted, but probably not as its author intended.
    Warn,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $severity:ident;)+) => {
        /// Kinds of findings.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// Every code, for tests and documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// `BH001` and so on.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// Severity of the findings.
            pub const fn severity(self) -> FindingSeverity {
                match self { $(Self::$name => FindingSeverity::$severity,)+ }
            }
        }
    };
}

codes! {
    /// A file cannot be read.
    Unreadable = "BH001", Error;
    /// A document is not YAML.
    Syntax = "BH002", Error;
    /// The kind of a document is unknown.
    UnknownKind = "BH003", Error;
    /// A field is unknown: it is misspelt, or belongs to a newer version.
    UnknownField = "BH004", Error;
    /// A value is missing, of the wrong type, or out of bounds.
    Structure = "BH005", Error;
    /// An object violates a rule of the definition.
    Rule = "BH006", Error;
    /// A value has the right type and an invalid content.
    Value = "BH007", Error;
    /// An object of the same kind and name exists already.
    Duplicate = "BH008", Error;
    /// Data subnets of two tenants overlap.
    SubnetOverlap = "BH010", Error;
    /// A data subnet contains an endpoint's address.
    SubnetHoldsEndpoint = "BH011", Error;
    /// Two tenants claim a namespace.
    NamespaceClaimed = "BH012", Error;
    /// Two endpoints claim one address.
    AddressClaimed = "BH013", Error;
    /// Two endpoints claim one interface.
    InterfaceClaimed = "BH014", Error;
    /// A peer does not exist.
    PeerUnknown = "BH020", Warn;
    /// A peer does not list this tenant.
    PeerNotMutual = "BH021", Warn;
    /// Two tenants list each other in directions that permit nothing.
    PeerDirection = "BH022", Warn;
    /// A peer's `until` has passed.
    PeerExpired = "BH023", Warn;
    /// A peer is Shared, so the entry has no effect.
    PeerShared = "BH024", Warn;
    /// A selector matches no namespace of the files.
    SelectorEmpty = "BH030", Warn;
    /// A selector has only negative requirements.
    SelectorNegative = "BH031", Warn;
    /// An endpoint's namespace is missing, or belongs to no tenant.
    EndpointUnassigned = "BH032", Warn;
}

impl fmt::Display for Finding {
    /// Object, field, problem and remedy. File, line, severity and code are added by each printer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_used_once() {
        let distinct: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(distinct.len(), Code::ALL.len());
    }

    #[test]
    fn a_finding_reads_as_one_line() {
        let finding = Finding {
            file: "tenants.yaml".into(),
            line: 7,
            object: Some("NetworkTenant/acme".into()),
            field: "spec.mode".into(),
            code: Code::Structure,
            problem: "\"Enfroce\" is not allowed".into(),
            remedy: "write Enforce or Audit".into(),
        };
        assert_eq!(
            finding.to_string(),
            "NetworkTenant/acme: spec.mode: \"Enfroce\" is not allowed; write Enforce or Audit"
        );
    }
}
