//! What the fuzz targets reach of this crate: the readings of a document, and the lines of the event path.
//!
//! Exists only with the feature of this name. Holds no rule and no expectation.

use std::net::IpAddr;
use std::path::Path;
use std::str;
use std::sync::{Arc, Mutex, PoisonError};

use agent_common::tenant::TenantId;
use policy::model::input;

use crate::api::document::Object;
use crate::api::{NetworkTenant, convert, yaml};
use crate::clock::Clock;
use crate::events::Pipeline;
use crate::events::aggregate::AggregatorBounds;
use crate::events::enrich::{Enricher, Named, Names, TenantNamed};
use crate::events::limit::Rates;
use crate::events::sink::{Line, Sink};
use crate::events::stats::EventStats;
use crate::source::load::load;

/// What came of one document of a file.
#[derive(Debug)]
pub struct DocumentForms {
    /// Kind and name of its object, if they could be read.
    pub object: Option<String>,
    /// Whether it is accepted.
    pub is_accepted: bool,
    /// The object that each finding names.
    pub findings: Vec<Option<String>>,
    /// The tenant, if it is an accepted one.
    pub tenant: Option<TenantForms>,
}

/// An accepted tenant, by three ways.
#[derive(Debug)]
pub struct TenantForms {
    /// As it stands in the file.
    pub file: input::Tenant,
    /// As the API server stores it: the error says why it is refused there.
    pub api: Result<input::Tenant, String>,
    /// Written again as YAML and read from there; `None` if it is refused.
    pub yaml: Option<input::Tenant>,
}

/// Reads each document of a file. `None`: the bytes are no text.
pub fn documents(bytes: &[u8]) -> Option<Vec<DocumentForms>> {
    let chunks = yaml::split(str::from_utf8(bytes).ok()?);
    Some(chunks.into_iter().flat_map(|chunk| read(chunk.text)).collect())
}

fn read(text: &str) -> Vec<DocumentForms> {
    let Ok(loaded) = load(Path::new("fuzz.yaml"), text.as_bytes()) else { return Vec::new() };
    let findings: Vec<_> = loaded.findings.iter().map(|finding| finding.object.clone()).collect();
    let forms = loaded.documents.into_iter().map(|document| {
        let written = document.node.map(|node| node.to_json()).unwrap_or_default();
        let tenant = match &document.object {
            Some(Object::Tenant(tenant)) => Some(again(tenant, written)),
            _ => None,
        };
        let object = document.key.map(|key| key.to_string());
        DocumentForms { object, is_accepted: document.object.is_some(), findings: findings.clone(), tenant }
    });
    forms.collect()
}

fn again(file: &input::Tenant, written: serde_json::Value) -> TenantForms {
    let typed: Result<NetworkTenant, _> = serde_json::from_value(written);
    let api = typed.as_ref().map_err(ToString::to_string).and_then(stored);
    let text = typed.ok().and_then(|typed| serde_saphyr::to_string(&typed).ok()).unwrap_or_default();
    let reread = load(Path::new("again.yaml"), text.as_bytes()).map(|loaded| loaded.documents).unwrap_or_default();
    let yaml = reread.into_iter().next().and_then(|document| match document.object {
        Some(Object::Tenant(tenant)) => Some(tenant),
        _ => None,
    });
    TenantForms { file: file.clone(), api, yaml }
}

/// The tenant after the JSON of the API server.
fn stored(typed: &NetworkTenant) -> Result<input::Tenant, String> {
    let json = serde_json::to_vec(typed).map_err(|error| error.to_string())?;
    let typed: NetworkTenant = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    convert::tenant(&typed).map_err(|error| error.to_string())
}

/// The lines that the event path writes for these records, a second apart, on a node that knows no name.
pub fn event_lines(records: &[&[u8]]) -> Vec<Vec<u8>> {
    const SECOND: u64 = 1_000_000_000;
    let at = |second: usize| Clock { monotonic_ns: second as u64 * SECOND, offset_ns: 0 };
    let kept = Arc::new(KeptLines::default());
    let enricher = Enricher::new("node".to_owned(), None, Arc::new(NoNames));
    let settings = (AggregatorBounds { windows: 8, seen: 8 }, Rates::default());
    let mut pipeline =
        Pipeline::new(enricher, vec![kept.clone()], Arc::new(EventStats::default()), settings, [], at(0));
    for (second, record) in records.iter().enumerate() {
        pipeline.record(record, at(second));
        pipeline.tick(at(second));
    }
    pipeline.finish(at(records.len()));
    let lines = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().map(|line| line.json.to_vec()).collect()
}

/// A sink that keeps every line.
#[derive(Default)]
struct KeptLines(Mutex<Vec<Arc<Line>>>);

impl Sink for KeptLines {
    fn offer(&self, line: &Arc<Line>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(line));
    }
}

/// Nothing is known by name.
struct NoNames;

impl Names for NoNames {
    fn endpoint(&self, _ifindex: u32, _cookie: u32) -> Option<Named> {
        None
    }

    fn address(&self, _address: IpAddr, _at_ns: u64) -> Option<Named> {
        None
    }

    fn tenant(&self, _id: TenantId) -> Option<TenantNamed> {
        None
    }

    fn rule(&self, _tenant: TenantId, _address: IpAddr) -> Option<String> {
        None
    }
}
