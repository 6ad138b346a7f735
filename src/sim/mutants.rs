//! Known bugs, each brought back by one `mutant!` switch in the brains, to ask whether the simulator would notice. Numbers
//! are names: they have gaps where a bug cannot be made in this design. docs/simulator.md says how to read a survivor.
//! Refuses to exist outside a build with the feature `mutants`.

/// Name and what it breaks.
pub const MUTANTS: &[(&str, &str)] = &[
    ("M01", "a follower acknowledges what its disk has not confirmed"),
    ("M02", "an epoch is acknowledged with a log that is still being written"),
    ("M03", "votes for a shorter history"),
    ("M06", "a hole in what a follower is sent"),
    ("M07", "a candidate claims what is in memory"),
    ("M12", "votes by what is applied, not by what is in the log"),
    ("M13", "applies what is not committed"),
    ("M14", "synchronises by zxid, blind to diverged histories"),
    ("M15", "does not cut what the leader does not have"),
    ("M16", "goes on after a failed write"),
    ("M18", "observers get what is not committed"),
    ("M20", "commits old epochs by counting, before its own is established"),
    ("M21", "leads without a quorum"),
    ("M22", "acts on a promise that is not on the medium"),
    ("M23", "votes twice in an epoch"),
    ("M24", "a replaced disk votes as if it remembered"),
    ("M32", "takes the page cache for the medium at start"),
    ("M33", "an installed snapshot does not end the old log"),
    ("M34", "ephemerals stay when their session goes"),
    ("M35", "reads on followers do not keep sessions alive"),
    ("M37", "sync without asking a quorum"),
    ("M40", "proposes before its State has caught up"),
    ("M41", "prepares against the State alone"),
    ("M43", "takes the leader's commit for its own diverged log"),
    ("M44", "requests under way are forgotten with the leader, their connections stay"),
    ("M45", "a sync's answer after the transactions that follow it"),
    ("M46", "two runs of a server with the same name"),
    ("M47", "proposes while it renews its epoch"),
    ("M48", "forgets requests that were forwarded before a renewal"),
    ("M53", "a leader counts itself before its disk has confirmed"),
    ("M68", "segments of a replaced log come back"),
    ("M72", "one-shot watches that stay"),
    ("M73", "no event for a deletion"),
    ("M74", "reads overtake the connection's own writes"),
    ("M80", "takes a leader's word for an earlier try to follow"),
    ("M76", "sequence numbers from the count of children"),
    ("M81", "forwards to a slow leader without end"),
    ("M83", "leads on though its disk falls behind without end"),
];

/// Blind spots: bugs that no run has noticed within seconds so far. Each asks for a workload, a fault or a check that is not
/// there yet; none may be added without a reason, and one that is noticed regularly leaves the list.
pub const UNNOTICED: &[&str] = &[];
