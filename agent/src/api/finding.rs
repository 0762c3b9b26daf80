//! One thing that is wrong with a document, told so that its author can mend it.
//!
//! Codes are stable: they are searched for, suppressed in CI and written into runbooks. A code is never
//! reused for something else.

use std::fmt;
use std::path::PathBuf;

/// What is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file as the caller named it.
    pub file: PathBuf,
    /// Line in the file, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// `Kind/name` or `Kind/namespace/name`, as far as it could be read.
    pub object: Option<String>,
    /// Path of the field, empty where the whole object is meant.
    pub field: String,
    /// What kind of thing is wrong.
    pub code: Code,
    /// What is wrong, in one sentence without a full stop.
    pub problem: String,
    /// What to do about it, where that is not in the problem already.
    pub remedy: String,
}

/// Whether a finding spoils its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The object is refused, or loses what is disputed.
    Error,
    /// The object is taken, but probably not what its author meant.
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

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)+ }
            }
        }
    };
}

codes! {
    /// A file cannot be read.
    Unreadable = "BH001", Error;
    /// A document is not YAML.
    Syntax = "BH002", Error;
    /// A document is of no kind that is understood.
    UnknownKind = "BH003", Error;
    /// A field is not known: a typo, or a newer version.
    UnknownField = "BH004", Error;
    /// A value is missing, of the wrong type, or out of bounds.
    Structure = "BH005", Error;
    /// A rule of the definition is broken.
    Rule = "BH006", Error;
    /// A value does not mean what it must.
    Value = "BH007", Error;
    /// The same kind and name twice.
    Duplicate = "BH008", Error;
    /// Data subnets of two tenants overlap.
    SubnetOverlap = "BH010", Error;
    /// A data subnet holds an endpoint's address.
    SubnetHoldsEndpoint = "BH011", Error;
    /// A namespace is claimed by two tenants.
    NamespaceClaimed = "BH012", Error;
    /// Two endpoints claim one address.
    AddressClaimed = "BH013", Error;
    /// Two endpoints claim one interface.
    InterfaceClaimed = "BH014", Error;
    /// A peer does not exist.
    PeerUnknown = "BH020", Warn;
    /// A peer does not list this tenant too.
    PeerNotMutual = "BH021", Warn;
    /// Both list each other, but in directions that permit nothing.
    PeerDirection = "BH022", Warn;
    /// A peer's `until` has passed.
    PeerExpired = "BH023", Warn;
    /// A peer is Shared: the entry changes nothing.
    PeerShared = "BH024", Warn;
    /// A selector matches no namespace given.
    SelectorEmpty = "BH030", Warn;
    /// A selector says only what a namespace must not be.
    SelectorNegative = "BH031", Warn;
    /// An endpoint's namespace is not given, or is nobody's.
    EndpointUnassigned = "BH032", Warn;
}

impl fmt::Display for Finding {
    /// Everything but file, line, severity and code, which each printer places itself.
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
