//! `lite-apiserver setup`: on a node that has a kubelet's kubeconfig, makes what the daemon needs, and puts it between the node
//! and its cluster; `--undo` takes it out again. Speaks to nobody: what it knows of the cluster is in the node's files.
//!
//! ```text
//! command    the command line
//! node       which kubeconfigs there are: kubeadm, k3s, plain
//! plan       what each file must say
//! root       the node's files, seen from here
//! ledger     writes them, keeps what was there, takes all back
//! services   the commands that restart what reads them
//! ```

mod command;
mod ledger;
mod node;
mod plan;
mod root;
mod services;

use crate::config::{ConfigError, Exit};
use crate::failed::{Failed, failed};
use command::Wanted;
use ledger::{Ledger, Put, beside};
use node::{Kind, Node};
use plan::Plan;
use root::Root;
use services::Services;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

const WHAT: &str = "setup:";

impl From<ConfigError> for Failed {
    fn from(e: ConfigError) -> Failed {
        failed(e.exit.code(), e.message)
    }
}

fn wrong(exit: Exit, why: impl std::fmt::Display) -> ConfigError {
    ConfigError::new(exit, format!("{WHAT} {why}"))
}

fn usage(message: impl Into<String>) -> Failed {
    failed(64, format!("setup: {}; `lite-apiserver setup --help` says more", message.into()))
}

/// Does what the arguments after `setup` say.
///
/// # Errors
/// What is wrong, and the cure. Exit codes: 64 wrong command line, 65 a file's contents are wrong, or one was changed since and is
/// left alone, 66 a file is not there, 69 the daemon does not answer, 70 internal error, 71 a service cannot be restarted, 73 a
/// file cannot be made, 77 not permitted, 78 the parts do not fit together.
pub fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> Result<(), Failed> {
    // A reader that has gone has read enough.
    let mut say = |text: &str| drop(out.write_all(text.as_bytes()));
    let Some(wanted) = command::parse(arguments)? else {
        say(command::HELP);
        return Ok(());
    };
    let root = Root(wanted.root.clone().unwrap_or_else(|| "/".into()));
    if wanted.undo { undo(&wanted, &root, &mut say) } else { set_up(&wanted, &root, &mut say) }
}

fn set_up(wanted: &Wanted, root: &Root, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
    let node = Node::find(wanted, root)?;
    let services = Services::of(node.kind, node.kube_proxy.is_some(), root);
    if wanted.restart {
        services.can_start()?;
    }
    let mut ledger = Ledger::open(root, &wanted.directory)?;
    let plan = Plan::make(&node, wanted, root, &mut ledger)?;
    say(&format!("The node: {}, whose cluster is {}\n", kind_of(&node), plan.upstream));
    let mut put = |path: &Path, text: &[u8], ledger: &mut Ledger| -> Result<(), Failed> {
        let word = match ledger.put(path, text)? {
            Put::Same => "unchanged",
            Put::Made => "made     ",
            Put::Changed => "changed  ",
        };
        say(&format!("{word} {}\n", path.display()));
        Ok(())
    };
    for (path, text) in &plan.made {
        put(path, text, &mut ledger)?;
    }
    if wanted.apply {
        for (path, text) in &plan.applied {
            put(path, text, &mut ledger)?;
        }
    }
    say(&what_is_left(wanted, &node, &plan, root, &services));
    if wanted.restart {
        let (daemon, clients) = services.to_use();
        services::run(&daemon)?;
        services::await_daemon(plan.admin, &plan.server)?;
        services::run(&clients)?;
        say(&format!("done: lite-apiserver serves, and {} was restarted\n", services.names()));
    }
    Ok(())
}

fn kind_of(node: &Node) -> String {
    let name = match node.kind {
        Kind::Kubeadm => "kubeadm's",
        Kind::K3s => "a k3s agent",
        Kind::Plain => "a kubelet",
    };
    format!("{name} ({})", node.kubelet.display())
}

