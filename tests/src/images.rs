//! OCI images of static binaries, written straight into the registry's folder: no daemon, byte for byte reproducible.
//!
//! ```text
//! blobs/sha256/<digest>            configs, layers, manifests
//! repositories/<name>/tags/<tag>   the manifest's digest
//! ```

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::network;

/// Media type of a manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// What goes into an image.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Path in the image and the host's file; executable bits are kept.
    pub files: Vec<(String, PathBuf)>,
    /// Path in the image and what it points to.
    pub links: Vec<(String, String)>,
    /// Command line.
    pub entrypoint: Vec<String>,
    /// User id, or `user:group`.
    pub user: String,
}

/// An image in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Name without registry, such as `optipod/agent`.
    pub name: String,
    /// Tag.
    pub tag: String,
    /// Digest of the manifest.
    pub digest: String,
}

impl Reference {
    /// Registry and name, what a chart calls the repository.
    pub fn repository(&self) -> String {
        format!("{}:{}/{}", network::HOST, network::REGISTRY_PORT, self.name)
    }

    /// What a pod spec says.
    pub fn image(&self) -> String {
        format!("{}:{}", self.repository(), self.tag)
    }
}

/// Writes an image of `files` into the registry; see [`Image::write`].
pub fn write_image(
    registry: &Path,
    name: &str,
    tag: &str,
    entrypoint: &[&str],
    files: &[(&str, &Path)],
    user: &str,
) -> Result<Reference> {
    let files = files.iter().map(|&(path, host)| (path.to_owned(), host.to_owned())).collect();
    let entrypoint = entrypoint.iter().map(|&word| word.to_owned()).collect();
    Image { files, links: Vec::new(), entrypoint, user: user.to_owned() }.write(registry, name, tag)
}

impl Image {
    /// Writes blobs first and the tag last, so that a registry that serves the folder never shows half an image.
    pub fn write(&self, registry: &Path, name: &str, tag: &str) -> Result<Reference> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": { "Entrypoint": self.entrypoint, "User": self.user, "Env": ["PATH=/bin:/"], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "optipod lab" }],
        }))?;
        let part = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": part(CONFIG_TYPE, &config),
            "layers": [part(LAYER_TYPE, &layer)],
        }))?;
        for blob in [&layer, &config, &manifest] {
            let path = blob_path(registry, &digest(blob));
            if !path.exists() {
                write_atomically(&path, blob)?;
            }
        }
        let digest = digest(&manifest);
        write_atomically(&tag_path(registry, name, tag), digest.as_bytes())?;
        Ok(Reference { name: name.to_owned(), tag: tag.to_owned(), digest })
    }

    /// The only layer: folders, files and links sorted by path, owned by root, without times.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut folders = BTreeSet::from(["tmp".to_owned()]);
        let paths = self.files.iter().map(|(path, _)| path).chain(self.links.iter().map(|(path, _)| path));
        for path in paths {
            let ancestors = Path::new(relative(path)).ancestors().skip(1);
            folders.extend(
                ancestors.map(|folder| folder.display().to_string()).filter(|folder| !folder.is_empty()),
            );
        }
        for folder in folders {
            let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
            let mut header = header(tar::EntryType::Directory, mode, 0);
            archive.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
        }
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort();
        for (path, host) in files {
            let bytes = fs::read(host).with_context(|| format!("cannot read {}", host.display()))?;
            let mut header = header(tar::EntryType::Regular, 0o755, bytes.len() as u64);
            archive.append_data(&mut header, relative(path), bytes.as_slice())?;
        }
        let mut links: Vec<_> = self.links.iter().collect();
        links.sort();
        for (path, target) in links {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            archive.append_link(&mut header, relative(path), target)?;
        }
        archive.into_inner().context("cannot finish a layer")
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// `sha256:...` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Where a blob of that digest is.
pub fn blob_path(registry: &Path, digest: &str) -> PathBuf {
    registry.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

/// Where a tag is.
pub fn tag_path(registry: &Path, name: &str, tag: &str) -> PathBuf {
    registry.join("repositories").join(name).join("tags").join(tag)
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a path without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file =
        fs::File::create(&temporary).with_context(|| format!("cannot create {}", temporary.display()))?;
    file.write_all(bytes).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("cannot rename to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(folder: &Path, order: [&str; 2]) -> Image {
        let files = order.map(|name| {
            fs::write(folder.join(name), name).unwrap();
            (format!("/bin/{name}"), folder.join(name))
        });
        Image { files: files.to_vec(), entrypoint: vec!["/bin/a".to_owned()], ..Image::default() }
    }

    #[test]
    fn same_content_has_the_same_digest_whatever_order_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let one = image(folder.path(), ["a", "b"]).write(&folder.path().join("r1"), "x/y", "1").unwrap();
        let other = image(folder.path(), ["b", "a"]).write(&folder.path().join("r2"), "x/y", "1").unwrap();
        assert_eq!(one, other);
        assert_eq!(one.image(), "192.0.2.1:5000/x/y:1");
    }

    #[test]
    fn blobs_are_stored_under_their_digest_and_the_tag_names_the_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let written = image(folder.path(), ["a", "b"]).write(folder.path(), "x", "1").unwrap();
        let manifest = fs::read(blob_path(folder.path(), &written.digest)).unwrap();
        assert_eq!(digest(&manifest), written.digest);
        let value: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let layer =
            fs::read(blob_path(folder.path(), value["layers"][0]["digest"].as_str().unwrap())).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let paths: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(paths, ["bin/", "tmp/", "bin/a", "bin/b"]);
        assert_eq!(fs::read_to_string(tag_path(folder.path(), "x", "1")).unwrap(), written.digest);
    }
}
