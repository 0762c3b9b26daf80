//! The images of a test cluster, built from programs on this machine. No image is ever pulled.
//!
//! - `localhost/agnhost:1`: Kubernetes' own test server and client, with the tools of busybox
//!   (`wget -T` of busybox 1.35 crashes; use `timeout 3 wget`);
//! - `localhost/coredns:1`: the cluster's DNS;
//! - `localhost/pause:1`: the container that keeps a pod's namespaces.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::{Context, Result};

use crate::{
    command::{command, run},
    exclusive,
    image::{self, Image, Layer},
    parts::Parts,
};

/// The test image: `/agnhost` and busybox.
pub const AGNHOST: &str = "localhost/agnhost:1";
/// DNS.
pub const COREDNS: &str = "localhost/coredns:1";
/// The sandbox image.
pub const PAUSE: &str = "localhost/pause:1";

/// Must be increased when this file builds other images from the same programs.
const REVISION: u32 = 1;

/// The archive with all images. It is built again only if a program has changed.
pub fn archive(parts: &Parts, cache: &Path) -> Result<PathBuf> {
    let _alone = exclusive::cache(cache)?;
    let busybox = parts.tool("busybox")?;
    let programs = [busybox, parts.program("agnhost")?, parts.program("coredns")?];
    let recipe = recipe(&programs)?;
    let (archive, made_from) = (cache.join("images.tar"), cache.join("images.from"));
    if archive.exists() && fs::read_to_string(&made_from).is_ok_and(|text| text == recipe) {
        return Ok(archive);
    }
    make(&programs, cache, &archive).context("cannot make the test images")?;
    fs::write(made_from, recipe)?;
    Ok(archive)
}

/// The inputs of the images: a program counts as unchanged while its path, size and time are equal.
fn recipe(programs: &[PathBuf]) -> Result<String> {
    let mut text = format!("{REVISION}\n");
    for program in programs {
        let about = fs::metadata(program)?;
        let age = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        text += &format!("{} {} {}\n", program.display(), about.len(), age.as_nanos());
    }
    Ok(text)
}

fn make([busybox, agnhost, coredns]: &[PathBuf; 3], cache: &Path, archive: &Path) -> Result<()> {
    let (root, scratch) = (cache.join("busybox-root"), cache.join("images"));
    for directory in [&root, &scratch] {
        let _ = fs::remove_dir_all(directory);
    }
    root_of_busybox(busybox, &root)?;
    let tools = Layer::directory(&root);
    let images = [
        image(AGNHOST, vec![tools.clone(), Layer::file(agnhost)?], &["/agnhost"], &["pause"]),
        image(PAUSE, vec![tools], &["/bin/sleep"], &["2147483647"]),
        image(COREDNS, vec![Layer::file(coredns)?], &["/coredns"], &[]),
    ];
    image::write(&images, &scratch, archive)?;
    Ok(fs::remove_dir_all(root)?)
}

fn image(name: &str, layers: Vec<Layer>, entrypoint: &[&str], arguments: &[&str]) -> Image {
    let owned = |words: &[&str]| words.iter().map(|word| String::from(*word)).collect();
    Image { name: name.into(), layers, entrypoint: owned(entrypoint), arguments: owned(arguments), user: None }
}

/// Busybox under all its names, with its libraries.
///
/// A dynamic busybox is preferred, because Debian's static one crashes when it resolves a name.
fn root_of_busybox(busybox: &Path, root: &Path) -> Result<()> {
    for directory in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnobody:x:65534:\n")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    for name in run(&mut command(busybox, ["--list"]))?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name))?;
    }
    libraries(busybox).iter().try_for_each(|library| copy_library(library, root))
}

/// The absolute paths in the output of `ldd`. A static program has none, and `ldd` fails.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let text = run(command("ldd", ["--"]).arg(program)).unwrap_or_default();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn copy_library(library: &Path, root: &Path) -> Result<()> {
    let target = root.join(library.strip_prefix("/")?);
    fs::create_dir_all(target.parent().context("a library has a directory")?)?;
    fs::copy(library, &target).with_context(|| format!("cannot copy {}", library.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_makes_other_images() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, "one").unwrap();
        let before = recipe(std::slice::from_ref(&program)).unwrap();
        assert_eq!(recipe(std::slice::from_ref(&program)).unwrap(), before);
        fs::write(&program, "another").unwrap();
        assert_ne!(recipe(&[program]).unwrap(), before);
    }

    #[test]
    fn a_dynamic_program_has_libraries_and_a_text_file_has_none() {
        assert!(libraries(Path::new("/bin/sh")).iter().any(|path| path.to_string_lossy().contains("libc.")));
        assert_eq!(libraries(Path::new("/etc/passwd")), Vec::<PathBuf>::new());
    }
}
