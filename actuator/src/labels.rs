//! What a container's labels say about how it is scaled.

use std::collections::BTreeMap;

use tidegate_model::Resource;

use crate::config::BoundsSpec;
use crate::knobs::setting::Wishes;
use crate::knobs::wish::labelled;

/// What the names of our labels begin with.
const PREFIX: &str = "tidegate.";

/// The settings in a container's labels. What is missing there is left to the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) app: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) bounds: BTreeMap<Resource, BoundsSpec>,
    /// The container is measured and never changed.
    pub(crate) unscaled: bool,
    pub(crate) knobs: Wishes,
}

/// Reads the labels of the container `name`. A label that cannot be understood costs only itself, and is noted in
/// `problems`.
pub(crate) fn settings(name: &str, labels: &BTreeMap<String, String>, problems: &mut Vec<String>) -> Settings {
    let mut settings = Settings::default();
    for (label, value) in labels {
        let Some(key) = label.strip_prefix(PREFIX) else { continue };
        if let Err(expected) = take(&mut settings, key, value.trim()) {
            problems.push(format!("container {name}: label {label} = '{value}': {expected}"));
        }
    }
    for (resource, spec) in &mut settings.bounds {
        if let (Some(min), Some(max)) = (spec.min, spec.max)
            && min > max
        {
            problems.push(format!(
                "container {name}: label {PREFIX}{resource}.min = '{}': expected at most {PREFIX}{resource}.max, {}; both \
                 are left out",
                resource.display(min),
                resource.display(max)
            ));
            *spec = BoundsSpec::default();
        }
    }
    settings
}

/// Takes one label over, or says what was expected.
fn take(settings: &mut Settings, key: &str, value: &str) -> Result<(), String> {
    match key {
        "app" | "user" => {
            let text = (!value.is_empty()).then(|| value.to_owned());
            let place = if key == "app" { &mut settings.app } else { &mut settings.user };
            *place = Some(text.ok_or("expected a name; the label is left out")?);
        }
        "scale" => {
            // Whoever wrote this meant to say something about it; leaving the limits alone does no harm.
            settings.unscaled = value != "true";
            if !matches!(value, "true" | "false") {
                return Err("expected true or false; until then its limits are not changed".to_owned());
            }
        }
        "cpu.min" | "cpu.max" | "memory.min" | "memory.max" | "disk_read.min" | "disk_read.max" | "disk_write.min"
        | "disk_write.max" | "net_receive.min" | "net_receive.max" | "net_send.min" | "net_send.max" => {
            let name = key.split_once('.').map_or(key, |(name, _)| name);
            let resource: Resource = name.parse().map_err(|error| format!("{error}"))?;
            let (amount, expected) = match resource {
                Resource::Cpu => (cores(value), "a number of cores such as 0.5 or 500m"),
                Resource::Memory => (bytes(value), "a number of bytes such as 512MiB or 2GiB"),
                _ => (bytes(value), "a number of bytes a second such as 20MiB or 500MB"),
            };
            let amount = amount.filter(|amount| amount.is_finite() && *amount >= 0.0);
            let amount = amount.filter(|amount| *amount > 0.0 || key.ends_with("min"));
            let amount = amount.ok_or_else(|| format!("expected {expected}; the label is left out"))?;
            let spec = settings.bounds.entry(resource).or_default();
            *if key.ends_with("min") { &mut spec.min } else { &mut spec.max } = Some(amount);
        }
        _ => match labelled(key, value) {
            Some(wishes) => settings.knobs.extend(wishes.map_err(|why| format!("{why}; the label is left out"))?),
            None => {
                let known = "app, user, scale, cpu.min, cpu.max, memory.min, memory.max, disk_read.min, disk_read.max, \
                             disk_write.min, disk_write.max, net_receive.min, net_receive.max, net_send.min, net_send.max, \
                             cpu.weight, cpu.burst_us, cpus, memory.high, memory.swap.max, io.max";
                return Err(format!("expected one of {PREFIX}... {known}; the label is left out"));
            }
        },
    }
    Ok(())
}

/// `1.5`, or `1500m` as Kubernetes writes it.
fn cores(text: &str) -> Option<f64> {
    match text.strip_suffix('m') {
        Some(thousandths) => number(thousandths).map(|thousandths| thousandths / 1000.0),
        None => number(text),
    }
}

/// Bytes with an optional unit of 1024 (`KiB`, `Ki`) or 1000 (`KB`). A bare `k`, `m` or `g` is none: Docker means 1024 by
/// it, Kubernetes 1000, and to Kubernetes `m` is a thousandth.
pub(crate) fn bytes(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (count, unit) = (text[..digits].trim(), text[digits..].trim().to_ascii_lowercase());
    let power = |letter: char| "kmgt".find(letter).map(|at| at as i32 + 1);
    let mut letters = unit.chars();
    let factor = match (letters.next(), letters.as_str()) {
        (None, _) | (Some('b'), "") => 1.0,
        (Some(letter), "ib" | "i") => 1024f64.powi(power(letter)?),
        (Some(letter), "b") => 1000f64.powi(power(letter)?),
        _ => return None,
    };
    number(count).map(|count| (count * factor).floor())
}

