//! Objects from YAML files and standard input.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize as _;
use serde_json::Value;

/// An object and where it is written.
#[derive(Clone, Debug)]
pub struct Located {
    /// File and name.
    pub place: String,
    /// The object.
    pub object: Value,
}

/// The text of a file; `-` is standard input.
pub fn text(path: &Path) -> Result<String> {
    String::from_utf8(bytes(path)?).with_context(|| format!("{}: is no text", path.display()))
}

/// The content of a file; `-` is standard input.
pub fn bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).context("standard input")?;
    } else {
        bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
    }
    Ok(bytes)
}

/// Every object in some files. Lists are taken apart.
pub fn objects(paths: &[PathBuf]) -> Result<Vec<Located>> {
    let mut objects = Vec::new();
    for path in paths {
        let place = path.display().to_string();
        objects.extend(parse(&text(path)?, &place).with_context(|| place.clone())?);
    }
    Ok(objects)
}

/// Every object in a text.
pub fn parse(text: &str, place: &str) -> Result<Vec<Located>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document)?;
        let items = match value {
            Value::Null => Vec::new(),
            Value::Object(ref map)
                if map.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List")) =>
            {
                value.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
            }
            value => vec![value],
        };
        objects.extend(items.into_iter().map(|object| {
            let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without name");
            let kind = object.get("kind").and_then(Value::as_str).unwrap_or("object");
            Located { place: format!("{place}: {kind}/{name}"), object }
        }));
    }
    Ok(objects)
}

/// Whether an object is of a kind of a group, in any version.
pub fn is(object: &Value, group: &str, kind: &str) -> bool {
    let of_group = |version: &str| version.split_once('/').is_some_and(|(found, _)| found == group);
    object.get("kind").and_then(Value::as_str) == Some(kind)
        && object.get("apiVersion").and_then(Value::as_str).is_some_and(of_group)
}
