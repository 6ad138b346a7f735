//! How many threads there are and on which cores. By default one shard per core that this process may use, each pinned;
//! the first core is chosen by server number, so that servers that share a machine put their pipelines apart.
//! Refuses to pin more threads than there are cores: then none is.

use super::sys;
use crate::config::{Pinning, Pipeline, Threads};

/// See the module heading.
pub struct Placements {
    /// Cores that serve clients; the pipeline's, if it has its own, comes behind them.
    pub shards: usize,
    cores: Vec<Option<usize>>,
}

impl Placements {
    /// For the settings, on this machine.
    pub fn of(threads: &Threads, server: u16) -> Placements {
        Placements::on(&sys::allowed_cpus(), threads, server)
    }

    fn on(allowed: &[usize], threads: &Threads, server: u16) -> Placements {
        let extra = usize::from(threads.pipeline == Pipeline::Dedicated);
        let shards = threads.shards.unwrap_or_else(|| allowed.len().saturating_sub(extra).max(1));
        let count = shards + extra;
        let cpus: Vec<usize> = match &threads.pinning {
            Pinning::None => Vec::new(),
            Pinning::Cpus(cpus) => cpus.clone(),
            Pinning::Auto => {
                let mut cpus = allowed.to_vec();
                cpus.rotate_left(usize::from(server) % allowed.len().max(1));
                cpus
            }
        };
        let cores = (0..count).map(|core| if cpus.len() >= count { Some(cpus[core]) } else { None }).collect();
        Placements { shards, cores }
    }

    /// The core of each thread; None: wherever the kernel likes.
    pub fn cores(&self) -> &[Option<usize>] {
        &self.cores
    }

    /// Whether the last thread is the pipeline's own.
    pub fn dedicated(&self) -> bool {
        self.cores.len() > self.shards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(shards: Option<usize>, pinning: Pinning, pipeline: Pipeline) -> Threads {
        Threads { shards, pinning, pipeline }
    }

    #[test]
    fn one_pinned_shard_per_core_and_servers_spread() {
        let auto = threads(None, Pinning::Auto, Pipeline::Shared);
        assert_eq!(Placements::on(&[2, 3, 5], &auto, 0).cores(), [Some(2), Some(3), Some(5)]);
        assert_eq!(Placements::on(&[2, 3, 5], &auto, 4).cores(), [Some(3), Some(5), Some(2)]);
        assert_eq!(Placements::on(&[], &auto, 4).cores(), [None]);
    }

    #[test]
    fn more_threads_than_cores_are_not_pinned() {
        let many = Placements::on(&[0, 1], &threads(Some(2), Pinning::Auto, Pipeline::Dedicated), 1);
        assert_eq!((many.cores(), many.shards, many.dedicated()), (&[None; 3][..], 2, true));
        let own = Placements::on(&[0, 1], &threads(None, Pinning::Auto, Pipeline::Dedicated), 1);
        assert_eq!((own.cores(), own.shards), (&[Some(1), Some(0)][..], 1));
        let listed = Placements::on(&[0, 1], &threads(Some(1), Pinning::Cpus(vec![1]), Pipeline::Shared), 7);
        assert_eq!((listed.cores(), listed.dedicated()), (&[Some(1)][..], false));
        assert_eq!(Placements::on(&[0, 1], &threads(Some(1), Pinning::None, Pipeline::Shared), 0).cores(), [None]);
    }
}
