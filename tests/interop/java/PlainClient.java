// Checks with Apache's own ZooKeeper client: data, modes, transactions, watches, access, sessions.
// Refuses to look at what only Curator does.

import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.KeeperException.Code;
import org.apache.zookeeper.Op;
import org.apache.zookeeper.OpResult;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.Watcher.Event.EventType;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.Stat;

final class PlainClient {
    private static final byte[] NOTHING = new byte[0];

    static void list(Map<String, Checks.Check> checks, String hosts) {
        checks.put("plain_data", () -> data(hosts));
        checks.put("plain_modes", () -> modes(hosts));
        checks.put("plain_transactions", () -> transactions(hosts));
        checks.put("plain_watches", () -> watches(hosts));
        checks.put("plain_removed_watches", () -> removedWatches(hosts));
        checks.put("plain_access", () -> access(hosts));
        checks.put("plain_sessions", () -> sessions(hosts));
        checks.put("plain_reaped", () -> reaped(hosts));
    }

    private static ZooKeeper connect(String hosts) throws Exception {
        CountDownLatch connected = new CountDownLatch(1);
        ZooKeeper client = new ZooKeeper(hosts, Checks.SESSION_TIMEOUT_MS, event -> {
            if (event.getState() == KeeperState.SyncConnected) {
                connected.countDown();
            }
        });
        Checks.expect(connected.await(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "no connection");
        return client;
    }

    private static String create(ZooKeeper client, String path, String data) throws Exception {
        return client.create(path, data.getBytes(UTF_8), Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
    }

    private static void refused(Code code, Checks.Check request) throws Exception {
        try {
            request.run();
        } catch (KeeperException refusal) {
            Checks.same(code, refusal.code());
            return;
        }
        throw new AssertionError("not refused: " + code);
    }

    private static void data(String hosts) throws Exception {
        try (ZooKeeper client = connect(hosts)) {
            Checks.same("/plain_data", create(client, "/plain_data", "one"));
            Stat stat = new Stat();
            Checks.same("one", new String(client.getData("/plain_data", false, stat), UTF_8));
            Checks.same(0, stat.getVersion());
            Stat changed = client.setData("/plain_data", "three".getBytes(UTF_8), 0);
            Checks.expect(changed.getVersion() == 1 && changed.getDataLength() == 5, "the stat of a change");
            Checks.same(stat.getCzxid(), changed.getCzxid());
            Checks.same(changed, client.exists("/plain_data", false));
            create(client, "/plain_data/child", "");
            Checks.same(List.of("child"), client.getChildren("/plain_data", false, stat));
            Checks.expect(stat.getCversion() == 1 && stat.getNumChildren() == 1, "the stat of a parent");
            Checks.same(1, client.getAllChildrenNumber("/plain_data"));
            refused(Code.BADVERSION, () -> client.setData("/plain_data", NOTHING, 0));
            refused(Code.NODEEXISTS, () -> create(client, "/plain_data", ""));
            refused(Code.NONODE, () -> client.getData("/plain_data/none", false, null));
            refused(Code.NOTEMPTY, () -> client.delete("/plain_data", -1));
            client.delete("/plain_data/child", 0);
            client.delete("/plain_data", 1);
            Checks.expect(client.exists("/plain_data", false) == null, "deleted");
        }
    }

    private static void modes(String hosts) throws Exception {
        try (ZooKeeper client = connect(hosts)) {
            create(client, "/plain_modes", "");
            List<String> names = new ArrayList<>();
            for (CreateMode mode : CreateMode.values()) {
                Stat stat = new Stat();
                String prefix = "/plain_modes/" + mode + "-";
                long ttlMs = mode.isTTL() ? 600_000 : -1;
                String path = client.create(prefix, NOTHING, Ids.OPEN_ACL_UNSAFE, mode, stat, ttlMs);
                Checks.expect(mode.isSequential() ? path.matches(".*-\\d{10}") : path.equals(prefix), path);
                Checks.same(mode.isEphemeral(), stat.getEphemeralOwner() == client.getSessionId());
                Checks.same(stat, client.exists(path, false));
                names.add(path);
            }
            String ephemeral = "/plain_modes/EPHEMERAL-";
            refused(Code.NOCHILDRENFOREPHEMERALS, () -> create(client, ephemeral + "/child", ""));
            List<String> ephemerals = client.getEphemerals("/plain_modes");
            Checks.same(2, ephemerals.size());
            Checks.expect(names.containsAll(ephemerals) && ephemerals.contains(ephemeral), ephemerals.toString());
        }
        try (ZooKeeper client = connect(hosts)) {
            Checks.same(CreateMode.values().length - 2, client.getChildren("/plain_modes", false).size());
        }
    }

    private static void transactions(String hosts) throws Exception {
        try (ZooKeeper client = connect(hosts)) {
            List<OpResult> done = client.multi(List.of(
                    Op.create("/plain_multi", NOTHING, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT),
                    Op.create("/plain_multi/n-", NOTHING, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL),
                    Op.setData("/plain_multi", "x".getBytes(UTF_8), 0),
                    Op.check("/plain_multi", 1)));
            Checks.same("/plain_multi/n-0000000000", ((OpResult.CreateResult) done.get(1)).getPath());
            Checks.same(1, ((OpResult.SetDataResult) done.get(2)).getStat().getVersion());
            try {
                client.multi(List.of(Op.delete("/plain_multi/n-0000000000", -1), Op.check("/plain_multi", 9), Op.delete("/none", -1)));
                throw new AssertionError("a transaction with a wrong version is done");
            } catch (KeeperException.BadVersionException refusal) {
                int[] codes = refusal.getResults().stream().mapToInt(r -> ((OpResult.ErrorResult) r).getErr()).toArray();
                int[] expected = {Code.OK.intValue(), Code.BADVERSION.intValue(), Code.RUNTIMEINCONSISTENCY.intValue()};
                Checks.expect(Arrays.equals(expected, codes), Arrays.toString(codes));
            }
            List<OpResult> read = client.multi(List.of(
                    Op.getData("/plain_multi"), Op.getChildren("/plain_multi"), Op.getData("/plain_multi/none")));
            Checks.same("x", new String(((OpResult.GetDataResult) read.get(0)).getData(), UTF_8));
            Checks.same(List.of("n-0000000000"), ((OpResult.GetChildrenResult) read.get(1)).getChildren());
            Checks.same(Code.NONODE.intValue(), ((OpResult.ErrorResult) read.get(2)).getErr());
        }
    }

    private static void seen(BlockingQueue<WatchedEvent> events, EventType type, String path) throws Exception {
        WatchedEvent event = events.poll(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS);
        Checks.expect(event != null, "no event " + type + " " + path);
        Checks.same(type + " " + path, event.getType() + " " + event.getPath());
    }

    private static void watches(String hosts) throws Exception {
        try (ZooKeeper client = connect(hosts); ZooKeeper other = connect(hosts)) {
            BlockingQueue<WatchedEvent> once = new LinkedBlockingQueue<>();
            BlockingQueue<WatchedEvent> below = new LinkedBlockingQueue<>();
            BlockingQueue<WatchedEvent> here = new LinkedBlockingQueue<>();
            Checks.expect(client.exists("/plain_watch", once::add) == null, "not there yet");
            client.addWatch("/plain_watch", below::add, AddWatchMode.PERSISTENT_RECURSIVE);
            client.addWatch("/plain_watch", here::add, AddWatchMode.PERSISTENT);
            create(other, "/plain_watch", "");
            create(other, "/plain_watch/a", "");
            other.setData("/plain_watch/a", NOTHING, -1);
            other.delete("/plain_watch/a", -1);
            seen(once, EventType.NodeCreated, "/plain_watch");
            seen(below, EventType.NodeCreated, "/plain_watch");
            seen(below, EventType.NodeCreated, "/plain_watch/a");
            seen(below, EventType.NodeDataChanged, "/plain_watch/a");
            seen(below, EventType.NodeDeleted, "/plain_watch/a");
            seen(here, EventType.NodeCreated, "/plain_watch");
            seen(here, EventType.NodeChildrenChanged, "/plain_watch");
            seen(here, EventType.NodeChildrenChanged, "/plain_watch");
            Checks.expect(once.isEmpty() && below.isEmpty() && here.isEmpty(), "an event too many");
        }
    }

    private static void removedWatches(String hosts) throws Exception {
        try (ZooKeeper client = connect(hosts); ZooKeeper other = connect(hosts)) {
            create(other, "/plain_unwatch", "");
            BlockingQueue<WatchedEvent> events = new LinkedBlockingQueue<>();
            Watcher watcher = events::add;
            client.getData("/plain_unwatch", watcher, null);
            client.removeWatches("/plain_unwatch", watcher, Watcher.WatcherType.Data, false);
            seen(events, EventType.DataWatchRemoved, "/plain_unwatch");
            client.addWatch("/plain_unwatch", watcher, AddWatchMode.PERSISTENT_RECURSIVE);
            client.removeWatches("/plain_unwatch", watcher, Watcher.WatcherType.Any, false);
            seen(events, EventType.PersistentWatchRemoved, "/plain_unwatch");
            refused(Code.NOWATCHER, () -> client.removeWatches("/plain_unwatch", watcher, Watcher.WatcherType.Any, false));
            other.setData("/plain_unwatch", NOTHING, -1);
            client.getData("/plain_unwatch", false, null); // an event would come before this answer
            Checks.expect(events.isEmpty(), "an event of a removed watch");
        }
    }

    private static void access(String hosts) throws Exception {
        try (ZooKeeper client = connect(hosts); ZooKeeper other = connect(hosts)) {
            client.addAuthInfo("digest", "bob:secret".getBytes(UTF_8));
            client.create("/plain_access", "s".getBytes(UTF_8), Ids.CREATOR_ALL_ACL, CreateMode.PERSISTENT);
            Checks.same("digest", client.getACL("/plain_access", null).get(0).getId().getScheme());
            Checks.expect(client.whoAmI().stream().anyMatch(info -> info.getUser().equals("bob")), "bob knows himself");
            refused(Code.NOAUTH, () -> other.getData("/plain_access", false, null));
            refused(Code.NOAUTH, () -> other.setACL("/plain_access", Ids.OPEN_ACL_UNSAFE, -1));
            client.setACL("/plain_access", Ids.READ_ACL_UNSAFE, 0);
            Checks.same("s", new String(other.getData("/plain_access", false, null), UTF_8));
            refused(Code.NOAUTH, () -> other.setData("/plain_access", NOTHING, -1));
        }
    }

    private static void sessions(String hosts) throws Exception {
        ZooKeeper first = connect(hosts);
        first.create("/plain_session", NOTHING, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        // The same session on another connection: it moves there with its ephemeral nodes, and the first can go.
        CountDownLatch connected = new CountDownLatch(1);
        try (ZooKeeper second = new ZooKeeper(
                hosts, Checks.SESSION_TIMEOUT_MS, event -> connected.countDown(), first.getSessionId(), first.getSessionPasswd())) {
            Checks.expect(connected.await(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "no connection");
            Checks.same(first.getSessionId(), second.exists("/plain_session", false).getEphemeralOwner());
            Checks.same(first.getSessionId(), second.getSessionId());
        }
        try (ZooKeeper third = connect(hosts)) {
            Checks.expect(third.exists("/plain_session", false) == null, "closing ends the session");
        }
        first.close(Checks.WAIT_LIMIT_S * 1000);
    }

    private static void reaped(String hosts) throws Exception {
        try (ZooKeeper client = connect(hosts)) {
            create(client, "/plain_reaped", "");
            client.create("/plain_reaped/ttl", NOTHING, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, null, 100);
            client.create("/plain_reaped/container", NOTHING, Ids.OPEN_ACL_UNSAFE, CreateMode.CONTAINER);
            create(client, "/plain_reaped/container/child", "");
            client.delete("/plain_reaped/container/child", -1);
            Checks.eventually("both are removed", () -> client.getChildren("/plain_reaped", false).isEmpty());
        }
    }
}
