//! Who holds how much of which CPU.

use std::collections::BTreeMap;
use std::fmt;

/// What a whole CPU is divided into.
pub(crate) const SHARES: u32 = 100;

/// The CPUs of a machine, and the shares of each that containers hold.
///
/// No more than [`SHARES`] of a CPU are ever held, and a container is listed at a CPU only while it holds some of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// In the order in which they are taken.
    cpus: Vec<Cpu>,
    /// The CPUs of each container, in the order in which it got them.
    held: BTreeMap<String, Vec<u32>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cpu {
    number: u32,
    shares: BTreeMap<String, u32>,
}

impl Cpu {
    fn free(&self) -> u32 {
        SHARES - self.shares.values().sum::<u32>()
    }
}

/// Which CPUs a container may have, and which rather than others: `None` for none of its, the least first. CPUs of one rank
/// are taken in the order of the machine.
pub(crate) type Rank<'a> = &'a dyn Fn(u32) -> Option<u32>;

/// There are fewer shares than were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFew {
    pub(crate) wanted: u32,
    pub(crate) there: u32,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shares of a CPU are wanted, {} are there", self.wanted, self.there)
    }
}

impl Cores {
    /// Nobody holds anything. `order` is the order in which CPUs are taken.
    pub(crate) fn new(order: impl IntoIterator<Item = u32>) -> Self {
        let cpus = order.into_iter().map(|number| Cpu { number, shares: BTreeMap::new() });
        Self { cpus: cpus.collect(), held: BTreeMap::new() }
    }

    /// The CPUs that a container holds some of, in the order in which it got them.
    pub(crate) fn of(&self, container: &str) -> &[u32] {
        self.held.get(container).map_or(&[], Vec::as_slice)
    }

    /// How many shares a container holds.
    pub(crate) fn shares_of(&self, container: &str) -> u32 {
        self.cpus.iter().filter_map(|cpu| cpu.shares.get(container)).sum()
    }

    /// How many shares nobody holds, of the CPUs that `rank` allows.
    pub(crate) fn free(&self, rank: Rank<'_>) -> u32 {
        self.cpus.iter().filter(|cpu| rank(cpu.number).is_some()).map(Cpu::free).sum()
    }

    /// How many shares of one CPU a container holds.
    #[cfg(test)]
    pub(crate) fn shares_on(&self, number: u32, container: &str) -> u32 {
        let cpu = self.cpus.iter().find(|cpu| cpu.number == number);
        cpu.and_then(|cpu| cpu.shares.get(container)).copied().unwrap_or(0)
    }

    /// How many shares of one CPU nobody holds; none of one that is not there.
    #[cfg(test)]
    pub(crate) fn free_of(&self, number: u32) -> u32 {
        self.cpus.iter().find(|cpu| cpu.number == number).map_or(0, Cpu::free)
    }

    /// Gives a container more: first of the CPUs that it is on, then whole ones, then what is left of others. Returns how
    /// much it got, which is less than `shares` when no more is free.
    pub(crate) fn grow(&mut self, container: &str, shares: u32, rank: Rank<'_>) -> u32 {
        let mut order: Vec<(u32, u32, usize)> = Vec::new();
        for (at, cpu) in self.cpus.iter().enumerate() {
            let Some(rank) = rank(cpu.number) else { continue };
            let class = match cpu.shares.contains_key(container) {
                true => 0,
                false if cpu.shares.is_empty() => 1,
                false => 2,
            };
            order.push((class, rank, at));
        }
        order.sort_unstable();
        self.take(container, shares, order.into_iter().map(|(.., at)| at))
    }

    /// Gives a container that holds nothing its first shares: whole CPUs, then those of which most is free. All or nothing.
    pub(crate) fn place(&mut self, container: &str, shares: u32, rank: Rank<'_>) -> Result<(), TooFew> {
        let free = self.free(rank);
        if free < shares {
            return Err(TooFew { wanted: shares, there: free });
        }
        let mut order: Vec<(u32, u32, usize)> = Vec::new();
        for (at, cpu) in self.cpus.iter().enumerate() {
            let Some(rank) = rank(cpu.number) else { continue };
            order.push((SHARES - cpu.free(), rank, at));
        }
        order.sort_unstable();
        self.take(container, shares, order.into_iter().map(|(.., at)| at));
        Ok(())
    }

    /// Takes shares away from a container: where it holds least first, of those the last in order, so that it stays on few
    /// CPUs.
    pub(crate) fn shrink(&mut self, container: &str, shares: u32) -> Result<(), TooFew> {
        let there = self.shares_of(container);
        if shares > there {
            return Err(TooFew { wanted: shares, there });
        }
        let holds = |cpu: &Cpu| cpu.shares.get(container).copied();
        let mut order: Vec<(u32, usize)> =
            self.cpus.iter().enumerate().rev().filter_map(|(at, cpu)| Some((holds(cpu)?, at))).collect();
        order.sort_by_key(|(held, _)| *held);
        let mut left = shares;
        for (held, at) in order {
            let gives = held.min(left);
            left -= gives;
            self.set(container, at, held - gives);
        }
        self.check();
        Ok(())
    }

