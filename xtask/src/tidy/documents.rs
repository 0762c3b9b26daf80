//! How long the documents may be.
//!
//! README and ARCHITECTURE are an entrance and a map. What grows beyond that belongs into `docs/`.

use super::{Finding, Rule};

/// The most lines of a document.
const LINES: [(&str, usize); 2] = [("README.md", 120), ("ARCHITECTURE.md", 150)];
const GLOSSARY: &str = "docs/glossary.md";
const GLOSSARY_ROWS: usize = 40;

/// Every limit that this document exceeds.
pub(super) fn check(file: &str, text: &str) -> Vec<Finding> {
    let finding = |message: String| Finding { file: file.to_owned(), line: 1, message, rule: Rule::Documents };
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if let Some((_, most)) = LINES.iter().find(|(name, most)| *name == file && lines > *most) {
        findings.push(finding(format!("{lines} lines are more than {most}: move details into docs/")));
    }
    // The head and the line below it are no words.
    let rows = text.lines().filter(|line| line.starts_with('|')).count().saturating_sub(2);
    if file == GLOSSARY && rows > GLOSSARY_ROWS {
        findings.push(finding(format!("{rows} words are more than {GLOSSARY_ROWS}: use a word that is there")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_limits() {
        assert!(check("README.md", &"x\n".repeat(120)).is_empty());
        assert_eq!(check("README.md", &"x\n".repeat(121)).len(), 1);
        assert_eq!(check("ARCHITECTURE.md", &"x\n".repeat(151)).len(), 1);
        assert!(check("docs/other.md", &"x\n".repeat(999)).is_empty());
        assert!(check(GLOSSARY, &"| a | b |\n".repeat(42)).is_empty());
        assert_eq!(check(GLOSSARY, &"| a | b |\n".repeat(43)).len(), 1);
    }
}
