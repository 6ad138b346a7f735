//! A queue in the order of its numbers, whose items are worked on by one consumer at a time and leave it only when done.
//!
//!     cargo run --example queue -- [ADDRESS] PATH put ITEM...
//!     cargo run --example queue -- [ADDRESS] PATH take [COUNT]
//!
//! `take` prints `doing ITEM` and `done ITEM`, forever without a count. Refuses to put an item twice or to finish one twice
//! when an answer is lost. See docs/recipes/queue.md.

mod session;

use session::{EPHEMERAL, PERSISTENT, arguments, close, connect, persist};
use zk::{Error, MultiWriteError};
use zookeeper_client as zk;

const NUMBERED: zk::CreateOptions<'static> = zk::CreateMode::PersistentSequential.with_acls(zk::Acls::anyone_all());

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, rest) = arguments();
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    let (queue, action) = match words.as_slice() {
        [path, action @ ..] if !action.is_empty() => (Queue::at(path), action),
        _ => return Err("usage: queue [ADDRESS] PATH put ITEM... | take [COUNT]".into()),
    };
    let client = connect(&address).await?;
    queue.prepare(&client).await?;
    match action {
        ["put", items @ ..] => queue.put(&client, items).await?,
        ["take"] => queue.take(&client, u64::MAX).await?,
        ["take", count] => queue.take(&client, count.parse()?).await?,
        _ => return Err("put ITEM... or take [COUNT]".into()),
    }
    close(client).await;
    Ok(())
}

/// The nodes of a queue: numbered items, an ephemeral claim for each item that somebody works on, and an ephemeral node for
/// each producer whose version counts what it has put.
struct Queue {
    items: String,
    claims: String,
    producers: String,
}

impl Queue {
    fn at(path: &str) -> Queue {
        Queue { items: format!("{path}/items"), claims: format!("{path}/claims"), producers: format!("{path}/producers") }
    }

    async fn prepare(&self, client: &zk::Client) -> Result<(), Error> {
        for path in [&self.items, &self.claims, &self.producers] {
            persist(|| client.mkdir(path, &PERSISTENT)).await?;
        }
        Ok(())
    }

    /// Puts the items in order and prints each once it is stored.
    async fn put(&self, client: &zk::Client, items: &[&str]) -> Result<(), Error> {
        let producer = format!("{}/{}", self.producers, client.session_id());
        match persist(|| client.create(&producer, b"", &EPHEMERAL)).await {
            Ok(_) | Err(Error::NodeExists) => {} // the name is this session's: what exists is our own, its answer was lost
            Err(error) => return Err(error),
        }
        for (count, item) in items.iter().enumerate() {
            persist(|| self.put_one(client, &producer, count as i32, item.as_bytes())).await?;
            println!("put {item}");
        }
        Ok(())
    }

    /// Puts the item that this producer puts after `count` others. If that has happened already, nothing is done: the
    /// producer's version tells, as it changes in the same transaction.
    async fn put_one(&self, client: &zk::Client, producer: &str, count: i32, item: &[u8]) -> Result<(), Error> {
        let mut both = client.new_multi_writer();
        both.add_set_data(producer, b"", Some(count))?;
        both.add_create(&format!("{}/item-", self.items), item, &NUMBERED)?;
        match both.commit().await {
            Ok(_) | Err(MultiWriteError::OperationFailed { index: 0, source: Error::BadVersion }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Works on items, one at a time, the oldest free one first.
    async fn take(&self, client: &zk::Client, count: u64) -> Result<(), Error> {
        for _ in 0..count {
            let name = self.claim_next(client).await?;
            let (data, _) = persist(|| client.get_data(&format!("{}/{name}", self.items))).await?;
            let item = String::from_utf8_lossy(&data);
            println!("doing {item}");
            // The work belongs here. Should this program die, its claim goes with its session and another takes over.
            persist(|| self.finish(client, &name)).await?;
            println!("done {item}");
        }
        Ok(())
    }

    /// Waits for an item that nobody works on and claims it; the item's name.
    async fn claim_next(&self, client: &zk::Client) -> Result<String, Error> {
        loop {
            // The watches are set before the lists are used: whatever changes from here on ends the waiting below.
            let (mut items, items_changed) = persist(|| client.list_and_watch_children(&self.items)).await?;
            let (claims, claims_changed) = persist(|| client.list_and_watch_children(&self.claims)).await?;
            items.sort_unstable();
            for item in items.into_iter().filter(|item| !claims.contains(item)) {
                if persist(|| self.claim(client, &item)).await? {
                    return Ok(item);
                }
            }
            tokio::select! {
                _ = items_changed.changed() => {}
                _ = claims_changed.changed() => {}
            }
        }
    }

    /// Whether the item is ours now. Others may have been faster, or done with it altogether.
    async fn claim(&self, client: &zk::Client, item: &str) -> Result<bool, Error> {
        let claim = format!("{}/{item}", self.claims);
        let mut both = client.new_multi_writer();
        both.add_check_version(&format!("{}/{item}", self.items), 0)?;
        both.add_create(&claim, b"", &EPHEMERAL)?;
        match both.commit().await {
            Ok(_) => Ok(true),
            Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => Ok(false),
            Err(MultiWriteError::OperationFailed { index: 1, source: Error::NodeExists }) => {
                // Ours if the answer to an earlier attempt was lost.
                let owner = client.check_stat(&claim).await?.map(|stat| stat.ephemeral_owner);
                Ok(owner == Some(client.session_id().0))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an item that this session has claimed, and the claim.
    async fn finish(&self, client: &zk::Client, item: &str) -> Result<(), Error> {
        let mut both = client.new_multi_writer();
        both.add_delete(&format!("{}/{item}", self.claims), Some(0))?;
        both.add_delete(&format!("{}/{item}", self.items), Some(0))?;
        match both.commit().await {
            // While this session lives nobody else removes its claim: it was an earlier attempt whose answer was lost.
            Ok(_) | Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
