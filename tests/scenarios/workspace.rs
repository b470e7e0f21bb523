//! What holds of the workspace as a whole: who depends on whom, what the core may not do, what lies where.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

const CRATES: [&str; 5] = ["agent", "common", "coordinator", "proto", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().unwrap()
}

/// Paths of all files that git knows.
fn tracked() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).unwrap();
    list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

/// Tracked files that are text and exist, with their content.
fn texts() -> impl Iterator<Item = (String, String)> {
    tracked().into_iter().filter_map(|path| {
        let text = fs::read_to_string(root().join(&path)).ok()?;
        Some((path, text))
    })
}

/// Names without the prefix of the workspace's crates, by crate.
fn edges(metadata: &Metadata, kinds: &[DependencyKind]) -> BTreeMap<String, BTreeSet<String>> {
    let plain = |name: &str| name.strip_prefix("optipod-").map(str::to_owned);
    let members = metadata.workspace_packages();
    members
        .iter()
        .map(|package| {
            let to = package.dependencies.iter().filter(|d| kinds.contains(&d.kind) && !d.optional);
            (plain(&package.name).expect("named optipod-*"), to.filter_map(|d| plain(&d.name)).collect())
        })
        .collect()
}

fn expected(edges: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
    edges
        .iter()
        .map(|(from, to)| ((*from).to_owned(), to.iter().map(|name| (*name).to_owned()).collect()))
        .collect()
}

#[test]
fn crates_depend_on_each_other_as_designed_and_not_otherwise() {
    let metadata = metadata();
    let product: [(&str, &[&str]); 4] = [
        ("agent", &["common", "proto"]),
        ("common", &[]),
        ("coordinator", &["common", "proto"]),
        ("proto", &["common"]),
    ];
    // The lab compiles without what it tests: only its tests see the crates, and the back-test, which is a feature.
    let built = expected(&[&product[..], &[("tests", &[])]].concat());
    assert_eq!(edges(&metadata, &[DependencyKind::Normal, DependencyKind::Build]), built);
    let all = expected(&[&product[..], &[("tests", &["agent", "common", "coordinator", "proto"])]].concat());
    let kinds = [DependencyKind::Normal, DependencyKind::Build, DependencyKind::Development];
    assert_eq!(edges(&metadata, &kinds), all);
}

#[test]
fn common_depends_on_pure_libraries_only() {
    let metadata = metadata();
    let members = metadata.workspace_packages();
    let common = members.iter().find(|p| p.name.as_str() == "optipod-common").unwrap();
    let used: BTreeSet<&str> = common
        .dependencies
        .iter()
        .filter(|d| d.kind != DependencyKind::Development)
        .map(|d| d.name.as_str())
        .collect();
    assert_eq!(used, BTreeSet::from(["hdrhistogram", "jiff", "serde", "thiserror"]));
}

/// The part of a source file that is in the product: everything before `#[cfg(test)]`, without comments.
fn product_code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| !line.trim().starts_with("#[cfg(test)]"));
    lines.map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

#[test]
fn common_has_no_io_no_clock_no_environment_and_no_async() {
    let forbidden = [
        "std::fs",
        "std::net",
        "std::env",
        "std::process",
        "std::thread",
        "std::io",
        "std::os",
        "SystemTime",
        "Instant",
        "RandomState",
        "tokio",
        "async fn",
        "async move",
        ".await",
        "println!",
        "print!",
        "env!",
    ];
    let mut files = 0;
    for (path, text) in texts().filter(|(path, _)| is_core(path)) {
        files += 1;
        for (number, line) in product_code(&text) {
            let found = forbidden.iter().find(|word| line.contains(**word));
            assert!(found.is_none(), "{path}:{number}: {} in the pure core: {line}", found.unwrap());
        }
    }
    assert!(files >= 10, "only {files} files were looked at");
}

fn is_core(path: &str) -> bool {
    let source = Path::new(path).extension().is_some_and(|e| e == "rs") && path.starts_with("common/src/");
    source && !path.ends_with("/tests.rs")
}

#[test]
fn top_level_has_what_is_promised_and_nothing_else() {
    let top: BTreeSet<String> = tracked()
        .iter()
        .filter_map(|path| path.split('/').next())
        .filter(|name| !name.starts_with('.'))
        .map(str::to_owned)
        .collect();
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "agent",
        "common",
        "coordinator",
        "deploy",
        "proto",
        "tests",
    ];
    assert_eq!(top, expected.map(str::to_owned).into());
}

#[test]
fn licence_is_apache_2() {
    let text = fs::read_to_string(root().join("LICENSE")).unwrap();
    assert!(text.contains("Apache License") && text.contains("Version 2.0"));
    for package in metadata().workspace_packages() {
        assert_eq!(package.license.as_deref(), Some("Apache-2.0"), "{}", package.name);
    }
}

