//! The leak matrix: who may read what while the link is up, and who can read it while it is down, in every disguise that
//! somebody on the node could think of. Whatever was recorded for one identity, nobody reads offline what it could not
//! have read online. Tokens are handed out again to whom they were handed out before, and none is made up.

use crate::bed::Program;
use crate::cable::{Cable, Relay};
use crate::control_plane::ControlPlane;
use crate::kubectl::Kubectl;
use crate::scene;
use crate::support::client::{Client, Reply, tls};
use crate::support::pki::{Pair, Pki};
use crate::support::proxy::{ADMIN, NODE, Proxy};
use crate::support::{TempDir, eventually};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use std::thread;
use std::time::SystemTime;

/// What is asked: a secret, their list, a watch of them, and what every authenticated client may know.
const QUESTIONS: [(&str, &str); 4] = [
    ("get", "/api/v1/namespaces/vault/secrets/till"),
    ("list", "/api/v1/namespaces/vault/secrets"),
    ("watch", "/api/v1/namespaces/vault/secrets?watch=true&resourceVersion=0&timeoutSeconds=1"),
    ("discovery", "/apis/apps/v1"),
];

/// How many may read.
const READERS: usize = 8;

/// The secret as it is in an object's `data`.
const SECRET: &str = "dGhlLXBpbi1vZi10aGUtdGlsbA==";

/// How long after its expiry kube-apiserver still takes a token (go-jose's `DefaultLeeway`).
const LEEWAY: u64 = 60;

