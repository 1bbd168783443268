//! Families of samples that are read at each scrape, and their two text formats.

use std::fmt;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The samples of one metric.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    is_counter: bool,
    samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    pub(super) fn is(&mut self, value: f64) {
        self.with(&[], value);
    }

    pub(super) fn with(&mut self, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push((labels, value));
    }

    /// The name without its unit, which the encoder adds.
    fn name_and_unit(&self) -> (&'static str, Option<Unit>) {
        let units = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];
        let found =
            units.into_iter().find_map(|(end, unit)| Some((self.name.strip_suffix(end)?, Some(unit))));
        found.unwrap_or((self.name, None))
    }
}

/// Families in the order of their first samples.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<Family>);

impl Families {
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> &mut Family {
        self.family(Family { name, help, is_counter: false, samples: Vec::new() })
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> &mut Family {
        self.family(Family { name, help, is_counter: true, samples: Vec::new() })
    }

    fn family(&mut self, new: Family) -> &mut Family {
        let known = self.0.iter().position(|known| known.name == new.name);
        let at = known.unwrap_or_else(|| {
            self.0.push(new);
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let kind = if family.is_counter { MetricType::Counter } else { MetricType::Gauge };
            let help = format!("{}.", family.help);
            let (name, unit) = family.name_and_unit();
            let mut metric = encoder.encode_descriptor(name, &help, unit.as_ref(), kind)?;
            let encode = |value: f64, metric: MetricEncoder<'_>| {
                if family.is_counter {
                    ConstCounter::new(value).encode(metric)
                } else {
                    ConstGauge::new(value).encode(metric)
                }
            };
            match family.samples.as_slice() {
                [(labels, value)] if labels.is_empty() => encode(*value, metric)?,
                samples => {
                    for (labels, value) in samples {
                        encode(*value, metric.encode_family(labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The same in Prometheus's own format, where a counter's name ends with `_total` also in what describes it, and
/// where there are no units and no end mark.
pub(super) fn as_prometheus(open_metrics: &str) -> String {
    let counters: Vec<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let name = described.and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        if counters.contains(&name) {
            let (head, rest) = line.split_at("# HELP ".len() + name.len());
            text.extend([head, "_total", rest]);
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

pub(super) fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

pub(super) fn number(count: usize) -> f64 {
    large(count as u64)
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
pub(super) fn large(count: u64) -> f64 {
    count as f64
}

pub(super) fn timestamp(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_wants_total_in_what_describes_a_counter() {
        let open = "# HELP a_b Text a_b.\n# TYPE a_b counter\na_b_total{x=\"y\"} 1\n# HELP c_seconds C.\n\
                    # TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 2\n# EOF\n";
        let plain = "# HELP a_b_total Text a_b.\n# TYPE a_b_total counter\na_b_total{x=\"y\"} 1\n\
                     # HELP c_seconds C.\n# TYPE c_seconds gauge\nc_seconds 2\n";
        assert_eq!(as_prometheus(open), plain);
    }
}
