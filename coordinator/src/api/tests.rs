//! The CRD in the chart is the one that this code means.

use super::*;

#[test]
fn generated_crds_are_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chart/crds/optimizationpolicies.yaml");
    let header = "# Generated: UPDATE_GENERATED=1 cargo test -p optipod-coordinator api::\n";
    let documents: Vec<String> = crds().iter().map(|crd| serde_yaml_ng::to_string(crd).unwrap()).collect();
    let expected = format!("{header}{}", documents.join("---\n"));
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, &expected).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(stored, expected, "write it anew with UPDATE_GENERATED=1");
}
