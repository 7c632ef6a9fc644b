//! The clock; what bytes do is tested over real sockets, in `tests/proxy/tunnel.rs`.

use super::*;

const S: Duration = Duration::from_secs(1);

fn silent_since(now: Instant) -> Clock {
    Clock { moved: now, heard: now, warm: false, stopping: None, alarmed: None, gone: None }
}

#[test]
fn silence_alone_ends_nothing() {
    let begun = Instant::now();
    let mut clock = silent_since(begun);
    assert_eq!((clock.due(begun + 1000 * S), clock.next()), (None, None));
    clock.warm = true;
    assert_eq!((clock.due(begun), clock.next()), (None, Some(begun + WARM)));
    assert_eq!(clock.due(begun + WARM), Some(Due::Cold));
}

#[test]
fn an_alarm_is_waited_out_for_as_long_as_the_far_end_is_heard() {
    let begun = Instant::now();
    let mut clock = silent_since(begun);
    clock.alarmed = Some(begun + 60 * S);
    assert_eq!(clock.due(begun + 59 * S + QUIET), None);
    assert_eq!(clock.due(begun + 60 * S + QUIET), Some(Due::Lost));
    clock.heard = begun + 70 * S;
    assert_eq!(clock.due(begun + 69 * S + QUIET), None);
    assert_eq!(clock.next(), Some(begun + 70 * S + QUIET));
    // What only the near end says is no sign of the far one.
    clock.moved = begun + 90 * S;
    assert_eq!(clock.due(begun + 70 * S + QUIET), Some(Due::Lost));
}

#[test]
fn at_the_end_of_the_process_who_is_idle_ends_at_once() {
    let begun = Instant::now();
    let mut clock = silent_since(begun);
    clock.stopping = Some(begun + 60 * S);
    assert_eq!(clock.due(begun + 60 * S), Some(Due::Stopped));
    clock.moved = begun + 60 * S;
    assert_eq!(clock.due(begun + 60 * S), None);
    assert_eq!(clock.due(begun + 60 * S + IDLE), Some(Due::Stopped));
}

#[test]
fn once_one_end_is_gone_the_other_has_time_as_long_as_it_takes_something() {
    let begun = Instant::now();
    let mut clock = silent_since(begun);
    clock.gone = Some(begun);
    assert_eq!(clock.due(begun + DRAIN / 2), None);
    clock.moved = begun + 5 * S;
    assert_eq!(clock.due(begun + DRAIN), None);
    assert_eq!(clock.due(begun + DRAIN + 5 * S), Some(Due::Drained));
}
