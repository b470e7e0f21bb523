//! `cargo lab demo`: two workloads of the wrong size on a real node, and OptiPod that sizes them in place.
//!
//! ```text
//! up > images > workloads > chart > policy > watch > verdict
//! ```
//!
//! The exit code is 0 only if every check of [`verdict`] holds. [`verdict`], [`read`], [`usage`], [`view`] and
//! [`quantity`] are pure; [`cluster`] is the only way to the cluster.

use std::{
    io::{self, BufRead, IsTerminal},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    Lab,
    cache::Cache,
    images::Reference,
    instance::Instance,
    interrupt, lifecycle,
    product::{self, Program},
    progress::Progress,
    tools,
};
use cluster::{Clients, Cluster, SYSTEM, WORKLOADS};
use install::{Images, Trace};
use screen::Screen;
use verdict::{Snapshot, Story};
use watch::{Finish, Watch};

pub mod cluster;
pub mod install;
mod objects;
pub mod quantity;
pub mod read;
pub mod screen;
pub mod usage;
pub mod verdict;
pub mod view;
pub mod watch;

/// The lab that the demo starts when no name is given.
pub const NAME: &str = "optipod-demo";

const STEPS: usize = 5;
const SETTINGS: &str = "\
demo settings                                 default
  window of evidence     60 s                 24h
  minimumCoverage        0.3                  0.5
  cooldown               none                 10m
  evaluated every        5 s                  5m
  resized                requests and limits  requests only
  agent sends every      2 s                  15s
  agent's CPU budget     none (emulated node) 10 millicores";

const SIMULATED: &str = "\
SIMULATED NODES: kubelets, workloads and their cgroup files are played (tests/SIMULATED.md); control plane, chart,
coordinators and agents are real, and the programs run as processes of this machine.";

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Leave everything running at the end, and say how to look around.
    #[arg(long)]
    keep: bool,
    /// Play on simulated nodes: no virtual machine, and nothing that a kernel would enforce.
    #[arg(long, conflicts_with = "context")]
    simulated: bool,
    /// Play on this context of your kubeconfig instead of a lab.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Kubeconfig that has the context [default: KUBECONFIG, ~/.kube/config].
    #[arg(long, value_name = "FILE", requires = "context")]
    kubeconfig: Option<PathBuf>,
    /// Prefix of the images `agent`, `coordinator` and `load` that your cluster can pull.
    #[arg(long, value_name = "PREFIX", requires_all = ["context", "image_tag"])]
    image_registry: Option<String>,
    /// Tag of these images.
    #[arg(long, value_name = "TAG", requires = "image_registry")]
    image_tag: Option<String>,
}

/// Plays the demo; an error when it did not show what it promises.
pub fn run(name: &str, cache: &Cache, options: &Options, yes: bool) -> Result<()> {
    interrupt::install()?;
    match &options.context {
        Some(context) => on_context(context, cache, options, yes),
        None => in_lab(&Instance::new(name)?, cache, options, yes),
    }
}

fn in_lab(instance: &Instance, cache: &Cache, options: &Options, yes: bool) -> Result<()> {
    let Options { keep, simulated, .. } = *options;
    if instance.state()?.is_some_and(|state| state.complete) && lifecycle::healthy(instance) {
        let name = instance.name();
        bail!("lab {name:?} is up already: `cargo lab --name {name} down` first, or use another --name");
    }
    let mut progress = Progress::new("demo", STEPS);
    progress.step(if simulated {
        "a control plane and simulated nodes"
    } else {
        "a control plane and a node"
    });
    let lab = lifecycle::Options { install: yes, ..lifecycle::Options::default() };
    lifecycle::up(instance, cache, &if simulated { simulated_nodes(&lab) } else { lab })?;
    if simulated {
        println!("{SIMULATED}");
    }
    let up = progress.seconds();
    let outcome = Lab::attach(instance.name()).and_then(|lab| {
        let registry = lab.registry();
        let cluster = Cluster::Lab(lab);
        let outcome =
            play(&cluster, &mut progress, &mut Vec::new(), |progress| built(cache, &registry, progress));
        if let Ok(times) = &outcome {
            println!("times: lab {up:.1} s, {times}; {:.1} s in all", progress.seconds());
            if simulated {
                println!("{SIMULATED}");
            }
        }
        if keep {
            look_around(&cluster, &format!("cargo lab --name {} down", instance.name()));
        }
        outcome.map(drop)
    });
    if keep { outcome } else { after(outcome, lifecycle::down(instance)) }
}

