// Checks with the recipes of Apache Curator in which several clients compete: locks, leaders, queues, barriers, counters.
// Refuses to prove exclusion with the server's own answers: holders are counted in this process.

import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderSelector;
import org.apache.curator.framework.recipes.leader.LeaderSelectorListenerAdapter;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.recipes.queue.DistributedQueue;
import org.apache.curator.framework.recipes.queue.QueueBuilder;
import org.apache.curator.framework.recipes.queue.QueueConsumer;
import org.apache.curator.framework.recipes.queue.QueueSerializer;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.shared.VersionedValue;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryNTimes;

final class CuratorRecipes {
    private static final int CLIENTS = 4;
    private static final int ROUNDS = 5;

    static void list(Map<String, Checks.Check> checks, String hosts) {
        checks.put("curator_mutex", () -> withClients(hosts, CuratorRecipes::mutex));
        checks.put("curator_read_write_lock", () -> withClients(hosts, CuratorRecipes::readWriteLock));
        checks.put("curator_semaphore", () -> withClients(hosts, CuratorRecipes::semaphore));
        checks.put("curator_leader_latch", () -> withClients(hosts, CuratorRecipes::leaderLatch));
        checks.put("curator_leader_selector", () -> withClients(hosts, CuratorRecipes::leaderSelector));
        checks.put("curator_simple_queue", () -> withClients(hosts, CuratorRecipes::simpleQueue));
        checks.put("curator_queue", () -> withClients(hosts, CuratorRecipes::queue));
        checks.put("curator_barrier", () -> withClients(hosts, CuratorRecipes::barrier));
        checks.put("curator_double_barrier", () -> withClients(hosts, CuratorRecipes::doubleBarrier));
        checks.put("curator_shared_count", () -> withClients(hosts, CuratorRecipes::sharedCount));
        checks.put("curator_atomic_long", () -> withClients(hosts, CuratorRecipes::atomicLong));
    }

    interface Contest {
        void run(List<CuratorFramework> clients) throws Exception;
    }

    static CuratorFramework connect(String hosts) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.builder()
                .connectString(hosts)
                .sessionTimeoutMs(Checks.SESSION_TIMEOUT_MS)
                .connectionTimeoutMs(Checks.WAIT_LIMIT_S * 1000)
                .retryPolicy(new RetryNTimes(20, 50))
                .build();
        client.start();
        Checks.expect(client.blockUntilConnected(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "no connection");
        return client;
    }

    private static void withClients(String hosts, Contest contest) throws Exception {
        List<CuratorFramework> clients = new ArrayList<>();
        try {
            for (int client = 0; client < CLIENTS; client++) {
                clients.add(connect(hosts));
            }
            contest.run(clients);
        } finally {
            clients.forEach(CuratorFramework::close);
        }
    }

    /** Goes in, stays a moment, goes out; fails if more than `limit` are inside. */
    private static void visit(AtomicInteger inside, int limit) throws InterruptedException {
        int present = inside.incrementAndGet();
        Checks.expect(present <= limit, present + " are inside, allowed are " + limit);
        Thread.sleep(5);
        inside.decrementAndGet();
    }

