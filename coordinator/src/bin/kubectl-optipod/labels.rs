//! Label selectors as `kubectl --selector` takes them.

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The selector as an object: `a=b,c!=d,e in (x,y),f notin (z),g,!h`.
pub fn parse(text: &str) -> Result<Value> {
    let mut labels = serde_json::Map::new();
    let mut expressions = Vec::new();
    for term in terms(text) {
        let term = term.trim();
        let expression = |key: &str, operator: &str, values: Vec<String>| {
            if values.is_empty() {
                json!({"key": key, "operator": operator})
            } else {
                json!({"key": key, "operator": operator, "values": values})
            }
        };
        if let Some((key, value)) = term.split_once("!=") {
            expressions.push(expression(label(key, term)?, "NotIn", vec![value.trim().to_owned()]));
        } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            let (key, value) = (label(key, term)?, value.trim());
            let before = labels.insert(key.to_owned(), value.into());
            if let Some(before) = before.as_ref().and_then(Value::as_str).filter(|before| *before != value) {
                bail!(
                    "{key} must be both {before:?} and {value:?}, which no label is: expected each key once; {key} in ({before}, {value}) is either"
                );
            }
        } else if let Some((head, list)) = term.split_once('(') {
            let values = list.strip_suffix(')').map(|l| l.split(',').map(|v| v.trim().to_owned()).collect());
            match (head.split_whitespace().collect::<Vec<_>>().as_slice(), values) {
                ([key, "in"], Some(values)) => expressions.push(expression(key, "In", values)),
                ([key, "notin"], Some(values)) => expressions.push(expression(key, "NotIn", values)),
                _ => bail!(
                    "{term:?} is not a part of a label selector: expected KEY in (VALUE, ...) or KEY notin (...)"
                ),
            }
        } else if let Some(key) = term.strip_prefix('!') {
            expressions.push(expression(label(key, term)?, "DoesNotExist", Vec::new()));
        } else {
            expressions.push(expression(label(term, term)?, "Exists", Vec::new()));
        }
    }
    let mut selector = serde_json::Map::new();
    if !labels.is_empty() {
        selector.insert("matchLabels".to_owned(), labels.into());
    }
    if !expressions.is_empty() {
        selector.insert("matchExpressions".to_owned(), expressions.into());
    }
    Ok(selector.into())
}

/// Parts between commas that are not within parentheses.
fn terms(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let split = move |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(split).filter(|term| !term.trim().is_empty()).collect()
}

fn label<'a>(key: &'a str, term: &str) -> Result<&'a str> {
    let key = key.trim();
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    if key.is_empty() || !key.bytes().all(legal) {
        bail!("{term:?} is not a part of a label selector: {key:?} is not the key of a label");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_kubectl_is_understood() {
        let selector =
            parse("app=web, tier==front,env!=dev,zone in (a, b),size notin (xl),gpu,!batch").unwrap();
        let expected = json!({
            "matchLabels": {"app": "web", "tier": "front"},
            "matchExpressions": [
                {"key": "env", "operator": "NotIn", "values": ["dev"]},
                {"key": "zone", "operator": "In", "values": ["a", "b"]},
                {"key": "size", "operator": "NotIn", "values": ["xl"]},
                {"key": "gpu", "operator": "Exists"},
                {"key": "batch", "operator": "DoesNotExist"},
            ],
        });
        assert_eq!(selector, expected);
        assert_eq!(parse("").unwrap(), json!({}));
        assert_eq!(parse("a=b,a==b").unwrap(), json!({"matchLabels": {"a": "b"}}));
        for bad in ["=x", "a b", "a in x)", "a within (x)", "a in (x", "!", "a=b,a=c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
