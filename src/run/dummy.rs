//! `--dummy-interface`: an address of the node's own on an interface that leads nowhere, so that pods reach the proxy
//! there, which they cannot on their own loopback. Made before anything is bound, used again where it is there, and never
//! taken away: kube-proxy's rules and the pods' connections name it while the proxy is started anew.
//!
//! Three messages to the kernel by `NETLINK_ROUTE` (rtnetlink(7)), put together here: a crate for them would bring an async
//! runtime or unsafe code of its own, and the program `ip` is not on every node.

use crate::config::DummyInterface;
use crate::failed::{Failed, failed};
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

/// What kind of interface is made.
const KIND: &str = "dummy";

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Nobody else can have the address there: it is good at once.
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;

/// Sees to it that the node has the address.
///
/// # Errors
/// It has not, and it may not or cannot be made. Exit codes: 71 (the system refuses), 77 (not permitted).
pub(super) fn see_to(wanted: &DummyInterface) -> Result<(), Failed> {
    make(wanted, KIND)
}

fn make(wanted: &DummyInterface, kind: &str) -> Result<(), Failed> {
    let DummyInterface { name, address, prefix } = wanted;
    if is_here(*address) {
        log::info!("--dummy-interface: the node has the address {address} already");
        return Ok(());
    }
    let by_hand =
        format!("ip link add {name} type dummy; ip address add {address}/{prefix} dev {name}; ip link set {name} up");
    let refused = |what: &str, e: Errno| {
        let (exit, cure) = match e {
            Errno::PERM | Errno::ACCESS => {
                (77, format!("start with CAP_NET_ADMIN (as root, with --user if it is to go on as somebody else), or make it before: {by_hand}"))
            }
            Errno::OPNOTSUPP => (
                71,
                "this kernel makes no dummy interfaces; load its module (modprobe dummy), or name an interface that is there, which may be lo".to_owned(),
            ),
            _ => (71, format!("make it before: {by_hand}")),
        };
        failed(exit, format!("--dummy-interface {name}={address}/{prefix}: {what}: {e}; {cure}"))
    };
    let kernel = Kernel::open().map_err(|e| refused("the kernel cannot be asked", e))?;
    if name_to_index(kernel.0.as_fd(), name).is_err() {
        kernel.ask(&new_link(name, kind)).map_err(|e| refused("it cannot be made", e))?;
    }
    let index = name_to_index(kernel.0.as_fd(), name).map_err(|e| refused("it is not there", e))?;
    match kernel.ask(&new_address(index, *address, *prefix)) {
        // Of an interface that is down.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(refused("it cannot be given the address", e)),
    }
    kernel.ask(&link_up(index)).map_err(|e| refused("it cannot be brought up", e))?;
    log::info!("--dummy-interface: {name} has the address {address}/{prefix}");
    Ok(())
}

/// Whether the node has this address, and it is up: then whoever goes there comes from there. That it can be bound says
/// less (`net.ipv4.ip_nonlocal_bind`). Nothing is sent.
fn is_here(address: IpAddr) -> bool {
    let any = if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let comes_from = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    comes_from().is_ok_and(|own| own.ip() == address)
}

/// Where the kernel is asked.
struct Kernel(OwnedFd);

impl Kernel {
    fn open() -> Result<Kernel, Errno> {
        // No protocol is NETLINK_ROUTE.
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map(Kernel)
    }

    /// Sends one message, and waits for its answer.
    fn ask(&self, message: &[u8]) -> Result<(), Errno> {
        send(&self.0, message, SendFlags::empty())?;
        let mut answer = [0; 4096];
        let (length, _) = recv(&self.0, &mut answer, RecvFlags::empty())?;
        let answer = &answer[..length];
        let (Some(kind), Some(error)) = (answer.get(4..6), answer.get(16..20)) else { return Err(Errno::PROTO) };
        let (Ok(kind), Ok(error)) = (kind.try_into(), error.try_into()) else { return Err(Errno::PROTO) };
        match (u16::from_ne_bytes(kind), i32::from_ne_bytes(error)) {
            (NLMSG_ERROR, 0) => Ok(()),
            (NLMSG_ERROR, error) => Err(Errno::from_raw_os_error(-error)),
            _ => Err(Errno::PROTO),
        }
    }
}

/// `RTM_NEWLINK`: this interface.
fn new_link(name: &str, kind: &str) -> Vec<u8> {
    let mut content = link(0, 0);
    attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat(), &mut content);
    let mut info = Vec::new();
    attribute(IFLA_INFO_KIND, kind.as_bytes(), &mut info);
    attribute(IFLA_LINKINFO, &info, &mut content);
    message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &content)
}

