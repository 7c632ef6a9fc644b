//! What a person reads with kubectl, and the same again without the cluster: the same output, each within a second.
//!
//! Compared are the exit code, stdout, and stderr without its warnings. What is not compared: spans of time in tables
//! ([`ageless`]: the apiserver computes them, so that an answer from the record has the age at which it was recorded) and
//! in a few descriptions, and in those what is never recorded: events, and a node's lease.

use crate::kubectl::{Kubectl, Said, ageless, errors};
use std::time::Duration;

/// How outputs are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Byte for byte.
    Bytes,
    /// A table for people: without ages, and a warning is due where it comes from the record.
    Table,
    /// Without ages, and without what is never recorded: a node's lease, and all from the events on.
    Description,
}

use By::{Bytes, Description, Table};

const READS: [(&str, By); 46] = [
    ("get pods -n shop", Table),
    ("get pods -n shop -o wide", Table),
    ("get pods -n shop -o yaml", Bytes),
    ("get pods -n shop -o json", Bytes),
    ("get pods -n shop -o name", Bytes),
    ("get pods -A", Table),
    ("get pods -A --show-labels", Table),
    ("get pods -n shop -l app=web", Table),
    ("get pods -n shop -l app!=web -o name", Bytes),
    ("get pods -A --field-selector spec.nodeName=edge1 -o wide", Table),
    ("get pod web-0 -n shop", Table),
    ("get pod web-0 -n shop -o yaml", Bytes),
    ("get pod web-0 -n shop -o jsonpath={.spec.nodeName}", Bytes),
    ("get configmaps -n shop", Table),
    ("get configmaps -n shop -l kind=figures -o yaml", Bytes),
    ("get configmap prices hours -n shop", Table),
    ("get configmaps,secrets -n shop", Table),
    ("get secrets -n shop -o yaml", Bytes),
    ("get namespaces", Table),
    ("get nodes -o wide", Table),
    ("get node edge1 -o yaml", Bytes),
    ("get all -n shop", Table),
    ("get deployment web -n shop -o json", Bytes),
    ("get serviceaccounts -A -o name", Bytes),
    ("get crds", Table),
    ("get widgets -A", Table),
    ("get wd drawer -n shop -o yaml", Bytes),
    ("get widgets -n empty", Bytes),
    ("get pod nothing-there -n shop", Bytes),
    ("get nothing-of-the-kind", Bytes),
    ("describe pod web-0 -n shop", Bytes),
    // With its events it fails: see `refusals`.
    ("describe configmap prices -n shop --show-events=false", Bytes),
    ("describe node edge1", Description),
    ("describe widget drawer -n shop", Bytes),
    ("describe service web -n shop", Description),
    ("describe deployment web -n shop", Description),
    ("api-resources", Bytes),
    ("api-versions", Bytes),
    ("version", Bytes),
    ("explain pods.spec", Bytes),
    ("explain widgets.spec", Bytes),
    ("auth can-i delete pods -n shop", Bytes),
    ("auth whoami", Bytes),
    ("get --raw /api/v1/namespaces/shop/configmaps/prices", Bytes),
    ("get --raw /apis/example.com/v1/widgets?labelSelector=kind%3Dfurniture", Bytes),
    ("get --raw /openapi/v3", Bytes),
];

/// A read from the record is answered within this time, kubectl's own start and discovery included.
const LIMIT: Duration = Duration::from_secs(1);

/// A busy machine may make one run slow; the best of so many counts.
const TRIES: usize = 3;

/// What a read said, as far as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    code: i32,
    out: String,
    err: String,
}

impl Seen {
    fn new(said: &Said, by: By) -> Seen {
        let out = match by {
            Bytes => said.out.clone(),
            Table => ageless(&said.out),
            Description => {
                let recorded = said.out.lines().take_while(|l| !l.starts_with("Events:"));
                ageless(&recorded.filter(|l| !l.starts_with("Lease:")).collect::<Vec<_>>().join("\n"))
            }
        };
        Seen { code: said.code, out, err: errors(&said.err) }
    }
}

/// How long each read took, stage by stage.
#[derive(Debug, Default)]
pub struct Figures {
    stages: Vec<(&'static str, Vec<Duration>)>,
}

impl Figures {
    /// As a table.
    pub fn print(&self) {
        print!("\n{:>72}", "ms:");
        self.stages.iter().for_each(|(stage, _)| print!(" {stage:>10}"));
        println!();
        for (i, (arguments, _)) in READS.iter().enumerate() {
            print!("{:<72}", format!("kubectl {arguments}"));
            self.stages.iter().for_each(|(_, took)| print!(" {:>10}", took[i].as_millis()));
            println!();
        }
        print!("{:<72}", "slowest");
        self.stages.iter().for_each(|(_, took)| print!(" {:>10}", took.iter().max().map_or(0, Duration::as_millis)));
        println!();
    }
}

/// All reads while the link is up: through the proxy they are what kube-apiserver says. What was seen.
pub fn online(direct: &Kubectl, node: &Kubectl, figures: &mut Figures) -> Vec<Seen> {
    let (mut seen, mut straight, mut through, mut complaints) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (arguments, by) in READS {
        let (one, other) = (direct.run(arguments), node.run(arguments));
        straight.push(one.took);
        through.push(other.took);
        complain(&mut complaints, arguments, &Seen::new(&one, by), &Seen::new(&other, by));
        if other.err != one.err {
            complaints.push(format!("kubectl {arguments}: warned, and of what: {}", other.err));
        }
        seen.push(Seen::new(&other, by));
    }
    assert!(complaints.is_empty(), "through the proxy it is another answer:\n{}", complaints.join("\n"));
    let found = seen.iter().filter(|s| s.code == 0 && !s.out.is_empty()).count();
    assert_eq!(found, READS.len() - 3, "all but the three that are to find nothing: {seen:#?}");
    figures.stages.push(("direct", straight));
    figures.stages.push(("online", through));
    seen
}

/// All reads without the cluster: as before, each in time.
pub fn offline(node: &Kubectl, stage: &'static str, before: &[Seen], figures: &mut Figures) {
    let (mut times, mut complaints) = (Vec::new(), Vec::new());
    for ((arguments, by), before) in READS.into_iter().zip(before) {
        let mut best = Duration::MAX;
        for _ in 0..TRIES {
            let said = node.run(arguments);
            best = best.min(said.took);
            complain(&mut complaints, arguments, before, &Seen::new(&said, by));
            let warned = said.err.contains("Warning: ") && said.err.contains("is down since 20");
            if by == Table && !warned {
                complaints.push(format!("kubectl {arguments}: nobody is warned: {}", said.err));
            }
            if best < LIMIT {
                break;
            }
        }
        if best >= LIMIT {
            complaints.push(format!("kubectl {arguments}: {best:?}"));
        }
        times.push(best);
    }
    assert!(complaints.is_empty(), "{stage}: not as before:\n{}", complaints.join("\n"));
    figures.stages.push((stage, times));
}

fn complain(complaints: &mut Vec<String>, arguments: &str, wanted: &Seen, got: &Seen) {
    if wanted != got {
        let mut lines = wanted.out.split('\n').zip(got.out.split('\n'));
        let differs = lines.find(|(one, other)| one != other);
        let show = |seen: &Seen| format!("exit code {}, {} bytes, {:?}", seen.code, seen.out.len(), seen.err);
        complaints.push(format!(
            "kubectl {arguments}:\n  wanted {}\n  got    {}\n  first difference: {differs:?}",
            show(wanted),
            show(got)
        ));
    }
}
