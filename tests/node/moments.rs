//! The power goes in bad moments: while a Deployment rolls out, right after a pod became Ready, while the kubelet's client
//! certificate is renewed, while a pod's token is within a minute of its end. What ran and was to go on running must run
//! again after the boot, while the cable is cut, and a pod must be told what it has read of the API.

use crate::Wish;
use crate::client;
use crate::edge::{KUBELET, NODES, client_certificate};
use crate::scene::Scene;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A number below this one, at random.
type Below<'a> = dyn FnMut(u64) -> u64 + 'a;

/// How long what is to come back is waited for.
const PATIENCE: Duration = Duration::from_secs(40);

/// The kinds of moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    RollsOut,
    BecameReady,
    Renews,
    TokenEnds,
}

/// Tries so many moments; whether everything came back each time.
pub fn tell(wish: &Wish, moments: usize) -> bool {
    let seed = std::env::var("MOMENTS_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs()));
    println!("MOMENTS_SEED={seed}");
    let mut random = seed;
    let mut below = |limit: u64| {
        // Knuth's MMIX.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let mut scene = Scene::install(wish);
    scene.deploy(wish.pods);
    let (mut lost, mut kinds) = (0, Vec::new());
    for moment in 1..=moments {
        // A token of ten minutes comes near its end when it does: that moment is taken when it is there, and waited for
        // where many moments have gone without.
        let due = || client::token_left(&scene).is_some_and(|left| (75..200).contains(&left));
        if moment == moments && moments >= 20 && !kinds.contains(&Kind::TokenEnds) {
            scene.wait("a token comes near its end", 600, |_| due());
        }
        let kind = match moment % 3 {
            _ if due() => Kind::TokenEnds,
            0 => Kind::Renews,
            1 => Kind::RollsOut,
            _ => Kind::BecameReady,
        };
        kinds.push(kind);
        lost += usize::from(!passes(&mut scene, wish, moment, kind, &mut below));
    }
    let of = |kind: Kind| kinds.iter().filter(|k| **k == kind).count();
    println!(
        "{moments} moments ({} in a roll-out, {} after Ready, {} in a renewal, {} before a token's end), {lost} in which \
         something was lost",
        of(Kind::RollsOut),
        of(Kind::BecameReady),
        of(Kind::Renews),
        of(Kind::TokenEnds)
    );
    lost == 0
}

/// One moment: the cable is cut, the power goes, and the node boots in the dark. Whether all came back.
fn passes(scene: &mut Scene, wish: &Wish, moment: usize, kind: Kind, below: &mut Below<'_>) -> bool {
    let before = scene.edge.certificate();
    let what = match kind {
        Kind::RollsOut => rolls_out(scene, moment, below(8000)),
        Kind::BecameReady => became_ready(scene, wish.pods),
        Kind::Renews => renews(scene, moment, below(2000)),
        Kind::TokenEnds => "before a token's end".to_owned(),
    };
    let running = scene.answers();
    scene.edge.cut();
    let cut = Instant::now();
    // What the cluster wants to be gone may be gone.
    let wanted = wanted(&scene.cloud.must("get pods -o json"));
    let expected: Vec<String> = running.into_keys().filter(|name| wanted.contains(name)).collect();
    let pause = match kind {
        Kind::TokenEnds => {
            let left = client::token_left(scene).unwrap_or_default() - 5 - below(50).cast_signed();
            Duration::from_secs(left.max(0).cast_unsigned())
        }
        _ => Duration::from_millis(below(3) * 700),
    };
    std::thread::sleep(pause.saturating_sub(cut.elapsed()));
    let dark = cut.elapsed();
    let left = client::token_left(scene).map_or_else(String::new, |left| format!(", {left} s before a token's end"));
    scene.edge.power_off();
    let up = scene.edge.boot();
    let missing = missing(scene, &expected, up + PATIENCE);
    let took = up.elapsed().as_secs_f32();
    scene.say(&format!(
        "moment {moment}: {what}, off {} ms after the cut{left}: {} of {} came back, {took:.1} s",
        dark.as_millis(),
        expected.len() - missing.len(),
        expected.len()
    ));
    let mut told = client::asks(scene, "red", PATIENCE).is_some();
    if kind == Kind::TokenEnds {
        let left = client::token_left(scene).unwrap_or_default();
        std::thread::sleep(Duration::from_secs((left + 1).max(0).cast_unsigned()));
        scene.say("the token's time has passed");
        told &= client::asks(scene, "red", PATIENCE).is_some();
    }
    if !missing.is_empty() || !told {
        println!("missing: {missing:?}; the client is told what it must: {told}\n{}", scene.edge.logs());
        println!("{}", scene.cloud.must("get pods -o wide"));
    }
    scene.edge.heal();
    scene.settled();
    if kind == Kind::TokenEnds {
        scene.say("the cable is mended; the kubelet is to fetch another token");
        told &= client::asks(scene, "red", Duration::from_secs(200)).is_some();
    }
    if kind == Kind::Renews {
        let renewed = |s: &Scene| ![&before, &client_certificate(&old_name(moment))].contains(&&s.edge.certificate());
        scene.wait("the kubelet has its new certificate", 120, renewed);
        scene.say("the kubelet has its new certificate");
    }
    missing.is_empty() && told
}

/// Those of `expected` that do not answer until then.
fn missing(scene: &Scene, expected: &[String], until: Instant) -> Vec<String> {
    let mut missing = expected.to_vec();
    while !missing.is_empty() && Instant::now() < until {
        let answers = scene.answers();
        missing.retain(|name| !answers.contains_key(name));
        std::thread::sleep(Duration::from_millis(50));
    }
    missing
}

/// The Deployment rolls out; so many milliseconds later.
fn rolls_out(scene: &Scene, moment: usize, milliseconds: u64) -> String {
    scene.cloud.must(&format!("set env deployment/lite-demo MOMENT={moment}"));
    std::thread::sleep(Duration::from_millis(milliseconds));
    format!("{milliseconds} ms into a roll-out")
}

/// All pods are replaced, and the last of the new ones becomes Ready; a tenth of a second later.
fn became_ready(scene: &Scene, pods: usize) -> String {
    scene.cloud.must("delete pod -l app=lite-demo --wait=false");
    scene.wait("the new pods are Ready", 60, |s| {
        let ready = s.cloud.must("get deployment lite-demo -o jsonpath={.status.readyReplicas}");
        let wanted = wanted(&s.cloud.must("get pods -l app=lite-demo -o json"));
        ready == pods.to_string() && wanted.len() == pods
    });
    std::thread::sleep(Duration::from_millis(100));
    "0.1 s after the last pod became Ready".to_owned()
}

/// The kubelet finds, when it is started again, that most of its certificate's life is over, and asks the cluster for
/// another through lite-apiserver; so many milliseconds after its start.
fn renews(scene: &Scene, moment: usize, milliseconds: u64) -> String {
    let known = requests(scene);
    let old = scene.pki.ending(KUBELET, NODES, Duration::from_secs(3600));
    scene.edge.give_certificate(&old_name(moment), &old);
    scene.edge.restart_kubelet();
    std::thread::sleep(Duration::from_millis(milliseconds));
    let there = scene.edge.certificate() != client_certificate(&old_name(moment));
    let how_far = match (there, requests(scene) > known) {
        (true, _) => "which is here",
        (false, true) => "which it has asked for",
        (false, false) => "which it has not asked for yet",
    };
    format!("{milliseconds} ms after the start of a kubelet that needs a new certificate, {how_far}")
}

fn old_name(moment: usize) -> String {
    format!("old-{moment}")
}

fn requests(scene: &Scene) -> usize {
    scene.cloud.must("get csr -o name").lines().count()
}

/// The names of pods that nobody has deleted.
fn wanted(list: &str) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_str(list).expect("JSON");
    let pods = list["items"].as_array().expect("items").iter();
    let staying = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    staying.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
}