    private static void mutex(List<CuratorFramework> clients) throws Exception {
        AtomicInteger inside = new AtomicInteger();
        Checks.together(CLIENTS, worker -> {
            InterProcessMutex mutex = new InterProcessMutex(clients.get(worker), "/curator/mutex");
            for (int round = 0; round < ROUNDS; round++) {
                Checks.expect(mutex.acquire(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "not acquired");
                Checks.expect(mutex.acquire(1, TimeUnit.SECONDS), "its owner may acquire it again");
                visit(inside, 1);
                mutex.release();
                mutex.release();
            }
        });
        InterProcessMutex held = new InterProcessMutex(clients.get(0), "/curator/mutex");
        held.acquire();
        Checks.together(1, worker -> {
            InterProcessMutex other = new InterProcessMutex(clients.get(1), "/curator/mutex");
            Checks.expect(!other.acquire(200, TimeUnit.MILLISECONDS), "acquired what is held");
        });
        Checks.same(1, held.getParticipantNodes().size());
        held.release();
    }

    private static void readWriteLock(List<CuratorFramework> clients) throws Exception {
        AtomicInteger writers = new AtomicInteger();
        AtomicInteger readers = new AtomicInteger();
        Checks.together(CLIENTS, worker -> {
            InterProcessReadWriteLock lock = new InterProcessReadWriteLock(clients.get(worker), "/curator/rw");
            for (int round = 0; round < ROUNDS; round++) {
                boolean writes = (worker + round) % 2 == 0;
                InterProcessMutex side = writes ? lock.writeLock() : lock.readLock();
                Checks.expect(side.acquire(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "not acquired");
                Checks.same(0, (writes ? readers : writers).get());
                visit(writes ? writers : readers, writes ? 1 : CLIENTS);
                side.release();
            }
        });
        // Readers share.
        InterProcessMutex one = new InterProcessReadWriteLock(clients.get(0), "/curator/rw").readLock();
        InterProcessMutex two = new InterProcessReadWriteLock(clients.get(1), "/curator/rw").readLock();
        one.acquire();
        Checks.expect(two.acquire(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "readers exclude each other");
        one.release();
        two.release();
    }

    private static void semaphore(List<CuratorFramework> clients) throws Exception {
        AtomicInteger inside = new AtomicInteger();
        Checks.together(CLIENTS, worker -> {
            InterProcessSemaphoreV2 semaphore = new InterProcessSemaphoreV2(clients.get(worker), "/curator/semaphore", 2);
            for (int round = 0; round < ROUNDS; round++) {
                Lease lease = semaphore.acquire(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS);
                Checks.expect(lease != null, "no lease");
                visit(inside, 2);
                semaphore.returnLease(lease);
            }
        });
    }

    private static void leaderLatch(List<CuratorFramework> clients) throws Exception {
        List<LeaderLatch> latches = new ArrayList<>();
        for (int worker = 0; worker < CLIENTS; worker++) {
            latches.add(new LeaderLatch(clients.get(worker), "/curator/latch", "id" + worker));
            latches.get(worker).start();
        }
        while (!latches.isEmpty()) {
            Checks.eventually("somebody leads", () -> latches.stream().anyMatch(LeaderLatch::hasLeadership));
            Checks.same(1L, latches.stream().filter(LeaderLatch::hasLeadership).count());
            LeaderLatch leader = latches.stream().filter(LeaderLatch::hasLeadership).findAny().get();
            Checks.same(leader.getId(), latches.get(0).getLeader().getId());
            latches.remove(leader);
            leader.close();
        }
    }

    private static void leaderSelector(List<CuratorFramework> clients) throws Exception {
        AtomicInteger inside = new AtomicInteger();
        Set<Integer> led = Collections.synchronizedSet(new TreeSet<>());
        ConcurrentLinkedQueue<Throwable> failures = new ConcurrentLinkedQueue<>();
        List<LeaderSelector> selectors = new ArrayList<>();
        for (int worker = 0; worker < CLIENTS; worker++) {
            int number = worker;
            selectors.add(new LeaderSelector(clients.get(worker), "/curator/selector", new LeaderSelectorListenerAdapter() {
                @Override
                public void takeLeadership(CuratorFramework client) throws Exception {
                    try {
                        visit(inside, 1);
                        led.add(number);
                    } catch (AssertionError failure) {
                        failures.add(failure);
                    }
                }
            }));
            selectors.get(worker).autoRequeue();
            selectors.get(worker).start();
        }
        Checks.eventually("everybody has led", () -> led.size() == CLIENTS);
        selectors.forEach(LeaderSelector::close);
        Checks.expect(failures.isEmpty(), failures.toString());
    }

    private static void simpleQueue(List<CuratorFramework> clients) throws Exception {
        ConcurrentLinkedQueue<String> taken = new ConcurrentLinkedQueue<>();
        int total = CLIENTS / 2 * 20;
        Checks.together(CLIENTS, worker -> {
            SimpleDistributedQueue queue = new SimpleDistributedQueue(clients.get(worker), "/curator/simple");
            for (int item = 0; item < 20; item++) {
                if (worker % 2 == 0) {
                    queue.offer((worker + "-" + item).getBytes(UTF_8));
                } else {
                    taken.add(new String(queue.take(), UTF_8));
                }
            }
        });
        Checks.same(total, taken.size());
        Checks.same(total, new TreeSet<>(taken).size());
    }

    private static void queue(List<CuratorFramework> clients) throws Exception {
        QueueSerializer<String> text = new QueueSerializer<>() {
            @Override
            public byte[] serialize(String item) {
                return item.getBytes(UTF_8);
            }

            @Override
            public String deserialize(byte[] bytes) {
                return new String(bytes, UTF_8);
            }
        };
        ConcurrentLinkedQueue<String> taken = new ConcurrentLinkedQueue<>();
        QueueConsumer<String> consumer = new QueueConsumer<>() {
            @Override
            public void consumeMessage(String item) {
                taken.add(item);
            }

            @Override
            public void stateChanged(CuratorFramework client, ConnectionState state) {}
        };
        List<DistributedQueue<String>> consumers = new ArrayList<>();
        for (CuratorFramework client : clients) {
            consumers.add(QueueBuilder.builder(client, consumer, text, "/curator/queue").lockPath("/curator/queue-locks").buildQueue());
            consumers.get(consumers.size() - 1).start();
        }
        for (int item = 0; item < 40; item++) {
            consumers.get(item % CLIENTS).put("item" + item);
        }
        Checks.eventually("all items are taken", () -> taken.size() >= 40);
        Checks.same(40, new TreeSet<>(taken).size());
        Checks.same(40, taken.size());
        for (DistributedQueue<String> each : consumers) {
            each.close();
        }
    }

    private static void barrier(List<CuratorFramework> clients) throws Exception {
        new DistributedBarrier(clients.get(0), "/curator/barrier").setBarrier();
        AtomicInteger passed = new AtomicInteger();
        Semaphore waiting = new Semaphore(0);
        Checks.together(CLIENTS, worker -> {
            DistributedBarrier barrier = new DistributedBarrier(clients.get(worker), "/curator/barrier");
            if (worker == 0) {
                waiting.acquire(CLIENTS - 1);
                Thread.sleep(100);
                Checks.same(0, passed.get());
                barrier.removeBarrier();
            } else {
                waiting.release();
                Checks.expect(barrier.waitOnBarrier(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "the barrier stands");
                passed.incrementAndGet();
            }
        });
        Checks.same(CLIENTS - 1, passed.get());
    }

    private static void doubleBarrier(List<CuratorFramework> clients) throws Exception {
        AtomicInteger arrived = new AtomicInteger();
        AtomicInteger leaving = new AtomicInteger();
        Checks.together(CLIENTS, worker -> {
            DistributedDoubleBarrier barrier = new DistributedDoubleBarrier(clients.get(worker), "/curator/double", CLIENTS);
            Thread.sleep(20L * worker);
            arrived.incrementAndGet();
            Checks.expect(barrier.enter(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "not entered");
            Checks.same(CLIENTS, arrived.get());
            Thread.sleep(20L * worker);
            leaving.incrementAndGet();
            Checks.expect(barrier.leave(Checks.WAIT_LIMIT_S, TimeUnit.SECONDS), "not left");
            Checks.same(CLIENTS, leaving.get());
        });
    }

    private static void sharedCount(List<CuratorFramework> clients) throws Exception {
        List<SharedCount> counts = new ArrayList<>();
        for (CuratorFramework client : clients) {
            counts.add(new SharedCount(client, "/curator/count", 7));
            counts.get(counts.size() - 1).start();
        }
        Checks.together(CLIENTS, worker -> {
            SharedCount count = counts.get(worker);
            for (int round = 0; round < ROUNDS; round++) {
                VersionedValue<Integer> before = count.getVersionedValue();
                while (!count.trySetCount(before, before.getValue() + 1)) {
                    before = count.getVersionedValue();
                }
            }
        });
        for (SharedCount count : counts) {
            Checks.eventually("everybody sees the sum", () -> count.getCount() == 7 + CLIENTS * ROUNDS);
            count.close();
        }
    }

    private static void atomicLong(List<CuratorFramework> clients) throws Exception {
        Checks.together(CLIENTS, worker -> {
            DistributedAtomicLong number = new DistributedAtomicLong(clients.get(worker), "/curator/long", new RetryNTimes(1000, 1));
            for (int round = 0; round < ROUNDS; round++) {
                Checks.expect(number.increment().succeeded(), "not incremented");
            }
        });
        DistributedAtomicLong number = new DistributedAtomicLong(clients.get(0), "/curator/long", new RetryNTimes(1000, 1));
        Checks.same((long) CLIENTS * ROUNDS, number.get().postValue());
    }
}