    /// Takes everything away from a container.
    pub(crate) fn release(&mut self, container: &str) {
        for at in 0..self.cpus.len() {
            self.set(container, at, 0);
        }
    }

    /// Takes up to `shares` from the CPUs at `places`, one after the other.
    fn take(&mut self, container: &str, shares: u32, places: impl Iterator<Item = usize>) -> u32 {
        let mut left = shares;
        for at in places {
            let gets = self.cpus[at].free().min(left);
            left -= gets;
            let held = self.cpus[at].shares.get(container).copied().unwrap_or(0);
            self.set(container, at, held + gets);
        }
        self.check();
        shares - left
    }

    fn set(&mut self, container: &str, at: usize, shares: u32) {
        let cpu = &mut self.cpus[at];
        let number = cpu.number;
        if shares > 0 {
            let held = self.held.entry(container.to_owned()).or_default();
            if cpu.shares.insert(container.to_owned(), shares).is_none() {
                held.push(number);
            }
        } else if cpu.shares.remove(container).is_some()
            && let Some(held) = self.held.get_mut(container)
        {
            held.retain(|cpu| *cpu != number);
            if held.is_empty() {
                self.held.remove(container);
            }
        }
    }

    fn check(&self) {
        debug_assert!(self.cpus.iter().all(|cpu| cpu.shares.values().sum::<u32>() <= SHARES));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANY: Rank<'static> = &|_| Some(0);

    #[derive(Clone, Debug)]
    enum Step {
        Grow(u8, u32, u32),
        Place(u8, u32),
        Shrink(u8, u32),
        Release(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4u8, 0..400u32, 0..3u32).prop_map(|(who, shares, near)| Step::Grow(who, shares, near)),
            (0..4u8, 0..400u32).prop_map(|(who, shares)| Step::Place(who, shares)),
            (0..4u8, 0..400u32).prop_map(|(who, shares)| Step::Shrink(who, shares)),
            (0..4u8).prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn a_cpu_is_never_given_away_twice_and_everybody_holds_what_they_were_granted(
            cpus in 1..9u32,
            steps in proptest::collection::vec(step(), 1..40),
        ) {
            let mut cores = Cores::new(0..cpus);
            let mut granted: BTreeMap<String, u32> = BTreeMap::new();
            for step in steps {
                let name = |who: u8| format!("c{who}");
                match step {
                    Step::Grow(who, shares, near) => {
                        let free = cores.free(ANY);
                        let got = cores.grow(&name(who), shares, &|cpu| Some(u32::from(cpu % 3 != near)));
                        prop_assert_eq!(got, shares.min(free), "everything that is free can be had");
                        *granted.entry(name(who)).or_default() += got;
                    }
                    Step::Place(who, shares) => {
                        cores.release(&name(who));
                        let before = cores.clone();
                        match cores.place(&name(who), shares, ANY) {
                            Ok(()) => granted.insert(name(who), shares),
                            Err(TooFew { there, .. }) => {
                                prop_assert!(there < shares && cores == before, "all or nothing");
                                granted.insert(name(who), 0)
                            }
                        };
                    }
                    Step::Shrink(who, shares) => {
                        let has = granted.get(&name(who)).copied().unwrap_or(0);
                        let before = cores.of(&name(who)).len();
                        let result = cores.shrink(&name(who), shares);
                        prop_assert_eq!(result.is_ok(), shares <= has);
                        prop_assert!(cores.of(&name(who)).len() <= before);
                        granted.insert(name(who), if result.is_ok() { has - shares } else { has });
                    }
                    Step::Release(who) => {
                        cores.release(&name(who));
                        granted.insert(name(who), 0);
                    }
                }
                for cpu in &cores.cpus {
                    prop_assert!(cpu.shares.values().sum::<u32>() <= SHARES);
                    prop_assert!(cpu.shares.values().all(|shares| *shares > 0));
                }
                for (name, shares) in &granted {
                    prop_assert_eq!(cores.shares_of(name), *shares);
                    let holds = |cpu: &u32| cores.cpus[*cpu as usize].shares.contains_key(name);
                    prop_assert!(cores.of(name).iter().all(holds));
                    let on = cores.cpus.iter().filter(|cpu| cpu.shares.contains_key(name)).count();
                    prop_assert_eq!(cores.of(name).len(), on);
                }
            }
        }
    }

    #[test]
    fn cpus_that_are_not_allowed_are_not_taken() {
        let mut cores = Cores::new(0..4);
        let last_two: Rank<'_> = &|cpu| (cpu >= 2).then_some(0);
        assert_eq!(cores.grow("a", 500, last_two), 200);
        assert_eq!(cores.of("a"), [2, 3]);
        assert_eq!(cores.place("b", 1, last_two), Err(TooFew { wanted: 1, there: 0 }));
    }
}
