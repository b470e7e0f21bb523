//! `cargo lab`: the command line of the lab.

use std::{
    io::{self, Write},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use optipod_tests::{
    Lab, cache,
    cache::Cache,
    command::{last, tail},
    demo,
    guest::NodeImage,
    instance::{self, DEFAULT_NAME, Instance},
    interrupt,
    lifecycle::{self, Options, Simulated},
    network,
    node::{Accelerator, Size},
    prepare::{self, Prepared},
    product::{self, Program},
    progress::Progress,
    registry, simulate, suite, tools,
};

/// The OptiPod lab: a real Kubernetes control plane and real nodes on this machine.
#[derive(Debug, Parser)]
#[command(name = "lab", bin_name = "cargo lab", version)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Args)]
struct Global {
    /// Which lab: several can run side by side [default: optipod-lab; `demo` and `simulate` have their own].
    #[arg(long, global = true)]
    name: Option<String>,
    /// Install missing Debian packages without asking.
    #[arg(long, global = true)]
    yes: bool,
    /// Where everything that is built is kept [default: the user's cache folder].
    #[arg(long, global = true, env = cache::ENVIRONMENT, value_name = "FOLDER")]
    cache: Option<PathBuf>,
}

impl Global {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT_NAME)
    }
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Show OptiPod at work: a lab, two workloads of the wrong size, and what becomes of them.
    Demo(demo::Options),
    /// Run every test: format, lints, unit, property, wire, chart, control plane, real node, demo.
    Test(suite::Options),
    /// Compare sizing systems on recorded usage; `cargo lab backtest --help` shows its options.
    #[command(disable_help_flag = true)]
    Backtest(Passed),
    /// Play a scenario on simulated nodes, in a lab of its own.
    Simulate(simulate::Options),
    /// Download and build everything that `up` needs.
    Prepare,
    /// Start a control plane and its nodes, and wait until they are ready.
    Up(Up),
    /// Stop a lab and remove all that it left.
    Down,
    /// Show what runs.
    Status,
    /// Run kubectl against the lab.
    #[command(disable_help_flag = true)]
    Kubectl(Passed),
    /// Run helm against the lab.
    #[command(disable_help_flag = true)]
    Helm(Passed),
    /// Print a log; without a name, list the logs.
    Logs {
        /// A component such as kube-apiserver, or a node's service such as n1/kubelet.
        component: Option<String>,
        /// Print only the last lines.
        #[arg(long, value_name = "LINES")]
        tail: Option<usize>,
    },
    /// A root shell in a node, or one command in it.
    Shell {
        /// Which node.
        #[arg(default_value = "n1")]
        node: String,
        /// What to run there; without it, an interactive shell.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Build the product's images from this checkout and put them into the lab's registry.
    Images {
        /// Only these.
        #[arg(long, value_delimiter = ',')]
        only: Vec<Program>,
    },
    /// Take every lab of this machine down.
    Clean {
        /// Remove the cache folder too: the next start builds everything again.
        #[arg(long)]
        everything: bool,
    },
    /// The registry process of an instance.
    #[command(name = "__registry", hide = true)]
    Registry {
        #[arg(long)]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Up {
    /// How many nodes; with --simulated none unless it is said.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(network::MAX_NODES)))]
    nodes: Option<u8>,
    /// How many simulated nodes: one process plays their kubelets.
    #[arg(long, value_name = "COUNT", conflicts_with = "control_plane_only",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(lifecycle::MOST_SIMULATED)))]
    simulated: Option<u16>,
    /// CPU of a simulated node.
    #[arg(long, value_name = "QUANTITY", default_value = "4", requires = "simulated")]
    simulated_cpu: String,
    /// Memory of a simulated node.
    #[arg(long, value_name = "QUANTITY", default_value = "8Gi", requires = "simulated")]
    simulated_memory: String,
    /// Pods of a simulated node, 1 to 250.
    #[arg(long, value_name = "COUNT", default_value_t = 110, requires = "simulated",
          value_parser = clap::value_parser!(u16).range(1..=250))]
    simulated_pods: u16,
    /// More arguments of the simulator (`simulator --help`), for example --speed=10.
    #[arg(long, value_name = "ARGUMENT", requires = "simulated", allow_hyphen_values = true)]
    simulator: Vec<String>,
    /// No node: etcd, API server, controller manager and scheduler only.
    #[arg(long, conflicts_with = "nodes")]
    control_plane_only: bool,
    /// Memory of a node in MiB.
    #[arg(long, default_value_t = Size::default().memory_mib, value_parser = clap::value_parser!(u32).range(768..))]
    memory_mib: u32,
    /// How nodes run: in hardware where that works, or emulated.
    #[arg(long, value_enum, default_value_t = Accelerate::Auto)]
    accelerator: Accelerate,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Accelerate {
    Auto,
    Kvm,
    Tcg,
}

