//! The closed lists of the kernel side, as words in JSON and in the JSON Schema.
//!
//! The lists themselves live in `agent-common`, which knows no serde; this is the only place that
//! gives them a wire form, so a reason added there appears in the schema by itself.

use std::borrow::Cow;
use std::fmt;

use agent_common::counters::Outcome;
use agent_common::flow::Direction;
use agent_common::reason::DropReason;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A closed list of words.
pub trait ClosedList: Copy + 'static {
    /// Name of the list in the schema.
    const NAME: &'static str;
    /// All that may appear in an event.
    const ALL: &'static [Self];
    /// The word.
    fn label(self) -> &'static str;
    /// One sentence about it, where the list has one.
    fn meaning(self) -> Option<&'static str> {
        None
    }
}

/// A value of a closed list, written as its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label<T>(pub T);

impl<T: ClosedList> Label<T> {
    /// The value of this word.
    pub fn parse(word: &str) -> Option<Self> {
        T::ALL.iter().find(|item| item.label() == word).map(|item| Self(*item))
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

impl ClosedList for Direction {
    const NAME: &'static str = "Direction";
    const ALL: &'static [Self] = &Direction::ALL;
    fn label(self) -> &'static str {
        self.as_str()
    }
}

impl ClosedList for Outcome {
    const NAME: &'static str = "Verdict";
    // An allowed packet is no event.
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
        let word = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&word).ok_or_else(|| de::Error::custom(format_args!("{word:?} is no {}", T::NAME)))
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
        let words: Vec<_> = T::ALL.iter().map(|item| item.label()).collect();
        if explained.is_empty() {
            json_schema!({ "type": "string", "enum": words })
        } else {
            json_schema!({ "type": "string", "enum": words, "description": explained.join("\n") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_json_and_rubbish_does_not() {
        for reason in DropReason::ALL {
            let json = serde_json::to_string(&Label(*reason)).expect("a word");
            assert_eq!(serde_json::from_str::<Label<DropReason>>(&json).expect("the same word"), Label(*reason));
        }
        assert!(serde_json::from_str::<Label<DropReason>>("\"because\"").is_err());
        assert!(serde_json::from_str::<Label<Outcome>>("\"allowed\"").is_err(), "an allowed packet is no event");
    }
}
