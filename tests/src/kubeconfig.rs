//! Kubeconfig files with embedded credentials.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{network, pki::Identity};

/// A kubeconfig for `identity`; JSON is YAML. `context` names cluster, user and context.
pub fn kubeconfig(context: &str, authority: &str, identity: &Identity) -> String {
    let server = format!("https://{}:{}", network::HOST, network::API_SERVER_PORT);
    let cluster = json!({ "server": server, "certificate-authority-data": STANDARD.encode(authority) });
    let user = json!({
        "client-certificate-data": STANDARD.encode(&identity.certificate),
        "client-key-data": STANDARD.encode(&identity.key),
    });
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": context, "cluster": cluster }],
        "users": [{ "name": context, "user": user }],
        "contexts": [{ "name": context, "context": { "cluster": context, "user": context } }],
        "current-context": context,
    });
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_context_exists_and_credentials_are_encoded() {
        let identity = Identity { certificate: "C".to_owned(), key: "K".to_owned() };
        let text = kubeconfig("lab", "A", &identity);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["contexts"][0]["name"], value["current-context"]);
        assert_eq!(value["users"][0]["user"]["client-key-data"], "Sw==");
    }
}
