//! Replays the frames of a file through the loaded programs and the host verdict, one JSON line each.
//!
//! A frame passes if the verdict is as expected, if program and host agree on verdict and reason, and if the reason
//! belongs to the frame's class (`reasons`). Frames of a group share their state, in file order. Every other frame
//! starts with none.

use agent_common::flow::Direction;
use anyhow::Result;
use serde::Serialize;

use super::{Engine, reasons};
use crate::frames::{Expected, FrameCase, Hook, parse_cases};

/// The result for one line of the file.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The name of the case, or the line number if there is none.
    pub name: String,
    /// Whether the result is as expected.
    pub ok: bool,
    /// The program. Absent if the line is not a case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<Hook>,
    /// The verdict that the case expects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// The actual verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<Expected>,
    /// The actual reason, or `allowed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The class of reason that the case expects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_reason: Option<String>,
    /// `kernel`, or `host` if the kernel makes no socket buffer of such a frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<&'static str>,
    /// What is not as expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Replays a file's text. Calls `report` with each line as soon as its result is known.
pub fn replay(engine: &mut Engine, text: &str, mut report: impl FnMut(&Line)) -> Result<(usize, usize)> {
    let (mut passed, mut failed) = (0, 0);
    let mut count = |line: Line| {
        *(if line.ok { &mut passed } else { &mut failed }) += 1;
        report(&line);
    };
    for train in trains(text) {
        engine.forget()?;
        for case in train {
            match case {
                Ok(case) => count(judge(engine, &case)?),
                Err(line) => count(line),
            }
        }
    }
    Ok((passed, failed))
}

type ReplayCase = Result<FrameCase, Line>;

/// The cases by group. A group is in the position of its first frame.
fn trains(text: &str) -> Vec<Vec<ReplayCase>> {
    let mut trains: Vec<(Option<String>, Vec<ReplayCase>)> = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let case = read(index + 1, line);
        let group = case.as_ref().ok().and_then(|case| case.group.clone());
        match trains.iter_mut().find(|(known, _)| group.is_some() && *known == group) {
            Some((_, train)) => train.push(case),
            None => trains.push((group, vec![case])),
        }
    }
    trains.into_iter().map(|(_, train)| train).collect()
}

fn read(number: usize, line: &str) -> ReplayCase {
    let broken = |error: String| Line {
        name: format!("line {number}"),
        ok: false,
        hook: None,
        expected: None,
        got: None,
        reason: None,
        expected_reason: None,
        engine: None,
        error: Some(format!("line {number}: {error}")),
    };
    match parse_cases(line) {
        Ok(mut cases) if cases.len() == 1 => Ok(cases.remove(0)),
        Ok(cases) => Err(broken(format!("{} cases", cases.len()))),
        // The outermost context has the line number within this text, which is always 1.
        Err(error) => Err(broken(error.chain().skip(1).map(ToString::to_string).collect::<Vec<_>>().join(": "))),
    }
}

fn judge(engine: &Engine, case: &FrameCase) -> Result<Line> {
    let direction = match case.hook {
        Hook::FromPod => Direction::Egress,
        Hook::ToPod => Direction::Ingress,
    };
    let ran = engine.judge(direction, &case.frame, None)?;
    let host = engine.host(direction, &case.frame);
    let mut errors = Vec::new();
    if let Some(ran) = ran
        && !ran.agrees(&host)
    {
        errors.push(format!("the kernel's verdict is {:?} {:?}, the host's is {:?}", ran.outcome, ran.reason, host));
    }
    let reason = ran.map_or(host.reason(), |ran| ran.reason);
    let passes = ran.map_or(host.passes(), |ran| ran.outcome != agent_common::counters::Outcome::Dropped);
    let got = if passes { Expected::Pass } else { Expected::Drop };
    if case.verdict != Expected::Either && case.verdict != got {
        errors.push("the verdict is not the expected one".to_owned());
    }
    if let Some(reason) = reason
        && case.verdict == Expected::Drop
        && !reasons::accepts(&case.reason, reason)
    {
        errors.push(format!("the reason {} does not satisfy {}", reason.as_str(), case.reason));
    }
    Ok(Line {
        name: case.name.clone(),
        ok: errors.is_empty(),
        hook: Some(case.hook),
        expected: Some(case.verdict),
        got: Some(got),
        reason: Some(reason.map_or("allowed", |reason| reason.as_str())),
        expected_reason: Some(case.reason.clone()),
        engine: Some(if ran.is_some() { "kernel" } else { "host" }),
        error: (!errors.is_empty()).then(|| errors.join("; ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_a_group_stay_together_and_invalid_lines_stay_in_order() {
        let line = |name: &str, group: &str| {
            format!(r#"{{"name":"{name}","frame":"00","hook":"to_pod","verdict":"drop","group":{group}}}"#)
        };
        let text = [line("a", "\"g\""), line("b", "null"), "{".to_owned(), line("c", "\"g\""), line("d", "null")];
        let trains = trains(&text.join("\n"));
        let names: Vec<Vec<String>> = trains
            .iter()
            .map(|train| {
                train.iter().map(|case| case.as_ref().map_or_else(|l| l.name.clone(), |c| c.name.clone())).collect()
            })
            .collect();
        assert_eq!(names, [vec!["a", "c"], vec!["b"], vec!["line 3"], vec!["d"]]);
        let error = trains[2][0].as_ref().expect_err("no case").error.clone().unwrap_or_default();
        assert!(error.starts_with("line 3: ") && !error.contains("line 1"), "{error}");
    }
}