/// `RTM_NEWLINK`: up.
fn link_up(index: u32) -> Vec<u8> {
    message(RTM_NEWLINK, 0, &link(index, IFF_UP))
}

/// `struct ifinfomsg`: no family, no type, the index, these flags, and that they are to be changed.
fn link(index: u32, flags: u32) -> Vec<u8> {
    [0, index, flags, flags].map(u32::to_ne_bytes).concat()
}

/// `RTM_NEWADDR`: `struct ifaddrmsg` (family, prefix length, flags, scope 0, which is everywhere, and index).
fn new_address(index: u32, address: IpAddr, prefix: u8) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(ip) => (AddressFamily::INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AddressFamily::INET6, ip.octets().to_vec()),
    };
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut content = vec![family.as_raw() as u8, prefix, flags, 0];
    content.extend(index.to_ne_bytes());
    attribute(IFA_LOCAL, &bytes, &mut content);
    attribute(IFA_ADDRESS, &bytes, &mut content);
    message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &content)
}

/// Appends a `struct rtattr`: its length, its type, its value, and what makes it end on four bytes.
fn attribute(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    out.extend((value.len() as u16 + 4).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A `struct nlmsghdr` and its content.
fn message(kind: u16, flags: u16, content: &[u8]) -> Vec<u8> {
    let mut out = (content.len() as u32 + 16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // A sequence number, and to whom: nobody waits for another answer, and the kernel is 0.
    out.extend([0; 8]);
    out.extend_from_slice(content);
    out
}

#[cfg(all(test, feature = "as-root"))]
mod tests {
    use super::*;
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::fs::File;
    use std::process::{Child, Command, Stdio};

    /// A network namespace of its own for this thread, as long as the value is.
    struct Apart(Child);

    impl Apart {
        fn begin() -> Apart {
            let started = Command::new("unshare").args(["-n", "cat"]).stdin(Stdio::piped()).spawn();
            let apart = Apart(started.expect("unshare"));
            let its = format!("/proc/{}/ns/net", apart.0.id());
            let of = |path: &str| std::fs::read_link(path).ok();
            let own = of("/proc/self/ns/net");
            for _ in 0..1000 {
                if of(&its).is_some_and(|its| Some(its) != own) {
                    let file = File::open(&its).expect("a namespace");
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
                    return apart;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            panic!("no namespace: start this test as root");
        }
    }

    impl Drop for Apart {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn shown(name: &str) -> String {
        let said = Command::new("ip").args(["-o", "address", "show", "dev", name]).output().expect("ip");
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    #[test]
    fn it_is_made_once_and_found_again() {
        let _apart = Apart::begin();
        // A kind that every kernel of a node with pods makes.
        let kind = "bridge";
        for (address, prefix, line) in [
            ("169.254.20.51", 32, "inet 169.254.20.51/32 scope global lite0"),
            ("10.1.2.3", 24, "inet 10.1.2.3/24 scope global lite0"),
            ("fd00::51", 128, "inet6 fd00::51/128 scope global nodad"),
        ] {
            let wanted = DummyInterface { name: "lite0".into(), address: address.parse().expect("an IP"), prefix };
            assert!(!is_here(wanted.address));
            make(&wanted, kind).map_err(|e| e.message).expect("made");
            assert!(is_here(wanted.address) && shown("lite0").contains(line), "{}", shown("lite0"));
            // Also by a process that could not make it.
            make(&wanted, "no such kind").map_err(|e| e.message).expect("it is there");
        }
        let own = DummyInterface { name: "lo".into(), address: "169.254.20.52".parse().expect("an IP"), prefix: 32 };
        make(&own, "no such kind").map_err(|e| e.message).expect("what is there is used");
        assert!(is_here(own.address) && is_here("127.0.0.1".parse().expect("an IP")), "{}", shown("lo"));
        let none = DummyInterface { name: "lite1".into(), address: "10.9.9.9".parse().expect("an IP"), prefix: 32 };
        let e = make(&none, "no such kind").expect_err("no such kind");
        assert_eq!((e.exit, e.message.contains("modprobe dummy")), (71, true), "{}", e.message);
    }

    #[test]
    fn who_may_not_make_it_is_told_what_would_help() {
        let _apart = Apart::begin();
        let uid = rustix::process::Uid::from_raw(65534);
        // This thread only.
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("another user");
        let wanted =
            DummyInterface { name: "lite0".into(), address: "169.254.20.51".parse().expect("an IP"), prefix: 32 };
        let e = see_to(&wanted).expect_err("not permitted");
        let cure = "ip link add lite0 type dummy; ip address add 169.254.20.51/32 dev lite0; ip link set lite0 up";
        assert!(e.exit == 77 && e.message.contains("CAP_NET_ADMIN") && e.message.contains(cure), "{}", e.message);
    }
}
