// Curator's mutex while leaders die: `java Failover HOSTS` has several clients take a lock and count under it until its
// standard input ends. Prints `working` once they are connected and `ok ENTRIES` or `failed: WHY` at the end.
// Refuses to prove exclusion with the server's own answers: holders are counted in this process.

import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.zookeeper.data.Stat;

public final class Failover {
    private static final int CLIENTS = 4;
    private static final String COUNTER = "/failover/counter";

    public static void main(String[] arguments) {
        try {
            System.out.println("ok " + run(arguments[0]));
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.out.println("failed: " + String.valueOf(failure).replace('\n', ' '));
        }
        System.exit(0);
    }

    private static int run(String hosts) throws Exception {
        List<CuratorFramework> clients = new ArrayList<>();
        AtomicInteger inside = new AtomicInteger();
        AtomicInteger entries = new AtomicInteger();
        AtomicInteger unsure = new AtomicInteger();
        AtomicInteger lost = new AtomicInteger();
        for (int client = 0; client < CLIENTS; client++) {
            clients.add(CuratorRecipes.connect(hosts));
            clients.get(client).getConnectionStateListenable().addListener((framework, state) -> {
                if (state == ConnectionState.LOST) {
                    lost.incrementAndGet();
                }
            });
        }
        clients.get(0).create().creatingParentsIfNeeded().forPath(COUNTER, "0".getBytes(UTF_8));
        AtomicBoolean over = new AtomicBoolean();
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                }
            } catch (java.io.IOException closed) {
            }
            over.set(true);
        });
        input.setDaemon(true);
        input.start();
        System.out.println("working");
        Checks.together(CLIENTS, worker -> {
            InterProcessMutex mutex = new InterProcessMutex(clients.get(worker), "/failover/lock");
            while (!over.get()) {
                Checks.expect(mutex.acquire(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "not acquired");
                int present = inside.incrementAndGet();
                Checks.expect(present == 1, present + " hold the lock");
                if (count(clients.get(worker))) {
                    entries.incrementAndGet();
                } else {
                    unsure.incrementAndGet();
                }
                inside.decrementAndGet();
                mutex.release();
            }
        });
        clients.get(0).sync().forPath(COUNTER);
        int counted = Integer.parseInt(new String(clients.get(0).getData().forPath(COUNTER), UTF_8));
        Checks.expect(counted >= entries.get() && counted <= entries.get() + unsure.get(),
                "counted " + counted + " of " + entries + " entries and " + unsure + " unsure ones");
        Checks.same(0, lost.get());
        return entries.get();
    }

    /** Whether this client knows that it has counted once: its first try may have succeeded without an answer. */
    private static boolean count(CuratorFramework client) throws Exception {
        Stat stat = new Stat();
        int value = Integer.parseInt(new String(client.getData().storingStatIn(stat).forPath(COUNTER), UTF_8));
        try {
            client.setData().withVersion(stat.getVersion()).forPath(COUNTER, String.valueOf(value + 1).getBytes(UTF_8));
            return true;
        } catch (org.apache.zookeeper.KeeperException.BadVersionException tried) {
            return false;
        }
    }
}
