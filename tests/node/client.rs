//! The pod that asks the API as pods do (`pod/client.go`), and what it must be told: a list of the configmaps of its
//! namespace, by the API's name, and a watch of them that is held open, by the address in its environment. kube-proxy leads
//! both to lite-apiserver.

use crate::edge::{Told, fields};
use crate::scene::Scene;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A watch that is open for so long was not ended at once.
const HELD: u64 = 1500;

/// What the pod is told within `patience`: the configmap `news` has this colour, and all others are there. How often the pod
/// has listed for its watch, if all is as it must be.
pub fn asks(scene: &Scene, colour: &str, patience: Duration) -> Option<u64> {
    let wanted = format!("demo green, kube-root-ca.crt, news {colour}");
    let begun = Instant::now();
    loop {
        let told = told(scene);
        let of = |name: &str| told.get(name).map_or("", String::as_str);
        let said = scene.edge.curl(&format!("http://{}:8080/configmaps", of("POD_IP")));
        let listed = fields(&said);
        let list = listed.get("LISTED").map(String::as_str);
        let open = of("WATCH_OPEN_MS").parse().unwrap_or(0);
        let right = list == Some(&wanted) && of("HOLDS") == wanted && open >= HELD;
        if right || begun.elapsed() > patience {
            let age = listed.get("AGE").filter(|age| !age.is_empty());
            let age = age.map_or("as it is now".to_owned(), |seconds| format!("{seconds} s old"));
            println!(
                "$ curl https://kubernetes.default.svc/…/configmaps, in a pod, after {:.1} s:",
                begun.elapsed().as_secs_f32()
            );
            println!("{} ({age}; its token expires in {} s)", list.unwrap_or(said.trim_end()), left(&told));
            println!(
                "its watch, open for {open} ms, holds: {}; lists: {}; errors: {}",
                of("HOLDS"),
                of("LISTS"),
                of("WRONG")
            );
            return right.then(|| of("LISTS").parse().ok()).flatten();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the Service says to the pod when it asks.
pub fn by_the_service(scene: &Scene) -> String {
    let address = told(scene).remove("POD_IP").unwrap_or_default();
    scene.edge.curl(&format!("http://{address}:8080/service"))
}

/// How many seconds the pod's token still has; none where the pod does not answer.
pub fn token_left(scene: &Scene) -> Option<i64> {
    let told = told(scene);
    told.contains_key("TOKEN_EXPIRES").then(|| left(&told))
}

fn told(scene: &Scene) -> Told {
    let answers = scene.edge.answers();
    answers.into_iter().find(|(name, _)| name.starts_with("client-")).map(|(_, told)| told).unwrap_or_default()
}

fn left(told: &Told) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    told.get("TOKEN_EXPIRES").and_then(|s| s.parse::<i64>().ok()).unwrap_or_default() - now.cast_signed()
}
