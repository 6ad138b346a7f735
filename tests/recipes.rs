//! The recipes in examples/ as their users run them: several processes that compete on the real server, which is killed
//! with -9 in the middle of locks and queues.

mod process;

use process::{Server, data_dir, free_port};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(40);

fn example(name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_falconer")).parent().expect("binaries have a folder").join("examples").join(name);
    assert!(built.exists(), "{} is missing: `cargo test` builds it, as does `cargo build --examples`", built.display());
    built
}

/// A recipe that runs, and the lines it has printed so far. Killed when dropped.
struct Recipe {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Recipe {
    fn start(name: &str, server: &Server, words: &[&str]) -> Recipe {
        let mut command = Command::new(example(name));
        command.arg(&server.address).args(words).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the example starts");
        let output = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        std::thread::spawn(move || output.map_while(Result::ok).for_each(|line| sink.lock().unwrap().push(line)));
        Recipe { child, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// What follows `word` on the lines that begin with it.
    fn said(&self, word: &str) -> Vec<String> {
        self.lines().iter().filter_map(|line| line.strip_prefix(word)).map(|rest| rest.trim().to_string()).collect()
    }

    fn last(&self) -> String {
        self.lines().pop().unwrap_or_default()
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end; the exit code.
    fn exit_code(&mut self) -> Option<i32> {
        eventually("the recipe ends", || self.child.try_wait().expect("the child can be asked")).code()
    }
}

impl Drop for Recipe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn holds(what: &str, mut look: impl FnMut() -> bool) {
    eventually(what, || look().then_some(()));
}

/// Kills the server with -9 and starts it again on the same port and data.
fn kill_and_restart(server: Server, dir: &Path, port: u16) -> Server {
    server.kill();
    Server::start(dir, port)
}

#[test]
fn a_lock_has_one_holder_at_a_time_across_a_kill_of_the_server() {
    const CONTENDERS: usize = 3;
    const ROUNDS: usize = 6;
    let (dir, scratch, port) = (data_dir(), data_dir(), free_port());
    let mut server = Server::start(dir.path(), port);
    // The witness is the file system, not the server: a second holder cannot make the folder.
    let (held, tokens) = (scratch.path().join("held"), scratch.path().join("tokens"));
    let script = format!("mkdir {0} && echo $LOCK_TOKEN >> {1} && sleep 0.1 && rmdir {0}", held.display(), tokens.display());
    let run = |server: &Server| Recipe::start("lock", server, &["/locks/one", "sh", "-c", &script]);
    let seen = || std::fs::read_to_string(&tokens).unwrap_or_default().lines().count();

    let mut running: Vec<Recipe> = (0..CONTENDERS).map(|_| run(&server)).collect();
    let (mut started, mut killed) = (CONTENDERS, false);
    while !running.is_empty() {
        if !killed && seen() >= CONTENDERS * ROUNDS / 3 {
            server = kill_and_restart(server, dir.path(), port);
            killed = true;
        }
        let mut still = Vec::new();
        for mut recipe in running {
            match recipe.child.try_wait().expect("the child can be asked") {
                None => still.push(recipe),
                Some(status) => {
                    assert!(status.success(), "{status:?}: two held the lock, or one lost it");
                    if started < CONTENDERS * ROUNDS {
                        started += 1;
                        still.push(run(&server));
                    }
                }
            }
        }
        running = still;
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(killed);
    let text = std::fs::read_to_string(&tokens).unwrap();
    let tokens: Vec<i64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(tokens.len(), CONTENDERS * ROUNDS);
    assert!(tokens.is_sorted_by(|a, b| a < b), "a later holder has a greater token: {tokens:?}");
}

#[test]
fn a_lock_that_may_be_lost_stops_its_command() {
    let (dir, scratch, port) = (data_dir(), data_dir(), free_port());
    let server = Server::start(dir.path(), port);
    let running = scratch.path().join("pid");
    let script = format!("echo $$ > {} && exec sleep 60", running.display());
    let mut holder = Recipe::start("lock", &server, &["/locks/two", "sh", "-c", &script]);
    let pid = eventually("the command runs", || std::fs::read_to_string(&running).ok().filter(|text| text.ends_with('\n')));
    server.kill();
    assert_eq!(holder.exit_code(), Some(75));
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the command still runs");
}

#[test]
fn a_queue_neither_loses_nor_repeats_across_a_kill_of_the_server() {
    const ITEMS: usize = 80;
    let (dir, port) = (data_dir(), free_port());
    let server = Server::start(dir.path(), port);
    let mut producers = Vec::new();
    for producer in 0..3 {
        let items: Vec<String> = (0..ITEMS).map(|item| format!("{producer}-{item:03}")).collect();
        let mut words = vec!["/queue", "put"];
        words.extend(items.iter().map(String::as_str));
        producers.push(Recipe::start("queue", &server, &words));
    }
    let consumers: Vec<Recipe> = (0..3).map(|_| Recipe::start("queue", &server, &["/queue", "take"])).collect();
    let done = || consumers.iter().flat_map(|consumer| consumer.said("done")).collect::<Vec<_>>();
    holds("work is going on", || done().len() >= ITEMS / 2);
    let _server = kill_and_restart(server, dir.path(), port);
    for producer in &mut producers {
        assert_eq!(producer.exit_code(), Some(0));
    }
    holds("everything is done", || done().len() >= 3 * ITEMS);
    std::thread::sleep(Duration::from_millis(300)); // time for an item too many to appear
    let mut put: Vec<String> = producers.iter().flat_map(|producer| producer.said("put")).collect();
    let mut done = done();
    put.sort_unstable();
    done.sort_unstable();
    assert_eq!(put, done);
    assert_eq!(put.len(), 3 * ITEMS);
    // Each consumer meets the items of one producer in the order in which they were put.
    for consumer in &consumers {
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        for item in consumer.said("done") {
            let before = last.insert(item[..1].to_string(), item.clone());
            assert!(before.is_none_or(|before| before < item), "{item} is late");
        }
    }
}

#[test]
fn a_consumer_that_dies_leaves_its_item_to_others() {
    let (dir, port) = (data_dir(), free_port());
    let server = Server::start(dir.path(), port);
    assert_eq!(Recipe::start("queue", &server, &["/queue", "put", "a", "b", "c"]).exit_code(), Some(0));
    // Somebody claims the first item and dies without closing the session; the server finds out when it times out.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = zookeeper_client::Client::connector()
            .with_session_timeout(Duration::from_secs(4))
            .with_detached()
            .connect(&server.address)
            .await
            .unwrap();
        let ephemeral = zookeeper_client::CreateMode::Ephemeral.with_acls(zookeeper_client::Acls::anyone_all());
        client.create("/queue/claims/item-0000000000", b"", &ephemeral).await.unwrap();
    });
    runtime.shutdown_background();
    let mut consumer = Recipe::start("queue", &server, &["/queue", "take", "3"]);
    assert_eq!(consumer.exit_code(), Some(0));
    assert_eq!(consumer.said("done"), ["b", "c", "a"]);
}

#[test]
fn configuration_keeps_every_edit_and_watchers_see_the_last() {
    const EDITORS: usize = 8;
    let (dir, port) = (data_dir(), free_port());
    let server = Server::start(dir.path(), port);
    let watchers: Vec<Recipe> = (0..2).map(|_| Recipe::start("configuration", &server, &["/config", "watch"])).collect();
    holds("watchers look", || watchers.iter().all(|watcher| watcher.last() == "absent"));
    let edits: Vec<String> = (0..EDITORS).map(|key| format!("key{key}={}", key * key)).collect();
    let mut editors: Vec<Recipe> = edits.iter().map(|edit| Recipe::start("configuration", &server, &["/config", "set", edit])).collect();
    for editor in &mut editors {
        assert_eq!(editor.exit_code(), Some(0));
    }
    let mut versions: Vec<String> = editors.iter().map(|editor| editor.said("version").pop().expect("it says its version")).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=EDITORS).map(|version| version.to_string()).collect::<Vec<_>>());
    let last = format!("version {EDITORS}: {}", edits.join(" "));
    holds("watchers see the last version", || watchers.iter().all(|watcher| watcher.last() == last));