/// Somebody, perhaps disguised.
struct Asker {
    name: String,
    /// The client certificate's CN; whether the proxy has a pair for it.
    certificate: Option<(&'static str, bool)>,
    headers: Vec<String>,
    /// When it asks.
    asks: Asks,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Before the cut and after it: what it read it must be able to read again.
    Always,
    /// The same, but the cluster has since refused it: it reads nothing more.
    UntilRefused,
    /// Only after the cut.
    InTheDark,
}

/// What four questions were answered: the status, and whether the secret was in it.
type Answers = [(u16, bool); 4];

struct Vault {
    proxy: Proxy,
    relay: Relay,
    direct: Kubectl,
    control_plane: ControlPlane,
    _folder: TempDir,
}

#[test]
fn nobody_reads_offline_what_it_could_not_read_online() {
    let _alone = scene::alone();
    let vault = Vault::start();
    let tokens = ["holder", "guest", "leaver"].map(|account| vault.token(account));
    let expiring = vault.expiring(&tokens[0], 15);
    let askers = askers(&tokens, &expiring);

    let straight = each(&askers, |asker| vault.straight(asker));
    let online = |asker: &Asker| (asker.asks != Asks::InTheDark).then(|| vault.through(asker).map(|r| judged(&r)));
    // Those who may read come first: what they read is there to be stolen.
    let (readers, others) = askers.split_at(READERS);
    let online = [each(readers, online), each(others, online)].concat();
    vault.direct.must("delete serviceaccount leaver -n vault");
    for asker in askers.iter().filter(|a| a.asks == Asks::UntilRefused) {
        eventually("the cluster refuses it", || vault.straight(asker)[0].0 == 401);
        assert_eq!(vault.through(asker).map(|r| r.status()), [401; 4], "{}", asker.name);
    }
    let minted = vault.mint(ADMIN, 3600);
    vault.relay.set(Cable::Refused);
    vault.through(&askers[0]);
    vault.proxy.await_link(false);
    let offline = each(&askers, |asker| vault.through(asker).map(|r| judged(&r)));

    vault.mints_nothing_new(&minted);

    let mut wrong = Vec::new();
    println!("\n{:46} {:>27} {:>27} {:>27}", "who", "direct", "online", "offline");
    println!("{:46} {}", "", "    get   list  watch  disc".repeat(3));
    for (i, asker) in askers.iter().enumerate() {
        let (straight, online, offline) = (straight[i], online[i], offline[i]);
        let shown = |a: Answers| a.map(|(s, leaks)| format!("{s:>6}{}", if leaks { '!' } else { ' ' })).concat();
        let nothing = || " ".repeat(28);
        println!("{:46}{}{}{}", asker.name, shown(straight), online.map_or_else(nothing, shown), shown(offline));
        for q in 0..QUESTIONS.len() {
            let may_read = asker.asks != Asks::UntilRefused && straight[q].0 == 200;
            let mut fault = |what: &str| wrong.push(format!("{}, {}: {what}", asker.name, QUESTIONS[q].0));
            if online.is_some_and(|online| online[q] != straight[q]) {
                fault("through the proxy it is not as straight");
            }
            if offline[q].1 && !(may_read && straight[q].1) {
                fault("LEAKED");
            }
            if offline[q].0 == 200 && !may_read {
                fault("answered");
            }
            if asker.asks == Asks::Always && may_read && offline[q] != straight[q] {
                fault("what was read cannot be read again");
            }
        }
    }
    println!("(! the secret was in the answer)");
    assert_eq!(wrong, Vec::<String>::new());
    let reads = |answers: &Answers| answers[..3].iter().all(|a| a.1);
    assert!(straight.iter().enumerate().all(|(i, answers)| reads(answers) == (i < READERS)), "who reads is another");
}

/// Asks all at the same time: a watch takes a second.
fn each<T: Send>(askers: &[Asker], ask: impl Fn(&Asker) -> T + Sync) -> Vec<T> {
    let ask = &ask;
    thread::scope(|scope| {
        let asking: Vec<_> = askers.iter().map(|asker| scope.spawn(move || ask(asker))).collect();
        asking.into_iter().map(|asking| asking.join().expect("no panic")).collect()
    })
}

/// Everybody. `tokens` are those of an account that may read, of one that may not, and of one that is deleted later.
fn askers([holder, guest, leaver]: &[String; 3], expiring: &str) -> Vec<Asker> {
    use Asks::{Always, InTheDark, UntilRefused};
    const FIRM: (&str, bool) = (ADMIN, true);
    const OTHER: (&str, bool) = (NODE, true);
    const STRANGER: (&str, bool) = ("stranger", false);
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    let agent = |who: &str| format!("User-Agent: {who}/v1.34.2");
    let (head, signature) = holder.rsplit_once('.').expect("a JWT");
    let payload = head.split('.').nth(1).expect("a payload");
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let late = later(payload, 86_400);
    let forged = format!("{head}.{}", "A".repeat(signature.len()));
    let mut all = Vec::new();
    let mut add = |name: &str, certificate, headers: Vec<String>, asks| {
        all.push(Asker { name: name.to_owned(), certificate, headers, asks });
    };
    // Those who may read, and there are [`READERS`] of them.
    add("certificate admin, may read", Some(FIRM), vec![agent("kubelet")], Always);
    add("token holder, may read", None, vec![bearer(holder), agent("controller")], Always);
    add("token holder, `bearer` in lower case", None, vec![format!("authorization: bearer {holder}")], Always);
    add("certificate admin and token guest", Some(FIRM), vec![bearer(guest)], Always);
    add("certificate without a pair, token holder", Some(STRANGER), vec![bearer(holder)], Always);
    add("admin, impersonates holder", Some(FIRM), impersonating("system:serviceaccount:vault:holder"), Always);
    add("token leaver, its account is deleted", None, vec![bearer(leaver)], UntilRefused);
    add("token holder, past its time before the cut", None, vec![bearer(expiring)], UntilRefused);
    // Those who may not.
    add("certificate node", Some(OTHER), vec![agent("node")], Always);
    add("certificate node, admin's User-Agent", Some(OTHER), vec![agent("kubelet")], Always);
    add("certificate node and token holder", Some(OTHER), vec![bearer(holder)], Always);
    add("token guest", None, vec![bearer(guest), agent("guest")], Always);
    add("token guest, holder's User-Agent", None, vec![bearer(guest), agent("controller")], Always);
    add("anonymous", None, vec![], Always);
    add("anonymous, admin's User-Agent", None, vec![agent("kubelet")], Always);
    add("certificate without a pair", Some(STRANGER), vec![], Always);
    add("anonymous, X-Remote-User admin", None, remote(), Always);
    add("certificate node, X-Remote-User admin", Some(OTHER), remote(), Always);
    add("admin, impersonates guest", Some(FIRM), impersonating("system:serviceaccount:vault:guest"), Always);
    add("node, impersonates admin", Some(OTHER), impersonating(ADMIN), Always);
    let mut acting = impersonating("system:serviceaccount:vault:holder");
    acting.push(bearer(guest));
    add("guest, impersonates holder", None, acting, Always);
    add("anonymous, impersonates admin", None, impersonating(ADMIN), InTheDark);
    add("holder's token, forged signature", None, vec![bearer(&forged)], Always);
    let another = format!("{head}.{}", "B".repeat(signature.len()));
    add("the same, never seen before", None, vec![bearer(&another)], InTheDark);
    add("holder's claims, alg none", None, vec![bearer(&format!("{none}.{payload}."))], Always);
    add(
        "holder's claims, alg none, signature kept",
        None,
        vec![bearer(&format!("{none}.{payload}.{signature}"))],
        InTheDark,
    );
    let header = head.split('.').next().expect("a header");
    add("holder's token, a later expiry", None, vec![bearer(&format!("{header}.{late}.{signature}"))], InTheDark);
    add("holder's token, cut short", None, vec![bearer(&holder[..holder.len() - 1])], InTheDark);
    add("holder's token, one more letter", None, vec![bearer(&format!("{holder}A"))], InTheDark);
    add("the holder's scope for a token", None, vec![bearer("token:system:serviceaccount:vault:holder")], InTheDark);
    // What is no token to kube-apiserver, which then answers as to nobody, must not count as one that it has taken.
    let unsigned = |letter: &str| format!("{head}.{}", letter.repeat(signature.len()));
    let blanks = format!("Authorization: Bearer  {}", unsigned("C"));
    add("forged, behind two blanks", None, vec![blanks], Always);
    let named = vec![bearer(&unsigned("D")), "Connection: authorization".to_owned()];
    add("forged, Connection names the field", None, named, Always);
    let second = vec!["Authorization: Basic eDp5".to_owned(), bearer(&unsigned("E"))];
    add("forged, in a second field", None, second, Always);
    add("guest's token, a forged one behind it", None, vec![bearer(&format!("{guest} {}", unsigned("F")))], Always);
    add("two tokens, guest's first", None, vec![bearer(guest), bearer(holder)], InTheDark);
    add("basic authentication as admin", None, vec!["Authorization: Basic YWRtaW46YWRtaW4=".to_owned()], InTheDark);
    all
}

fn impersonating(user: &str) -> Vec<String> {
    vec![format!("Impersonate-User: {user}")]
}

fn remote() -> Vec<String> {
    vec![format!("X-Remote-User: {ADMIN}"), "X-Remote-Group: system:masters".to_owned()]
}

/// The same claims with another expiry, so many seconds from now.
fn later(payload: &str, seconds: i64) -> String {
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    claims["exp"] = Value::from(now.saturating_add_signed(seconds));
    URL_SAFE_NO_PAD.encode(claims.to_string())
}

fn judged(reply: &Reply) -> (u16, bool) {
    (reply.status(), reply.text().contains(SECRET))
}

impl Vault {
    fn start() -> Vault {
        let kube = Program::Kube.built();
        let folder = TempDir::new();
        let pki = Pki::new(&folder.path().join("pki"));
        let control_plane = ControlPlane::start(&kube, &pki);
        let relay = Relay::start(control_plane.port());
        let direct = Kubectl::new(&kube, control_plane.admin());
        direct.must("create namespace vault");
        direct.must("apply -f vault.yaml");
        let program = [env!("CARGO_BIN_EXE_lite-apiserver").to_owned()];
        let proxy = Proxy::start_program(&program, pki, relay.port(), &[]);
        Vault { proxy, relay, direct, control_plane, _folder: folder }
    }

