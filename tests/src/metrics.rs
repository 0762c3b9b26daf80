//! Reads a metrics scrape.
//!
//! Parses only the part of the text format that is needed to sum samples. Knows no metric.

use std::collections::BTreeMap;

/// Samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name of the series.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Parses a scrape. Comments and lines of an unknown form are skipped.
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    /// The samples of a name that have all these labels.
    pub fn select<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let has =
            |sample: &Sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value));
        self.samples.iter().filter(move |sample| sample.name == name && has(sample))
    }

    /// The sum of these samples; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|sample| sample.value).sum()
    }

    /// Whether a name has any sample.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, rest) = match line.split_once('}') {
        Some((series, rest)) => (series, rest),
        None => line.split_once(' ')?,
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    // The agent's label values contain neither quotes nor commas.
    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    let labels = pairs.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect();
    Some(Sample { name: name.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_add_up_by_label() {
        let metrics = Metrics::parse(
            "# HELP drops x\n# TYPE drops counter\ndrops_total{reason=\"a\",direction=\"egress\"} 3\n\
             drops_total{reason=\"a\",direction=\"ingress\"} 4 1700000000\ndrops_total{reason=\"b\",direction=\"egress\"} 5\n\
             ready 1\n# EOF\n",
        );
        assert_eq!(metrics.sum("drops_total", &[]), 12.0);
        assert_eq!(metrics.sum("drops_total", &[("reason", "a")]), 7.0);
        assert_eq!(metrics.sum("drops_total", &[("reason", "a"), ("direction", "ingress")]), 4.0);
        assert_eq!(metrics.sum("ready", &[]), 1.0);
        assert!(metrics.has("ready") && !metrics.has("drops"));
    }
}
