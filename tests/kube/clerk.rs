//! Somebody with a token who may read configmaps and no secrets: while the link is down no more than while it is up,
//! whatever an administrator has read through the same proxy.

use crate::Scene;
use crate::kubectl::{Kubectl, Said};

const MAPS: &str = "get configmaps -n shop -o yaml";
const MAP: &str = "get configmap prices -n shop -o yaml";
// As names: of what it may not list, kubectl 1.34 prints an empty list as YAML.
const MAP_NAMES: &str = "get configmaps -n shop -o name";
const SECRET_NAMES: &str = "get secrets -n shop -o name";
const SECRET: &str = "get secret till -n shop -o yaml";

/// The clerk, what was seen while the link was up, and somebody with a token that nobody signed.
pub struct Clerk {
    node: Kubectl,
    maps: String,
    map: String,
    forger: Kubectl,
}

impl Clerk {
    /// Hands the clerk a token, and reads as the clerk: through the proxy as straight.
    pub fn begins(scene: &Scene) -> Clerk {
        scene.node.must("apply -f clerk.yaml");
        let token = scene.node.must("create token clerk -n shop");
        let node = scene.node.with_token(token.trim());
        let direct = scene.direct.with_token(token.trim());
        let (maps, map) = (node.must(MAPS), node.must(MAP));
        assert_eq!((&maps, &map), (&direct.must(MAPS), &direct.must(MAP)));
        for secret in [SECRET_NAMES, SECRET] {
            let (said, straight) = (node.run(secret), direct.run(secret));
            assert_eq!((said.code, &said.err), (straight.code, &straight.err));
            assert!(said.err.contains("Forbidden") && said.out.is_empty(), "{said:?}");
        }
        let (head, _) = token.trim().rsplit_once('.').expect("a JWT");
        let forger = scene.node.with_token(&format!("{head}.{}", "A".repeat(86)));
        let said = forger.run(MAP_NAMES);
        assert!(said.code != 0 && said.err.contains("provide credentials"), "{said:?}");
        Clerk { node, maps, map, forger }
    }

    /// Reads again without the cluster.
    pub fn goes_on(&self) {
        assert_eq!((self.node.must(MAPS), self.node.must(MAP)), (self.maps.clone(), self.map.clone()));
        for (who, what) in
            [(&self.node, SECRET_NAMES), (&self.node, SECRET), (&self.forger, MAP_NAMES), (&self.forger, MAP)]
        {
            let said = who.run(what);
            assert!(is_refused(&said), "kubectl {what}: {said:?}");
        }
    }
}

fn is_refused(said: &Said) -> bool {
    said.code != 0
        && said.out.is_empty()
        && said.err.contains("the link from this node to the cluster is down since 20")
}
