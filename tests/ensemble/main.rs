//! Faults of real servers under real clients: the binary as an ensemble of processes, killed, paused, cut off, without power
//! and without room, while sessions write and remember what they were told. docs/faults.md has the list.
//! A test that this machine cannot run is counted as ignored, and its line says why. One at a time: they share the machine.

#[path = "../process/mod.rs"]
mod process;

mod campaign;
mod command;
mod crashes;
mod cuts;
mod damage;
mod disks;
mod history;
mod load;
mod namespaces;
mod sensitivity;
mod volumes;

use libtest_mimic::{Arguments, Conclusion, Trial};
use std::process::ExitCode;

/// Runs a test to its end on this thread, its sessions on two others.
fn trial(name: &str, test: impl AsyncFnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(test());
        Ok(())
    })
}

/// A test that needs what not every machine has.
fn trial_if(missing: Option<String>, name: &str, test: impl AsyncFnOnce() + Send + 'static) -> Trial {
    match missing {
        None => trial(name, test),
        Some(why) => trial(name, test).with_kind(format!("skipped: {why}")).with_ignored_flag(true),
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("lies_are_noticed", sensitivity::lies_are_noticed),
        trial("lost_data_is_noticed", sensitivity::lost_data_is_noticed),
        trial("one_command_starts_and_stops_an_ensemble", command::one_command),
        trial("no_server_outlives_the_command", command::no_orphans),
        trial("kill_9_of_the_leader", crashes::kill_9_of_the_leader),
        trial("kill_9_of_a_follower", crashes::kill_9_of_a_follower),
        trial("kill_9_of_all", crashes::kill_9_of_all),
        trial("pauses_of_the_leader", crashes::pauses_of_the_leader),
        trial("a_rolling_restart", crashes::a_rolling_restart),
        trial("a_full_restart", crashes::a_full_restart),
        trial("a_wiped_server", crashes::a_wiped_server),
        trial("linearizable_reads", crashes::linearizable_reads),
        trial("an_isolated_leader", cuts::an_isolated_leader),
        trial("one_way_cuts", cuts::one_way_cuts),
        trial("a_cut_between_two", cuts::a_cut_between_two),
        trial("resets_and_delays", cuts::resets_and_delays),
        trial_if(namespaces::missing(), "lost_packets", cuts::lost_packets),
        trial_if(volumes::no_power_cuts(), "power_cuts", disks::power_cuts),
        trial_if(volumes::no_small_disks(), "a_full_disk_under_a_follower", disks::a_full_disk_under_a_follower),
        trial_if(volumes::no_small_disks(), "a_full_disk_under_the_leader", disks::a_full_disk_under_the_leader),
        trial_if(volumes::no_small_disks(), "full_disks_under_all", disks::full_disks_under_all),
        trial_if(volumes::no_small_disks(), "full_disks_under_two", disks::full_disks_under_two),
        trial_if(volumes::no_freezer(), "hanging_disks_under_leaders", disks::hanging_disks_under_leaders),
        trial_if(volumes::no_power_cuts(), "failing_disks_under_leaders", disks::failing_disks_under_leaders),
        trial("damaged_data", damage::damaged_data),
        trial("damage_on_all", damage::damage_on_all),
        trial("any_fault", campaign::any_fault),
    ];
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials);
    conclusion.exit_code()
}