/// What a person has to do, or to know.
fn what_is_left(wanted: &Wanted, node: &Node, plan: &Plan, root: &Root, services: &Services) -> String {
    let mut text = String::new();
    let applied = plan.applied.iter().all(|(path, text)| root.read(path).is_ok_and(|held| held == *text));
    if applied {
        text.push_str("\nThe proxy is in between, for whatever is started from now on.\n");
    } else {
        text.push_str("\nTo put the proxy in between, run this again with --apply. It will\n");
        for (path, _) in &plan.applied {
            let _ = match node.kind {
                Kind::K3s => writeln!(text, "  make {}, which leads kubelet and kube-proxy here", path.display()),
                _ => writeln!(
                    text,
                    "  point {} at {}, and keep it as {}",
                    path.display(),
                    plan.server,
                    beside(path).display()
                ),
            };
        }
    }
    if let Some((_, path)) = plan.kubeconfigs.iter().find(|(name, _)| *name == "kubectl") {
        let _ = writeln!(text, "\nA person's kubectl goes through the proxy with --kubeconfig {}.", path.display());
    }
    text.push_str(&match node.kind {
        Kind::Kubeadm => about_kubeadm(wanted, plan),
        Kind::K3s => about_k3s(),
        Kind::Plain if node.kube_proxy.is_none() => {
            "\nkube-proxy: none was found. If one runs here, name its kubeconfig with --kube-proxy-kubeconfig.\n"
                .to_owned()
        }
        Kind::Plain => String::new(),
    });
    let (daemon, clients) = services.to_use();
    if !wanted.restart {
        text.push_str("\nThen, in this order");
        text.push_str(if wanted.root.is_some() { ", on the node itself:\n" } else { " (--restart does it):\n" });
        if let Some(command) = services.to_enable() {
            let _ = writeln!(text, "  {command}");
        }
        if services.are_known() {
            daemon.iter().chain(&clients).for_each(|command| text.push_str(&format!("  {command}\n")));
        } else {
            let flags = wanted.directory.join("flags");
            let _ = writeln!(
                text,
                "  lite-apiserver --config={}, started before the kubelet at each boot",
                flags.display()
            );
            let _ = writeln!(text, "  restart {}, as it was started", services.names());
        }
    }
    let flags = wanted.directory.join("flags");
    let _ = writeln!(text, "\n`lite-apiserver check --config={}` looks at all of it.", flags.display());
    text.push_str(
        "`lite-apiserver setup --undo` takes all back. For pods through the proxy: `lite-apiserver cert --help`.\n",
    );
    text
}

fn about_kubeadm(wanted: &Wanted, plan: &Plan) -> String {
    format!(
        "\nkube-proxy: its kubeconfig is in the cluster, in the ConfigMap kube-system/kube-proxy, one for all nodes, and it\n\
         trusts the cluster's CA only. Until it is changed, kube-proxy asks the cloud itself: its rules outlast a cut, and are\n\
         lacking after a boot in the dark. To lead it here:\n  \
         1. `lite-apiserver cert`: have the serving certificate signed by the cluster, and name it above the part of setup in\n     \
         {}: --tls-cert-file=FILE, --tls-private-key-file=FILE; run setup again\n  \
         2. where each node has a lite-apiserver: kubectl -n kube-system edit configmap kube-proxy, and in kubeconfig.conf\n     \
         server: {}; else make a second ConfigMap and DaemonSet, by a label for the nodes that have one\n  \
         3. kubectl -n kube-system rollout restart daemonset kube-proxy\n",
        wanted.directory.join("flags").display(),
        plan.server
    )
}

fn about_k3s() -> String {
    "\nk3s: kubelet and kube-proxy ask the proxy, and the proxy asks k3s's own load balancer, which is there while k3s-agent runs\n\
     and follows its servers; k3s's own controllers go on asking that. The node carries on through a cut. It does not boot in the\n\
     dark: at each start k3s-agent fetches its configuration from its server before it starts the kubelet, and waits until it\n\
     can, whatever is between. k3s 1.21 or newer reads the file in config.yaml.d.\n"
        .to_owned()
}

fn undo(wanted: &Wanted, root: &Root, say: &mut dyn FnMut(&str)) -> Result<(), Failed> {
    let mut ledger = Ledger::open(root, &wanted.directory)?;
    if ledger.is_empty() {
        say(&format!("nothing to take back: {} has no setup.json\n", wanted.directory.display()));
        return Ok(());
    }
    let stuck = ledger.not_to_be_undone();
    if !stuck.is_empty() {
        let why = "changed since setup wrote it, or what was there before it is no longer beside it";
        let cure = "put back by hand what is to be there, and run this again";
        let why = format!("{why}; nothing was taken back or stopped: {cure}");
        return Err(failed(65, format!("setup: {}: {why}", names(&stuck))));
    }
    let rest = |text: &[u8]| plan::outside(&String::from_utf8_lossy(text)).into_bytes();
    // Before the files go by which it is told.
    let (kind, has_kube_proxy) =
        Node::find(wanted, root).map_or((Kind::Plain, false), |node| (node.kind, node.kube_proxy.is_some()));
    let services = Services::of(kind, has_kube_proxy, root);
    let (done, left) = ledger.undo(&rest)?;
    done.iter().for_each(|line| say(&format!("{line}\n")));
    say("The record stays where it is; `lite-apiserver cache rm --all` empties it.\n");
    let (clients, daemon) = services.to_leave();
    if wanted.restart {
        services::run(&clients)?;
        services::run(&daemon)?;
    } else if services.are_known() {
        say("\nThen, in this order (--restart does it):\n");
        clients.iter().chain(&daemon).for_each(|command| say(&format!("  {command}\n")));
    } else {
        say(&format!("\nThen restart {}, and end lite-apiserver.\n", services.names()));
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(failed(65, format!("setup: {}: changed since setup wrote it, and left as it is", names(&left))))
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