/// One node for each of the coordinators.
fn simulated_nodes(lab: &lifecycle::Options) -> lifecycle::Options {
    let simulated = lifecycle::Simulated { count: 2, ..lifecycle::Simulated::default() };
    lifecycle::Options { nodes: 0, simulated, ..lab.clone() }
}

fn on_context(context: &str, cache: &Cache, options: &Options, yes: bool) -> Result<()> {
    let mut progress = Progress::new("demo", STEPS);
    progress.step("kubectl and helm");
    let kubectl = tools::KUBERNETES.ensure(cache, &progress)?.join("kubectl");
    let helm = tools::HELM.ensure(cache, &progress)?.join("helm");
    let clients =
        Clients { kubectl, helm, context: context.to_owned(), kubeconfig: options.kubeconfig.clone() };
    let lab = clients.lab();
    let cluster = Cluster::Context(clients);
    install::check_free(&cluster)?;
    agreed(context, yes)?;
    let mut traces = Vec::new();
    let outcome = play(&cluster, &mut progress, &mut traces, |progress| {
        match (&options.image_registry, &options.image_tag, &lab) {
            (Some(prefix), Some(tag), _) => Ok(published(prefix, tag)),
            (_, _, Some(lab)) => built(cache, &lab.registry(), progress),
            _ => bail!(
                "--context {context} needs images that its nodes can pull: push agent, coordinator and load, then \
                 say --image-registry PREFIX --image-tag TAG (see deploy/docs/install.md)"
            ),
        }
    });
    if let Ok(times) = &outcome {
        println!("times: {times}; {:.1} s in all", progress.seconds());
    }
    if options.keep {
        let stop = format!("helm --kube-context {context} --namespace {SYSTEM} uninstall optipod");
        look_around(&cluster, &format!("{stop}; kubectl --context {context} delete namespace {WORKLOADS}"));
        return outcome.map(drop);
    }
    let removed = install::remove(&cluster, &traces, &progress);
    if removed.is_ok() {
        progress.note("the cluster is as it was");
    }
    after(outcome.map(drop), removed)
}

/// The demo's own error comes first.
fn after(outcome: Result<()>, cleaned: Result<()>) -> Result<()> {
    match (outcome, cleaned) {
        (Err(error), Err(also)) => Err(error.context(format!("and cleaning up failed: {also:#}"))),
        (outcome, cleaned) => outcome.and(cleaned),
    }
}

/// Somebody else's cluster gets nothing without a yes.
fn agreed(context: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        bail!("--yes is needed to install OptiPod into the context {context:?} without asking");
    }
    eprint!(
        "install OptiPod and two small workloads into the context {context:?}, and remove them at the end? [y/N] "
    );
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    if !answer.trim().eq_ignore_ascii_case("y") {
        bail!("nothing was installed");
    }
    Ok(())
}

/// This checkout's programs in the lab's registry.
fn built(cache: &Cache, registry: &Path, progress: &Progress) -> Result<Images> {
    let references = product::build_images(cache, registry, &Program::ALL, progress)?;
    let [agent, coordinator, load] = references.as_slice() else { bail!("three images were to be built") };
    let image = |reference: &Reference| (reference.repository(), reference.tag.clone());
    Ok(Images { agent: image(agent), coordinator: image(coordinator), load: image(load) })
}