    let server = kill_and_restart(server, dir.path(), port);
    assert_eq!(Recipe::start("configuration", &server, &["/config", "set", "key0=again"]).exit_code(), Some(0));
    let last = last.replace(&format!("version {EDITORS}: key0=0"), &format!("version {}: key0=again", EDITORS + 1));
    holds("watches outlive the restart", || watchers.iter().all(|watcher| watcher.last() == last));
}

#[test]
fn members_come_and_go() {
    let (dir, port) = (data_dir(), free_port());
    let server = Server::start(dir.path(), port);
    let join = |name| Recipe::start("membership", &server, &["/group", name]);
    let (one, mut two, three) = (join("one"), join("two"), join("three"));
    let all_see = |members: &[&Recipe], text: &str| {
        holds(text, || members.iter().all(|member| member.last() == text));
    };
    all_see(&[&one, &two, &three], "members: one three two");
    two.signal("-INT");
    assert_eq!(two.exit_code(), Some(0));
    all_see(&[&one, &three], "members: one three");
    // A member that starts again while its old session still lives joins when that has timed out.
    three.signal("-KILL");
    let again = join("three");
    all_see(&[&one, &again], "members: one three");
    assert!(one.lines().contains(&"members: one".to_string()), "{:?}", one.lines());
}

#[test]
fn an_election_has_one_leader_and_the_next_in_line_follows() {
    let (dir, port) = (data_dir(), free_port());
    let server = Server::start(dir.path(), port);
    let mut candidates: Vec<(&str, Recipe)> =
        ["anna", "ben", "cleo"].map(|name| (name, Recipe::start("election", &server, &["/election", name]))).into();
    let mut epochs: Vec<i64> = Vec::new();
    for signal in ["-INT", "-KILL", "-INT"] {
        let epoch_of = |name: &str, recipe: &Recipe| recipe.said(&format!("{name} leads, epoch")).pop();
        let (leader, epoch) = eventually("somebody leads", || {
            candidates.iter().enumerate().find_map(|(at, (name, recipe))| Some((at, epoch_of(name, recipe)?)))
        });
        std::thread::sleep(Duration::from_millis(200)); // time for a second leader to appear
        let leaders = candidates.iter().filter(|(name, recipe)| epoch_of(name, recipe).is_some()).count();
        assert_eq!(leaders, 1);
        epochs.push(epoch.parse().unwrap());
        candidates.remove(leader).1.signal(signal);
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}
