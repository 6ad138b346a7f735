//! Who votes, and when some of them are enough. Majorities, weights and groups as in ZooKeeper's `group.N` and `weight.N`:
//! a quorum is more than half of the weight in more than half of the groups that have any.
//! Refuses to know who is alive: callers ask with a set.

/// A server that votes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Voter {
    pub server: u16,
    /// 0: it votes, but its vote never counts.
    pub weight: u64,
    /// Servers without groups are all in one.
    pub group: u64,
}

/// The servers of an ensemble.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ensemble {
    voters: Vec<Voter>,
    observers: Vec<u16>,
    /// Group and the weight of all its voters, where that is not 0.
    groups: Vec<(u64, u64)>,
}

impl Ensemble {
    /// Servers must be given once; at least one voter must have weight.
    pub fn new(mut voters: Vec<Voter>, mut observers: Vec<u16>) -> Ensemble {
        voters.sort_unstable_by_key(|v| v.server);
        observers.sort_unstable();
        let mut groups: Vec<(u64, u64)> = Vec::new();
        for voter in voters.iter().filter(|v| v.weight > 0) {
            match groups.iter_mut().find(|(group, _)| *group == voter.group) {
                Some((_, weight)) => *weight += voter.weight,
                None => groups.push((voter.group, voter.weight)),
            }
        }
        assert!(!groups.is_empty(), "an ensemble has a voter with weight");
        Ensemble { voters, observers, groups }
    }

    /// Voters of equal weight.
    pub fn majority(voters: impl IntoIterator<Item = u16>, observers: impl IntoIterator<Item = u16>) -> Ensemble {
        let voters = voters.into_iter().map(|server| Voter { server, weight: 1, group: 0 }).collect();
        Ensemble::new(voters, observers.into_iter().collect())
    }

    /// An ensemble of one.
    pub fn alone(server: u16) -> Ensemble {
        Ensemble::majority([server], [])
    }

    pub fn voters(&self) -> impl Iterator<Item = u16> + '_ {
        self.voters.iter().map(|v| v.server)
    }

    /// Voters and observers, by id.
    pub fn servers(&self) -> impl Iterator<Item = u16> + '_ {
        self.voters().chain(self.observers.iter().copied())
    }

    pub fn is_voter(&self, server: u16) -> bool {
        self.voters.iter().any(|v| v.server == server)
    }

    pub fn is_alone(&self) -> bool {
        self.voters.len() == 1 && self.observers.is_empty()
    }

    /// Whether the voters for which `has` holds are enough.
    pub fn is_quorum(&self, mut has: impl FnMut(u16) -> bool) -> bool {
        let mut won = 0;
        for (group, all) in &self.groups {
            let members = self.voters.iter().filter(|v| v.group == *group);
            let weight: u64 = members.filter(|v| has(v.server)).map(|v| v.weight).sum();
            won += usize::from(2 * weight > *all);
        }
        2 * won > self.groups.len()
    }

    /// The highest value that a quorum has reached, 0 if none.
    pub fn reached(&self, mut value: impl FnMut(u16) -> u64) -> u64 {
        let values: Vec<(u16, u64)> = self.voters.iter().map(|v| (v.server, value(v.server))).collect();
        let of = |server| values.iter().find(|(s, _)| *s == server).map_or(0, |(_, v)| *v);
        values.iter().map(|(_, v)| *v).filter(|v| self.is_quorum(|server| of(server) >= *v)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_more_than_half() {
        let four = Ensemble::majority(1..=4, [9]);
        assert!(four.is_quorum(|s| s <= 3) && !four.is_quorum(|s| s <= 2));
        assert!(!four.is_quorum(|s| s <= 2 || s == 9), "observers never count");
        assert!(Ensemble::alone(3).is_quorum(|s| s == 3));
    }

    #[test]
    fn groups_and_weights() {
        let voter = |server, group, weight| Voter { server, weight, group };
        let nine: Vec<Voter> = (1..=9).map(|s| voter(s, u64::from(s - 1) / 3, 1)).collect();
        let nine = Ensemble::new(nine, vec![]);
        assert!(nine.is_quorum(|s| [1, 2, 4, 5].contains(&s)), "two of three in two of three groups");
        assert!(!nine.is_quorum(|s| [1, 2, 3, 4, 7].contains(&s)));
        let heavy = Ensemble::new(vec![voter(1, 1, 3), voter(2, 1, 1), voter(3, 1, 1), voter(4, 2, 0)], vec![]);
        assert!(heavy.is_quorum(|s| s == 1) && !heavy.is_quorum(|s| s != 1));
    }

    #[test]
    fn what_a_quorum_has_reached() {
        let three = Ensemble::majority(1..=3, []);
        assert_eq!(three.reached(|s| [0, 7, 5, 9][usize::from(s)]), 7);
        assert_eq!(three.reached(|s| u64::from(s == 1) * 8), 0);
    }
}