#[test]
fn each_crate_opens_with_its_readme() {
    for name in CRATES {
        let readme = fs::read_to_string(root().join(name).join("README.md")).unwrap();
        assert!(readme.lines().count() >= 5, "{name}/README.md says next to nothing");
        let library = fs::read_to_string(root().join(name).join("src/lib.rs")).unwrap();
        assert!(
            library.starts_with("#![doc = include_str!(\"../README.md\")]"),
            "{name}/src/lib.rs does not begin with its README"
        );
    }
}

#[test]
fn lints_of_the_workspace_hold_in_each_crate() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for lint in ["unsafe_code = \"forbid\"", "unwrap_used = \"deny\"", "panic = \"deny\""] {
        assert!(workspace.contains(lint), "{lint} is missing");
    }
    for name in CRATES {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} has lints of its own");
    }
}

#[test]
fn tracked_files_name_no_place_of_one_machine() {
    // written in pieces, or this file would be found
    let mut places = vec![
        ["/wo", "rk/"].concat(),
        ["/root/", "."].concat(),
        ["/ho", "me/"].concat(),
        ["file:/", "//"].concat(),
    ];
    // the checkout itself, wherever it is
    places.extend(root().to_str().filter(|path| path.len() > 5).map(str::to_owned));
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            let found = places.iter().find(|place| line.contains(place.as_str()));
            assert!(found.is_none(), "{path}:{}: names {}: {line}", number + 1, found.unwrap());
        }
    }
}

#[test]
fn packages_come_from_the_public_registry_and_no_mirror_is_configured() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let sources: BTreeSet<&str> = lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    assert_eq!(sources, ["\"registry+https://github.com/rust-lang/crates.io-index\""].into());
    let mirrors = [["replace", "-with"].concat(), ["[sour", "ce."].concat(), ["[regis", "tries"].concat()];
    for (path, text) in texts() {
        let found = mirrors.iter().find(|mirror| text.contains(mirror.as_str()));
        assert!(found.is_none(), "{path} configures a mirror: {}", found.unwrap());
    }
}

#[test]
fn tls_has_one_provider() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().unwrap();
    let mut found = 0;
    for node in &resolve.nodes {
        let package = &metadata[&node.id];
        let features: BTreeSet<&str> = node.features.iter().map(|f| f.as_str()).collect();
        match package.name.as_str() {
            "rustls" => {
                found += 1;
                assert!(features.contains("aws_lc_rs"), "rustls has no provider: {features:?}");
                assert!(!features.contains("ring"), "rustls has a second provider: {features:?}");
            }
            // they hand their features on to rustls, or sign with the same library
            "tokio-rustls" | "hyper-rustls" | "rustls-webpki" | "rcgen" => {
                assert!(!features.contains("ring"), "{} has ring: {features:?}", package.name);
            }
            "openssl" | "openssl-sys" | "native-tls" | "rustls-openssl" => {
                panic!("{} is a second implementation of TLS", package.name)
            }
            _ => {}
        }
    }
    assert_eq!(found, 1, "versions of rustls in the graph");
}

/// Rows of a Markdown table whose first cell is code: the cells without that code's back-ticks.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    text.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

/// `# -- meaning` above a key, as helm-docs reads it: dotted path and meaning.
fn described_values(yaml: &str) -> Vec<(String, String)> {
    let (mut path, mut meaning, mut found) = (Vec::<(usize, String)>::new(), None, Vec::new());
    for line in yaml.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim_start();
        if let Some(text) = line.strip_prefix("# -- ") {
            meaning = Some(text.to_owned());
        } else if let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with(['#', '-'])) {
            path.retain(|(depth, _)| *depth < indent);
            path.push((indent, key.to_owned()));
            if let Some(meaning) = meaning.take() {
                let keys: Vec<&str> = path.iter().map(|(_, key)| key.as_str()).collect();
                found.push((keys.join("."), meaning));
            }
        }
    }
    found
}

#[test]
fn the_chart_documents_its_values_as_they_are() {
    let yaml = fs::read_to_string(root().join("deploy/chart/values.yaml")).unwrap();
    let values: serde_json::Value = serde_yaml_ng::from_str(&yaml).unwrap();
    let readme = fs::read_to_string(root().join("deploy/chart/README.md")).unwrap();
    let rows = rows(&readme);
    let documented: Vec<_> = rows.iter().map(|row| (row[0].clone(), row[2].clone())).collect();
    assert_eq!(documented, described_values(&yaml));
    for row in &rows {
        let default: serde_json::Value = serde_json::from_str(&row[1]).unwrap();
        let pointer = format!("/{}", row[0].replace('.', "/"));
        assert_eq!(values.pointer(&pointer), Some(&default), "{}", row[0]);
    }
}
