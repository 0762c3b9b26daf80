//! Prints findings as text for people and grep, or as JSON for programs.
//!
//! Decides nothing: the caller has ordered and filtered the findings.

use std::io::{self, Write};

use serde_json::json;

use super::Format;
use crate::api::finding::{Finding, FindingSeverity};

/// Prints findings, then a summary on standard error.
pub(super) fn all(findings: &[Finding], format: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Text => findings.iter().try_for_each(|finding| writeln!(out, "{}", line(finding)))?,
        Format::Json => writeln!(out, "{:#}", findings.iter().map(object).collect::<serde_json::Value>())?,
    }
    out.flush()?;
    if !findings.is_empty() {
        eprintln!("{}", summary(findings));
    }
    Ok(())
}

/// `file:line  error  BH012  message`. A finding about the whole file has no line number.
pub(super) fn line(finding: &Finding) -> String {
    let location = match finding.line {
        0 => finding.file.display().to_string(),
        line => format!("{}:{line}", finding.file.display()),
    };
    let severity = severity_of(finding);
    format!("{location}  {severity:<5}  {}  {finding}", finding.code.as_str())
}

/// `1 error, 2 warnings`.
pub(super) fn summary(findings: &[Finding]) -> String {
    let errors = findings.iter().filter(|finding| finding.code.severity() == FindingSeverity::Error).count();
    let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!("{}, {}", many(errors, "error"), many(findings.len() - errors, "warning"))
}

fn severity_of(finding: &Finding) -> &'static str {
    match finding.code.severity() {
        FindingSeverity::Error => "error",
        FindingSeverity::Warn => "warn",
    }
}

fn object(finding: &Finding) -> serde_json::Value {
    json!({
        "file": finding.file.to_string_lossy(),
        "line": finding.line,
        "severity": severity_of(finding),
        "code": finding.code.as_str(),
        "object": finding.object,
        "field": finding.field,
        "problem": finding.problem,
        "remedy": finding.remedy,
    })
}
