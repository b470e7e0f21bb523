//! What is played on both nodes.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::record::{History, Recorder, until};

/// A node on which the script is played.
pub struct Side {
    /// Administrator.
    pub client: Client,
    /// Where the pods are.
    pub namespace: String,
    node: String,
    image: String,
}

impl Side {
    /// The same node, in the namespace of a case.
    pub fn of(&self, case: &Case) -> Self {
        let namespace = format!("{}-{}", self.namespace, case.name.replace('_', "-"));
        let (client, node, image) = (self.client.clone(), self.node.clone(), self.image.clone());
        // a name of the API server has at most 63 characters and does not end in a hyphen
        let short: String = namespace.chars().take(60).collect();
        Self { client, namespace: short.trim_end_matches('-').to_owned(), node, image }
    }

    /// A namespace for the script on a node.
    pub fn new(client: &Client, namespace: &str, node: &str, image: &str) -> Self {
        let [namespace, node, image] = [namespace, node, image].map(str::to_owned);
        Self { client: client.clone(), namespace, node, image }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// Requests and limits.
#[derive(Clone, Copy)]
pub struct Size {
    cpu: (&'static str, &'static str),
    memory: (&'static str, &'static str),
}

impl Size {
    fn json(self) -> Value {
        json!({
            "requests": {"cpu": self.cpu.0, "memory": self.memory.0},
            "limits": {"cpu": self.cpu.1, "memory": self.memory.1},
        })
    }
}

const USUAL: Size = Size { cpu: ("200m", "400m"), memory: ("64Mi", "256Mi") };

/// A pod with one container `c`.
#[derive(Clone, Copy)]
pub struct Given {
    name: &'static str,
    size: Size,
    memory_mib: u32,
    restart_for_memory: bool,
}

const GIVEN: Given = Given { name: "p", size: USUAL, memory_mib: 8, restart_for_memory: false };

/// One thing that is done; then everything settles.
#[derive(Clone, Copy)]
pub enum Step {
    /// A pod starts and is Ready.
    Start(Given),
    /// A pod is asked to have another size.
    Resize(&'static str, Size, Expect),
    /// A pod is deleted, and is gone.
    Delete(&'static str),
    /// A pod is asked to have another size and deleted at once.
    ResizeAndDelete(&'static str, Size),
}

/// What is waited for after a resize.
#[derive(Clone, Copy)]
pub enum Expect {
    /// It has the size.
    Done,
    /// The API server refuses.
    Refused,
    /// A condition of this type and reason.
    Condition(&'static str, &'static str),
}

/// A named sequence of steps. Pods that are left are deleted at its end.
pub struct Case {
    /// Name.
    pub name: &'static str,
    /// It fills the node, so nothing else may be there.
    pub alone: bool,
    steps: &'static [Step],
}

/// The script.
pub const CASES: &[Case] = &[
    Case {
        name: "cpu_shrinks_and_grows",
        alone: false,
        steps: &[
            Step::Start(GIVEN),
            Step::Resize("p", Size { cpu: ("100m", "200m"), ..USUAL }, Expect::Done),
            Step::Resize("p", Size { cpu: ("300m", "510m"), ..USUAL }, Expect::Done),
        ],
    },
    Case {
        name: "memory_limit_grows_and_request_shrinks",
        alone: false,
        steps: &[
            Step::Start(GIVEN),
            Step::Resize("p", Size { memory: ("64Mi", "320Mi"), ..USUAL }, Expect::Done),
            Step::Resize("p", Size { memory: ("48Mi", "320Mi"), ..USUAL }, Expect::Done),
        ],
    },
    Case {
        name: "memory_limit_below_usage_is_an_error_until_it_is_taken_back",
        alone: false,
        steps: &[
            Step::Start(Given { memory_mib: 96, ..GIVEN }),
            Step::Resize(
                "p",
                Size { memory: ("32Mi", "48Mi"), ..USUAL },
                Expect::Condition("PodResizeInProgress", "Error"),
            ),
            Step::Resize("p", USUAL, Expect::Done),
        ],
    },
    Case {
        name: "larger_than_the_node_is_refused_by_the_api_server",
        alone: false,
        steps: &[Step::Start(GIVEN), Step::Resize("p", Size { cpu: ("3", "4"), ..USUAL }, Expect::Refused)],
    },
    Case {
        name: "deferred_resize_is_done_when_a_neighbour_goes",
        alone: true,
        steps: &[
            Step::Start(GIVEN),
            Step::Start(Given { name: "q", size: Size { cpu: ("1200m", "1500m"), ..USUAL }, ..GIVEN }),
            Step::Resize(
                "p",
                Size { cpu: ("900m", "1"), ..USUAL },
                Expect::Condition("PodResizePending", "Deferred"),
            ),
            Step::Delete("q"),
            Step::Resize("p", Size { cpu: ("900m", "1"), ..USUAL }, Expect::Done),
        ],
    },
    Case {
        name: "deferred_resize_that_is_taken_back_leaves_nothing",
        alone: true,
        steps: &[
            Step::Start(Given { size: Size { cpu: ("1200m", "1500m"), ..USUAL }, ..GIVEN }),
            Step::Start(Given { name: "q", ..GIVEN }),
            Step::Resize(
                "q",
                Size { cpu: ("1100m", "1200m"), ..USUAL },
                Expect::Condition("PodResizePending", "Deferred"),
            ),
            Step::Resize("q", USUAL, Expect::Done),
        ],
    },
    Case {
        name: "policy_restart_container_restarts",
        alone: false,
        steps: &[
            Step::Start(Given { restart_for_memory: true, ..GIVEN }),
            Step::Resize("p", Size { memory: ("64Mi", "320Mi"), ..USUAL }, Expect::Done),
            Step::Resize("p", Size { cpu: ("100m", "200m"), memory: ("64Mi", "320Mi") }, Expect::Done),
        ],
    },
    Case {
        name: "another_class_is_refused_by_the_api_server",
        alone: false,
        steps: &[
            Step::Start(GIVEN),
            Step::Resize("p", Size { cpu: ("400m", "400m"), memory: ("256Mi", "256Mi") }, Expect::Refused),
        ],
    },
    Case {
        name: "deleted_in_the_middle",
        alone: false,
        steps: &[Step::Start(GIVEN), Step::ResizeAndDelete("p", Size { cpu: ("100m", "200m"), ..USUAL })],
    },
];

/// What a case showed.
pub struct Played {
    /// The newest version of each pod that was left when a step had settled.
    pub settled: Vec<Value>,
    /// Answers of the API server to what it refused.
    pub refusals: Vec<Value>,
    /// All versions.
    pub history: History,
}

/// Plays a case on one node.
pub async fn play(case: &Case, side: &Side) -> Result<Played> {
    let recorder = Recorder::start(&side.client, &side.namespace);
    let (mut settled, mut refusals) = (Vec::new(), Vec::new());
    let mut left = Vec::new();
    for step in case.steps {
        match step {
            Step::Start(given) => {
                start(side, &recorder, given).await?;
                left.push(given.name);
            }
            Step::Resize(name, wanted, expect) => {
                refusals.extend(resize(side, &recorder, name, *wanted, *expect).await?);
            }
            Step::Delete(name) => {
                left.retain(|pod| pod != name);
                delete(side, &recorder, name).await?;
            }
            Step::ResizeAndDelete(name, wanted) => {
                patch(side, name, *wanted).await?;
                left.retain(|pod| pod != name);
                delete(side, &recorder, name).await?;
            }
        }
        recorder.settled().await;
        settled.extend(left.iter().filter_map(|name| recorder.pod(name)));
    }
    for name in left {
        delete(side, &recorder, name).await?;
    }
    recorder.settled().await;
    Ok(Played { settled, refusals, history: recorder.stop() })
}

/// Starts and removes a pod, so that the image is on the node.
pub async fn pull_image(side: &Side) -> Result<()> {
    let recorder = Recorder::start(&side.client, &side.namespace);
    start(side, &recorder, &Given { name: "pull", ..GIVEN }).await?;
    delete(side, &recorder, "pull").await?;
    recorder.settled().await;
    Ok(())
}

async fn start(side: &Side, recorder: &Recorder, given: &Given) -> Result<()> {
    let Given { name, size, memory_mib, restart_for_memory } = given;
    let mut container = json!({
        "name": "c",
        "image": side.image,
        "args": [format!("--memory-mib={memory_mib}")],
        "resources": size.json(),
        "securityContext": {"runAsUser": 65532, "runAsGroup": 65532},
    });
    if *restart_for_memory {
        container["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    }
    let usage = format!("memory=constant({}Mi)", memory_mib + 2);
    let pod = json!({
        "metadata": {"name": name, "annotations": {"simulated.optipod.io/usage": usage}},
        "spec": {
            "nodeName": side.node,
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "containers": [container],
        },
    });
    side.pods().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    until(&format!("{name} is ready"), || async {
        Ok(recorder.pod(name).filter(|pod| condition(pod, "Ready").is_some_and(|c| c["status"] == "True")))
    })
    .await?;
    Ok(())
}

async fn patch(side: &Side, name: &str, wanted: Size) -> Result<(), kube::Error> {
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": wanted.json()}]}});
    side.pods().patch_resize(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
}

/// The refusal, when one is expected.
async fn resize(
    side: &Side,
    recorder: &Recorder,
    name: &str,
    wanted: Size,
    expect: Expect,
) -> Result<Option<Value>> {
    match (patch(side, name, wanted).await, expect) {
        (Err(kube::Error::Api(status)), Expect::Refused) => return Ok(Some(serde_json::to_value(status)?)),
        (Ok(()), Expect::Refused) => bail!("the API server accepts another size of {name}"),
        (Err(error), _) => return Err(error.into()),
        (Ok(()), _) => {}
    }
    until(&format!("{name} is as expected"), || async {
        let Some(pod) = recorder.pod(name) else { return Ok(None) };
        let seen = if let Expect::Condition(kind, reason) = expect {
            condition(&pod, kind).is_some_and(|c| c["reason"] == reason)
        } else {
            let actual = &pod["status"]["containerStatuses"][0]["resources"];
            let specified = &pod["spec"]["containers"][0]["resources"];
            let generations = (&pod["metadata"]["generation"], &pod["status"]["observedGeneration"]);
            actual == specified
                && *specified == wanted.json()
                && generations.0 == generations.1
                && condition(&pod, "PodResizeInProgress").is_none()
                && condition(&pod, "PodResizePending").is_none()
        };
        Ok(seen.then_some(()))
    })
    .await?;
    Ok(None)
}

async fn delete(side: &Side, recorder: &Recorder, name: &str) -> Result<()> {
    side.pods().delete(name, &DeleteParams::default()).await?;
    until(&format!("{name} is gone"), || async {
        Ok(recorder.pod(name).filter(|pod| pod["gone"] == true).map(drop))
    })
    .await
}

fn condition(pod: &Value, kind: &str) -> Option<Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind).cloned()
}
