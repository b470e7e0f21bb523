//! Objects from YAML files and standard input.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize as _;
use serde_json::Value;
use serde_yaml_ng::{Deserializer, Value as Yaml};

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
    for document in Deserializer::from_str(text) {
        // unlike a value of JSON, one of YAML refuses a key that is given twice
        let mut value = Yaml::deserialize(document)?;
        value.apply_merge()?;
        let items = items(json(value)?);
        objects.extend(items.into_iter().map(|object| {
            let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without name");
            let kind = object.get("kind").and_then(Value::as_str).unwrap_or("object");
            // a name with an end of line would look like another answer
            let place = format!("{place}: {kind}/{name}").replace('\n', "\\n");
            Located { place, object }
        }));
    }
    Ok(objects)
}

/// The objects of a list, else the object itself. A list of one kind need not say the kind of each.
fn items(value: Value) -> Vec<Value> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    let Some(kind) = text("kind").and_then(|kind| Some(kind.strip_suffix("List")?.to_owned())) else {
        return if value.is_null() { Vec::new() } else { vec![value] };
    };
    let version = text("apiVersion");
    let mut items = value.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    for item in items.iter_mut().filter_map(Value::as_object_mut).filter(|_| !kind.is_empty()) {
        for (field, value) in [("apiVersion", version.as_deref()), ("kind", Some(kind.as_str()))] {
            if let Some(value) = value {
                item.entry(field).or_insert_with(|| value.into());
            }
        }
    }
    items
}

/// As the API server gets it.
fn json(value: Yaml) -> Result<Value> {
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => value.into(),
        Yaml::String(text) => text.into(),
        Yaml::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), ..) => whole.into(),
            (_, Some(whole), _) => whole.into(),
            (.., Some(value)) if value.is_finite() => value.into(),
            _ => bail!("{number} is not a number of an object: expected one that is finite"),
        },
        Yaml::Sequence(items) => items.into_iter().map(json).collect::<Result<_>>()?,
        Yaml::Mapping(fields) => {
            let field = |(key, value)| match json(key)? {
                Value::String(key) => Ok((key, json(value)?)),
                key @ (Value::Number(_) | Value::Bool(_)) => Ok((key.to_string(), json(value)?)),
                key => bail!("{key} is not the name of a field: expected a text"),
            };
            fields.into_iter().map(field).collect::<Result<_>>()?
        }
        Yaml::Tagged(tagged) => bail!("the tag {} is not for objects: leave it out", tagged.tag),
    })
}

/// Whether an object is of a kind of a group, in any version.
pub fn is(object: &Value, group: &str, kind: &str) -> bool {
    let of_group = |version: &str| version.split_once('/').is_some_and(|(found, _)| found == group);
    object.get("kind").and_then(Value::as_str) == Some(kind)
        && object.get("apiVersion").and_then(Value::as_str).is_some_and(of_group)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(text: &str) -> Vec<Value> {
        parse(text, "f").unwrap().into_iter().map(|located| located.object).collect()
    }

    #[test]
    fn lists_are_taken_apart() {
        let text = "kind: List\nitems: [{kind: A}, {kind: B}]\n---\n---\nkind: CList\napiVersion: v1\nitems: [{}, {kind: D}]\n";
        let expected = json!([{"kind": "A"}, {"kind": "B"}, {"kind": "C", "apiVersion": "v1"}, {"kind": "D", "apiVersion": "v1"}]);
        assert_eq!(Value::from(found(text)), expected);
        assert_eq!(found("kind: List"), Vec::<Value>::new());
        assert_eq!(found(""), Vec::<Value>::new());
        let odd = parse("kind: A\nmetadata: {name: \"a\\nb\"}", "f").unwrap();
        assert_eq!(odd[0].place, "f: A/a\\nb");
    }

    #[test]
    fn what_the_api_server_would_get_is_what_is_looked_at() {
        let text = "a: &a {x: 1, y: 0.5}\nb: {<<: *a, z: 18446744073709551615}\n1: one\ntrue: yes\n";
        let expected = json!({"a": {"x": 1, "y": 0.5}, "b": {"x": 1, "y": 0.5, "z": u64::MAX}, "1": "one", "true": "yes"});
        assert_eq!(found(text), [expected]);
        for (text, part) in [
            ("spec: {weight: 1}\nspec: {weight: 2}", "duplicate"),
            ("weight: .nan", "is not a number of an object"),
            ("weight: -.inf", "is not a number of an object"),
            ("weight: !heavy 1", "tag !heavy"),
            ("? [a]\n: b", "is not the name of a field"),
            ("a: *b", "unknown anchor"),
            (&"[".repeat(100_000), "recursion limit"),
        ] {
            let error = format!("{:#}", parse(text, "f").unwrap_err());
            assert!(error.contains(part), "{text:.40}: {error}");
        }
        // each line names the one before it ten times
        let line = |n: usize| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
        let bomb: String = std::iter::once("a0: &a0 x\n".to_owned()).chain((1..12).map(line)).collect();
        assert!(parse(&bomb, "f").is_err(), "it has 10^11 elements");
    }
}
