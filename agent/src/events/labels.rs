//! The closed lists of `agent-common`, as strings in JSON and in the JSON Schema.
//!
//! `agent-common` does not use serde. Only this file gives its lists a JSON form, so a new reason appears in the schema
//! by itself.

use std::borrow::Cow;
use std::fmt;

use agent_common::counters::Outcome;
use agent_common::flow::Direction;
use agent_common::reason::DropReason;
use policy::model::unprotected::UnprotectedReason;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A closed list of values with names.
pub trait ClosedList: Copy + 'static {
    /// Name of the list in the schema.
    const NAME: &'static str;
    /// All values that may appear in an event.
    const ALL: &'static [Self];
    /// The name of the value.
    fn label(self) -> &'static str;
    /// One sentence about the value, if the list has one.
    fn meaning(self) -> Option<&'static str> {
        None
    }
}

/// A value of a closed list, written as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label<T>(pub T);

impl<T: ClosedList> Label<T> {
    /// The value with this name.
    pub fn parse(name: &str) -> Option<Self> {
        T::ALL.iter().find(|item| item.label() == name).map(|item| Self(*item))
    }
}

impl ClosedList for DropReason {
    const NAME: &'static str = "Reason";
    const ALL: &'static [Self] = DropReason::ALL;
    fn label(self) -> &'static str {
        self.as_str()
    }
    fn meaning(self) -> Option<&'static str> {
        Some(self.describe())
    }
}

impl ClosedList for UnprotectedReason {
    const NAME: &'static str = "UnprotectedReason";
    const ALL: &'static [Self] = &UnprotectedReason::ALL;
    fn label(self) -> &'static str {
        self.as_str()
    }
    fn meaning(self) -> Option<&'static str> {
        Some(self.describe())
    }
}

impl ClosedList for Direction {
    const NAME: &'static str = "Direction";
    const ALL: &'static [Self] = &Direction::ALL;
    fn label(self) -> &'static str {
        self.as_str()
    }
}

impl ClosedList for Outcome {
    const NAME: &'static str = "Verdict";
    // No event reports an allowed packet.
    const ALL: &'static [Self] = &[Self::Dropped, Self::Audited];
    fn label(self) -> &'static str {
        self.as_str()
    }
}

impl<T: ClosedList> fmt::Display for Label<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.label())
    }
}

impl<T: ClosedList> Serialize for Label<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.label())
    }
}

impl<'de, T: ClosedList> Deserialize<'de> for Label<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| de::Error::custom(format_args!("{name:?} is not a {}", T::NAME)))
    }
}

impl<T: ClosedList> JsonSchema for Label<T> {
    fn schema_name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let explained: Vec<_> = T::ALL
            .iter()
            .filter_map(|item| item.meaning().map(|meaning| format!("{}: {meaning}", item.label())))
            .collect();
        let names: Vec<_> = T::ALL.iter().map(|item| item.label()).collect();
        if explained.is_empty() {
            json_schema!({ "type": "string", "enum": names })
        } else {
            json_schema!({ "type": "string", "enum": names, "description": explained.join("\n") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_json_and_other_names_are_refused() {
        for reason in DropReason::ALL {
            let json = serde_json::to_string(&Label(*reason)).expect("JSON");
            assert_eq!(serde_json::from_str::<Label<DropReason>>(&json).expect("a reason"), Label(*reason));
        }
        assert!(serde_json::from_str::<Label<DropReason>>("\"because\"").is_err());
        assert!(serde_json::from_str::<Label<Outcome>>("\"allowed\"").is_err(), "no event reports an allowed packet");
    }
}
