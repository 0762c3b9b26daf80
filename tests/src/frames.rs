//! Cases of the frame corpus: one Ethernet frame, the hook that receives it, the verdict it must get.
//!
//! The format is one JSON object per line. A foreign file may omit descriptive fields and may have unknown ones. A
//! field that decides the result is never guessed.

mod builder;
mod corpus;
pub mod craft;
mod from_pod_v4;
mod from_pod_v6;
mod headers_v4;
mod link;
mod payload;
mod to_pod;
pub mod topology;

pub use corpus::{generate, path as corpus_path, to_jsonl};

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One frame and its expected verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrameCase {
    /// Row of the attack table, or `CTL`.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub case: String,
    /// Family of cases.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub class: String,
    /// Whether this is a control: it must pass, or the dropped frames prove nothing.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub control: bool,
    /// Fields that the event must have, if an event is expected.
    #[serde(default)]
    pub event: Option<serde_json::Value>,
    /// The bytes.
    #[serde(with = "hex")]
    pub frame: Vec<u8>,
    /// Frames of one group are sent in order and share their state.
    #[serde(default)]
    pub group: Option<String>,
    /// The program that judges it.
    pub hook: Hook,
    /// Its destination on the link: `gw`, `direct`, `bcast`.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub l2: String,
    /// Length of the frame; checked if present.
    #[serde(default)]
    pub len: Option<usize>,
    /// Text in the payload by which a capture recognises it.
    #[serde(default)]
    pub marker: Option<String>,
    /// Unique name.
    pub name: String,
    /// A remark.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub note: String,
    /// Class of the reason, as the attack table names it.
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub reason: String,
    /// The expected verdict.
    pub verdict: Expected,
}

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Judges packets from the pod.
    FromPod,
    /// Judges packets to the pod.
    ToPod,
}

/// A verdict as a case states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The frame passes.
    Pass,
    /// The frame is dropped.
    Drop,
    /// Either verdict is documented behaviour.
    Either,
}

/// Reads a file of cases. An error names the line.
pub fn read_cases(path: &Path) -> Result<Vec<FrameCase>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_cases(&text).with_context(|| format!("{} is not a file of frames", path.display()))
}

/// Reads cases from text. Empty lines are skipped.
pub fn parse_cases(text: &str) -> Result<Vec<FrameCase>> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered.map(|(index, line)| parse_case(line).with_context(|| format!("line {}", index + 1))).collect()
}

fn parse_case(line: &str) -> Result<FrameCase> {
    // The parser counts lines from this one, so its line number is removed.
    let without_line =
        |error: serde_json::Error| anyhow!(error.to_string().replace(" at line 1 column ", " at column "));
    let case: FrameCase = serde_json::from_str(line).map_err(without_line)?;
    match case.len {
        Some(len) if len != case.frame.len() => {
            bail!("{}: `len` is {len}, but `frame` has {} bytes", case.name, case.frame.len())
        }
        _ => Ok(case),
    }
}

/// Reads `null` as the default value, because some writers use it for an absent field.
fn null_is_nothing<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Bytes as lower-case hexadecimal digits.
mod hex {
    use super::{Deserialize, Deserializer, Serializer};
    use serde::de::Error;
    use std::fmt::Write;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            write!(text, "{byte:02x}").map_err(serde::ser::Error::custom)?;
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        let digits = digits.ok_or_else(|| D::Error::custom("`frame` holds something that is no hexadecimal digit"))?;
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(D::Error::custom("`frame` holds half a byte"));
        }
        Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_needs_a_name_a_frame_a_hook_and_a_verdict_and_no_more() {
        let line = r#"{"name":"n","frame":"00fF","hook":"to_pod","verdict":"either","colour":"blue","note":null}"#;
        let cases = parse_cases(line).expect("a case");
        assert_eq!(cases[0].frame, [0, 255]);
        assert_eq!((cases[0].hook, cases[0].verdict), (Hook::ToPod, Expected::Either));
        for missing in ["name", "frame", "hook", "verdict"] {
            let broken = line.replace(&format!("\"{missing}\":"), "\"x\":");
            assert!(parse_cases(&broken).is_err(), "{missing} may not be missing");
        }
    }

    #[test]
    fn an_error_names_its_line() {
        let good = r#"{"name":"n","frame":"00","hook":"from_pod","verdict":"drop"}"#;
        for bad in [
            r#"{"name":"n","frame":"0","hook":"from_pod","verdict":"drop"}"#,
            r#"{"name":"n","frame":"0g","hook":"from_pod","verdict":"drop"}"#,
            r#"{"name":"n","frame":"00","len":2,"hook":"from_pod","verdict":"drop"}"#,
            r#"{"name":"n","frame":"00","hook":"sideways","verdict":"drop"}"#,
            r#"{"name":"n","frame":"00","hook":"from_pod","verdict":"maybe"}"#,
            "not json",
        ] {
            let error = parse_cases(&format!("{good}\n\n{bad}\n")).expect_err(bad);
            assert_eq!(error.to_string(), "line 3", "{error:#}");
        }
    }

    #[test]
    fn a_case_that_is_written_and_read_stays_equal() {
        let line = r#"{"name":"n","frame":"00ff","hook":"from_pod","verdict":"pass","len":2}"#;
        let case = parse_cases(line).expect("a case").remove(0);
        let again = serde_json::to_string(&case).expect("JSON");
        assert_eq!(parse_cases(&again).expect("a case"), [case]);
    }
}
