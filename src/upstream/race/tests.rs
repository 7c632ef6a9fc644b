use std::net::TcpListener;

use super::*;
use crate::upstream::wait::Epoch;

/// Far longer than anything should take on the busiest machine.
const LONG: Duration = Duration::from_secs(40);

fn connect(exits: &Exits, addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), Fault> {
    let never = Epoch::new().unwrap();
    exits.connect(addresses, &Waits { client: None, until: &never, stop: None }, Instant::now() + LONG)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// A listener that takes no connection: its queue is full, and SYNs are dropped. With what fills it.
pub(in crate::upstream) fn black_hole() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        filling.push(socket);
    }
    (listener, filling)
}

#[test]
fn a_dead_address_costs_the_next_one_its_head_start_only() {
    let (dead, _filling) = black_hole();
    let good = TcpListener::bind("127.0.0.1:0").unwrap();
    let (dead, good) = (dead.local_addr().unwrap(), good.local_addr().unwrap());
    let exits = Exits::new(&[], None);
    let begun = Instant::now();
    assert_eq!(connect(&exits, &[dead, good]).unwrap().1, good);
    assert!(begun.elapsed() >= HEAD_START, "the first is preferred");
    assert_eq!(connect(&exits, &[good, dead]).unwrap().1, good);
}

#[test]
fn a_refusal_is_told_once_nobody_is_left() {
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let Err(Fault::Connect(why)) = connect(&Exits::new(&[], None), &[refused]) else { panic!("refused") };
    assert_eq!(why, format!("connection refused ({refused})"));
}

#[test]
fn nobody_in_time_is_late_and_not_refused() {
    let (dead, _filling) = black_hole();
    let dead = dead.local_addr().unwrap();
    let never = Epoch::new().unwrap();
    let waits = Waits { client: None, until: &never, stop: None };
    let by = Instant::now() + Duration::from_millis(300);
    let Err(Fault::Late(why)) = Exits::new(&[], None).connect(&[dead], &waits, by) else { panic!("late") };
    assert_eq!(why, format!("connect timed out ({dead})"));
}

#[test]
fn the_families_of_addresses_take_turns() {
    let all: Vec<SocketAddr> =
        ["[fd00::1]:1", "[fd00::2]:1", "192.0.2.1:1", "[fd00::3]:1"].map(|a| a.parse().unwrap()).into();
    let order = |source: Option<&str>| {
        let exits = Exits::new(&[], source.map(|s| s.parse().unwrap()));
        exits.ways(&all).iter().map(|way| all.iter().position(|a| *a == way.address).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(order(None), [0, 2, 1, 3]);
    assert_eq!(order(Some("192.0.2.9")), [2]);
}

#[test]
fn an_interface_that_does_not_get_there_is_passed_over_and_tried_last_for_a_while() {
    let good = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = good.local_addr().unwrap();
    let exits = Exits::new(&names(&["not-there0", "lo"]), None);
    assert_eq!(connect(&exits, &[address]).unwrap().1, address);
    let order = |exits: &Exits| exits.ways(&[address]).iter().map(|w| w.interface.name.clone()).collect::<Vec<_>>();
    assert_eq!(order(&exits), [Some("lo".to_owned()), Some("not-there0".to_owned())]);
    assert_eq!(connect(&exits, &[address]).unwrap().1, address);

    let Err(Fault::Connect(why)) = connect(&Exits::new(&names(&["not-there0"]), None), &[address]) else {
        panic!("there is no such interface")
    };
    assert!(why.ends_with(&format!("({address} over not-there0)")), "{why}");
}

#[test]
fn a_source_address_is_what_the_server_sees() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let exits = Exits::new(&[], Some("127.0.0.7".parse().unwrap()));
    let _socket = connect(&exits, &[server.local_addr().unwrap()]).unwrap();
    assert_eq!(server.accept().unwrap().1.ip().to_string(), "127.0.0.7");
}