fn published(prefix: &str, tag: &str) -> Images {
    let image = |name: &str| (format!("{}/{name}", prefix.trim_end_matches('/')), tag.to_owned());
    Images { agent: image("agent"), coordinator: image("coordinator"), load: image("load") }
}

/// The story, the same everywhere; says how long its parts took.
fn play(
    cluster: &Cluster,
    progress: &mut Progress,
    traces: &mut Vec<Trace>,
    images: impl FnOnce(&Progress) -> Result<Images>,
) -> Result<String> {
    let mut lap = progress.seconds();
    let mut lap_of = |progress: &Progress| {
        let now = progress.seconds();
        now - std::mem::replace(&mut lap, now)
    };
    progress.step("images of this checkout");
    let images = images(progress)?;
    let built = lap_of(progress);
    progress.step("two workloads of the wrong size, then OptiPod: helm install deploy/chart");
    install::workloads(cluster, &images, traces)?;
    let told = install::chart(cluster, &images, traces).and_then(|()| install::ready(cluster, progress));
    let pods = told.inspect_err(|_| eprintln!("{}", watch::diagnostics(cluster)))?;
    let installed = lap_of(progress);
    progress.step("what the kernel enforces before");
    let before: Vec<Snapshot> = pods.iter().map(|pod| cluster.snapshot(pod)).collect::<Result<_>>()?;
    progress.step("a policy: deploy/examples/policy-demo.yaml");
    let mut screen = Screen::start();
    screen.say(&format!("\n{SETTINGS}\n"))?;
    cluster.apply(&install::example("policy-demo", &images)?)?;
    let mut watch = Watch::new(cluster, &before);
    let watched = watch.run(&mut screen);
    let Finish { after, first, all } = watched.inspect_err(|_| {
        if !interrupt::raised() {
            eprintln!("{}", watch::diagnostics(cluster));
        }
    })?;
    conclude(cluster, &mut screen, &watch.histograms(), &before, &after)?;
    let (first, all) = (first.as_secs_f64(), all.as_secs_f64());
    Ok(format!(
        "images {built:.1} s, everything ready {installed:.1} s, from the policy to the first resize {first:.1} s, to the verdict {all:.1} s"
    ))
}

/// Usage, table, verdict, and what kubectl says.
fn conclude(
    cluster: &Cluster,
    screen: &mut Screen,
    histograms: &str,
    before: &[Snapshot],
    after: &[Snapshot],
) -> Result<()> {
    let pairs: Vec<(&Snapshot, &Snapshot)> = before.iter().zip(after).collect();
    screen.say(&format!("\n{histograms}\n{}", view::table(&pairs)))?;
    let mut holds = true;
    for (story, (before, after)) in Story::ALL.into_iter().zip(&pairs) {
        let checks = verdict::checks(story, before, after);
        holds &= checks.iter().all(|check| check.holds);
        screen.say(&view::verdict(story.workload(), &checks))?;
    }
    let printed = cluster.kubectl(&["--namespace", WORKLOADS, "get", "opol,pods"])?;
    screen.say(&format!("\n$ kubectl --namespace {WORKLOADS} get opol,pods\n{}", printed.trim_end()))?;
    if !holds {
        bail!("the demo did not show what it promises: see NOT TRUE above");
    }
    screen.say("")
}

fn look_around(cluster: &Cluster, stop: &str) {
    let spoken = cluster.spoken();
    println!("\neverything goes on running; look around:");
    let mut commands = vec![
        format!("{spoken} --namespace {WORKLOADS} get opol demo --output yaml"),
        format!("{spoken} --namespace {WORKLOADS} get pods,events"),
        format!("{spoken} --namespace {SYSTEM} logs deployment/optipod-coordinator"),
    ];
    if let Cluster::Lab(lab) = cluster {
        commands.push(format!("cargo lab --name {} shell n1", lab.instance().name()));
    }
    for command in &commands {
        println!("  {command}");
    }
    println!("stop it:\n  {stop}");
}