    fn token(&self, account: &str) -> String {
        self.direct.must(&format!("create token {account} -n vault")).trim().to_owned()
    }

    /// A token that the cluster takes for so many seconds more, as the owner of its key can make one.
    fn expiring(&self, token: &str, seconds: i64) -> String {
        let mut parts = token.split('.');
        let (header, payload) = (parts.next().expect("a header"), parts.next().expect("a payload"));
        let signed = format!("{header}.{}", later(payload, seconds - LEEWAY.cast_signed()));
        let Pair { key, .. } = self.proxy.pki.signing_key();
        let key = PrivateKeyDer::from_pem_file(key).expect("PEM");
        let random = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der(), &random).expect("a key");
        let signature = pair.sign(&random, signed.as_bytes()).expect("signed");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// A token for the holder, asked for through the proxy as the kubelet does; an empty one where there is none.
    fn mint(&self, cn: &str, seconds: u32) -> String {
        let spec = format!(r#"{{"expirationSeconds":{seconds},"audiences":null}}"#);
        let body = format!(r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{spec}}}"#);
        let path = "/api/v1/namespaces/vault/serviceaccounts/holder/token";
        let reply = self.proxy.client(Some(cn)).write("POST", path, &[], &body);
        match reply.status() {
            201 => reply.json()["status"]["token"].as_str().expect("a token").to_owned(),
            503 => String::new(),
            other => panic!("{other}: {}", reply.text()),
        }
    }

    /// In the dark who asked before is given what it was given before; nobody else is given anything. What was handed out
    /// is good though it was never used: a pod may have been given it in the last moment.
    fn mints_nothing_new(&self, minted: &str) {
        assert_eq!(self.mint(ADMIN, 3600), minted);
        assert_eq!(self.mint(ADMIN, 7200), "", "a token was made up");
        assert_eq!(self.mint(NODE, 3600), "", "somebody else's token");
        // The record is its subject's; that the subject has asked with another token before makes no difference.
        let bearer = [format!("Authorization: Bearer {minted}")];
        assert_eq!(judged(&self.ask(self.proxy.port, None, &bearer)[0]), (200, true));
    }

    fn ask(&self, port: u16, certificate: Option<&str>, headers: &[String]) -> [Reply; 4] {
        let pair = certificate.map(|cn| self.proxy.pki.pair(cn));
        let tls = tls(&self.proxy.pki.ca(), pair.as_ref());
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        QUESTIONS.map(|(_, path)| Client::try_connect(port, &tls).expect("connected").get_with(path, &headers))
    }

    /// As kube-apiserver itself answers: to a certificate with a pair as to nothing else, and to one without as to none.
    fn straight(&self, asker: &Asker) -> Answers {
        let (certificate, headers) = match asker.certificate {
            Some((cn, true)) => {
                let kept = asker.headers.iter().filter(|h| !h.to_lowercase().starts_with("authorization:"));
                (Some(cn), kept.cloned().collect())
            }
            _ => (None, asker.headers.clone()),
        };
        self.ask(self.control_plane.port(), certificate, &headers).map(|r| judged(&r))
    }

    fn through(&self, asker: &Asker) -> [Reply; 4] {
        self.ask(self.proxy.port, asker.certificate.map(|(cn, _)| cn), &asker.headers)
    }
}