/// A plain decimal number: no sign, no exponent, no `inf`.
pub(crate) fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(labels: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        let mut problems = Vec::new();
        (settings("web", &labels, &mut problems), problems)
    }

    #[test]
    fn labels_set_app_user_and_bounds() {
        let (settings, problems) = read(&[
            ("com.docker.compose.service", "x"),
            ("tidegate.app", "shop"),
            ("tidegate.user", "alice"),
            ("tidegate.cpu.min", "250m"),
            ("tidegate.cpu.max", "4"),
            ("tidegate.memory.max", "512MiB"),
            ("tidegate.disk_write.max", "20MiB"),
            ("tidegate.disk_read.min", "1MB"),
            ("tidegate.net_receive.max", "12MiB"),
            ("tidegate.net_send.min", "1MB"),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!((settings.app.as_deref(), settings.user.as_deref()), (Some("shop"), Some("alice")));
        assert_eq!(settings.bounds[&Resource::Cpu], BoundsSpec { min: Some(0.25), max: Some(4.0) });
        assert_eq!(settings.bounds[&Resource::Memory], BoundsSpec { min: None, max: Some(536_870_912.0) });
        assert_eq!(settings.bounds[&Resource::DiskWrite], BoundsSpec { min: None, max: Some(20_971_520.0) });
        assert_eq!(settings.bounds[&Resource::DiskRead], BoundsSpec { min: Some(1e6), max: None });
        assert_eq!(settings.bounds[&Resource::NetReceive], BoundsSpec { min: None, max: Some(12_582_912.0) });
        assert_eq!(settings.bounds[&Resource::NetSend], BoundsSpec { min: Some(1e6), max: None });
        assert!(!settings.unscaled);
    }

    #[test]
    fn a_bad_value_names_container_label_and_what_is_expected_and_costs_only_itself() {
        let (settings, problems) = read(&[("tidegate.cpu.max", "lots"), ("tidegate.cpu.min", "1")]);
        assert_eq!(settings.bounds[&Resource::Cpu], BoundsSpec { min: Some(1.0), max: None });
        assert_eq!(problems.len(), 1);
        for part in ["container web", "tidegate.cpu.max", "'lots'", "0.5"] {
            assert!(problems[0].contains(part), "{}", problems[0]);
        }
        for (label, value) in [
            ("tidegate.cpu.max", "0"),
            ("tidegate.cpu.max", "-1"),
            ("tidegate.cpu.max", "inf"),
            ("tidegate.memory.max", "512m"),
            ("tidegate.memory.max", "MiB"),
            ("tidegate.memory.max", ""),
            ("tidegate.disk_write.max", "20M"),
            ("tidegate.disk_write.most", "20MiB"),
            ("tidegate.app", " "),
            ("tidegate.mem.max", "1GiB"),
        ] {
            let (settings, problems) = read(&[(label, value)]);
            assert_eq!((settings, problems.len()), (Settings::default(), 1), "{label} {value}: {problems:?}");
        }
        let (settings, problems) = read(&[("tidegate.memory.min", "2GiB"), ("tidegate.memory.max", "1GiB")]);
        assert_eq!(settings.bounds[&Resource::Memory], BoundsSpec::default());
        assert!(problems[0].contains("2.0 GiB") && problems[0].contains("1.0 GiB"), "{problems:?}");
    }

    #[test]
    fn labels_ask_for_knobs_and_one_out_of_range_names_what_is_allowed() {
        let (settings, problems) = read(&[("tidegate.cpu.weight", "200"), ("tidegate.memory.swap.max", "0")]);
        assert_eq!((settings.knobs.len(), problems), (2, vec![]));
        let (settings, problems) = read(&[("tidegate.cpu.weight", "0"), ("tidegate.cpus", "0-1")]);
        assert_eq!(settings.knobs.len(), 1);
        for part in ["container web", "tidegate.cpu.weight", "'0'", "1 to 10000", "left out"] {
            assert!(problems[0].contains(part), "{problems:?}");
        }
    }

    #[test]
    fn a_container_that_shall_not_be_scaled_is_not_even_if_the_word_is_misspelt() {
        assert!(!read(&[("tidegate.scale", "true")]).0.unscaled);
        assert_eq!(read(&[("tidegate.scale", "false")]), (Settings { unscaled: true, ..Default::default() }, vec![]));
        let (settings, problems) = read(&[("tidegate.scale", "no")]);
        assert!(settings.unscaled && problems[0].contains("true or false"), "{problems:?}");
    }

    #[test]
    fn amounts_are_read_with_the_units_that_mean_one_thing() {
        for (text, expected) in [
            ("1048576", Some(1_048_576.0)),
            ("96 MiB", Some(100_663_296.0)),
            ("1.5GiB", Some(1_610_612_736.0)),
            ("2Gi", Some(2_147_483_648.0)),
            ("512mib", Some(536_870_912.0)),
            ("1kB", Some(1_000.0)),
            ("5b", Some(5.0)),
            ("1TiB", Some(1_099_511_627_776.0)),
            ("1g", None),
            ("1XiB", None),
            ("1e9", None),
            ("1.2.3", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        assert_eq!((cores("1.5"), cores("1500m"), cores("m"), cores("two")), (Some(1.5), Some(1.5), None, None));
    }
}
