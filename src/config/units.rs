//! Spans of time and sizes as people type them. Pure.

use std::time::Duration;

/// A span: seconds (`3`), or as Go writes durations (`3s`, `1m30s`, `720h`, `500ms`).
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no span of time; write seconds (3) or a duration (500ms, 3s, 1m30s, 720h)");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        total =
            Duration::try_from_secs_f64(number * seconds).ok().and_then(|d| total.checked_add(d)).ok_or_else(wrong)?;
        rest = after;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// A size in bytes, with the suffixes of Kubernetes' quantities: `8388608`, `8Mi`, `8M`, `64Ki`, `1G`; a final `B` is
/// allowed.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is no size; write bytes (8388608) or a quantity (64Ki, 8Mi, 1G)");
    let bare = text.strip_suffix('B').unwrap_or(text);
    let digits = bare.find(|c: char| !c.is_ascii_digit()).unwrap_or(bare.len());
    let (number, unit) = bare.split_at(digits);
    let factor: usize = match unit {
        "" => 1,
        "k" | "K" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.parse::<usize>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_read_as_people_write_them() {
        for (text, ms) in [
            ("3", 3000),
            ("0", 0),
            ("3s", 3000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("720h", 2_592_000_000),
        ] {
            assert_eq!(span(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "3x", "-3", "3s4", "1e9h", "3 s"] {
            assert!(span(text).is_err(), "{text}");
        }
        for (text, bytes) in
            [("0", 0), ("1024", 1024), ("64Ki", 65_536), ("8Mi", 8 << 20), ("8MiB", 8 << 20), ("1M", 1_000_000)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "Mi", "8X", "-1", "99999999999999999999"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
