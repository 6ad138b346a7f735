// Checks with what Apache Curator keeps about nodes: persistent ephemerals, groups, caches, transactions, builders' modes.
// Refuses to know the order of events where Curator does not promise one.

import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.api.transaction.CuratorTransactionResult;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.cache.TreeCache;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.nodes.PersistentTtlNode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.data.Stat;

final class CuratorNodes {
    interface Use {
        void run(CuratorFramework client, CuratorFramework other) throws Exception;
    }

    static void list(Map<String, Checks.Check> checks, String hosts) {
        checks.put("curator_persistent_node", () -> withClients(hosts, CuratorNodes::persistentNode));
        checks.put("curator_ttl_node", () -> withClients(hosts, CuratorNodes::ttlNode));
        checks.put("curator_group_member", () -> withClients(hosts, CuratorNodes::groupMember));
        checks.put("curator_tree_cache", () -> withClients(hosts, CuratorNodes::treeCache));
        checks.put("curator_cache", () -> withClients(hosts, CuratorNodes::cache));
        checks.put("curator_transaction", () -> withClients(hosts, CuratorNodes::transaction));
        checks.put("curator_builders", () -> withClients(hosts, CuratorNodes::builders));
    }

    private static void withClients(String hosts, Use use) throws Exception {
        try (CuratorFramework client = CuratorRecipes.connect(hosts);
                CuratorFramework other = CuratorRecipes.connect(hosts)) {
            use.run(client, other);
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(UTF_8);
    }

    private static void persistentNode(CuratorFramework client, CuratorFramework other) throws Exception {
        try (PersistentNode node = new PersistentNode(client, CreateMode.EPHEMERAL, false, "/curator/persistent", bytes("here"))) {
            node.start();
            Checks.expect(node.waitForInitialCreate(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "not created");
            Checks.same("here", new String(other.getData().forPath("/curator/persistent"), UTF_8));
            long czxid = other.checkExists().forPath("/curator/persistent").getCzxid();
            other.delete().forPath("/curator/persistent");
            Checks.eventually("it is created again", () -> {
                Stat stat = other.checkExists().forPath("/curator/persistent");
                return stat != null && stat.getCzxid() > czxid;
            });
        }
        Checks.eventually("it goes when closed", () -> other.checkExists().forPath("/curator/persistent") == null);
    }

    private static void ttlNode(CuratorFramework client, CuratorFramework other) throws Exception {
        try (PersistentTtlNode node = new PersistentTtlNode(client, "/curator/ttl", 600_000, bytes("alive"))) {
            node.start();
            Checks.expect(node.waitForInitialCreate(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "not created");
            Checks.same("alive", new String(other.getData().forPath("/curator/ttl"), UTF_8));
        }
        String path = client.create().withTtl(600_000).withMode(CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL).forPath("/curator/ttl-");
        Checks.same("/curator/ttl-0000000", path.substring(0, 20));
    }

    private static void groupMember(CuratorFramework client, CuratorFramework other) throws Exception {
        try (GroupMember one = new GroupMember(client, "/curator/group", "one", bytes("1"))) {
            one.start();
            try (GroupMember two = new GroupMember(other, "/curator/group", "two", bytes("2"))) {
                two.start();
                Set<String> both = Set.of("one", "two");
                Checks.eventually("both see both", () -> one.getCurrentMembers().keySet().equals(both)
                        && two.getCurrentMembers().keySet().equals(both));
            }
            Checks.eventually("one is alone again", () -> one.getCurrentMembers().keySet().equals(Set.of("one")));
        }
    }

    private static void treeCache(CuratorFramework client, CuratorFramework other) throws Exception {
        other.create().creatingParentsIfNeeded().forPath("/curator/tree/a/b", bytes("1"));
        try (TreeCache cache = new TreeCache(client, "/curator/tree")) {
            cache.start();
            Checks.eventually("it has what was there", () -> cache.getCurrentData("/curator/tree/a/b") != null);
            other.setData().forPath("/curator/tree/a/b", bytes("2"));
            other.create().forPath("/curator/tree/a/c", bytes("3"));
            Checks.eventually("it follows changes", () -> {
                Map<String, ?> children = cache.getCurrentChildren("/curator/tree/a");
                return children != null && children.keySet().equals(Set.of("b", "c"))
                        && new String(cache.getCurrentData("/curator/tree/a/b").getData(), UTF_8).equals("2");
            });
            other.delete().deletingChildrenIfNeeded().forPath("/curator/tree/a");
            Checks.eventually("it follows deletes", () -> cache.getCurrentData("/curator/tree/a") == null);
        }
    }

    private static void cache(CuratorFramework client, CuratorFramework other) throws Exception {
        AtomicInteger created = new AtomicInteger();
        AtomicInteger deleted = new AtomicInteger();
        try (CuratorCache cache = CuratorCache.build(client, "/curator/cached")) {
            cache.listenable().addListener(CuratorCacheListener.builder()
                    .forCreates(node -> created.incrementAndGet())
                    .forDeletes(node -> deleted.incrementAndGet())
                    .build());
            cache.start();
            for (int child = 0; child < 20; child++) {
                other.create().creatingParentsIfNeeded().forPath("/curator/cached/n" + child, bytes("v" + child));
            }
            Checks.eventually("all creates are told", () -> created.get() == 21);
            Checks.same("v7", new String(cache.get("/curator/cached/n7").get().getData(), UTF_8));
            Checks.same(21, cache.size());
            other.delete().deletingChildrenIfNeeded().forPath("/curator/cached");
            Checks.eventually("all deletes are told", () -> deleted.get() == 21);
            Checks.same(21, created.get());
        }
    }

    private static void transaction(CuratorFramework client, CuratorFramework other) throws Exception {
        List<CuratorTransactionResult> results = client.transaction().forOperations(
                client.transactionOp().create().forPath("/curator_multi", bytes("1")),
                client.transactionOp().create().withMode(CreateMode.EPHEMERAL).forPath("/curator_multi/e"),
                client.transactionOp().setData().withVersion(0).forPath("/curator_multi", bytes("2")));
        Checks.same(3, results.size());
        Checks.same(1, results.get(2).getResultStat().getVersion());
        try {
            client.transaction().forOperations(
                    client.transactionOp().delete().forPath("/curator_multi/e"),
                    client.transactionOp().check().withVersion(5).forPath("/curator_multi"));
            throw new AssertionError("a transaction with a wrong version is done");
        } catch (KeeperException.BadVersionException refused) {
            Checks.expect(other.checkExists().forPath("/curator_multi/e") != null, "half of a transaction is done");
        }
    }

    private static void builders(CuratorFramework client, CuratorFramework other) throws Exception {
        String path = client.create().creatingParentContainersIfNeeded().withProtection()
                .withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath("/curator/contained/deep/n-");
        Checks.expect(path.matches("/curator/contained/deep/_c_[-0-9a-f]{36}-n-0000000000"), path);
        Checks.same(client.getZookeeperClient().getZooKeeper().getSessionId(), other.checkExists().forPath(path).getEphemeralOwner());
        // What marks a container inside the server is not shown to clients.
        Checks.same(0L, other.checkExists().forPath("/curator/contained/deep").getEphemeralOwner());
        client.create().orSetData().forPath("/curator/or", bytes("1"));
        client.create().orSetData().forPath("/curator/or", bytes("2"));
        Checks.same("2", new String(client.usingNamespace("curator").getData().forPath("/or"), UTF_8));
        client.delete().idempotent().forPath("/curator/or");
        client.delete().quietly().forPath("/curator/or");
        client.sync().forPath("/curator");
    }
}
