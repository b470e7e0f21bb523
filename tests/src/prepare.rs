//! Everything that `up` needs, made or found in the cache.

use std::path::PathBuf;

use anyhow::Result;

use crate::{base_images, cache::Cache, guest::NodeImage, prerequisites, progress::Progress, tools::Tools};

/// Steps that [`ensure`] reports.
pub const STEPS: usize = 4;

/// Paths into the cache.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Binaries.
    pub tools: Tools,
    /// What the nodes boot.
    pub image: NodeImage,
    /// Registry folder with the images that every instance has.
    pub base_images: PathBuf,
}

/// Checks the machine, then builds what the cache lacks.
pub fn ensure(cache: &Cache, install: bool, progress: &mut Progress) -> Result<Prepared> {
    progress.step("checking the machine");
    prerequisites::ensure(install, progress)?;
    progress.step("Kubernetes, etcd, helm, CoreDNS");
    let tools = Tools::ensure(cache, progress)?;
    progress.step("node image");
    let image = NodeImage::ensure(cache, &tools.kubernetes, progress)?;
    progress.step("base images");
    let base_images = base_images::ensure(cache)?;
    Ok(Prepared { tools, image, base_images })
}
