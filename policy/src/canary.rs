//! Which containers a rule writes to: all, none, or the share that tries it first.

use sha2::{Digest, Sha256};
use tidegate_model::{ContainerKey, Mode};

/// Whether a rule in `mode` writes this container's limits. Which containers a canary has depends on their host and name
/// alone: the same ones after a restart, for every rule, and with a larger share all of the smaller one's.
pub(crate) fn acts(mode: Mode, container: &ContainerKey) -> bool {
    match mode {
        Mode::Off | Mode::Shadow => false,
        Mode::Canary(percent) => draw(container) < u64::from(percent),
        Mode::On => true,
    }
}

/// A number from 0 to 99 that looks random and is the same for the same container, on every machine and in every version.
fn draw(container: &ContainerKey) -> u64 {
    let mut hash = Sha256::new();
    for part in [&container.host, &container.name] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let number = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    number % 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(host: &str, name: &str) -> ContainerKey {
        ContainerKey { host: host.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_canary_has_about_its_share_of_a_fleet() {
        let fleet: Vec<_> = (0..5_000).map(|n| key(&format!("node{}", n % 50), &format!("web-{n}"))).collect();
        for percent in [1_u8, 10, 50, 90] {
            let chosen = fleet.iter().filter(|key| acts(Mode::Canary(percent), key)).count() as f64 / 50.0;
            assert!((chosen - f64::from(percent)).abs() < 2.5, "{percent} %: {chosen} %");
        }
    }

    #[test]
    fn the_choice_is_the_same_for_ever() {
        // Another hash would move every running canary to other containers.
        assert_eq!([draw(&key("node0", "web")), draw(&key("node0", "api")), draw(&key("", "node0web"))], [54, 95, 56]);
        assert_ne!(draw(&key("ab", "c")), draw(&key("a", "bc")));
    }

    proptest! {
        #[test]
        fn a_larger_canary_keeps_the_smaller_ones_containers(host in ".{0,8}", name in ".{0,8}", a in 1_u8..99, b in 1_u8..99) {
            let key = key(&host, &name);
            let (small, large) = (a.min(b), a.max(b));
            prop_assert!(!acts(Mode::Canary(small), &key) || acts(Mode::Canary(large), &key));
            prop_assert!(acts(Mode::On, &key) && !acts(Mode::Shadow, &key) && !acts(Mode::Off, &key));
        }
    }
}