#[derive(Debug, Args)]
struct Passed {
    /// Arguments that are passed on.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    match run(&global, command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(global: &Global, command: Commands) -> Result<ExitCode> {
    let instance = || Instance::new(global.name());
    let cache = || Cache::open(global.cache.clone());
    let attach = || Lab::attach(global.name());
    match command {
        Commands::Demo(options) => {
            let name = global.name.as_deref().unwrap_or(demo::NAME);
            demo::run(name, &cache()?, &options, global.yes)
        }
        Commands::Test(options) => return suite::run(&cache()?, &options, global.yes),
        Commands::Backtest(Passed { arguments }) => replace(&mut suite::parts::backtest(&arguments)),
        Commands::Simulate(options) => {
            let name = global.name.as_deref().unwrap_or(simulate::NAME);
            simulate::run(name, &cache()?, &options, global.yes)
        }
        Commands::Prepare => prepare(&cache()?, global.yes),
        Commands::Up(options) => up(&instance()?, &cache()?, &options, global),
        Commands::Down => lifecycle::down(&instance()?),
        Commands::Status => status(&instance()?),
        Commands::Kubectl(Passed { arguments }) => {
            let lab = attach()?;
            replace(lab.command(lab.kubectl_program()).args(arguments))
        }
        Commands::Helm(Passed { arguments }) => {
            let lab = attach()?;
            replace(lab.command(lab.helm_program()).args(arguments))
        }
        Commands::Logs { component, tail } => logs(&instance()?, component.as_deref(), tail),
        Commands::Shell { node, command } if command.is_empty() => attach()?.guest_interactive(&node),
        Commands::Shell { node, command } => return shell(&attach()?, &node, &command.join(" ")),
        Commands::Images { only } => build_images(&attach()?, &cache()?, &only),
        Commands::Clean { everything } => clean(everything.then(cache).transpose()?.as_ref()),
        Commands::Registry { dir } => serve(&dir),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn prepare(cache: &Cache, install: bool) -> Result<()> {
    interrupt::install()?;
    let mut progress = Progress::new("prepare", prepare::STEPS);
    let Prepared { tools, image, .. } = prepare::ensure(cache, install, &mut progress)?;
    for line in tools::inventory(&tools)? {
        println!("  {line}");
    }
    let NodeImage { packages, .. } = &image;
    let wanted =
        ["containerd ", "runc ", "systemd ", "nftables ", "containernetworking-plugins ", "linux-image-"];
    let shown = packages.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    shown.for_each(|line| println!("  {line} (node)"));
    progress.result(&format!("everything is in {}", cache.root().display()));
    Ok(())
}

fn up(instance: &Instance, cache: &Cache, options: &Up, global: &Global) -> Result<()> {
    let Up { nodes, control_plane_only, memory_mib, accelerator, .. } = *options;
    let count = options.simulated.unwrap_or(0);
    let accelerator = match accelerator {
        Accelerate::Auto => None,
        Accelerate::Kvm => Some(Accelerator::Kvm),
        Accelerate::Tcg => Some(Accelerator::Tcg),
    };
    let nodes = if control_plane_only { 0 } else { nodes.unwrap_or(u8::from(count == 0)) };
    let mut arguments = vec![
        format!("--cpu={}", options.simulated_cpu),
        format!("--memory={}", options.simulated_memory),
        format!("--pods={}", options.simulated_pods),
    ];
    arguments.extend(options.simulator.iter().cloned());
    let simulated = Simulated { count, arguments };
    let size = Size { memory_mib, ..Size::default() };
    lifecycle::up(instance, cache, &Options { nodes, simulated, size, accelerator, install: global.yes })?;
    let name = global.name.as_deref().map(|name| format!(" --name {name}")).unwrap_or_default();
    println!("look around: cargo lab{name} kubectl get nodes,pods -A; stop it: cargo lab{name} down");
    Ok(())
}

/// Becomes that command: its exit status, signals and terminal are the person's.
fn replace(command: &mut Command) -> Result<()> {
    Err(command.exec()).context("cannot start the program")
}

fn status(instance: &Instance) -> Result<()> {
    let others: Vec<String> = instance::names().into_iter().filter(|name| name != instance.name()).collect();
    if !others.is_empty() {
        emit(&format!("other labs: {}\n", others.join(", ")))?;
    }
    let Some(state) = instance.state()? else { bail!("lab {:?} is not up", instance.name()) };
    let simulated =
        if state.simulated > 0 { format!(" and {} simulated", state.simulated) } else { String::new() };
    let (name, nodes, folder) = (instance.name(), state.nodes, instance.folder().display());
    emit(&format!("lab {name}: {nodes} node(s){simulated}, {folder}\n"))?;
    for (component, process) in instance.components() {
        let process = process.map_or("dead".to_owned(), |process| format!("pid {}", process.id));
        emit(&format!("  {component:<26} {process}\n"))?;
    }
    let lab = Lab::attach(instance.name())?;
    let (kubeconfig, namespace) = (lab.kubeconfig(), instance.namespace());
    emit(&format!("kubeconfig {} (inside `ip netns exec {}`)\n", kubeconfig.display(), namespace.name()))?;
    emit(&lab.kubectl(&["get", "nodes", "-o", "wide"])?)
}

/// Writes to standard output; a reader that has seen enough (`| head`) is no error.
fn emit(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

fn logs(instance: &Instance, component: Option<&str>, lines: Option<usize>) -> Result<()> {
    let lab = Lab::attach(instance.name());
    let lines = lines.unwrap_or(usize::MAX);
    let text = match (component, lab) {
        (None, lab) => lab?.log_names().join("\n"),
        (Some(component), Ok(lab)) => last(&lab.log(component)?, lines),
        // A lab that has lost a part still has its logs.
        (Some(component), Err(_)) if instance.log(component).exists() => {
            tail(&instance.log(component), lines)
        }
        (Some(_), Err(error)) => return Err(error),
    };
    emit(&format!("{text}\n"))
}

/// Prints what the command printed and ends with its status.
fn shell(lab: &Lab, node: &str, command: &str) -> Result<ExitCode> {
    let done = lab.guest_run(node, command)?;
    emit(&done.output)?;
    Ok(ExitCode::from(done.status))
}

fn build_images(lab: &Lab, cache: &Cache, only: &[Program]) -> Result<()> {
    interrupt::install()?;
    let progress = Progress::new("images", 1);
    let programs = if only.is_empty() { Program::ALL.as_slice() } else { only };
    for reference in product::build_images(cache, &lab.registry(), programs, &progress)? {
        progress.result(&reference.image());
    }
    Ok(())
}

fn clean(cache: Option<&Cache>) -> Result<()> {
    for name in instance::names() {
        lifecycle::down(&Instance::new(&name)?)?;
    }
    if let Some(cache) = cache {
        println!("removing {}", cache.root().display());
        cache::remove(cache.root())?;
    }
    Ok(())
}

fn serve(dir: &std::path::Path) -> Result<()> {
    // The bridge has its address before this starts; a moment of patience costs nothing.
    let address = (network::HOST, network::REGISTRY_PORT);
    let listener = (0..20).find_map(|_| {
        TcpListener::bind(address).inspect_err(|_| std::thread::sleep(Duration::from_millis(100))).ok()
    });
    registry::serve(&listener.context("cannot listen on the registry's address")?, dir)
}
