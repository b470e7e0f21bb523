//! The reference of the custom resources: every field with type, default and description, from the schema.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use optipod_common::decide::Reason;

/// All resources as one page.
pub fn markdown(crds: &[CustomResourceDefinition]) -> String {
    let mut page = String::from(
        "<!-- Generated: UPDATE_GENERATED=1 cargo test -p optipod-coordinator api:: -->\n# Reference of the custom resources\n\nEvery field, from the schema that the API server checks. [policies.md](policies.md) explains how they work together.\n",
    );
    for crd in crds {
        let version = &crd.spec.versions[0];
        let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        let names = &crd.spec.names;
        writeln!(
            page,
            "\n## {}\n\n`{}/{}`, short name `{}`. {}",
            names.kind,
            crd.spec.group,
            version.name,
            names.short_names.as_ref().unwrap().join("`, `"),
            schema.description.as_deref().unwrap_or_default()
        )
        .unwrap();
        for part in ["spec", "status"] {
            let Some(schema) = schema.properties.as_ref().unwrap().get(part) else { continue };
            writeln!(
                page,
                "\n### {} {part}\n\n| field | type | default | meaning |\n|---|---|---|---|",
                names.kind
            )
            .unwrap();
            fields(&mut page, "", schema);
        }
    }
    page.push_str("\n## Reasons\n\n| reason | meaning |\n|---|---|\n");
    for reason in Reason::ALL {
        writeln!(page, "| `{reason}` | {} |", reason.meaning().trim()).unwrap();
    }
    page
}

/// The rows of the first table of a section of the guide: the name that each begins with, and its next cell.
pub fn rows<'a>(guide: &'a str, section: &str) -> Vec<(&'a str, &'a str)> {
    let heading = format!("{section}\n");
    let section = guide.split("\n## ").find(|text| text.starts_with(&heading)).unwrap();
    let table =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let row = |line: &'a str| line.strip_prefix("| `")?.split_once("` | ");
    table.filter_map(row).map(|(name, rest)| (name, rest.split(" | ").next().unwrap_or(rest))).collect()
}

fn fields(page: &mut String, prefix: &str, schema: &JSONSchemaProps) {
    for (name, field) in schema.properties.iter().flatten() {
        let (path, element) = match &field.items {
            Some(JSONSchemaPropsOrArray::Schema(element)) => (format!("{prefix}{name}[]"), Some(&**element)),
            _ => (format!("{prefix}{name}"), None),
        };
        let default = field.default.as_ref().map(|d| d.0.to_string()).filter(|text| !text.starts_with('{'));
        let default = default.map(|text| format!("`{text}`")).unwrap_or_default();
        let text = field.description.as_deref().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let kind = element.map_or_else(|| kind(field), |e| format!("list of {}", kind(e)));
        writeln!(page, "| `{path}` | {kind} | {default} | {text} |").unwrap();
        fields(page, &format!("{path}."), element.unwrap_or(field));
    }
}

fn kind(schema: &JSONSchemaProps) -> String {
    let values: Vec<_> = schema
        .enum_
        .iter()
        .flatten()
        .filter_map(|value| value.0.as_str())
        .map(|v| format!("`{v}`"))
        .collect();
    if !values.is_empty() {
        return values.join(", ");
    }
    match (schema.x_kubernetes_int_or_string, schema.format.as_deref(), schema.type_.as_deref()) {
        (Some(true), ..) => "quantity".to_owned(),
        (_, Some("date-time"), _) => "time".to_owned(),
        (_, _, Some("object")) if schema.additional_properties.is_some() => "map".to_owned(),
        (_, _, kind) => kind.unwrap_or("any").to_owned(),
    }
}
