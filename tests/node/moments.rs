//! The power goes in bad moments: while a Deployment rolls out, and right after a pod became Ready. What ran and was to go
//! on running must run again after the boot, while the cable is cut.

use crate::Wish;
use crate::scene::Scene;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    let mut lost = 0;
    for moment in 1..=moments {
        let what =
            if moment % 2 == 1 { rolls_out(&scene, moment, below(8000)) } else { became_ready(&scene, wish.pods) };
        let running = scene.answers();
        scene.edge.cut();
        let cut = Instant::now();
        // What the cluster wants to be gone may be gone.
        let known = scene.cloud.must("get pods -o json");
        let wanted = wanted(&known);
        let expected: Vec<String> = running.into_keys().filter(|name| wanted.contains(name)).collect();
        std::thread::sleep(Duration::from_millis(below(3) * 700).saturating_sub(cut.elapsed()));
        let dark = cut.elapsed();
        scene.edge.power_off();
        let up = scene.edge.boot();
        let mut missing = expected.clone();
        while !missing.is_empty() && up.elapsed() < Duration::from_secs(40) {
            let answers = scene.answers();
            missing.retain(|name| !answers.contains_key(name));
            std::thread::sleep(Duration::from_millis(50));
        }
        let took = up.elapsed().as_secs_f32();
        scene.say(&format!(
            "moment {moment}: {what}, off {} ms after the cut: {} of {} came back, {took:.1} s",
            dark.as_millis(),
            expected.len() - missing.len(),
            expected.len()
        ));
        if !missing.is_empty() {
            lost += 1;
            println!("missing: {missing:?}\n{}", scene.edge.logs());
            println!("{}", scene.cloud.must("get pods -o wide"));
        }
        scene.edge.heal();
        scene.settled();
    }
    println!("{moments} moments, {lost} in which a pod was lost");
    lost == 0
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

/// The names of pods that nobody has deleted.
fn wanted(list: &str) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_str(list).expect("JSON");
    let pods = list["items"].as_array().expect("items").iter();
    let staying = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    staying.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect()
}
