//! Builds container images without a container tool: an OCI layout is a few JSON files and some tars in a tar.
//!
//! Equal input gives equal bytes: times, owners and order are fixed, and blobs are named by their digest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command::{command, run};

/// One image to write.
#[derive(Clone, Debug)]
pub struct Image {
    /// The full name in pod specs, such as `localhost/agnhost:1`.
    pub name: String,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
    /// The program that is started.
    pub entrypoint: Vec<String>,
    /// Its arguments, unless the pod has others.
    pub arguments: Vec<String>,
    /// User id and group id. `None` is root.
    pub user: Option<String>,
}

/// A member of a directory, or all of it (`.`), at the root of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The directory on this machine.
    pub directory: PathBuf,
    /// The file or directory in it.
    pub member: String,
}

impl Layer {
    /// One file, at the image's root.
    pub fn file(path: &Path) -> Result<Self> {
        let directory = path.parent().with_context(|| format!("{} has no directory", path.display()))?;
        let member = path.file_name().and_then(|name| name.to_str());
        let member = member.with_context(|| format!("{} has no name", path.display()))?;
        Ok(Self { directory: directory.into(), member: member.into() })
    }

    /// Everything in a directory.
    pub fn directory(path: &Path) -> Self {
        Self { directory: path.into(), member: ".".into() }
    }
}

/// Writes all images into one archive, shared layers only once. `scratch` must not exist, and is removed afterwards.
pub fn write(images: &[Image], scratch: &Path, archive: &Path) -> Result<()> {
    let layout = Layout { directory: scratch.into() };
    fs::create_dir_all(layout.blobs()).context("cannot create the directories of an image")?;
    let manifests = images.iter().map(|image| layout.add(image)).collect::<Result<Vec<_>>>()?;
    let index = json!({"schemaVersion": 2, "mediaType": media("image.index.v1+json"), "manifests": manifests});
    fs::write(scratch.join("index.json"), index.to_string())?;
    fs::write(scratch.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    tar(&Layer::directory(scratch), archive)?;
    fs::remove_dir_all(scratch).context("cannot remove the directories of an image")
}

/// An unfinished layout.
struct Layout {
    directory: PathBuf,
}

impl Layout {
    fn blobs(&self) -> PathBuf {
        self.directory.join("blobs/sha256")
    }

    /// Adds an image and returns its entry for the index.
    fn add(&self, image: &Image) -> Result<Value> {
        let layers = image.layers.iter().map(|layer| self.layer(layer)).collect::<Result<Vec<_>>>()?;
        let config = self.json("image.config.v1+json", &config(image, &layers))?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media("image.manifest.v1+json"),
            "config": config,
            "layers": layers,
        });
        let mut entry = self.json("image.manifest.v1+json", &manifest)?;
        entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
        entry["annotations"] = json!({"io.containerd.image.name": image.name});
        Ok(entry)
    }

    fn layer(&self, layer: &Layer) -> Result<Value> {
        let file = self.directory.join("layer.tar");
        tar(layer, &file)?;
        self.keep("image.layer.v1.tar", &file)
    }

    fn json(&self, kind: &str, content: &Value) -> Result<Value> {
        let file = self.directory.join("blob.json");
        fs::write(&file, content.to_string())?;
        self.keep(kind, &file)
    }

    /// Moves a file to the path that its digest determines, and returns its descriptor.
    fn keep(&self, kind: &str, file: &Path) -> Result<Value> {
        let size = fs::metadata(file)?.len();
        let digest = sha256(file)?;
        fs::rename(file, self.blobs().join(&digest))?;
        Ok(json!({"mediaType": media(kind), "digest": format!("sha256:{digest}"), "size": size}))
    }
}

/// Layers are not compressed, so their digests are those of their content.
fn config(image: &Image, layers: &[Value]) -> Value {
    let digests: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin:/usr/bin:/"],
            "Entrypoint": image.entrypoint,
            "Cmd": image.arguments,
            "User": image.user.as_deref().unwrap_or_default(),
        },
        "rootfs": {"type": "layers", "diff_ids": digests},
    })
}

fn media(kind: &str) -> String {
    format!("application/vnd.oci.{kind}")
}

/// The name of this machine's architecture in registries.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn tar(layer: &Layer, archive: &Path) -> Result<()> {
    let fixed = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"];
    let mut tar = command("tar", fixed);
    // A link to a single file is followed. Within a directory links lead to each other and are kept.
    if layer.member != "." {
        tar.arg("--dereference");
    }
    run(tar.arg("-C").arg(&layer.directory).arg("-cf").arg(archive).arg(&layer.member))?;
    Ok(())
}

fn sha256(file: &Path) -> Result<String> {
    let line = run(command("sha256sum", ["--"]).arg(file))?;
    Ok(line.split(' ').next().unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(directory: &Path) -> Image {
        fs::create_dir_all(directory.join("root/bin")).unwrap();
        fs::write(directory.join("root/bin/hello"), "hello").unwrap();
        Image {
            name: "localhost/hello:1".into(),
            layers: vec![Layer::directory(&directory.join("root"))],
            entrypoint: vec!["/bin/hello".into()],
            arguments: vec![],
            user: Some("65532:65532".into()),
        }
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one.tar"), directory.path().join("two.tar"));
        for archive in [&one, &two] {
            write(&[sample(directory.path())], &directory.path().join("scratch"), archive).unwrap();
        }
        assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
        assert!(!directory.path().join("scratch").exists());
    }

    #[test]
    fn every_blob_is_named_by_its_digest() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("image.tar");
        write(&[sample(directory.path())], &directory.path().join("scratch"), &archive).unwrap();
        run(command("tar", ["-C"]).arg(directory.path()).arg("-xf").arg(&archive)).unwrap();
        let blobs: Vec<_> = fs::read_dir(directory.path().join("blobs/sha256")).unwrap().flatten().collect();
        assert_eq!(blobs.len(), 3);
        assert!(blobs.iter().all(|blob| *blob.file_name() == *sha256(&blob.path()).unwrap()));
    }

    #[test]
    fn a_file_given_by_a_link_is_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let (link, archive) = (directory.path().join("link"), directory.path().join("layer.tar"));
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        tar(&Layer::file(&link).unwrap(), &archive).unwrap();
        let list = run(command("tar", ["-tvf"]).arg(&archive)).unwrap();
        assert!(list.starts_with('-') && list.trim().ends_with(" link"), "{list}");
    }

    #[test]
    fn the_index_contains_the_name_in_pod_specs() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout { directory: directory.path().join("layout") };
        fs::create_dir_all(layout.blobs()).unwrap();
        let entry = layout.add(&sample(directory.path())).unwrap();
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "localhost/hello:1");
    }
}
