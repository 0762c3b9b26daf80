//! Tests of a namespace in no tenant under each of the three settings. Nodes and system pods stay healthy throughout.

use anyhow::{Context, Result, ensure};
use testbed::kube::Site;
use testbed::kube::expect::Unassigned;

/// Isolate is the setting of the other scenarios. This one sets Audit, then Allow, and back.
pub(crate) fn each_setting(site: &mut Site) -> Result<()> {
    let before = site.readiness()?;
    for unassigned in [Unassigned::Audit, Unassigned::Allow, Unassigned::Isolate] {
        site.set_unassigned(unassigned)?;
        site.settle().with_context(|| format!("{unassigned:?}"))?;
        site.check().with_context(|| format!("{unassigned:?}"))?;
        site.healthy().with_context(|| format!("{unassigned:?}"))?;
    }
    let after = site.readiness()?;
    let changed: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    ensure!(changed.is_empty(), "these objects were not ready all the time: {changed:#?}\nnow: {after:#?}");
    Ok(())
}
