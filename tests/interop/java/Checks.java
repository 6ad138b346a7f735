// Runs checks with the Java clients against one server: `java Checks HOST:PORT` runs them all, one after the other, and prints
// `NAME ok` or `NAME failed: WHY` for each. Why: most users of such a server are Java programs on Curator.
// Refuses to wait forever: a check that takes longer than its limit has failed, and the next one goes on.

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

public final class Checks {
    static final int CHECK_LIMIT_S = 40;
    static final int WAIT_LIMIT_S = 15;
    static final int SESSION_TIMEOUT_MS = 8000;

    interface Check {
        void run() throws Exception;
    }

    public static void main(String[] arguments) {
        Map<String, Check> checks = new LinkedHashMap<>();
        PlainClient.list(checks, arguments[0]);
        CuratorRecipes.list(checks, arguments[0]);
        CuratorNodes.list(checks, arguments[0]);
        checks.forEach(Checks::report);
        System.exit(0); // whatever a failed check has left running ends here
    }

    static void report(String name, Check check) {
        ExecutorService worker = Executors.newSingleThreadExecutor();
        Future<?> result = worker.submit((Callable<Void>) () -> {
            check.run();
            return null;
        });
        try {
            result.get(CHECK_LIMIT_S, TimeUnit.SECONDS);
            System.out.println(name + " ok");
        } catch (ExecutionException failure) {
            failure.getCause().printStackTrace();
            System.out.println(name + " failed: " + String.valueOf(failure.getCause()).replace('\n', ' '));
        } catch (InterruptedException | TimeoutException late) {
            System.out.println(name + " failed: not done after " + CHECK_LIMIT_S + " s");
        } finally {
            worker.shutdownNow();
        }
    }

    static void expect(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    static void same(Object expected, Object seen) {
        expect(expected.equals(seen), "expected " + expected + ", saw " + seen);
    }

    static void eventually(String what, Callable<Boolean> condition) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_LIMIT_S);
        while (!condition.call()) {
            expect(System.nanoTime() < end, "not within " + WAIT_LIMIT_S + " s: " + what);
            Thread.sleep(10);
        }
    }

    interface Work {
        void run(int worker) throws Exception;
    }

    /** Runs `work(0)` to `work(count - 1)` in threads at once; fails with the first failure among them. */
    static void together(int count, Work work) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(count);
        try {
            CompletableFuture<?>[] all = new CompletableFuture<?>[count];
            for (int worker = 0; worker < count; worker++) {
                int number = worker;
                all[worker] = CompletableFuture.runAsync(() -> {
                    try {
                        work.run(number);
                    } catch (Exception failure) {
                        throw new RuntimeException(failure);
                    }
                }, pool);
            }
            CompletableFuture.allOf(all).get(CHECK_LIMIT_S, TimeUnit.SECONDS);
        } finally {
            pool.shutdownNow();
        }
    }
}
