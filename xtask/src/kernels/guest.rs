//! Boots one guest: builds its initial file system, starts the machine and counts the results it prints.
//!
//! Knows nothing of other kernels. A guest prints what the tests print, so their result lines are read as usual.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{Binaries, fetch::Kernel, output};
use crate::{tally::Tally, workspace};

/// Kernel modules of the tests, where they are not built in. Each stands after those that it needs.
const MODULES: [&str; 16] = [
    "llc",
    "stp",
    "bridge",
    "veth",
    "sch_ingress",
    "cls_bpf",
    // nf_tables, kernel conntrack, and the expressions of the input guard, some of which newer kernels have built in.
    "libcrc32c",
    "nfnetlink",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_conntrack",
    "nf_tables",
    "nf_tables_set",
    "nft_counter",
    "nft_objref",
    "nft_ct",
];
/// Seconds after which a guest is stopped.
const LIMIT: &str = "300";
/// What runs in a guest: the frames of the corpus, then who reaches whom over both ways to attach pods,
/// then the guards in place and gone, the one on control groups alone, and what reads the kernel's structures.
const SCRIPT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t bpf bpf /sys/fs/bpf
/bin/busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
/bin/busybox mount -t tmpfs tmpfs /run
/bin/busybox mount -t tmpfs tmpfs /tmp
for module in /modules/*.ko; do /bin/busybox insmod $module; done
export PATH=/bin BULKHEAD_BIN=/bin/bulkhead
ip link set lo up
if frames /corpus.jsonl > /tmp/frames; then passed=1 failed=0; else passed=0 failed=1; fi
/bin/busybox grep -v '"ok":true' /tmp/frames
echo "test result: frames. $passed passed; $failed failed; 0 ignored"
isolation --test-threads=1 --include-ignored tenants_are_kept_apart an_event_names_both_pods
guards --test-threads=1 --include-ignored --skip child_process guards_are_shown groups:: a_deferred_checksum
/bin/busybox poweroff -f
"#;

/// Boots a kernel and counts the results it prints.
pub(super) fn run(kernel: &Kernel, binaries: &Binaries) -> Result<Tally> {
    let directory = workspace::products().join("kernels/guests").join(&kernel.version);
    let _ = fs::remove_dir_all(&directory);
    let initrd = directory.join("initrd");
    build(kernel, binaries, &directory.join("root"), &initrd).context("cannot build the initial file system")?;
    let mut machine = Command::new("timeout");
    machine.args([LIMIT, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
    machine.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    machine.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initrd);
    machine.args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr tsc=reliable"]);
    let mut child = machine.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start qemu")?;
    let output = child.stdout.take().context("a piped output can be taken once")?;
    let mut tally = Tally::default();
    let mut results = 0;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        println!("  {line}");
        if let Some(counted) = Tally::of_line(&line) {
            tally += counted;
            results += 1;
        }
    }
    let status = child.wait()?;
    ensure!(results == 3, "the guest printed {results} results instead of 3, and ended with {status}");
    fs::remove_dir_all(&directory)?;
    Ok(tally)
}

fn build(kernel: &Kernel, binaries: &Binaries, root: &Path, initrd: &Path) -> Result<()> {
    for directory in ["bin", "proc", "sys", "dev", "run", "tmp", "modules"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let busybox = workspace::on_path("busybox").context("there is no program busybox: install busybox-static")?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    let programs = [
        (&binaries.frames, "frames"),
        (&binaries.isolation, "isolation"),
        (&binaries.guards, "guards"),
        (&binaries.agent, "bulkhead"),
        (&binaries.ip, "ip"),
    ];
    for (from, name) in programs {
        output(Command::new("strip").arg("-o").arg(root.join("bin").join(name)).arg(from.canonicalize()?))?;
        libraries(from, root)?;
    }
    fs::copy(workspace::root().join("tests/frames/corpus.jsonl"), root.join("corpus.jsonl"))?;
    for (number, module) in MODULES.iter().enumerate() {
        let found = output(Command::new("find").arg(&kernel.modules).args(["-name", &format!("{module}.ko*")]))?;
        let Some(from) = found.lines().next() else { continue };
        let to = root.join(format!("modules/{number:02}-{module}.ko"));
        if from.ends_with(".xz") {
            let unpacked = Command::new("xz").args(["-dc", from]).stdout(File::create(&to)?).status()?;
            ensure!(unpacked.success(), "cannot unpack {from}");
        } else {
            fs::copy(from, &to)?;
        }
    }
    let init = root.join("init");
    fs::write(&init, SCRIPT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let pack = "cd \"$1\" && find . | busybox cpio -o -H newc | gzip -1 > \"$2\"";
    output(Command::new("sh").args(["-c", pack, "sh"]).arg(root).arg(initrd).stderr(Stdio::null())).map(drop)
}

/// Copies the shared libraries of a program to the paths where it looks for them.
fn libraries(program: &Path, root: &Path) -> Result<()> {
    let listed = output(Command::new("ldd").arg(program))?;
    let words = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for library in words.map(PathBuf::from).collect::<BTreeSet<_>>() {
        let to = root.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(&library, &to).with_context(|| format!("cannot copy {}", library.display()))?;
    }
    Ok(())
}
