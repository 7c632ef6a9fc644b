//! Prometheus' text exposition format, version 0.0.4.

use std::fmt::Write as _;

/// A page of metrics under construction; families in the order in which they are begun.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family. `kind` is `counter` or `gauge`; by convention a counter's name ends in `_total`.
    pub fn family(&mut self, name: &'static str, kind: &str, help: &str) -> &mut Self {
        self.family = name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// One sample of the family begun last.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.text.push_str(self.family);
        for (i, (name, text)) in labels.iter().enumerate() {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{name}=\"{escaped}\"", if i == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &'static str, kind: &str, help: &str, value: u64) -> &mut Self {
        self.family(name, kind, help).sample(&[], value)
    }

    /// The page.
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_the_format_says() {
        let mut page = Exposition::default();
        page.single("a_total", "counter", "All.", 3);
        page.family("b", "gauge", "Some.").sample(&[("x", "1\"\\"), ("y", "\n")], 4);
        assert_eq!(
            page.finish(),
            "# HELP a_total All.\n# TYPE a_total counter\na_total 3\n# HELP b Some.\n# TYPE b gauge\nb{x=\"1\\\"\\\\\",y=\"\\n\"} 4\n"
        );
    }
}
