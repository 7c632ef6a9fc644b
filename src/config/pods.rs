//! What leads pods here: `--dummy-interface`, `--rewrite-kubernetes-service`. Pure.

use super::error::ConfigError;
use super::flags::Given;
use std::net::{IpAddr, SocketAddr};

const REWRITE: &str = "rewrite-kubernetes-service";

/// An address that the node is to have, on an interface that is made for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DummyInterface {
    /// The interface's name.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// How many bits of it are the network's: all, unless told otherwise.
    pub prefix: u8,
}

/// The longest name that an interface can have (linux/if.h, `IFNAMSIZ`, less the final NUL).
const LONGEST_NAME: usize = 15;

/// `--dummy-interface`
pub(super) fn dummy_interfaces(given: &Given) -> Result<Vec<DummyInterface>, ConfigError> {
    let read = |text: &String| {
        let wrong = || {
            ConfigError::usage(format!(
                "--dummy-interface: {text:?} is not NAME=IP or NAME=IP/BITS, such as lite0=169.254.20.51"
            ))
        };
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (address, prefix) = rest.split_once('/').map_or((rest, None), |(ip, bits)| (ip, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), str::parse).ok().filter(|bits| (1..=most).contains(bits));
        let fits = (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if !fits || address.is_unspecified() {
            return Err(wrong());
        }
        Ok(DummyInterface { name: name.to_owned(), address, prefix: prefix.ok_or_else(wrong)? })
    };
    given.given("dummy-interface").unwrap_or_default().iter().map(read).collect()
}

/// Listens on the dummies' addresses, too, but for those that are listened on already.
pub(super) fn listen_too(dummies: &[DummyInterface], port: u16, listen: &mut Vec<SocketAddr>) {
    for dummy in dummies {
        // `::` is every address, of either family.
        let covers =
            |ip: IpAddr| ip == dummy.address || ip.is_unspecified() && (ip.is_ipv6() || dummy.address.is_ipv4());
        if !listen.iter().any(|address| covers(address.ip())) {
            listen.push(SocketAddr::new(dummy.address, port));
        }
    }
}

/// `--rewrite-kubernetes-service`: where pods find the proxy, which listens on `listen`. Of those addresses the first that
/// pods can reach, unless one is named.
pub(super) fn kubernetes_service(
    given: &Given,
    listen: &[SocketAddr],
    port: u16,
) -> Result<Option<SocketAddr>, ConfigError> {
    let reachable = |address: &SocketAddr| !address.ip().is_loopback() && !address.ip().is_unspecified();
    let text = given.get(REWRITE).unwrap_or_default();
    let named = text.parse::<SocketAddr>().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, port)));
    let found = match named {
        Some(named) => Some(named).filter(reachable),
        None if !given.switch(REWRITE).map_err(|_| {
            ConfigError::usage(format!("--{REWRITE}: {text:?} is no address; write IP or IP:PORT, or nothing for the first --address that pods can reach"))
        })? => return Ok(None),
        None => listen.iter().copied().find(reachable),
    };
    found.map(Some).ok_or_else(|| {
        ConfigError::usage(format!(
            "--{REWRITE}: pods cannot reach the proxy at {}: a pod's loopback is its own; add an address of the node (--dummy-interface lite0=169.254.20.51, or --address), or name one (--{REWRITE}=IP:PORT)",
            named.map_or_else(|| "any --address".to_owned(), |named| named.to_string())
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::given;

    #[test]
    fn a_dummy_interface_has_a_name_and_an_address() {
        let read = |text: &str| dummy_interfaces(&given(&format!("--dummy-interface {text}")));
        let one = |name: &str, address: &str, prefix| {
            Ok(vec![DummyInterface { name: name.into(), address: address.parse().expect("an IP"), prefix }])
        };
        assert_eq!(read("lite0=169.254.20.51"), one("lite0", "169.254.20.51", 32));
        assert_eq!(read("lo=10.0.0.1/8"), one("lo", "10.0.0.1", 8));
        assert_eq!(read("lite0=fd00::1"), one("lite0", "fd00::1", 128));
        for text in [
            "lite0",
            "=10.0.0.1",
            "a=b",
            "a=10.0.0.1/33",
            "a=10.0.0.1/",
            "a=0.0.0.0",
            "sixteen-letters-=10.0.0.1",
            "a/b=10.0.0.1",
        ] {
            assert_eq!(read(text).expect_err(text).exit.code(), 64, "{text}");
        }
    }

    #[test]
    fn a_dummys_address_is_listened_on_once() {
        let dummies =
            dummy_interfaces(&given("--dummy-interface a=10.0.0.1 --dummy-interface b=fd00::1")).expect("two");
        for (listen, more) in [
            ("127.0.0.1", vec!["10.0.0.1", "fd00::1"]),
            ("10.0.0.1", vec!["fd00::1"]),
            ("0.0.0.0", vec!["fd00::1"]),
            ("::", vec![]),
        ] {
            let mut all = vec![SocketAddr::new(listen.parse().expect("an IP"), 7)];
            listen_too(&dummies, 7, &mut all);
            let found: Vec<String> = all[1..].iter().map(|a| a.ip().to_string()).collect();
            assert_eq!(found, more, "{listen}");
        }
    }

    #[test]
    fn pods_are_led_to_the_first_address_that_they_can_reach() {
        let read = |line: &str, listen: &[&str]| {
            let listen: Vec<SocketAddr> =
                listen.iter().map(|a| SocketAddr::new(a.parse().expect("an IP"), 51003)).collect();
            kubernetes_service(&given(line), &listen, 51003).map(|to| to.map(|a| a.to_string()))
        };
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(read("", &["10.0.0.1"]), Ok(None));
        assert_eq!(read("--rewrite-kubernetes-service=false", &["10.0.0.1"]), Ok(None));
        let on = "--rewrite-kubernetes-service";
        assert_eq!(read(on, &["127.0.0.1", "169.254.20.51", "10.0.0.1"]), some("169.254.20.51:51003"));
        assert_eq!(read(on, &["::1", "fd00::1"]), some("[fd00::1]:51003"));
        assert_eq!(read(&format!("{on}=10.0.0.9"), &["0.0.0.0"]), some("10.0.0.9:51003"));
        assert_eq!(read(&format!("{on}=10.0.0.9:443"), &["0.0.0.0"]), some("10.0.0.9:443"));
        for (line, listen) in
            [(on, "127.0.0.1"), (on, "0.0.0.0"), ("--rewrite-kubernetes-service=127.0.0.1", "10.0.0.1")]
        {
            let e = read(line, &[listen]).expect_err(line);
            assert!(e.message.contains("a pod's loopback is its own"), "{}", e.message);
        }
        assert!(read("--rewrite-kubernetes-service=cloud", &[]).expect_err("a name").message.contains("is no address"));
    }
}
