//! Images that every instance offers: the sandbox container's `pause`, and a shell with small tools for tests.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{
    cache::{Cache, Key},
    command::{self, command},
    guest::compile_static,
    images::Image,
    paths,
};

/// From the package busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// A registry folder with `lab/pause:1` and `lab/busybox:1`.
pub fn ensure(cache: &Cache) -> Result<PathBuf> {
    let source = paths::lab_files().join("guest/pause.c");
    let parts = [std::fs::read(&source)?, std::fs::read(BUSYBOX)?];
    let [pause, busybox] = parts.each_ref().map(Vec::as_slice);
    cache.entry(
        "base-images",
        &Key::of([("recipe", b"1".as_slice()), ("pause", pause), ("busybox", busybox)]),
        |folder| {
            let program = folder.join("pause");
            compile_static(&source, &program)?;
            let pause = Image {
                files: vec![("/pause".to_owned(), program.clone())],
                entrypoint: vec!["/pause".to_owned()],
                user: "65535:65535".to_owned(),
                ..Image::default()
            };
            pause.write(folder, "lab/pause", "1")?;
            std::fs::remove_file(program)?;
            let applets = command::output(&mut command(BUSYBOX, ["--list"]))?;
            let applets = applets.lines().filter(|&applet| applet != "busybox");
            let busybox = Image {
                files: vec![("/bin/busybox".to_owned(), PathBuf::from(BUSYBOX))],
                links: applets.map(|applet| (format!("/bin/{applet}"), "busybox".to_owned())).collect(),
                entrypoint: vec!["/bin/sh".to_owned()],
                user: "0".to_owned(),
            };
            busybox.write(folder, "lab/busybox", "1").map(drop)
        },
    )
}

/// Copies an entry made by [`ensure`] into an instance's registry.
pub fn install(images: &Path, registry: &Path) -> Result<()> {
    command::run(command("cp", ["-r", "--no-target-directory"]).arg(images).arg(registry))
}
